// Enlargement by 2, nearest neighbour.
//
//   y[i, j] = x[⌊i/2⌋, ⌊j/2⌋]
//
//   ∂L/∂x[i, j] = Σ ∂L/∂y over the 2×2 block
//
// x  float  [rows, W]         rows of all images, H for each channel
// y  float  [2 rows, 2 W]     in the kernels float2 [2 rows, W]: pairs of equal pixels
//
// CPU twin: src/ops/upsample.rs.

#include "common.cuh"

// One thread per element of x.
extern "C" __global__ void upsample_forward(
    const float* __restrict__ x,  // [rows, W]
    float2*      __restrict__ y,  // [2 rows, W]
    int width, int total)
{
    const int i = element();
    if (i >= total) return;

    float2* top = &y[i / width * 2 * width + i % width];
    top[0] = top[width] = make_float2(x[i], x[i]);
}
KERNEL_EXPORT(upsample_forward)

// One thread per element of x.
extern "C" __global__ void upsample_backward(
    const float2* __restrict__ dy,  // [2 rows, W]
    float*        __restrict__ dx,  // [rows, W]
    int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const float2* top = &dy[i / width * 2 * width + i % width];
    const float2 t = top[0], b = top[width];
    put(&dx[i], accumulate, (t.x + t.y) + (b.x + b.y));
}
KERNEL_EXPORT(upsample_backward)
