// Mean and maximum of every channel: what the channel gate of an attention block looks at.
//
//   pooled[2b, c] = Σ_p x[b, c, p] / pixels,  pooled[2b + 1, c] = max_p x[b, c, p]
//
//   ∂L/∂x[b, c, p] = ∂L/∂mean / pixels + ∂L/∂max at the first maximum in row-major order
//
// x       float  [B, C, pixels]
// pooled  float  [2B, C]
//
// CPU twin: src/ops/channel_pool.rs.

#include "channel_rows.cuh"
#include "common.cuh"
#include "scalar.cuh"

// Largest `x` of a block of kBlock threads; every thread gets it.
__device__ inline double block_max(double x)
{
    SHARED(double, part, kBlock);
    part[threadIdx.x] = x;
    __syncthreads();
    for (unsigned half = kBlock / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && part[threadIdx.x + half] > part[threadIdx.x]) {
            part[threadIdx.x] = part[threadIdx.x + half];
        }
        __syncthreads();
    }
    const double max = part[0];
    __syncthreads();
    return max;
}

// One block per channel of a sample.
extern "C" __global__ void channel_pool_forward(
    const float* __restrict__ x,       // [B, C, pixels]
    float*       __restrict__ pooled,  // [2B, C]
    int channels, int pixels)
{
    const int plane = (int)blockIdx.x;
    x += (size_t)plane * pixels;
    double sum = 0.0;
    float max = x[0];
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
        sum += (double)x[p];
        max = larger(max, x[p]);
    }
    sum = block_sum(sum);
    max = (float)block_max((double)max);
    if (threadIdx.x == 0) {
        const int mean = mean_of(plane, channels);
        pooled[mean] = (float)(sum / pixels);
        pooled[mean + channels] = max;
    }
}
KERNEL_EXPORT(channel_pool_forward)

// One block per channel of a sample; it agrees on the first maximum, then writes every pixel.
extern "C" __global__ void channel_pool_backward(
    const float* __restrict__ x,        // [B, C, pixels]
    const float* __restrict__ pooled,   // [2B, C]
    const float* __restrict__ dpooled,  // [2B, C]
    float*       __restrict__ dx,       // [B, C, pixels]
    int channels, int pixels, int accumulate)
{
    const int plane = (int)blockIdx.x;
    const int mean = mean_of(plane, channels), max = mean + channels;
    x += (size_t)plane * pixels;
    dx += (size_t)plane * pixels;
    int first = pixels;
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
        if (x[p] == pooled[max] && p < first) first = p;
    }
    first = -(int)block_max((double)-first);
    const float share = dpooled[mean] / (float)pixels;
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
        put(&dx[p], accumulate, p == first ? share + dpooled[max] : share);
    }
}
KERNEL_EXPORT(channel_pool_backward)
