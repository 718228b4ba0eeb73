// One pixel around an image, mirrored at its outermost pixels.
//
//   y[r, c] = x[m(r − 1), m(c − 1)],  m(−1) = 1,  m(H) = H − 2,  otherwise m(i) = i
//
//   ∂L/∂x[r, c] = Σ ∂L/∂y over the one, two or four pixels that x[r, c] goes to
//
// x  float  [planes, H, W]
// y  float  [planes, H + 2, W + 2]
//
// CPU twin: src/ops/reflect_pad.rs.

#include "common.cuh"

// Index into `side` pixels that index i of the `side` + 2 shows.
__device__ inline int mirrored(int i, int side)
{
    return i == 0 ? 1 : i > side ? side - 2 : i - 1;
}

// One thread per pixel of y.
extern "C" __global__ void reflect_pad_forward(
    const float* __restrict__ x,  // [planes, H, W]
    float*       __restrict__ y,  // [planes, H + 2, W + 2]
    int height, int width, int total)
{
    const int i = element();
    if (i >= total) return;

    const int c = i % (width + 2), r = i / (width + 2) % (height + 2);
    const int plane = i / (width + 2) / (height + 2);
    y[i] = x[(plane * height + mirrored(r, height)) * width + mirrored(c, width)];
}
KERNEL_EXPORT(reflect_pad_forward)

// Σ over the columns of a row of dy that show column c.
__device__ inline float across(const float* dy, int c, int width)
{
    float sum = dy[c + 1];
    if (c == 1) sum += dy[0];
    if (c + 2 == width) sum += dy[width + 1];
    return sum;
}

// One thread per pixel of x.
extern "C" __global__ void reflect_pad_backward(
    const float* __restrict__ dy,  // [planes, H + 2, W + 2]
    float*       __restrict__ dx,  // [planes, H, W]
    int height, int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int c = i % width, r = i / width % height, row = width + 2;
    dy += (size_t)(i / width / height) * (height + 2) * row;
    float sum = across(dy + (r + 1) * row, c, width);
    if (r == 1) sum += across(dy, c, width);
    if (r + 2 == height) sum += across(dy + (height + 1) * row, c, width);
    put(&dx[i], accumulate, sum);
}
KERNEL_EXPORT(reflect_pad_backward)
