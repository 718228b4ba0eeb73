// Copies from global to shared memory that run beside the arithmetic.
//
//   cp_async4          starts a copy of 4 bytes; zeros where it is not valid
//   cp_async_commit    closes a group of copies
//   cp_async_wait<N>   waits until at most the N latest groups of this thread are under way
//
// What was copied is visible to other threads after a wait and a barrier. The only file with PTX;
// a build that executes kernels on the CPU has these functions of its own.

#pragma once

#ifndef PTYCHO_VIRTUAL

// `global` must be an address in any case; it is read only if `valid`.
__device__ inline void cp_async4(void* shared, const void* global, bool valid)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n"
                 :: "r"(to), "l"(global), "r"(valid ? 4 : 0) : "memory");
}

__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

template <int N>
__device__ inline void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;\n" :: "n"(N) : "memory");
}

#endif
