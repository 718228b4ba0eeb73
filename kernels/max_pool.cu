// Maximum of each 2×2 block.
//
//   y[i, j] = max x[2i..2i+2, 2j..2j+2]
//
//   ∂L/∂x = ∂L/∂y at the first maximum of the block in row-major order, 0 elsewhere
//
// y  float  [rows, W]         rows of all images, H/2 of x for each channel
// x  float  [2 rows, 2 W]     in the kernels float2 [2 rows, W]: the two columns of a block
//
// Words of two channels (words.cuh) are pooled in both halves; their gradients are numbers.
//
// CPU twin: src/ops/max_pool.rs.

#include "common.cuh"
#include "scalar.cuh"
#include "words.cuh"

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

// Gives dy to the first maximum of a block, whose rows are t and b, and 0 to the others.
__device__ inline void give(float2* dx, int width, float2 t, float2 b, float dy, int accumulate)
{
    const bool below = larger(b.x, b.y) > larger(t.x, t.y);
    const bool right = below ? b.y > b.x : t.y > t.x;
    const float2 share = right ? make_float2(0.0f, dy) : make_float2(dy, 0.0f);
    const float2 none = make_float2(0.0f, 0.0f);
    put(&dx[0], accumulate, below ? none : share);
    put(&dx[width], accumulate, below ? share : none);
}

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
    give(&dx[at], width, x[at], x[at + width], dy[i], accumulate);
}
KERNEL_EXPORT(max_pool_backward)

// One thread per word of y. `width` is that of y.
extern "C" __global__ void max_pool_forward_words(
    const float2* __restrict__ x,  // words [2 rows, W]
    float*        __restrict__ y,  // words [rows, W]
    int width, int total)
{
    const int i = element();
    if (i >= total) return;

    const float2* top = &x[i / width * 2 * width + i % width];
    const float2 a = numbers(top[0].x), b = numbers(top[0].y);
    const float2 c = numbers(top[width].x), d = numbers(top[width].y);
    y[i] = pair(larger(larger(a.x, b.x), larger(c.x, d.x)),
                larger(larger(a.y, b.y), larger(c.y, d.y)));
}
KERNEL_EXPORT(max_pool_forward_words)

// One thread per block of pixels of a channel.
extern "C" __global__ void max_pool_backward_words(
    const float2* __restrict__ x,   // words [B, C/2, 2 H, W]
    const float*  __restrict__ dy,  // [B, C, H, W]
    float2*       __restrict__ dx,  // [B, C, 2 H, W]
    int channels, int height, int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int row = i / width, channel = row / height % channels, sample = row / height / channels;
    const int planes = (channels + 1) / 2, odd = channel % 2;
    const int from = (sample * planes + channel / 2) * height + row % height;
    const auto half = [=](float word) { return odd ? numbers(word).y : numbers(word).x; };
    const float2 top = x[(size_t)from * 2 * width + i % width];
    const float2 bottom = x[((size_t)from * 2 + 1) * width + i % width];
    const float2 t = make_float2(half(top.x), half(top.y));
    const float2 b = make_float2(half(bottom.x), half(bottom.y));
    give(&dx[(size_t)row * 2 * width + i % width], width, t, b, dy[i], accumulate);
}
KERNEL_EXPORT(max_pool_backward_words)
