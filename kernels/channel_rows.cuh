// The two rows of a sample in [2B, C]: row 2b belongs to the means of sample b, row 2b + 1 to its
// maxima.
//
// CPU twins: src/ops/channel_pool.rs, src/ops/channel_gate.rs.

#pragma once

// Index of the mean of image plane b C + c; the maximum lies `channels` further on.
__device__ inline int mean_of(int plane, int channels)
{
    return plane / channels * 2 * channels + plane % channels;
}
