// Sum of the gradients of several batches.
//
//   s ← g        for the first batch (keep = 0)
//   s ← s + g    for every later one
//
// g  gradient  float  [n]
// s  sum       float  [n]
//    keep      float  [1]    written by the host
//
// CPU twin: src/ops/accumulate.rs.

#include "common.cuh"

// One thread per element.
extern "C" __global__ void accumulate_forward(
    const float* __restrict__ gradient,  // [n]
    const float* __restrict__ keep,      // [1]
    float*       __restrict__ sum,       // [n]
    int total)
{
    const int i = element();
    if (i >= total) return;

    put(&sum[i], keep[0] != 0.0f, gradient[i]);
}
KERNEL_EXPORT(accumulate_forward)
