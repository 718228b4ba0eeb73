// The members of a batch, out of a data set that stays on the device. No gradient: data are given.
//
//   Y[j] = X[index[j]]
//
// X  source   float  [M, stride]
//    index    float  [count]        whole numbers below M
// Y  members  float  [count, stride]
//
// CPU twin: src/ops/gather.rs.

#include "common.cuh"

// One thread per number of the batch.
extern "C" __global__ void gather_forward(
    const float* __restrict__ source,   // [M, stride]
    const float* __restrict__ index,    // [count]
    float*       __restrict__ members,  // [count, stride]
    int stride, int total)
{
    const int i = element();
    if (i >= total) return;

    members[i] = source[(size_t)index[i / stride] * stride + i % stride];
}
KERNEL_EXPORT(gather_forward)
