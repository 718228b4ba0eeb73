// Total variation of each sample's complex patch, the same in all directions.
//
//   s = √(|Δ_x|² + |Δ_y|² + ε²),  t_b = Σ s − ε     over channels and pixels
//
//   ∂t/∂z = Δ_left/s_left + Δ_above/s_above − (Δ_x + Δ_y)/s
//
// z  float2  [B, C, N, N]
// t  total   float   [B]
//
// Δ_x and Δ_y lead to the right and downwards; there is none beyond the last column and row. CPU
// twin: src/ops/complex_variation.rs.

#include "common.cuh"

constexpr float kSoft = 1e-3f;  // ε: SOFT in src/ops/complex_variation.rs

struct Slope {
    float2 x, y;
    float root;
};

// Of pixel (i, j); `z` has n × n pixels.
__device__ inline Slope slope_at(const float2* z, int n, int i, int j)
{
    const float2 here = scaled(-1.0f, z[i * n + j]);
    const float2 x = add(z[i * n + min(j + 1, n - 1)], here);
    const float2 y = add(z[min(i + 1, n - 1) * n + j], here);
    return {x, y, sqrtf(norm2(x) + norm2(y) + kSoft * kSoft)};
}

// One block per sample, so that the sum has a fixed order.
extern "C" __global__ void complex_variation_forward(
    const float2* __restrict__ z,      // [B, C, N, N]
    float*        __restrict__ total,  // [B]
    int channels, int side)
{
    const int pixels = side * side;
    z += (size_t)blockIdx.x * channels * pixels;
    double sum = 0.0;
    for (int at = (int)threadIdx.x; at < channels * pixels; at += (int)blockDim.x) {
        const int p = at % pixels;
        const Slope slope = slope_at(z + (at - p), side, p / side, p % side);
        sum += (double)slope.root - (double)kSoft;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) total[blockIdx.x] = (float)sum;
}
KERNEL_EXPORT(complex_variation_forward)

// One thread per pixel.
extern "C" __global__ void complex_variation_backward(
    const float2* __restrict__ z,       // [B, C, N, N]
    const float*  __restrict__ dtotal,  // [B]
    float2*       __restrict__ dz,      // [B, C, N, N]
    int channels, int side, int total, int accumulate)
{
    const int at = element();
    if (at >= total) return;

    const int p = at % (side * side), i = p / side, j = p % side;
    const float2* plane = z + (at - p);
    const Slope here = slope_at(plane, side, i, j);
    float2 sum = scaled(-1.0f / here.root, add(here.x, here.y));
    if (j > 0) {
        const Slope left = slope_at(plane, side, i, j - 1);
        sum = add(sum, scaled(1.0f / left.root, left.x));
    }
    if (i > 0) {
        const Slope above = slope_at(plane, side, i - 1, j);
        sum = add(sum, scaled(1.0f / above.root, above.y));
    }
    put(&dz[at], accumulate, scaled(dtotal[at / (side * side) / channels], sum));
}
KERNEL_EXPORT(complex_variation_backward)
