// Functions of one or two numbers that several kernels share.
//
// CPU twins: sigmoid in src/ops/activate.rs, larger and sign in src/ops/reduce.rs.

#pragma once

// σ(x) = 1 / (1 + e^{−x}); 0 and 1 at the ends, without overflow.
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The larger number; the first on a tie.
__device__ inline float larger(float a, float b) { return b > a ? b : a; }

// −1, 0 or 1; 0 at 0.
template <typename T>
__device__ inline float sign(T x)
{
    return (x > T(0) ? 1.0f : 0.0f) - (x < T(0) ? 1.0f : 0.0f);
}
