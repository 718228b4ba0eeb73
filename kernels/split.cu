// Two groups of channels of one image.
//
//   low = x[:, ..at],  high = x[:, at..]
//
//   ∂L/∂x[:, ..at] = ∂L/∂low,  ∂L/∂x[:, at..] = ∂L/∂high     0 where the loss does not depend on it
//
// x     float  [B, C, pixels]
// low   float  [B, at, pixels]
// high  float  [B, C − at, pixels]
//
// In the kernels a sample is `stride` numbers, of which the first `kept` are those of `low`.
//
// CPU twin: src/ops/split.rs.

#include "common.cuh"

// One thread per element of x.
extern "C" __global__ void split_forward(
    const float* __restrict__ x,     // [B, stride]
    float*       __restrict__ low,   // [B, kept]
    float*       __restrict__ high,  // [B, stride − kept]
    int stride, int kept, int total)
{
    const int i = element();
    if (i >= total) return;

    const int b = i / stride, at = i % stride;
    if (at < kept) {
        low[b * kept + at] = x[i];
    } else {
        high[b * (stride - kept) + at - kept] = x[i];
    }
}
KERNEL_EXPORT(split_forward)

// One thread per element of one group, which starts at number `first` of every sample.
extern "C" __global__ void split_backward(
    const float* __restrict__ dgroup,  // [B, len]
    float*       __restrict__ dx,      // [B, stride]
    int stride, int first, int len, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dx[i / len * stride + first + i % len], accumulate, dgroup[i]);
}
KERNEL_EXPORT(split_backward)

// One thread per element of a group without gradient, when nothing was there to add to.
extern "C" __global__ void split_backward_clear(
    float* __restrict__ dx,  // [B, stride]
    int stride, int first, int len, int total)
{
    const int i = element();
    if (i >= total) return;

    dx[i / len * stride + first + i % len] = 0.0f;
}
KERNEL_EXPORT(split_backward_clear)
