// One canvas out of the overlapping patches of a group.
//
//   K = s Σ_c w_c T_c O_c,  w_c = T_c w,  s = 1 / (Σ_c w_c + floor), 0 where Σ_c w_c ≤ threshold
//   (T_c O)(p) = O(p − pad − d_c)         bilinear, zero outside
//
//   ∂L/∂O_c = T_cᴴ (w_c s ∂L/∂K)          none through w
//
// O  patches  float2  [B, C, N, N]
// d  offsets  float2  [B, C]          (x, y), pixels
// w  weight   float   [N, N]
// K  canvas   float2  [B, S, S]
// s  share    float   [B, S, S]
//
// pad = (S − N)/2. CPU twin: src/ops/merge.rs; bilinear rule: bilinear.cuh.

#include "bilinear.cuh"

// One thread per pixel of the canvas; patches are summed in their order.
extern "C" __global__ void merge_forward(
    const float2* __restrict__ patches,  // [B, C, N, N]
    const float2* __restrict__ offsets,  // [B, C]
    const float*  __restrict__ weight,   // [N, N]
    float2*       __restrict__ canvas,   // [B, S, S]
    float*        __restrict__ share,    // [B, S, S]
    int channels, int side, int canvas_side, int total, float threshold, float floor)
{
    const int i = element();
    if (i >= total) return;

    const int x = i % canvas_side, y = i / canvas_side % canvas_side;
    const int b = i / canvas_side / canvas_side, pad = (canvas_side - side) / 2;
    float2 sum = make_float2(0.0f, 0.0f);
    float weights = 0.0f;
    for (int c = b * channels; c < (b + 1) * channels; ++c) {
        const Shift2 by = back(offsets[c], pad);
        const float w = sample(weight, side, by, x, y);
        sum = add(sum, scaled(w, sample(patches + (size_t)c * side * side, side, by, x, y)));
        weights += w;
    }
    const float s = weights > threshold ? 1.0f / (weights + floor) : 0.0f;
    share[i] = s;
    canvas[i] = scaled(s, sum);
}
KERNEL_EXPORT(merge_forward)

// One thread per pixel of a patch; it gathers from the four pixels of the canvas that it went to.
extern "C" __global__ void merge_backward(
    const float2* __restrict__ offsets,   // [B, C]
    const float*  __restrict__ weight,    // [N, N]
    const float*  __restrict__ share,     // [B, S, S]
    const float2* __restrict__ dcanvas,   // [B, S, S]
    float2*       __restrict__ dpatches,  // [B, C, N, N]
    int channels, int side, int canvas_side, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int x = i % side, y = i / side % side, c = i / side / side;
    const int pad = (canvas_side - side) / 2;
    const Shift2 to = onto(offsets[c], pad), from = back(offsets[c], pad);
    const size_t plane = (size_t)(c / channels) * canvas_side * canvas_side;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int t = 0; t < 4; ++t) {
        const int row = y + to.y.whole + t / 2, column = x + to.x.whole + t % 2;
        if (row < 0 || row >= canvas_side || column < 0 || column >= canvas_side) continue;
        const size_t at = plane + row * canvas_side + column;
        const float w = sample(weight, side, from, column, row) * share[at];
        sum = add(sum, scaled(tap(to.y, t / 2) * tap(to.x, t % 2) * w, dcanvas[at]));
    }
    put(&dpatches[i], accumulate, sum);
}
KERNEL_EXPORT(merge_backward)
