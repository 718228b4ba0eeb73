// CUDA C++ for a host compiler, as far as the kernels use it. Included before each .cu file by
// scripts/virtual-device; device_math.h has the functions that <math.h> lacks.

#pragma once

#include <cfloat>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "device.h"
#include "device_math.h"

// Words of the language.

#define __global__
#define __device__
#define __host__
#define __constant__ static __attribute__((unused))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __restrict__ __restrict

#define threadIdx (::virtual_device::place->index)
#define blockIdx (::virtual_device::place->block->index)
#define blockDim (::virtual_device::place->block->threads)
#define gridDim (::virtual_device::place->block->blocks)
constexpr int warpSize = virtual_device::kWarp;

// Shared memory and kernels are declared by macros that nvcc sees otherwise. Each array is a heap
// block of its own, found again by the address of a constant of its declaration, so that an access
// beyond its end is seen by AddressSanitizer.

#define SHARED(type, name, count)                                                             \
    static const char name##_site = 0;                                                        \
    type(&name)[count] = *static_cast<type(*)[count]>(                                        \
        ::virtual_device::shared_array(&name##_site, sizeof(type[count]), #name))

#define SHARED_DYN(type, name) \
    type* name = static_cast<type*>(::virtual_device::dynamic_shared())

#define UNROLL
#define ROLLED

#define KERNEL_EXPORT(kernel)                   \
    static ::virtual_device::Kernel kernel##_export( \
        #kernel, ::virtual_device::Binder<&kernel>::bind);

// Vectors, aligned as on the device: a misaligned load is an error there, and undefined here.

#define PTYCHO_VECTOR(scalar, name, bytes2, bytes4)                                    \
    struct alignas(bytes2) name##2 { scalar x, y; };                                   \
    struct alignas(bytes4) name##4 { scalar x, y, z, w; };                             \
    inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }               \
    inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w)              \
    {                                                                                  \
        return {x, y, z, w};                                                           \
    }
PTYCHO_VECTOR(float, float, 8, 16)
PTYCHO_VECTOR(double, double, 16, 16)
PTYCHO_VECTOR(int, int, 8, 16)
PTYCHO_VECTOR(unsigned, uint, 8, 16)
#undef PTYCHO_VECTOR
struct float3 { float x, y, z; };
struct int3 { int x, y, z; };
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

// Barriers and collectives of a warp. The default argument is where the kernel calls them.

inline void __syncthreads(virtual_device::Site site = virtual_device::Site::here())
{
    virtual_device::sync_block(site);
}

inline void __syncwarp(
    unsigned mask = ~0u, virtual_device::Site site = virtual_device::Site::here())
{
    virtual_device::sync_warp(mask, site);
}

inline void __threadfence() { virtual_device::fence(); }
inline void __threadfence_block() { virtual_device::fence(); }

[[noreturn]] inline void __trap(virtual_device::Site site = virtual_device::Site::here())
{
    virtual_device::trap(site);
}

#undef assert
#define assert(condition) ((condition) ? (void)0 : __trap())

namespace virtual_device {

template <class T>
T shuffle_value(T value, unsigned source, unsigned mask, Site site)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = shuffle(bits, source, mask, site);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// First lane of the group of `width` lanes that this one belongs to.
inline int group_begin(int width) { return (int)lane() / width * width; }

}  // namespace virtual_device

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              virtual_device::Site site = virtual_device::Site::here())
{
    const unsigned from = virtual_device::group_begin(width) + (unsigned)source % width;
    return virtual_device::shuffle_value(value, from, mask, site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize,
                  virtual_device::Site site = virtual_device::Site::here())
{
    const int from = (int)virtual_device::lane() ^ bits;
    const bool inside = from < virtual_device::group_begin(width) + width;
    return virtual_device::shuffle_value(
        value, inside ? from : virtual_device::lane(), mask, site);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize,
                   virtual_device::Site site = virtual_device::Site::here())
{
    const int from = (int)(virtual_device::lane() + by);
    const bool inside = from < virtual_device::group_begin(width) + width;
    return virtual_device::shuffle_value(
        value, inside ? from : virtual_device::lane(), mask, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize,
                 virtual_device::Site site = virtual_device::Site::here())
{
    const int from = (int)virtual_device::lane() - (int)by;
    const bool inside = from >= virtual_device::group_begin(width);
    return virtual_device::shuffle_value(
        value, inside ? from : virtual_device::lane(), mask, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              virtual_device::Site site = virtual_device::Site::here())
{
    return virtual_device::ballot(predicate != 0, mask, site);
}

inline int __any_sync(unsigned mask, int predicate,
                      virtual_device::Site site = virtual_device::Site::here())
{
    return virtual_device::ballot(predicate != 0, mask, site) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      virtual_device::Site site = virtual_device::Site::here())
{
    return virtual_device::ballot(predicate != 0, mask, site) == mask;
}

// Asynchronous copies and products of matrices: prims.cuh has the same functions for nvcc.

inline void cp_async4(void* shared, const void* global, bool valid,
                      virtual_device::Site site = virtual_device::Site::here())
{
    virtual_device::copy_begin(shared, global, 4, valid, site);
}

inline void cp_async16(void* shared, const void* global, bool valid,
                       virtual_device::Site site = virtual_device::Site::here())
{
    virtual_device::copy_begin(shared, global, 16, valid, site);
}

inline void cp_async_commit() { virtual_device::copy_commit(); }

template <int pending>
inline void cp_async_wait()
{
    virtual_device::copy_wait(pending);
}

// To the nearest, ties away from zero.
inline float tf32(float x)
{
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7F800000) == 0x7F800000) return x;
    return __uint_as_float((bits + 0x1000) & ~0x1FFFu);
}

inline void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2],
                     virtual_device::Site site = virtual_device::Site::here())
{
    virtual_device::Fragments fragments = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, d};
    virtual_device::multiply(fragments, site);
}

// Atomic operations: relaxed, as on the device.

namespace virtual_device {

template <class T, class F>
T atomic_update(T* address, F update)
{
    T old;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    for (;;) {
        T wanted = update(old);
        if (__atomic_compare_exchange(
                address, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return old;
        }
    }
}

template <class T>
struct Same {
    using type = T;
};

}  // namespace virtual_device

template <class T>
T atomicAdd(T* address, typename virtual_device::Same<T>::type value)
{
    return virtual_device::atomic_update(address, [=](T old) { return (T)(old + value); });
}

template <class T>
T atomicMax(T* address, typename virtual_device::Same<T>::type value)
{
    return virtual_device::atomic_update(address, [=](T old) { return old < value ? value : old; });
}

template <class T>
T atomicMin(T* address, typename virtual_device::Same<T>::type value)
{
    return virtual_device::atomic_update(address, [=](T old) { return value < old ? value : old; });
}

template <class T>
T atomicOr(T* address, typename virtual_device::Same<T>::type value)
{
    return virtual_device::atomic_update(address, [=](T old) { return (T)(old | value); });
}

template <class T>
T atomicExch(T* address, typename virtual_device::Same<T>::type value)
{
    return virtual_device::atomic_update(address, [=](T) { return value; });
}
