// The patches of a group, out of its canvas.
//
//   X_c(p) = K(p + pad + d_c)                  bilinear, zero outside
//
//   ∂L/∂K(q) = Σ_c ∂L/∂X_c(q − pad − d_c)
//
// K  canvas   float2  [B, S, S]
// d  offsets  float2  [B, C]          (x, y), pixels
// X  patches  float2  [B, C, N, N]
//
// pad = (S − N)/2. CPU twin: src/ops/extract.rs; bilinear rule: bilinear.cuh.

#include "bilinear.cuh"

// One thread per pixel of a patch.
extern "C" __global__ void extract_forward(
    const float2* __restrict__ canvas,   // [B, S, S]
    const float2* __restrict__ offsets,  // [B, C]
    float2*       __restrict__ patches,  // [B, C, N, N]
    int channels, int side, int canvas_side, int total)
{
    const int i = element();
    if (i >= total) return;

    const int x = i % side, y = i / side % side, c = i / side / side;
    const size_t plane = (size_t)(c / channels) * canvas_side * canvas_side;
    const Shift2 by = onto(offsets[c], (canvas_side - side) / 2);
    patches[i] = sample(canvas + plane, canvas_side, by, x, y);
}
KERNEL_EXPORT(extract_forward)

// One thread per pixel of the canvas; patches are summed in their order.
extern "C" __global__ void extract_backward(
    const float2* __restrict__ offsets,   // [B, C]
    const float2* __restrict__ dpatches,  // [B, C, N, N]
    float2*       __restrict__ dcanvas,   // [B, S, S]
    int channels, int side, int canvas_side, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int x = i % canvas_side, y = i / canvas_side % canvas_side;
    const int b = i / canvas_side / canvas_side, pad = (canvas_side - side) / 2;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int c = b * channels; c < (b + 1) * channels; ++c) {
        const float2* patch = dpatches + (size_t)c * side * side;
        sum = add(sum, sample(patch, side, back(offsets[c], pad), x, y));
    }
    put(&dcanvas[i], accumulate, sum);
}
KERNEL_EXPORT(extract_backward)
