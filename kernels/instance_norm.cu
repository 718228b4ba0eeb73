// Normalisation of every channel of every sample over its pixels.
//
//   y = γ x̂ + β,  x̂ = (x − μ) r,  r = 1 / √(σ² + ε),  μ and σ² of the pixels of the image
//
//   ∂L/∂β = Σ ∂L/∂y,  ∂L/∂γ = Σ x̂ ∂L/∂y          over samples and pixels
//   ∂L/∂x = γ r (∂L/∂y − mean ∂L/∂y − x̂ mean(x̂ ∂L/∂y))
//
// x         float  [B, C, pixels]
// y         float  [B, C, pixels]
// γ, β      gamma, beta  float  [C]
// μ, r      used         float  [B, C, 2]    units of x and 1/x
//           sums         float  [B, C, 2]    Σ ∂L/∂y and Σ x̂ ∂L/∂y of an image
// ε         kFloor       double              unit of x²
//
// CPU twin: src/ops/instance_norm.rs.

#include "common.cuh"

constexpr double kFloor = 1e-5;  // keeps r finite on a constant image

// One block per image. Squares are summed about the mean, or they would cancel.
extern "C" __global__ void instance_norm_forward(
    const float* __restrict__ x,      // [B, C, pixels]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ beta,   // [C]
    float*       __restrict__ used,   // [B, C, 2]
    float*       __restrict__ y,      // [B, C, pixels]
    int channels, int pixels)
{
    const int image = (int)blockIdx.x, c = image % channels;
    x += (size_t)image * pixels;
    y += (size_t)image * pixels;

    double sum = 0.0, squares = 0.0;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) sum += (double)x[i];
    const double mean = block_sum(sum) / pixels;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) {
        const double d = (double)x[i] - mean;
        squares += d * d;
    }
    const double r = 1.0 / sqrt(block_sum(squares) / pixels + kFloor);
    if (threadIdx.x == 0) {
        used[2 * image] = (float)mean;
        used[2 * image + 1] = (float)r;
    }
    const float centre = (float)mean, scale = gamma[c] * (float)r;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) {
        y[i] = (x[i] - centre) * scale + beta[c];
    }
}
KERNEL_EXPORT(instance_norm_forward)

// One block per image.
extern "C" __global__ void instance_norm_sums(
    const float* __restrict__ x,     // [B, C, pixels]
    const float* __restrict__ used,  // [B, C, 2]
    const float* __restrict__ dy,    // [B, C, pixels]
    float*       __restrict__ sums,  // [B, C, 2]
    int pixels)
{
    const int image = (int)blockIdx.x;
    const double mean = (double)used[2 * image];
    x += (size_t)image * pixels;
    dy += (size_t)image * pixels;

    double sum = 0.0, centred = 0.0;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) {
        sum += (double)dy[i];
        centred += ((double)x[i] - mean) * (double)dy[i];
    }
    sum = block_sum(sum);
    centred = block_sum(centred);
    if (threadIdx.x == 0) {
        sums[2 * image] = (float)sum;
        sums[2 * image + 1] = (float)(centred * (double)used[2 * image + 1]);
    }
}
KERNEL_EXPORT(instance_norm_sums)

// One thread per channel: γ takes the second of the sums, β the first.
extern "C" __global__ void instance_norm_backward_affine(
    const float* __restrict__ sums,  // [B, C, 2]
    float*       __restrict__ grad,  // [C]
    int which, int samples, int channels, int accumulate)
{
    const int c = element();
    if (c >= channels) return;

    double sum = 0.0;
    for (int b = 0; b < samples; ++b) sum += (double)sums[2 * (b * channels + c) + which];
    put(&grad[c], accumulate, (float)sum);
}
KERNEL_EXPORT(instance_norm_backward_affine)

// One thread per element.
extern "C" __global__ void instance_norm_backward(
    const float* __restrict__ x,      // [B, C, pixels]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ used,   // [B, C, 2]
    const float* __restrict__ dy,     // [B, C, pixels]
    const float* __restrict__ sums,   // [B, C, 2]
    float*       __restrict__ dx,     // [B, C, pixels]
    int channels, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int image = i / pixels;
    const float r = used[2 * image + 1], share = 1.0f / (float)pixels;
    const float along = (x[i] - used[2 * image]) * r * sums[2 * image + 1] * share;
    const float centred = dy[i] - sums[2 * image] * share - along;
    put(&dx[i], accumulate, gamma[image % channels] * r * centred);
}
KERNEL_EXPORT(instance_norm_backward)
