// Blocks of 2×2 pixels as four channels, and back.
//
//   y[b, 4c + 2u + v, i, j] = x[b, c, 2i + u, 2j + v]   or, to spread, the inverse, its adjoint
//
// x, y  float  [B, C, 2 height, 2 width] and [B, 4C, height, width]
//
// CPU twin: src/ops/shuffle.rs.

#include "common.cuh"

// One thread per element; neighbours are neighbours in the large image.
extern "C" __global__ void shuffle_forward(
    const float* __restrict__ x,  // [total]
    float*       __restrict__ y,  // [total]
    int spread, int height, int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int column = i % (2 * width), row = i / (2 * width) % (2 * height);
    const int channel = i / (2 * width) / (2 * height);
    const int place = channel * 4 + row % 2 * 2 + column % 2;
    const int small = (place * height + row / 2) * width + column / 2;
    put(&y[spread ? i : small], accumulate, x[spread ? small : i]);
}
KERNEL_EXPORT(shuffle_forward)
