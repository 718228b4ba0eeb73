// Maximum of each 2×2 block.
//
//   y[i, j] = max x[2i..2i+2, 2j..2j+2]
//
//   ∂L/∂x = ∂L/∂y at the first maximum of the block in row-major order, 0 elsewhere
//
// y  float  [rows, W]         rows of all images, H/2 of x for each channel
// x  float  [2 rows, 2 W]     in the kernels float2 [2 rows, W]: the two columns of a block
//
// CPU twin: src/ops/max_pool.rs.

#include "common.cuh"
#include "scalar.cuh"

// One thread per block of pixels. `width` is that of y.
extern "C" __global__ void max_pool_forward(
    const float2* __restrict__ x,  // [2 rows, W]
    float*        __restrict__ y,  // [rows, W]
    int width, int total)
{
    const int i = element();
    if (i >= total) return;

    const float2* top = &x[i / width * 2 * width + i % width];
    const float2 t = top[0], b = top[width];
    y[i] = larger(larger(t.x, t.y), larger(b.x, b.y));
}
KERNEL_EXPORT(max_pool_forward)

// One thread per block of pixels: it alone writes the four gradients.
extern "C" __global__ void max_pool_backward(
    const float2* __restrict__ x,   // [2 rows, W]
    const float*  __restrict__ dy,  // [rows, W]
    float2*       __restrict__ dx,  // [2 rows, W]
    int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int at = i / width * 2 * width + i % width;
    const float2 t = x[at], b = x[at + width];
    const bool below = larger(b.x, b.y) > larger(t.x, t.y);
    const bool right = below ? b.y > b.x : t.y > t.x;
    const float2 share = right ? make_float2(0.0f, dy[i]) : make_float2(dy[i], 0.0f);
    const float2 none = make_float2(0.0f, 0.0f);
    put(&dx[at], accumulate, below ? none : share);
    put(&dx[at + width], accumulate, below ? share : none);
}
KERNEL_EXPORT(max_pool_backward)
