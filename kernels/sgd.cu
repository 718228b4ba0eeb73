// One step of stochastic gradient descent with Nesterov momentum over a flat region.
//
//   g ← g + λ p,  m ← μ m + g,  p ← p − η (g + μ m)
//
// p  param     float  [n]
// g  gradient  float  [n]
// m  moment    float  [n]
//    control   float  [1…]    η of this step
//    norm      float  [1]     of all gradients, if that bounds g: bound.cuh
//
// CPU twin: src/ops/sgd.rs.

#include "bound.cuh"

// One thread per parameter.
extern "C" __global__ void sgd_forward(
    const float* __restrict__ gradient,  // [n]
    const float* __restrict__ control,   // [1…]
    const float* __restrict__ norm,      // [1]
    float*       __restrict__ param,     // [n]
    float*       __restrict__ moment,    // [n]
    int total, int bound, float limit, float momentum, float decay)
{
    const int i = element();
    if (i >= total) return;

    const float p = param[i];
    const float g = bounded(gradient[i], bound, norm, limit) + decay * p;
    const float m = momentum * moment[i] + g;
    moment[i] = m;
    param[i] = p - control[0] * (g + momentum * m);
}
KERNEL_EXPORT(sgd_forward)
