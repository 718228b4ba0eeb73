// One step of Adam over a flat region of parameters.
//
//   m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²
//   p ← p − η (m / b₁) / (√(v / b₂) + ε),  b = 1 − βᵗ
//
// Weight decay λ: g + λ p in place of g, or, decoupled, p ← p − η λ p first.
//
// p  param    float  [n]
// g  gradient float  [n]
// m  moment1  float  [n]
// v  moment2  float  [n]
//    control  float  [3]    η, b₁, b₂ of this step
//    norm     float  [1]    of all gradients, if that bounds g: bound.cuh
//
// 1 − β comes as an argument of its own: in float, 1 − 0.999f is off by 1e-5. CPU twin:
// src/ops/adam.rs.

#include "bound.cuh"

// One thread per parameter.
extern "C" __global__ void adam_forward(
    const float* __restrict__ gradient,  // [n]
    const float* __restrict__ control,   // [3]
    const float* __restrict__ norm,      // [1]
    float*       __restrict__ param,     // [n]
    float*       __restrict__ moment1,   // [n]
    float*       __restrict__ moment2,   // [n]
    int total, int decoupled, int bound, float limit,
    float beta1, float rest1, float beta2, float rest2, float epsilon, float decay)
{
    const int i = element();
    if (i >= total) return;

    const float rate = control[0], p = param[i];
    const float own = bounded(gradient[i], bound, norm, limit);
    const float g = decoupled ? own : own + decay * p;
    const float m = beta1 * moment1[i] + rest1 * g;
    const float v = beta2 * moment2[i] + rest2 * g * g;
    const float kept = decoupled ? p - rate * decay * p : p;
    moment1[i] = m;
    moment2[i] = v;
    param[i] = kept - rate * (m / control[1]) / (sqrtf(v / control[2]) + epsilon);
}
KERNEL_EXPORT(adam_forward)
