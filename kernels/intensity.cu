// Far-field intensity of incoherent probe modes.
//
//   I = Σ_p |F_p|²
//
//   ∂L/∂F_p = 2 ∂L/∂I F_p                   as ∂/∂Re + i ∂/∂Im
//
// F  field      float2  [frames, P, pixels]
// I  intensity  float   [frames, pixels]
//
// CPU twin: src/ops/intensity.rs.

#include "common.cuh"

// One thread per pixel; modes are summed in their order.
extern "C" __global__ void intensity_forward(
    const float2* __restrict__ field,      // [frames, P, pixels]
    float*        __restrict__ intensity,  // [frames, pixels]
    int modes, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    const float2* mode = field + (size_t)(i / pixels) * modes * pixels + i % pixels;
    float sum = 0.0f;
    for (int m = 0; m < modes; ++m) sum += norm2(mode[(size_t)m * pixels]);
    intensity[i] = sum;
}
KERNEL_EXPORT(intensity_forward)

// One thread per pixel and mode.
extern "C" __global__ void intensity_backward(
    const float2* __restrict__ field,       // [frames, P, pixels]
    const float*  __restrict__ dintensity,  // [frames, pixels]
    float2*       __restrict__ dfield,      // [frames, P, pixels]
    int modes, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const float slope = 2.0f * dintensity[i / pixels / modes * pixels + i % pixels];
    put(&dfield[i], accumulate, scaled(slope, field[i]));
}
KERNEL_EXPORT(intensity_backward)
