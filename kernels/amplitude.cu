// Squared error of the amplitude, for each sample.
//
//   ℓ_b = s_b Σ m κ² (√I − a)²               over channels and pixels
//   s_b = 1 / (C Σ m), or 1                  mean over valid pixels, or sum
//
//   ∂ℓ_b/∂I = s_b m κ² (1 − a/√I)
//
// I  intensity  float  [B, C, pixels]
// a  amplitude  float  [B, C, pixels]
// κ  dose       float  [B]              √photons for each unit of amplitude
// m  mask       float  [S, pixels]      0: ignored, whatever the pixel holds
//    scan       float  [B]              index of the mask of each sample
// ℓ  loss       float  [B]              photons
// s  share      float  [B]
//
// CPU twin: src/ops/amplitude.rs, src/ops/misfit.rs.

#include "common.cuh"

constexpr float kDarkest = 1e-30f;  // least I under the root, so that a/√I is finite

__device__ inline float root(float intensity) { return sqrtf(fmaxf(intensity, kDarkest)); }

// One block per sample, so that the sum has a fixed order.
extern "C" __global__ void amplitude_forward(
    const float* __restrict__ intensity,  // [B, C, pixels]
    const float* __restrict__ amplitude,  // [B, C, pixels]
    const float* __restrict__ dose,       // [B]
    const float* __restrict__ mask,       // [S, pixels]
    const float* __restrict__ scan,       // [B]
    float*       __restrict__ loss,       // [B]
    float*       __restrict__ share,      // [B]
    int channels, int pixels, int mean)
{
    const int b = (int)blockIdx.x;
    mask += (size_t)scan[b] * pixels;
    double sum = 0.0, weight = 0.0;
    for (int i = (int)threadIdx.x; i < channels * pixels; i += (int)blockDim.x) {
        const float m = mask[i % pixels];
        if (m == 0.0f) continue;
        const size_t at = (size_t)b * channels * pixels + i;
        const float error = dose[b] * (root(intensity[at]) - amplitude[at]);
        sum += (double)(m * error * error);
        weight += (double)m;
    }
    sum = block_sum(sum);
    weight = block_sum(weight);
    const double s = !mean ? 1.0 : weight > 0.0 ? 1.0 / weight : 0.0;
    if (threadIdx.x == 0) {
        loss[b] = (float)(s * sum);
        share[b] = (float)s;
    }
}
KERNEL_EXPORT(amplitude_forward)

// One thread per pixel.
extern "C" __global__ void amplitude_backward(
    const float* __restrict__ intensity,   // [B, C, pixels]
    const float* __restrict__ amplitude,   // [B, C, pixels]
    const float* __restrict__ dose,        // [B]
    const float* __restrict__ mask,        // [S, pixels]
    const float* __restrict__ scan,        // [B]
    const float* __restrict__ share,       // [B]
    const float* __restrict__ dloss,       // [B]
    float*       __restrict__ dintensity,  // [B, C, pixels]
    int channels, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int b = i / pixels / channels;
    const float m = mask[(size_t)scan[b] * pixels + i % pixels];
    float slope = 0.0f;
    if (m != 0.0f) {
        const float excess = 1.0f - amplitude[i] / root(intensity[i]);
        slope = share[b] * dloss[b] * m * dose[b] * dose[b] * excess;
    }
    put(&dintensity[i], accumulate, slope);
}
KERNEL_EXPORT(amplitude_backward)
