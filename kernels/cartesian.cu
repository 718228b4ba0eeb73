// Amplitude and phase of a complex number that is given by its parts.
//
//   z = 1 + x + i y,  a = |z|,  φ = arg z
//
//   ∂L/∂x + i ∂L/∂y = ∂L/∂a z/a + ∂L/∂φ i z/a²,  0 at z = 0
//
// x, y  float  [total]
// a     amplitude  float  [total]
// φ     phase      float  [total], rad
//
// CPU twin: src/ops/cartesian.rs.

#include "common.cuh"

// One thread per number.
extern "C" __global__ void cartesian_forward(
    const float* __restrict__ x,          // [total]
    const float* __restrict__ y,          // [total]
    float*       __restrict__ amplitude,  // [total]
    float*       __restrict__ phase,      // [total]
    int total)
{
    const int i = element();
    if (i >= total) return;

    const float re = 1.0f + x[i];
    amplitude[i] = sqrtf(re * re + y[i] * y[i]);
    phase[i] = atan2f(y[i], re);
}
KERNEL_EXPORT(cartesian_forward)

// One thread per number, for the real or the imaginary part.
extern "C" __global__ void cartesian_backward(
    const float* __restrict__ x,           // [total]
    const float* __restrict__ y,           // [total]
    const float* __restrict__ damplitude,  // [total], if of_amplitude
    const float* __restrict__ dphase,      // [total], if of_phase
    float*       __restrict__ grad,        // [total]
    int of_amplitude, int of_phase, int imaginary, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const float re = 1.0f + x[i], im = y[i], square = re * re + im * im;
    float share = 0.0f;
    if (square > 0.0f) {
        if (of_amplitude) share += damplitude[i] * (imaginary ? im : re) / sqrtf(square);
        if (of_phase) share += dphase[i] * (imaginary ? re : -im) / square;
    }
    put(&grad[i], accumulate, share);
}
KERNEL_EXPORT(cartesian_backward)
