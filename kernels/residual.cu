// A layer's input and what the layer makes of it, added; the second through a learned gate.
//
//   y = x + g u                     g = 1 where there is none
//
//   ∂L/∂x = ∂L/∂y,  ∂L/∂u = g ∂L/∂y,  ∂L/∂g = Σ u ∂L/∂y
//
// x  float  [total]
// u  update   float  [total]
// g  gate     float  [1]
// y  float  [total]
//    partial  float  [kBlock]   Σ u ∂L/∂y in parts
//
// CPU twin: src/ops/residual.rs.

#include "common.cuh"

// One thread per element.
extern "C" __global__ void residual_forward(
    const float* __restrict__ x,       // [total]
    const float* __restrict__ update,  // [total]
    const float* __restrict__ gate,    // [1], if gated
    float*       __restrict__ y,       // [total]
    int gated, int total)
{
    const int i = element();
    if (i >= total) return;

    y[i] = x[i] + (gated ? gate[0] : 1.0f) * update[i];
}
KERNEL_EXPORT(residual_forward)

// One thread per element, for each of the two.
extern "C" __global__ void residual_backward(
    const float* __restrict__ dy,    // [total]
    const float* __restrict__ gate,  // [1], if gated
    float*       __restrict__ grad,  // [total]
    int gated, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&grad[i], accumulate, (gated ? gate[0] : 1.0f) * dy[i]);
}
KERNEL_EXPORT(residual_backward)

// kBlock blocks, each with every kBlock-th run of kBlock elements.
extern "C" __global__ void residual_backward_gate_partial(
    const float* __restrict__ update,   // [total]
    const float* __restrict__ dy,       // [total]
    float*       __restrict__ partial,  // [kBlock]
    int total)
{
    double sum = 0.0;
    for (int i = element(); i < total; i += kBlock * kBlock) {
        sum += (double)update[i] * (double)dy[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = (float)sum;
}
KERNEL_EXPORT(residual_backward_gate_partial)

// One block.
extern "C" __global__ void residual_backward_gate(
    const float* __restrict__ partial,  // [kBlock]
    float*       __restrict__ dgate,    // [1]
    int accumulate)
{
    const double sum = block_sum((double)partial[threadIdx.x]);
    if (threadIdx.x == 0) put(dgate, accumulate, (float)sum);
}
KERNEL_EXPORT(residual_backward_gate)
