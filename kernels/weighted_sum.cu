// The loss: terms of every sample, summed over the batch and over the terms.
//
//   L_t = Σ_b w_tb ℓ_tb,  L = Σ_t c_t L_t
//
//   ∂L/∂ℓ_tb = c_t w_tb ∂L
//
// ℓ_t  term    float  [B]
// w_t  weight  float  [B]    0: padding of a short batch
// L_t  sums    float  [T]
// L    loss    float  [1]
// c_t  coefficient  float
//
// One launch per term, in their order. CPU twin: src/ops/weighted_sum.rs.

#include "common.cuh"

// One block. The first term (t = 0) sets the loss, later ones add to it.
extern "C" __global__ void weighted_sum_forward(
    const float* __restrict__ term,    // [B]
    const float* __restrict__ weight,  // [B]
    float*       __restrict__ sums,    // [T]
    float*       __restrict__ loss,    // [1]
    int batch, int t, float coefficient)
{
    double sum = 0.0;
    for (int b = (int)threadIdx.x; b < batch; b += (int)blockDim.x) {
        sum += (double)weight[b] * (double)term[b];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        sums[t] = (float)sum;
        put(loss, t > 0, (float)(coefficient * sum));
    }
}
KERNEL_EXPORT(weighted_sum_forward)

// One thread per sample.
extern "C" __global__ void weighted_sum_backward(
    const float* __restrict__ weight,  // [B]
    const float* __restrict__ dloss,   // [1]
    float*       __restrict__ dterm,   // [B]
    int batch, int accumulate, float coefficient)
{
    const int b = element();
    if (b >= batch) return;

    put(&dterm[b], accumulate, coefficient * weight[b] * dloss[0]);
}
KERNEL_EXPORT(weighted_sum_backward)
