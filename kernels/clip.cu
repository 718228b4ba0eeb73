// Gradient clipping by the norms of each tensor, in place.
//
//   g ← g min(1, limit max(‖p‖, 10⁻³) / ‖g‖)
//
// g    gradient  float   [n]
// p    param     float   [n]
//      partial   double  [P, 2]    Σ g² and Σ p² of each block
//
// The other rules are a part of the update: bound.cuh.
// CPU twin: src/ops/clip.rs.

#include "bound.cuh"

constexpr double kParamFloor = 1e-3;  // least ‖p‖ that counts, so that zero weights can move

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

    const double factor = (double)limit * fmax(sqrt(of_p), kParamFloor) / sqrt(of_g);
    gradient[i] = shrunk(gradient[i], factor);
}
KERNEL_EXPORT(clip_adaptive)
