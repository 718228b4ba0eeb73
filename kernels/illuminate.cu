// Exit waves: each probe mode times the object patch, pixel by pixel.
//
//   ψ_bcp = P_{s(b) p} X_bc
//
//   ∂L/∂X_bc = Σ_p conj(P_{s(b) p}) ∂L/∂ψ_bcp
//   ∂L/∂P_sp = Σ_{b: s(b) = s} Σ_c conj(X_bc) ∂L/∂ψ_bcp
//
// X  object  float2  [B, C, pixels]
// P  probe   float2  [S, P, pixels]      S scans of P modes
// s  scan    float   [B]                 index of the scan of each sample
// ψ  exit    float2  [B, C, P, pixels]
//
// CPU twin: src/ops/illuminate.rs.

#include "common.cuh"

// One thread per pixel of an exit wave.
extern "C" __global__ void illuminate_forward(
    const float2* __restrict__ object,  // [B, C, pixels]
    const float2* __restrict__ probe,   // [S, P, pixels]
    const float*  __restrict__ scan,    // [B]
    float2*       __restrict__ exit,    // [B, C, P, pixels]
    int channels, int modes, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    const int pixel = i % pixels, mode = i / pixels % modes, patch = i / pixels / modes;
    const int bank = (int)scan[patch / channels] * modes + mode;
    exit[i] = product(probe[bank * pixels + pixel], object[patch * pixels + pixel]);
}
KERNEL_EXPORT(illuminate_forward)

// One thread per pixel of a patch; modes are summed in their order.
extern "C" __global__ void illuminate_backward_object(
    const float2* __restrict__ probe,    // [S, P, pixels]
    const float*  __restrict__ scan,     // [B]
    const float2* __restrict__ dexit,    // [B, C, P, pixels]
    float2*       __restrict__ dobject,  // [B, C, pixels]
    int channels, int modes, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int pixel = i % pixels, patch = i / pixels;
    const int bank = (int)scan[patch / channels] * modes;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int m = 0; m < modes; ++m) {
        const float2 d = dexit[(size_t)(patch * modes + m) * pixels + pixel];
        sum = add(sum, conj_product(probe[(bank + m) * pixels + pixel], d));
    }
    put(&dobject[i], accumulate, sum);
}
KERNEL_EXPORT(illuminate_backward_object)

// One thread per pixel of a probe mode; samples and channels are summed in their order.
extern "C" __global__ void illuminate_backward_probe(
    const float2* __restrict__ object,  // [B, C, pixels]
    const float*  __restrict__ scan,    // [B]
    const float2* __restrict__ dexit,   // [B, C, P, pixels]
    float2*       __restrict__ dprobe,  // [S, P, pixels]
    int batch, int channels, int modes, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int pixel = i % pixels, mode = i / pixels % modes, s = i / pixels / modes;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int b = 0; b < batch; ++b) {
        if ((int)scan[b] != s) continue;
        for (int patch = b * channels; patch < (b + 1) * channels; ++patch) {
            const float2 d = dexit[(size_t)(patch * modes + mode) * pixels + pixel];
            sum = add(sum, conj_product(object[patch * pixels + pixel], d));
        }
    }
    put(&dprobe[i], accumulate, sum);
}
KERNEL_EXPORT(illuminate_backward_probe)
