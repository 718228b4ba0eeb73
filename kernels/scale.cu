// One factor for each sample.
//
//   y_b = s_b x_b
//
//   ∂L/∂x_b = s_b ∂L/∂y_b,  ∂L/∂s_b = Σ x_b ∂L/∂y_b
//
// x  float  [B, stride]
// s  gain   float  [B]
// y  float  [B, stride]
//
// CPU twin: src/ops/scale.rs.

#include "common.cuh"

// One thread per element.
extern "C" __global__ void scale_forward(
    const float* __restrict__ x,     // [B, stride]
    const float* __restrict__ gain,  // [B]
    float*       __restrict__ y,     // [B, stride]
    int stride, int total)
{
    const int i = element();
    if (i >= total) return;

    y[i] = gain[i / stride] * x[i];
}
KERNEL_EXPORT(scale_forward)

// One thread per element.
extern "C" __global__ void scale_backward(
    const float* __restrict__ dy,    // [B, stride]
    const float* __restrict__ gain,  // [B]
    float*       __restrict__ dx,    // [B, stride]
    int stride, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dx[i], accumulate, gain[i / stride] * dy[i]);
}
KERNEL_EXPORT(scale_backward)

// One block per sample, so that the sum has a fixed order.
extern "C" __global__ void scale_backward_gain(
    const float* __restrict__ x,      // [B, stride]
    const float* __restrict__ dy,     // [B, stride]
    float*       __restrict__ dgain,  // [B]
    int stride, int accumulate)
{
    const size_t first = (size_t)blockIdx.x * stride;
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < stride; i += (int)blockDim.x) {
        sum += (double)x[first + i] * (double)dy[first + i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) put(&dgain[blockIdx.x], accumulate, (float)sum);
}
KERNEL_EXPORT(scale_backward_gain)
