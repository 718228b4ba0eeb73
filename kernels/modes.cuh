// Weights and waves of truncated transforms.
//
// CPU twin: Band in src/ops/dft_axis.rs.

#pragma once

// In the order of `Weights` in src/ops/dft_axis.rs.
enum Weights { kOne, kInverse, kInverseReal };

__device__ inline float mode_weight(int kind, int frequency, int length)
{
    if (kind == kOne) return 1.0f;
    const bool once = kind == kInverse || frequency == 0 || 2 * frequency == length;
    return (once ? 1.0f : 2.0f) / (float)length;
}

// e^{2πi j/N} for all j.
__device__ inline void fill_turns(float2* turn, int length)
{
    for (int j = (int)threadIdx.x; j < length; j += (int)blockDim.x) {
        sincospif(2.0f * (float)j / (float)length, &turn[j].y, &turn[j].x);
    }
}
