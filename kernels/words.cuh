// Words of two numbers in bfloat16, for the kernels that read and write images of them: channels 2 p and
// 2 p + 1 of a pixel, the second 0 where there is none (conv2d_bf16.cu). `pair` makes one.

#pragma once

#include "common.cuh"

// The two numbers of a word.
__device__ inline float2 numbers(float word)
{
    const unsigned bits = __float_as_uint(word);
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u));
}
