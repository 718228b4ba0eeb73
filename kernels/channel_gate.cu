// Channels scaled by a gate between 0 and 1.
//
//   y[b, c, p] = u[b, c] x[b, c, p],  u[b, c] = σ(m[2b, c] + m[2b + 1, c])
//
//   ∂L/∂x = u ∂L/∂y
//   ∂L/∂m[2b, c] = ∂L/∂m[2b + 1, c] = u (1 − u) Σ_p x ∂L/∂y
//
// x  float  [B, C, pixels]
// m  float  [2B, C]
// y  float  [B, C, pixels]
//
// CPU twin: src/ops/channel_gate.rs.

#include "channel_rows.cuh"
#include "common.cuh"
#include "scalar.cuh"

// u of image plane b C + c.
__device__ inline float gate(const float* m, int plane, int channels)
{
    const int mean = mean_of(plane, channels);
    return sigmoid(m[mean] + m[mean + channels]);
}

// One thread per element.
extern "C" __global__ void channel_gate_forward(
    const float* __restrict__ x,  // [B, C, pixels]
    const float* __restrict__ m,  // [2B, C]
    float*       __restrict__ y,  // [B, C, pixels]
    int channels, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    y[i] = gate(m, i / pixels, channels) * x[i];
}
KERNEL_EXPORT(channel_gate_forward)

// One thread per element.
extern "C" __global__ void channel_gate_backward_image(
    const float* __restrict__ m,   // [2B, C]
    const float* __restrict__ dy,  // [B, C, pixels]
    float*       __restrict__ dx,  // [B, C, pixels]
    int channels, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dx[i], accumulate, gate(m, i / pixels, channels) * dy[i]);
}
KERNEL_EXPORT(channel_gate_backward_image)

// One block per channel of a sample; both rows get the same gradient.
extern "C" __global__ void channel_gate_backward_logits(
    const float* __restrict__ x,   // [B, C, pixels]
    const float* __restrict__ m,   // [2B, C]
    const float* __restrict__ dy,  // [B, C, pixels]
    float*       __restrict__ dm,  // [2B, C]
    int channels, int pixels, int accumulate)
{
    const int plane = (int)blockIdx.x;
    x += (size_t)plane * pixels;
    dy += (size_t)plane * pixels;
    double sum = 0.0;
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
        sum += (double)x[p] * (double)dy[p];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        const int mean = mean_of(plane, channels);
        const float u = gate(m, plane, channels);
        const float share = u * (1.0f - u) * (float)sum;
        put(&dm[mean], accumulate, share);
        put(&dm[mean + channels], accumulate, share);
    }
}
KERNEL_EXPORT(channel_gate_backward_logits)
