// Keeps the modulus of a complex parameter below a limit.
//
//   z ← z · min(1, A/|z|)
//
// z  float2  [n]
// A  limit   float  [1]
//
// CPU twin: src/ops/limit_modulus.rs.

#include "common.cuh"

// One thread per number.
extern "C" __global__ void limit_modulus_forward(
    const float* __restrict__ limit,  // [1]
    float2*      __restrict__ z,      // [n]
    int total)
{
    const int i = element();
    if (i >= total) return;

    const float square = norm2(z[i]);
    if (square > limit[0] * limit[0]) z[i] = scaled(limit[0] / sqrtf(square), z[i]);
}
KERNEL_EXPORT(limit_modulus_forward)
