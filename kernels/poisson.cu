// Poisson negative log-likelihood of the counted photons, for each sample.
//
//   Λ = κ² I + ε,  k = (κ a)²                expected and counted photons
//   ℓ_b = s_b Σ m (Λ − k + k ln(k/Λ))        over channels and pixels; k ln k = 0 at k = 0
//   s_b = 1 / (C Σ m), or 1                  mean over valid pixels, or sum
//
//   ∂ℓ_b/∂I = s_b m κ² (1 − k/Λ)
//
// I  intensity  float  [B, C, pixels]
// a  amplitude  float  [B, C, pixels]
// κ  dose       float  [B]              √photons for each unit of amplitude
// m  mask       float  [S, pixels]      0: ignored, whatever the pixel holds
//    scan       float  [B]              index of the mask of each sample
// ℓ  loss       float  [B]              nats
// s  share      float  [B]
// ε  background float                   photons
//
// CPU twin: src/ops/poisson.rs, src/ops/misfit.rs.

#include "common.cuh"

constexpr float kDarkest = 1e-30f;  // photons: least Λ, so that k/Λ is finite
constexpr float kSmall = 0.05f;     // below it, five terms of the series are exact in float

struct Photons {
    float expected, counted;
};

__device__ inline Photons photons(float intensity, float amplitude, float kappa, float background)
{
    const float root = kappa * amplitude;
    return {fmaxf(kappa * kappa * intensity + background, kDarkest), root * root};
}

// Λ − k + k ln(k/Λ) = k (d − ln(1 + d)), d = (Λ − k)/k: no cancellation between large numbers.
__device__ inline float term(Photons n)
{
    if (n.counted == 0.0f) return n.expected;
    const float d = (n.expected - n.counted) / n.counted;
    if (fabsf(d) >= kSmall) return n.counted * (d - logf(n.expected / n.counted));
    const float series = 1 / 2.0f - d * (1 / 3.0f - d * (1 / 4.0f - d * (1 / 5.0f - d / 6.0f)));
    return n.counted * d * d * series;
}

// One block per sample, so that the sum has a fixed order.
extern "C" __global__ void poisson_forward(
    const float* __restrict__ intensity,  // [B, C, pixels]
    const float* __restrict__ amplitude,  // [B, C, pixels]
    const float* __restrict__ dose,       // [B]
    const float* __restrict__ mask,       // [S, pixels]
    const float* __restrict__ scan,       // [B]
    float*       __restrict__ loss,       // [B]
    float*       __restrict__ share,      // [B]
    int channels, int pixels, int mean, float background)
{
    const int b = (int)blockIdx.x;
    mask += (size_t)scan[b] * pixels;
    double sum = 0.0, weight = 0.0;
    for (int i = (int)threadIdx.x; i < channels * pixels; i += (int)blockDim.x) {
        const float m = mask[i % pixels];
        if (m == 0.0f) continue;
        const size_t at = (size_t)b * channels * pixels + i;
        sum += (double)(m * term(photons(intensity[at], amplitude[at], dose[b], background)));
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
KERNEL_EXPORT(poisson_forward)

// One thread per pixel.
extern "C" __global__ void poisson_backward(
    const float* __restrict__ intensity,   // [B, C, pixels]
    const float* __restrict__ amplitude,   // [B, C, pixels]
    const float* __restrict__ dose,        // [B]
    const float* __restrict__ mask,        // [S, pixels]
    const float* __restrict__ scan,        // [B]
    const float* __restrict__ share,       // [B]
    const float* __restrict__ dloss,       // [B]
    float*       __restrict__ dintensity,  // [B, C, pixels]
    int channels, int pixels, int total, int accumulate, float background)
{
    const int i = element();
    if (i >= total) return;

    const int b = i / pixels / channels;
    const float m = mask[(size_t)scan[b] * pixels + i % pixels];
    float slope = 0.0f;
    if (m != 0.0f) {
        const Photons n = photons(intensity[i], amplitude[i], dose[b], background);
        const float excess = n.counted > 0.0f ? n.counted / n.expected : 0.0f;
        slope = share[b] * dloss[b] * m * dose[b] * dose[b] * (1.0f - excess);
    }
    put(&dintensity[i], accumulate, slope);
}
KERNEL_EXPORT(poisson_backward)
