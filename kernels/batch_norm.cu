// Normalisation of every channel over batch and pixels.
//
//   y = γ x̂ + β,  x̂ = (x − μ) r,  r = 1 / √(σ² + ε)
//   μ, σ²: of the n = B·pixels numbers of the channel in training, otherwise the running ones
//   running mean += 0.1 (μ − running mean)                       in training
//   running variance += 0.1 (σ² n / (n − 1) − running variance)  in training, if finite
//
//   ∂L/∂β = Σ ∂L/∂y,  ∂L/∂γ = Σ x̂ ∂L/∂y
//   ∂L/∂x = γ r (∂L/∂y − mean ∂L/∂y − x̂ mean(x̂ ∂L/∂y))      statistics of the batch are assumed
//
// x         float  [B, C, pixels]
// y         float  [B, C, pixels]
// γ, β      gamma, beta                float  [C]
//           running_mean, running_var  float  [C]       units of x and x²
//           training                   float  [1]       0 or 1
// μ, r      used                       float  [C, 2]    units of x and 1/x
//           sums                       float  [C, 2]    Σ ∂L/∂y and Σ x̂ ∂L/∂y
// ε         kFloor                     double           unit of x²
//
// CPU twin: src/ops/batch_norm.rs.

#include "common.cuh"

constexpr double kFloor = 1e-5;    // keeps r finite on a constant channel
constexpr double kMomentum = 0.1;  // share of the batch in the running statistics

// Index in [B, C, pixels] of the i-th number of channel `c`.
__device__ inline size_t of_channel(int c, int i, int channels, int pixels)
{
    return (size_t)(i / pixels * channels + c) * pixels + i % pixels;
}

// One block per channel. Squares are summed about the mean, or they would cancel.
extern "C" __global__ void batch_norm_statistics(
    const float* __restrict__ x,             // [B, C, pixels]
    float*       __restrict__ running_mean,  // [C]
    float*       __restrict__ running_var,   // [C]
    const float* __restrict__ training,      // [1]
    float*       __restrict__ used,          // [C, 2]
    int channels, int pixels, int count)
{
    const int c = (int)blockIdx.x;
    const double old_mean = (double)running_mean[c], old_var = (double)running_var[c];
    double mean = old_mean, var = old_var;
    if (training[0] != 0.0f) {
        double sum = 0.0, squares = 0.0;
        for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
            sum += (double)x[of_channel(c, i, channels, pixels)];
        }
        mean = block_sum(sum) / count;
        for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
            const double d = (double)x[of_channel(c, i, channels, pixels)] - mean;
            squares += d * d;
        }
        squares = block_sum(squares);
        var = squares / count;
        // A batch whose numbers are not finite here, and whose step is left out, leaves no trace.
        if (threadIdx.x == 0 && finite((float)squares)) {
            const double unbiased = squares / (count > 1 ? count - 1 : 1);
            running_mean[c] = (float)(old_mean + kMomentum * (mean - old_mean));
            running_var[c] = (float)(old_var + kMomentum * (unbiased - old_var));
        }
    }
    if (threadIdx.x == 0) {
        used[2 * c] = (float)mean;
        used[2 * c + 1] = (float)(1.0 / sqrt(var + kFloor));
    }
}
KERNEL_EXPORT(batch_norm_statistics)

// One thread per element.
extern "C" __global__ void batch_norm_forward(
    const float* __restrict__ x,      // [B, C, pixels]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ beta,   // [C]
    const float* __restrict__ used,   // [C, 2]
    float*       __restrict__ y,      // [B, C, pixels]
    int channels, int pixels, int total)
{
    const int i = element();
    if (i >= total) return;

    const int c = i / pixels % channels;
    y[i] = (x[i] - used[2 * c]) * (gamma[c] * used[2 * c + 1]) + beta[c];
}
KERNEL_EXPORT(batch_norm_forward)

// One block per channel.
extern "C" __global__ void batch_norm_sums(
    const float* __restrict__ x,     // [B, C, pixels]
    const float* __restrict__ used,  // [C, 2]
    const float* __restrict__ dy,    // [B, C, pixels]
    float*       __restrict__ sums,  // [C, 2]
    int channels, int pixels, int count)
{
    const int c = (int)blockIdx.x;
    const double mean = (double)used[2 * c];
    double sum = 0.0, centred = 0.0;
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
        const size_t at = of_channel(c, i, channels, pixels);
        sum += (double)dy[at];
        centred += ((double)x[at] - mean) * (double)dy[at];
    }
    sum = block_sum(sum);
    centred = block_sum(centred);
    if (threadIdx.x == 0) {
        sums[2 * c] = (float)sum;
        sums[2 * c + 1] = (float)(centred * (double)used[2 * c + 1]);
    }
}
KERNEL_EXPORT(batch_norm_sums)

// One thread per channel. `which` is 0 for the gradient of beta and 1 for that of gamma.
extern "C" __global__ void batch_norm_backward_affine(
    const float* __restrict__ sums,  // [C, 2]
    float*       __restrict__ grad,  // [C]
    int which, int channels, int accumulate)
{
    const int c = element();
    if (c >= channels) return;

    put(&grad[c], accumulate, sums[2 * c + which]);
}
KERNEL_EXPORT(batch_norm_backward_affine)

// One thread per element.
extern "C" __global__ void batch_norm_backward(
    const float* __restrict__ x,      // [B, C, pixels]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ used,   // [C, 2]
    const float* __restrict__ sums,   // [C, 2]
    const float* __restrict__ dy,     // [B, C, pixels]
    float*       __restrict__ dx,     // [B, C, pixels]
    int channels, int pixels, int count, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int c = i / pixels % channels;
    const float share = 1.0f / (float)count, r = used[2 * c + 1];
    const float offset = share * sums[2 * c], slope = share * sums[2 * c + 1] * r;
    put(&dx[i], accumulate, gamma[c] * r * (dy[i] - offset - (x[i] - used[2 * c]) * slope));
}
KERNEL_EXPORT(batch_norm_backward)
