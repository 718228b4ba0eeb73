// The same numbers under another shape.
//
//   y = x
//
//   ∂L/∂x = ∂L/∂y
//
// x  float  [total]
// y  float  [total]
//
// CPU twin: src/ops/reshape.rs.

#include "common.cuh"

// One thread per element.
extern "C" __global__ void reshape_forward(
    const float* __restrict__ x,  // [total]
    float*       __restrict__ y,  // [total]
    int total)
{
    const int i = element();
    if (i >= total) return;

    y[i] = x[i];
}
KERNEL_EXPORT(reshape_forward)

// One thread per element.
extern "C" __global__ void reshape_backward(
    const float* __restrict__ dy,  // [total]
    float*       __restrict__ dx,  // [total]
    int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dx[i], accumulate, dy[i]);
}
KERNEL_EXPORT(reshape_backward)
