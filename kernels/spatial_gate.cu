// Pixels scaled by a gate between 0 and 1, the same for all channels.
//
//   z[b, c, p] = u[b, p] y[b, c, p],  u = σ(v)
//
//   ∂L/∂y = u ∂L/∂z
//   ∂L/∂v[b, p] = u (1 − u) Σ_c y ∂L/∂z
//
// y  float  [B, C, pixels]
// v  float  [B, pixels]
// z  float  [B, C, pixels]
//
// CPU twin: src/ops/spatial_gate.rs.

#include "common.cuh"
#include "scalar.cuh"

// u at element `i` of the image.
__device__ inline float gate(const float* v, int i, int channels, int pixels)
{
    return sigmoid(v[i / pixels / channels * pixels + i % pixels]);
}

// One thread per element.
extern "C" __global__ void spatial_gate_forward(
    const float* __restrict__ y,  // [B, C, pixels]
    const float* __restrict__ v,  // [B, pixels]
    float*       __restrict__ z,  // [B, C, pixels]
    int channels, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    z[i] = gate(v, i, channels, pixels) * y[i];
}
KERNEL_EXPORT(spatial_gate_forward)

// One thread per element.
extern "C" __global__ void spatial_gate_backward_image(
    const float* __restrict__ v,   // [B, pixels]
    const float* __restrict__ dz,  // [B, C, pixels]
    float*       __restrict__ dy,  // [B, C, pixels]
    int channels, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dy[i], accumulate, gate(v, i, channels, pixels) * dz[i]);
}
KERNEL_EXPORT(spatial_gate_backward_image)

// One thread per pixel of a sample; channels are summed in their order.
extern "C" __global__ void spatial_gate_backward_logits(
    const float* __restrict__ y,   // [B, C, pixels]
    const float* __restrict__ v,   // [B, pixels]
    const float* __restrict__ dz,  // [B, C, pixels]
    float*       __restrict__ dv,  // [B, pixels]
    int channels, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const size_t image = (size_t)(i / pixels) * channels * pixels + i % pixels;
    double sum = 0.0;
    for (int c = 0; c < channels; ++c) {
        const size_t here = image + (size_t)c * pixels;
        sum += (double)y[here] * (double)dz[here];
    }
    const float u = sigmoid(v[i]);
    put(&dv[i], accumulate, u * (1.0f - u) * (float)sum);
}
KERNEL_EXPORT(spatial_gate_backward_logits)
