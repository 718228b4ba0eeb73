// What the losses on the detector share. CPU twin: src/ops/misfit.rs.

#pragma once

#include "common.cuh"

// s_b = 1 / (C Σ m) of a sample's mask, 0 if nothing is left to look at; every thread gets it.
__device__ inline double mean_share(const float* mask, int channels, int pixels)
{
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) sum += (double)mask[i];
    sum = channels * block_sum(sum);
    return sum > 0.0 ? 1.0 / sum : 0.0;
}
