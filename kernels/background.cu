// Light that no object shapes, on every pattern.
//
//   y = I + r²                               r one number, or one for each pixel
//
//   ∂L/∂I = ∂L/∂y,  ∂L/∂r = 2 r Σ ∂L/∂y      over all that a number is added to
//
// I  intensity  float  [frames, pixels]
// r  root       float  [len]               len = 1 or pixels
// y             float  [frames, pixels]
//
// CPU twin: src/ops/background.rs.

#include "common.cuh"

// One thread per pixel.
extern "C" __global__ void background_forward(
    const float* __restrict__ intensity,  // [frames, pixels]
    const float* __restrict__ root,       // [len]
    float*       __restrict__ y,          // [frames, pixels]
    int pixels, int len, int total)
{
    const int i = element();
    if (i >= total) return;

    const float r = root[i % pixels % len];
    y[i] = intensity[i] + r * r;
}
KERNEL_EXPORT(background_forward)

// One thread per pixel.
extern "C" __global__ void background_backward(
    const float* __restrict__ dy,          // [frames, pixels]
    float*       __restrict__ dintensity,  // [frames, pixels]
    int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dintensity[i], accumulate, dy[i]);
}
KERNEL_EXPORT(background_backward)

// One block per number of the root, so that the sum has a fixed order.
extern "C" __global__ void background_backward_root(
    const float* __restrict__ root,   // [len]
    const float* __restrict__ dy,     // [frames, pixels]
    float*       __restrict__ droot,  // [len]
    int len, int total, int accumulate)
{
    const int p = (int)blockIdx.x;
    double sum = 0.0;
    for (int i = p + (int)threadIdx.x * len; i < total; i += (int)blockDim.x * len) {
        sum += (double)dy[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) put(&droot[p], accumulate, (float)(2.0 * (double)root[p] * sum));
}
KERNEL_EXPORT(background_backward_root)
