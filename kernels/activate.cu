// Activation functions, element by element.
//
//   y = f(x)
//
//   ∂L/∂x = f′(x) ∂L/∂y
//
//   f                      f′
//   relu      max(x, 0)    1 where x > 0, otherwise 0
//   silu      x σ(x)       σ (1 + x (1 − σ))
//   sigmoid   σ(x)         σ (1 − σ)
//   softplus  ln(1 + e^z)  σ(z)              z = x + ln(e − 1): 1 at x = 0
//   tanh      π tanh x     π (1 − tanh² x)
//   gelu      x Φ(x)       Φ(x) + x φ(x)     Φ, φ: standard normal distribution and its density
//
// x  float  [total]
// y  float  [total]
//
// CPU twin: src/ops/activate.rs.

#include "common.cuh"
#include "scalar.cuh"

// In the order of `Activation` in the CPU twin.
enum Activation { kRelu, kSilu, kSigmoid, kSoftplusOne, kPiTanh, kGelu };

constexpr float kPi = 3.14159265358979f;
constexpr float kOffset = 0.541324854612918f;  // ln(e − 1)
constexpr float kRootHalf = 0.707106781186548f;
constexpr float kDensity = 0.398942280401433f;  // 1/√(2π)

// ln(1 + e^z) without overflow.
__device__ inline float softplus(float z) { return fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z))); }

// Φ(x)
__device__ inline float below(float x) { return 0.5f * erfcf(-kRootHalf * x); }

__device__ inline float activation(int kind, float x)
{
    switch (kind) {
        case kRelu: return x > 0.0f ? x : 0.0f;
        case kSilu: return x * sigmoid(x);
        case kSigmoid: return sigmoid(x);
        case kSoftplusOne: return softplus(x + kOffset);
        case kGelu: return x * below(x);
        default: return kPi * tanhf(x);
    }
}

__device__ inline float activation_slope(int kind, float x)
{
    const float s = sigmoid(kind == kSoftplusOne ? x + kOffset : x);
    switch (kind) {
        case kRelu: return x > 0.0f ? 1.0f : 0.0f;
        case kSilu: return s * (1.0f + x * (1.0f - s));
        case kSigmoid: return s * (1.0f - s);
        case kSoftplusOne: return s;
        case kGelu: return below(x) + x * kDensity * expf(-0.5f * x * x);
        default: return kPi * (1.0f - tanhf(x) * tanhf(x));
    }
}

// One thread per element.
extern "C" __global__ void activate_forward(
    const float* __restrict__ x,  // [total]
    float*       __restrict__ y,  // [total]
    int kind, int total)
{
    const int i = element();
    if (i >= total) return;

    y[i] = activation(kind, x[i]);
}
KERNEL_EXPORT(activate_forward)

// One thread per element.
extern "C" __global__ void activate_backward(
    const float* __restrict__ x,   // [total]
    const float* __restrict__ dy,  // [total]
    float*       __restrict__ dx,  // [total]
    int kind, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    put(&dx[i], accumulate, activation_slope(kind, x[i]) * dy[i]);
}
KERNEL_EXPORT(activate_backward)
