// L2 norm of all gradients.
//
//   ‖g‖ = √ Σ g², or NaN where the loss is not finite
//
// g  gradient  float   [n]    one launch of the first kernel for each region
//    partial   double  [P]    Σ g² of each block of all regions
//    loss      float   [1]    read where `with_loss`
// ‖g‖  norm    float   [1]
//
// CPU twin: src/ops/global_norm.rs.

#include "common.cuh"

// A block sums a chunk of the region, and writes partial[first + block].
extern "C" __global__ void global_norm_partial(
    const float* __restrict__ gradient,  // [n]
    double*      __restrict__ partial,   // [P]
    int first, int chunk, int total)
{
    const int from = (int)blockIdx.x * chunk;
    const int end = from + chunk < total ? from + chunk : total;
    double sum = 0.0;
    for (int i = from + (int)threadIdx.x; i < end; i += (int)blockDim.x) {
        sum += (double)gradient[i] * (double)gradient[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[first + (int)blockIdx.x] = sum;
}
KERNEL_EXPORT(global_norm_partial)

// One block.
extern "C" __global__ void global_norm_forward(
    const double* __restrict__ partial,  // [P]
    const float*  loss,                  // [1]
    float*        norm,                  // [1]
    int partials, int with_loss)
{
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < partials; i += (int)blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    const double witness = with_loss ? 0.0 * (double)loss[0] : 0.0;
    if (threadIdx.x == 0) norm[0] = (float)(sqrt(sum) + witness);
}
KERNEL_EXPORT(global_norm_forward)
