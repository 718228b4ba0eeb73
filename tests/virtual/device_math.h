// Functions of CUDA that <math.h> does not have, or has under another meaning.

#pragma once

#include <math.h>
#include <stdlib.h>

#include <cstdint>
#include <cstring>

namespace virtual_device {

// sin(πx), exact at multiples of 1/2. What is taken off x is a multiple of 2, so nothing is lost.
inline double sin_pi(double x)
{
    double r = x - 2.0 * rint(0.5 * x);  // in [-1, 1]
    if (r > 0.5) r = 1.0 - r;
    if (r < -0.5) r = -1.0 - r;
    return sin(M_PI * r);
}

inline double cos_pi(double x)
{
    const double r = fabs(x - 2.0 * rint(0.5 * x));
    return sin_pi(0.5 - r);
}

inline void sin_cos_pi(double x, double* s, double* c)
{
    *s = sin_pi(x);
    *c = cos_pi(x);
}

inline void sin_cos_pi(float x, float* s, float* c)
{
    *s = (float)sin_pi(x);
    *c = (float)cos_pi(x);
}

inline float sin_pi_float(float x) { return (float)sin_pi(x); }
inline float cos_pi_float(float x) { return (float)cos_pi(x); }
inline double reciprocal_root(double x) { return 1.0 / sqrt(x); }
inline float reciprocal_root_float(float x) { return (float)(1.0 / sqrt((double)x)); }

// Keeps the compiler from fusing a product into the sum that follows.
template <class T>
inline T rounded(T x)
{
    asm volatile("" : "+m"(x));
    return x;
}

template <class To, class From>
inline To same_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace virtual_device

// Macros, because some C libraries declare functions of these names.
#define sinpi ::virtual_device::sin_pi
#define cospi ::virtual_device::cos_pi
#define sinpif ::virtual_device::sin_pi_float
#define cospif ::virtual_device::cos_pi_float
#define sincospi ::virtual_device::sin_cos_pi
#define sincospif ::virtual_device::sin_cos_pi
#define rsqrt ::virtual_device::reciprocal_root
#define rsqrtf ::virtual_device::reciprocal_root_float
#define __expf expf
#define __logf logf
#define __log2f log2f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __sincosf sincosf

inline float __fdividef(float a, float b) { return a / b; }

// Operations of one rounding each.
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return virtual_device::rounded(a * b); }
inline double __dmul_rn(double a, double b) { return virtual_device::rounded(a * b); }
inline float __fadd_rn(float a, float b) { return virtual_device::rounded(a) + b; }
inline double __dadd_rn(double a, double b) { return virtual_device::rounded(a) + b; }
inline float __fsub_rn(float a, float b) { return virtual_device::rounded(a) - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }

inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline int __float_as_int(float x) { return virtual_device::same_bits<int>(x); }
inline float __int_as_float(int x) { return virtual_device::same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return virtual_device::same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return virtual_device::same_bits<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }

template <class T>
inline T __ldg(const T* address)
{
    return *address;
}

// min and max of whole numbers, and of floating-point ones, which ignore NaN.
#define PTYCHO_MIN_MAX(type)                                      \
    inline type min(type a, type b) { return b < a ? b : a; }     \
    inline type max(type a, type b) { return a < b ? b : a; }
PTYCHO_MIN_MAX(int)
PTYCHO_MIN_MAX(unsigned)
PTYCHO_MIN_MAX(long)
PTYCHO_MIN_MAX(unsigned long)
PTYCHO_MIN_MAX(long long)
PTYCHO_MIN_MAX(unsigned long long)
#undef PTYCHO_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
