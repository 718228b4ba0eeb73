// One factor for each sample.
//
//   y_b = s_b x_b
//
//   ∂L/∂x_b = s_b ∂L/∂y_b
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
