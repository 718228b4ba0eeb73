// Mean absolute error of the amplitude, for each sample.
//
//   ℓ_b = s_b Σ m κ |√I − a|                 over channels and pixels
//   s_b = 1 / (C Σ m), or 1                  mean over valid pixels, or sum
//
//   ∂L/∂I = u_b s_b m κ sign(√I − a) / (2 √I)  0 at I = 0 and at √I = a; u_b = factor · weight_b
//
// I  intensity  float  [B, C, pixels]
// a  amplitude  float  [B, C, pixels]
// κ  dose       float  [B]              √photons for each unit of amplitude
// m  mask       float  [S, pixels]      0: ignored, whatever the pixel holds
//    scan       float  [B]              index of the mask of each sample
//    weight     float  [B]
// ℓ  loss       float  [B]              √photons
//
// CPU twin: src/ops/mae.rs, src/ops/misfit.rs.

#include "misfit.cuh"

// Value and gradient in one pass over the patterns. One block per sample, so that the sum has a
// fixed order.
extern "C" __global__ void mae_forward(
    const float* __restrict__ intensity,   // [B, C, pixels]
    const float* __restrict__ amplitude,   // [B, C, pixels]
    const float* __restrict__ dose,        // [B]
    const float* __restrict__ mask,        // [S, pixels]
    const float* __restrict__ scan,        // [B]
    const float* __restrict__ weight,      // [B]
    float*       __restrict__ loss,        // [B]
    float*       __restrict__ dintensity,  // [B, C, pixels]
    int channels, int pixels, int mean, float factor)
{
    const int b = (int)blockIdx.x;
    const float kappa = dose[b];
    mask += (size_t)scan[b] * pixels;
    const double share = mean ? mean_share(mask, channels, pixels) : 1.0;
    const float upstream = (float)(factor * share) * weight[b];
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < channels * pixels; i += (int)blockDim.x) {
        const size_t at = (size_t)b * channels * pixels + i;
        const float m = mask[i % pixels];
        float d = 0.0f;
        if (m != 0.0f) {
            const Misfit f = mae_pixel(intensity[at], amplitude[at], kappa);
            sum += (double)(m * f.term);
            d = upstream * m * f.slope;
        }
        dintensity[at] = d;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) loss[b] = (float)(share * sum);
}
KERNEL_EXPORT(mae_forward)
