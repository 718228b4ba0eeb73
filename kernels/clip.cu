// Gradient clipping, in place.
//
//   norm       g ← g min(1, limit / (‖g‖ + 10⁻⁶))             norm over all gradients
//   value      g ← min(max(g, −limit), limit)
//   adaptive   g ← g min(1, limit max(‖p‖, 10⁻³) / ‖g‖)       norms over one tensor
//
// g    gradient  float   [n]
// p    param     float   [n]
// ‖g‖  norm      float   [1]
//      partial   double  [P, 2]    Σ g² and Σ p² of each block
//
// CPU twin: src/ops/clip.rs.

#include "common.cuh"

constexpr double kNormFloor = 1e-6;   // keeps the factor finite when all gradients are 0
constexpr double kParamFloor = 1e-3;  // least ‖p‖ that counts, so that zero weights can move

// g times a factor; a factor that is not below 1 leaves it alone, as does one that is not a number.
__device__ inline void shrink(float* g, double factor)
{
    if (factor < 1.0) *g *= (float)factor;
}

// One thread per element.
extern "C" __global__ void clip_norm(
    const float* __restrict__ norm,      // [1]
    float*       __restrict__ gradient,  // [n]
    int total, float limit)
{
    const int i = element();
    if (i >= total) return;

    shrink(&gradient[i], (double)limit / ((double)norm[0] + kNormFloor));
}
KERNEL_EXPORT(clip_norm)

// One thread per element.
extern "C" __global__ void clip_value(
    float* __restrict__ gradient,  // [n]
    int total, float limit)
{
    const int i = element();
    if (i >= total) return;

    gradient[i] = fminf(fmaxf(gradient[i], -limit), limit);
}
KERNEL_EXPORT(clip_value)

// A block sums a chunk of one tensor.
extern "C" __global__ void clip_adaptive_partial(
    const float* __restrict__ gradient,  // [n]
    const float* __restrict__ param,     // [n]
    double*      __restrict__ partial,   // [P, 2]
    int chunk, int total)
{
    const int from = (int)blockIdx.x * chunk;
    const int end = from + chunk < total ? from + chunk : total;
    double of_g = 0.0, of_p = 0.0;
    for (int i = from + (int)threadIdx.x; i < end; i += (int)blockDim.x) {
        of_g += (double)gradient[i] * (double)gradient[i];
        of_p += (double)param[i] * (double)param[i];
    }
    of_g = block_sum(of_g);
    of_p = block_sum(of_p);
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = of_g;
        partial[2 * blockIdx.x + 1] = of_p;
    }
}
KERNEL_EXPORT(clip_adaptive_partial)

// One thread per element; each block adds the partial sums again, in the same order.
extern "C" __global__ void clip_adaptive(
    const double* __restrict__ partial,   // [P, 2]
    float*        __restrict__ gradient,  // [n]
    int partials, int total, float limit)
{
    double of_g = 0.0, of_p = 0.0;
    for (int i = (int)threadIdx.x; i < partials; i += (int)blockDim.x) {
        of_g += partial[2 * i];
        of_p += partial[2 * i + 1];
    }
    of_g = block_sum(of_g);
    of_p = block_sum(of_p);
    const int i = element();
    if (i >= total) return;

    shrink(&gradient[i], (double)limit * fmax(sqrt(of_p), kParamFloor) / sqrt(of_g));
}
KERNEL_EXPORT(clip_adaptive)
