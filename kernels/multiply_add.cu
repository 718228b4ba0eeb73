// Chains of multiply-adds that nothing but arithmetic holds up: the roof of `bench`.
//
//   y = x after n times x ← a x + b
//
// x  float  [total]
// y  float  [total]
// n  rounds · kSteps
//
// A thread has kChains chains in registers: while one waits for its last result, the others fill the
// pipeline. Loop and memory are less than a twentieth of the instructions.
// CPU twin: src/ops/multiply_add.rs.

#include "common.cuh"

constexpr int kChains = 8;  // chains of a thread: CHAINS in the CPU twin
constexpr int kSteps = 16;  // steps between two tests of the loop: STEPS there

// A block takes kChains runs of blockDim.x elements.
extern "C" __global__ void multiply_add_forward(
    const float* __restrict__ x,  // [total]
    float*       __restrict__ y,  // [total]
    int rounds, int total, float a, float b)
{
    const int first = (int)(blockIdx.x * blockDim.x) * kChains + (int)threadIdx.x;
    const int run = (int)blockDim.x;
    float chain[kChains];
    for (int c = 0; c < kChains; ++c) {
        chain[c] = first + c * run < total ? x[first + c * run] : 0.0f;
    }
    for (int r = 0; r < rounds; ++r) {
        for (int k = 0; k < kSteps; ++k) {
            for (int c = 0; c < kChains; ++c) chain[c] = a * chain[c] + b;
        }
    }
    for (int c = 0; c < kChains; ++c) {
        if (first + c * run < total) y[first + c * run] = chain[c];
    }
}
KERNEL_EXPORT(multiply_add_forward)
