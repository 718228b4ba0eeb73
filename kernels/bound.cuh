// A bound on the gradient, as an update takes it in: what was clipped needs no pass of its own.
//
// CPU twin: Bound in src/ops/clip.rs.

#pragma once

#include "common.cuh"

constexpr double kNormFloor = 1e-6;  // keeps the factor finite when all gradients are 0

// In the order of `Bound` in src/ops/clip.rs.
enum Bound { kUnbound, kByNorm, kByValue };

// g times a factor; a factor that is not below 1 leaves it alone, as does one that is not a number.
__device__ inline float shrunk(float g, double factor)
{
    return factor < 1.0 ? g * (float)factor : g;
}

// norm  float  [1]    of all gradients; read by kByNorm alone
__device__ inline float bounded(float g, int bound, const float* norm, float limit)
{
    if (bound == kByNorm) return shrunk(g, (double)limit / ((double)norm[0] + kNormFloor));
    return bound == kByValue ? fminf(fmaxf(g, -limit), limit) : g;
}
