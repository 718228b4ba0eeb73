// Complex object patch from amplitude and phase.
//
//   O = a e^{iφ}
//
//   ∂L/∂φ = a Im(e^{−iφ} ∂L/∂O)
//   ∂L/∂a = Σ_c Re(e^{−iφ_c} ∂L/∂O_c)      over the phase channels that one amplitude serves
//
// a  amplitude  float   [B, A, pixels]   A = 1 or C
// φ  phase      float   [B, C, pixels]   rad
// O  object     float2  [B, C, pixels]
//
// CPU twin: src/ops/polar.rs.

#include "common.cuh"

// Index of the amplitude that serves element `i` of the object.
__device__ inline int amplitude_of(int i, int served, int pixels)
{
    return i / pixels / served * pixels + i % pixels;
}

// One thread per object pixel. `served` is C / A.
extern "C" __global__ void polar_forward(
    const float* __restrict__ amplitude,  // [B, A, pixels]
    const float* __restrict__ phase,      // [B, C, pixels]
    float2*      __restrict__ object,     // [B, C, pixels]
    int served, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    float sin, cos;
    sincosf(phase[i], &sin, &cos);
    object[i] = scaled(amplitude[amplitude_of(i, served, pixels)], make_float2(cos, sin));
}
KERNEL_EXPORT(polar_forward)

// One thread per phase pixel.
extern "C" __global__ void polar_backward_phase(
    const float*  __restrict__ amplitude,  // [B, A, pixels]
    const float*  __restrict__ phase,      // [B, C, pixels]
    const float2* __restrict__ dobject,    // [B, C, pixels]
    float*        __restrict__ dphase,     // [B, C, pixels]
    int served, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    float sin, cos;
    sincosf(phase[i], &sin, &cos);
    const float turned = conj_product(make_float2(cos, sin), dobject[i]).y;
    put(&dphase[i], accumulate, amplitude[amplitude_of(i, served, pixels)] * turned);
}
KERNEL_EXPORT(polar_backward_phase)

// One thread per amplitude pixel; channels are summed in their order.
extern "C" __global__ void polar_backward_amplitude(
    const float*  __restrict__ phase,       // [B, C, pixels]
    const float2* __restrict__ dobject,     // [B, C, pixels]
    float*        __restrict__ damplitude,  // [B, A, pixels]
    int served, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    float sum = 0.0f;
    for (int c = 0; c < served; ++c) {
        const int at = (i / pixels * served + c) * pixels + i % pixels;
        float sin, cos;
        sincosf(phase[at], &sin, &cos);
        sum += conj_product(make_float2(cos, sin), dobject[at]).x;
    }
    put(&damplitude[i], accumulate, sum);
}
KERNEL_EXPORT(polar_backward_amplitude)
