// Mean-absolute deviation of each sample, not divided by the number of pixels.
//
//   t[b] = Σ_{c, p} |d|,  d = x[b, c, p] − mean_p x[b, c]
//
//   ∂L/∂x = ∂L/∂t[b] (sign d − mean_p sign d)      sign 0 = 0
//
// x  float  [B, C, pixels]
// t  total  float  [B]
//
// CPU twin: src/ops/mean_deviation.rs.

#include "common.cuh"
#include "scalar.cuh"

// Mean of a plane by one block, in double precision: the sign of a deviation must not depend on
// rounding.
__device__ inline double block_mean(const float* x, int pixels)
{
    double sum = 0.0;
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) sum += (double)x[p];
    return block_sum(sum) / pixels;
}

// One block per sample; channels are visited in their order.
extern "C" __global__ void mean_deviation_forward(
    const float* __restrict__ x,      // [B, C, pixels]
    float*       __restrict__ total,  // [B]
    int channels, int pixels)
{
    const int b = (int)blockIdx.x;
    double sum = 0.0;
    for (int c = 0; c < channels; ++c) {
        const float* plane = x + ((size_t)b * channels + c) * pixels;
        const double mean = block_mean(plane, pixels);
        for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
            sum += fabs((double)plane[p] - mean);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) total[b] = (float)sum;
}
KERNEL_EXPORT(mean_deviation_forward)

// One block per channel of a sample.
extern "C" __global__ void mean_deviation_backward(
    const float* __restrict__ x,       // [B, C, pixels]
    const float* __restrict__ dtotal,  // [B]
    float*       __restrict__ dx,      // [B, C, pixels]
    int channels, int pixels, int accumulate)
{
    const int plane = (int)blockIdx.x;
    x += (size_t)plane * pixels;
    dx += (size_t)plane * pixels;
    const double mean = block_mean(x, pixels);
    double signs = 0.0;
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
        signs += (double)sign((double)x[p] - mean);
    }
    signs = block_sum(signs) / pixels;
    for (int p = (int)threadIdx.x; p < pixels; p += (int)blockDim.x) {
        const float share = (float)((double)sign((double)x[p] - mean) - signs);
        put(&dx[p], accumulate, dtotal[plane / channels] * share);
    }
}
KERNEL_EXPORT(mean_deviation_backward)
