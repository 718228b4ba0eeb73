// Sum of the two paths of a head: the inner one covers the central quarter of the patch.
//
//   y = pad(inner) + m outer        H/4 and W/4 zeros on each side
//   m = 0 in the central H/2 × W/2 pixels if the outer path serves the border alone, otherwise 1
//
//   ∂L/∂inner = crop(∂L/∂y),  ∂L/∂outer = m ∂L/∂y
//
// inner  float  [planes, H/2, W/2]
// outer  float  [planes, H, W]
// y      float  [planes, H, W]
//
// CPU twin: src/ops/head_sum.rs.

#include "common.cuh"

// Index of the inner pixel under element `i` of y, −1 outside the centre.
__device__ inline int inner_of(int i, int height, int width)
{
    const int x = i % width - width / 4, y = i / width % height - height / 4;
    if (x < 0 || x >= width / 2 || y < 0 || y >= height / 2) return -1;
    return (i / width / height * (height / 2) + y) * (width / 2) + x;
}

// One thread per element of y. With `border` the outer path is masked in the centre.
extern "C" __global__ void head_sum_forward(
    const float* __restrict__ inner,  // [planes, H/2, W/2]
    const float* __restrict__ outer,  // [planes, H, W]
    float*       __restrict__ y,      // [planes, H, W]
    int border, int height, int width, int total)
{
    const int i = element();
    if (i >= total) return;

    const int centre = inner_of(i, height, width);
    if (centre < 0) {
        y[i] = outer[i];
    } else {
        y[i] = border ? inner[centre] : outer[i] + inner[centre];
    }
}
KERNEL_EXPORT(head_sum_forward)

// One thread per element of y; those of the centre each write one inner gradient.
extern "C" __global__ void head_sum_backward_inner(
    const float* __restrict__ dy,      // [planes, H, W]
    float*       __restrict__ dinner,  // [planes, H/2, W/2]
    int height, int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int centre = inner_of(i, height, width);
    if (centre >= 0) put(&dinner[centre], accumulate, dy[i]);
}
KERNEL_EXPORT(head_sum_backward_inner)

// One thread per element of y.
extern "C" __global__ void head_sum_backward_outer(
    const float* __restrict__ dy,      // [planes, H, W]
    float*       __restrict__ douter,  // [planes, H, W]
    int border, int height, int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const bool hidden = border && inner_of(i, height, width) >= 0;
    put(&douter[i], accumulate, hidden ? 0.0f : dy[i]);
}
KERNEL_EXPORT(head_sum_backward_outer)
