// What every kernel uses: shared memory, complex numbers, gradients, sums over a block.
//
// The files compile with nvcc, and with a host compiler against a header that executes them on the
// CPU: hence SHARED, SHARED_DYN and KERNEL_EXPORT, which both sides define in their way. How much
// dynamic shared memory there is comes with the launch.

#pragma once

#include "prims.cuh"

#ifndef SHARED
#define SHARED(type, name, count) __shared__ type name[count]
#endif

#ifndef SHARED_DYN
#define SHARED_DYN(type, name)                                \
    extern __shared__ __align__(16) unsigned char dynamic_[]; \
    type* name = reinterpret_cast<type*>(dynamic_)
#endif

// Before a loop over an array that has to stay in registers, and that nvcc would else keep a loop.
#ifndef UNROLL
#define UNROLL _Pragma("unroll")
#endif

// Before a loop that nvcc would else unroll, where what it gains is less than what its code costs.
#ifndef ROLLED
#define ROLLED _Pragma("unroll 1")
#endif

#ifndef KERNEL_EXPORT
#define KERNEL_EXPORT(kernel)
#endif

constexpr int kBlock = 256;  // threads per block: BLOCK in src/launch.rs

// Index of this thread in a grid with one thread per element.
__device__ inline int element() { return (int)(blockIdx.x * blockDim.x + threadIdx.x); }

__device__ inline float2 add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

__device__ inline float2 scaled(float s, float2 a) { return make_float2(s * a.x, s * a.y); }

__device__ inline float norm2(float2 a) { return a.x * a.x + a.y * a.y; }

// a b
__device__ inline float2 product(float2 a, float2 b)
{
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// conj(a) b
__device__ inline float2 conj_product(float2 a, float2 b)
{
    return make_float2(a.x * b.x + a.y * b.y, a.x * b.y - a.y * b.x);
}

// Sets or adds a share of a gradient.
__device__ inline void put(float* dst, int accumulate, float share)
{
    *dst = accumulate ? *dst + share : share;
}

__device__ inline void put(float2* dst, int accumulate, float2 share)
{
    *dst = accumulate ? add(*dst, share) : share;
}

// Sum of `x` over a block of kBlock threads, in an order that never changes; every thread gets it.
__device__ inline double block_sum(double x)
{
    SHARED(double, part, kBlock);
    part[threadIdx.x] = x;
    __syncthreads();
    for (unsigned half = kBlock / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    const double sum = part[0];
    __syncthreads();
    return sum;
}
