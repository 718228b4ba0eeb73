// The members of a batch, out of a data set that stays on the device.
//
//   Y[j] = X[index[j]]
//
//   ∂L/∂X[i] = Σ_{j: index[j] = i} ∂L/∂Y[j]    where X is trained
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

// One thread per number of the data set; members are summed in their order.
extern "C" __global__ void gather_backward(
    const float* __restrict__ index,     // [count]
    const float* __restrict__ dmembers,  // [count, stride]
    float*       __restrict__ dsource,   // [M, stride]
    int count, int stride, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    float sum = 0.0f;
    for (int j = 0; j < count; ++j) {
        if ((int)index[j] == i / stride) sum += dmembers[(size_t)j * stride + i % stride];
    }
    put(&dsource[i], accumulate, sum);
}
KERNEL_EXPORT(gather_backward)
