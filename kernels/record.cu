// Notes a number down in a ring, so that the host can look at many steps at once.
//
//   ring[slot] = x
//
// x     float  [1]
// slot  float  [1]   place in the ring
// ring  float  [R]
//
// CPU twin: src/ops/record.rs.

#include "common.cuh"

// One thread does it all.
extern "C" __global__ void record_forward(
    const float* __restrict__ x,     // [1]
    const float* __restrict__ slot,  // [1]
    float*       __restrict__ ring)  // [R]
{
    if (threadIdx.x == 0) ring[(int)slot[0]] = x[0];
}
KERNEL_EXPORT(record_forward)
