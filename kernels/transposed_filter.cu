// The filters of a transposed 4×4 convolution of stride 2 as those of a plain 3×3 convolution.
//
//   F[4o + 2a + b, i, u, v] = W[i, o, a + 3 − 2u, b + 3 − 2v], 0 where there is no such number
//
//   ∂L/∂W[i, o, k, l] = ∂L/∂F at the one place that W[i, o, k, l] goes to
//
// W  weight  float  [I, O, 4, 4]
// F  filter  float  [4·O, I, 3, 3]
//
// CPU twin: src/ops/transposed_filter.rs.

#include "common.cuh"

constexpr int kSide = 4, kPlain = 3;

// One thread per number of F.
extern "C" __global__ void transposed_filter_forward(
    const float* __restrict__ weight,  // [I, O, 4, 4]
    float*       __restrict__ filter,  // [4·O, I, 3, 3]
    int inputs, int outputs, int total)
{
    const int n = element();
    if (n >= total) return;

    const int v = n % kPlain, u = n / kPlain % kPlain, plane = n / kPlain / kPlain;
    const int i = plane % inputs, a = plane / inputs / 2 % 2, b = plane / inputs % 2;
    const int o = plane / inputs / 4;
    const int k = a + 3 - 2 * u, l = b + 3 - 2 * v;
    const bool some = k >= 0 && k < kSide && l >= 0 && l < kSide;
    filter[n] = some ? weight[((i * outputs + o) * kSide + k) * kSide + l] : 0.0f;
}
KERNEL_EXPORT(transposed_filter_forward)

// One thread per number of W.
extern "C" __global__ void transposed_filter_backward(
    const float* __restrict__ dfilter,  // [4·O, I, 3, 3]
    float*       __restrict__ dweight,  // [I, O, 4, 4]
    int inputs, int outputs, int total, int accumulate)
{
    const int n = element();
    if (n >= total) return;

    const int l = n % kSide, k = n / kSide % kSide, plane = n / kSide / kSide;
    const int o = plane % outputs, i = plane / outputs;
    const int a = (k + 1) % 2, b = (l + 1) % 2, u = (a + 3 - k) / 2, v = (b + 3 - l) / 2;
    const int at = (((o * 4 + 2 * a + b) * inputs + i) * kPlain + u) * kPlain + v;
    put(&dweight[n], accumulate, dfilter[at]);
}
KERNEL_EXPORT(transposed_filter_backward)
