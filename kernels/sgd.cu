// One step of stochastic gradient descent with Nesterov momentum over a flat region.
//
//   g ← g + λ p,  m ← μ m + g,  p ← p − η (g + μ m)
//
// p  param     float  [n]
// g  gradient  float  [n]
// m  moment    float  [n]
//    control   float  [1…]    η of this step
//    guard     float  [1…]    the gradient's norm: where it is not finite, nothing is done
//
// CPU twin: src/ops/sgd.rs.

#include "common.cuh"

// One thread per parameter.
extern "C" __global__ void sgd_forward(
    const float* __restrict__ gradient,  // [n]
    const float* __restrict__ control,   // [1…]
    const float* __restrict__ guard,     // [1…]
    float*       __restrict__ param,     // [n]
    float*       __restrict__ moment,    // [n]
    int total, float momentum, float decay)
{
    const int i = element();
    if (i >= total || !finite(guard[0])) return;

    const float p = param[i], g = gradient[i] + decay * p;
    const float m = momentum * moment[i] + g;
    moment[i] = m;
    param[i] = p - control[0] * (g + momentum * m);
}
KERNEL_EXPORT(sgd_forward)
