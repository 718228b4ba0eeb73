// What the losses on the detector share. CPU twin: src/ops/misfit.rs.

#pragma once

#include "common.cuh"

constexpr float kDarkest = 1e-30f;  // least Λ, and least I under a root: quotients are finite
constexpr float kSmall = 0.05f;     // below it, five terms of the series are exact in float

// In the order of `Distance::index` in src/ops/misfit.rs.
enum Distance { kPoisson, kMae, kAmplitude };

// What a pixel of weight 1 adds to the sum f, and ∂f/∂I.
struct Misfit {
    float term, slope;
};

// f = Λ − k + k ln(k/Λ), Λ = κ² I + ε, k = (κ a)²
//   = k (d − ln(1 + d)), d = (Λ − k)/k: no cancellation between large numbers.
__device__ inline Misfit poisson_pixel(
    float intensity, float amplitude, float kappa, float background)
{
    const float root = kappa * amplitude, counted = root * root, square = kappa * kappa;
    const float expected = fmaxf(square * intensity + background, kDarkest);
    if (counted == 0.0f) return {expected, square};
    const float slope = square * (1.0f - counted / expected);
    const float d = (expected - counted) / counted;
    if (fabsf(d) >= kSmall) return {counted * (d - logf(expected / counted)), slope};
    const float series = 1 / 2.0f - d * (1 / 3.0f - d * (1 / 4.0f - d * (1 / 5.0f - d / 6.0f)));
    return {counted * d * d * series, slope};
}

// f = κ |√I − a|; flat at its kinks, I = 0 and √I = a.
__device__ inline Misfit mae_pixel(float intensity, float amplitude, float kappa)
{
    const float root = sqrtf(intensity), error = root - amplitude;
    const bool kink = root == 0.0f || error == 0.0f;
    return {kappa * fabsf(error), kink ? 0.0f : copysignf(kappa, error) / (2.0f * root)};
}

// f = κ² (√I − a)²
__device__ inline Misfit amplitude_pixel(float intensity, float amplitude, float kappa)
{
    const float expected = sqrtf(fmaxf(intensity, kDarkest));
    const float error = kappa * (expected - amplitude);
    return {error * error, kappa * kappa * (1.0f - amplitude / expected)};
}

__device__ inline Misfit misfit_pixel(
    int distance, float intensity, float amplitude, float kappa, float background)
{
    if (distance == kPoisson) return poisson_pixel(intensity, amplitude, kappa, background);
    if (distance == kMae) return mae_pixel(intensity, amplitude, kappa);
    return amplitude_pixel(intensity, amplitude, kappa);
}

// s_b = 1 / (C Σ m) of a sample's mask, 0 if nothing is left to look at; every thread gets it.
__device__ inline double mean_share(const float* mask, int channels, int pixels)
{
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) sum += (double)mask[i];
    sum = channels * block_sum(sum);
    return sum > 0.0 ? 1.0 / sum : 0.0;
}
