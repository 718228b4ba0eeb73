// What C++ has no words for: copies from global to shared memory that run beside the arithmetic, and
// products of small matrices by the 32 lanes of a warp together.
//
//   cp_async4          starts a copy of 4 bytes; zeros where it is not valid
//   cp_async16         the same of 16 bytes, which pass by the first cache
//   cp_async_commit    closes a group of copies
//   cp_async_wait<N>   waits until at most the N latest groups of this thread are under way
//   tf32               the nearest number of 11 significant bits, the range of a float
//   mma_tf32           D += A B for A 16×8, B 8×8 of such numbers, sums in single precision
//   pair               a word of two numbers rounded to bfloat16 (8 significant bits, the range of a
//                      float), the first in its lower half; ties to even
//   mma_bf16           D += A B for A 16×16, B 16×8 of such numbers, sums in single precision
//
// What was copied is visible to other threads after a wait and a barrier. Of the matrices a lane
// 4 g + t has
//
//   a   A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4]
//   b   B[t][g], B[t + 4][g]
//   d   D[g][2 t], D[g][2 t + 1], D[g + 8][2 t], D[g + 8][2 t + 1]
//
// and of those of bfloat16 the same with words in place of numbers: where an index k says A[i][k] or
// B[k][j], there stand A[i][2 k] and A[i][2 k + 1], or B[2 k][j] and B[2 k + 1][j]. A word is kept in
// a float, which is moved and never computed with.
//
// The only file with PTX; a build that executes kernels on the CPU has these functions of its own.

#pragma once

#ifndef PTYCHO_VIRTUAL

// `global` must be an address in any case; it is read only if `valid`.
__device__ inline void cp_async4(void* shared, const void* global, bool valid)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n"
                 :: "r"(to), "l"(global), "r"(valid ? 4 : 0) : "memory");
}

__device__ inline void cp_async16(void* shared, const void* global, bool valid)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :: "r"(to), "l"(global), "r"(valid ? 16 : 0) : "memory");
}

__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

template <int N>
__device__ inline void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;\n" :: "n"(N) : "memory");
}

__device__ inline float tf32(float x)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

__device__ inline void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])),
                   "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
                   "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

__device__ inline float pair(float low, float high)
{
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(word) : "f"(high), "f"(low));
    return __uint_as_float(word);
}

__device__ inline void mma_bf16(float (&d)[4], const float (&a)[4], const float (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])),
                   "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
                   "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

#endif
