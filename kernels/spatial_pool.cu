// Maximum and mean over the channels of every pixel: what the spatial gate of an attention block
// looks at.
//
//   pooled[b, 0, p] = max_c x[b, c, p],  pooled[b, 1, p] = Σ_c x[b, c, p] / C
//
//   ∂L/∂x[b, c, p] = ∂L/∂mean / C + ∂L/∂max at the first channel that holds the maximum
//
// x       float  [B, C, pixels]
// pooled  float  [B, 2, pixels]
//
// CPU twin: src/ops/spatial_pool.rs.

#include "common.cuh"
#include "scalar.cuh"

// One thread per pixel of a sample; channels are visited in their order.
extern "C" __global__ void spatial_pool_forward(
    const float* __restrict__ x,       // [B, C, pixels]
    float*       __restrict__ pooled,  // [B, 2, pixels]
    int channels, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    const int b = i / pixels, p = i % pixels;
    x += (size_t)b * channels * pixels + p;
    pooled += (size_t)b * 2 * pixels + p;
    float max = x[0];
    double sum = 0.0;
    for (int c = 0; c < channels; ++c) {
        const float here = x[(size_t)c * pixels];
        max = larger(max, here);
        sum += (double)here;
    }
    pooled[0] = max;
    pooled[pixels] = (float)(sum / channels);
}
KERNEL_EXPORT(spatial_pool_forward)

// One thread per pixel of a sample, so that one channel alone takes the gradient of the maximum.
extern "C" __global__ void spatial_pool_backward(
    const float* __restrict__ x,        // [B, C, pixels]
    const float* __restrict__ pooled,   // [B, 2, pixels]
    const float* __restrict__ dpooled,  // [B, 2, pixels]
    float*       __restrict__ dx,       // [B, C, pixels]
    int channels, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int b = i / pixels, p = i % pixels;
    const size_t image = (size_t)b * channels * pixels + p, at = (size_t)b * 2 * pixels + p;
    const float max = pooled[at], dmax = dpooled[at];
    const float share = dpooled[at + pixels] / (float)channels;
    bool open = true;  // until a channel has taken the gradient of the maximum
    for (int c = 0; c < channels; ++c) {
        const size_t here = image + (size_t)c * pixels;
        const bool first = open && x[here] == max;
        put(&dx[here], accumulate, first ? share + dmax : share);
        open = open && !first;
    }
}
KERNEL_EXPORT(spatial_pool_backward)
