// A matrix for every mode, from the channels of its input to those of its output.
//
//   Y[p, o, k, l] = Σ_i R[k, i, o] X[p, i, k, l]                      all complex
//
//   ∂L/∂X[p, i, k, l] = Σ_o conj(R[k, i, o]) ∂L/∂Y[p, o, k, l]
//   ∂L/∂R[k, i, o] = Σ_{p,l} conj(X[p, i, k, l]) ∂L/∂Y[p, o, k, l]
//
// X  x       float   [P, I, K, 2, L]   parts of a mode in rows
// R  weight  float2  [K, I, O]
// Y  y       float   [P, O, K, 2, L]
//
// CPU twin: src/ops/mode_mix.rs.

#include "common.cuh"

constexpr int kChannels = 4;  // channels of the result that a thread computes
constexpr int kTile = 16;     // input and output channels, and terms, of a block for the weights

// One thread per number of a row and kChannels of the `rows` channels of the result; sums have
// `terms` terms.
template <bool kAdjoint>
__device__ inline void mix(
    const float* x, const float2* weight, float* y, int terms, int rows, int modes, int row,
    int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const int groups = (rows + kChannels - 1) / kChannels;
    const int l = i % row, first = i / row % groups * kChannels;
    const int k = i / row / groups % modes, p = i / row / groups / modes;
    const size_t channel = (size_t)2 * modes * row;
    const int count = rows - first < kChannels ? rows - first : kChannels;
    x += p * terms * channel + 2 * k * row + l;
    y += (p * rows + first) * channel + 2 * k * row + l;
    weight += (size_t)k * terms * rows + (kAdjoint ? first * terms : first);
    float2 sum[kChannels] = {};
    for (int t = 0; t < terms; ++t) {
        const float2 z = make_float2(x[t * channel], x[t * channel + row]);
        for (int j = 0; j < kChannels; ++j) {
            if (j >= count) continue;
            const float2 r = weight[kAdjoint ? j * terms + t : t * rows + j];
            sum[j] = add(sum[j], kAdjoint ? conj_product(r, z) : product(r, z));
        }
    }
    for (int j = 0; j < kChannels; ++j) {
        if (j >= count) continue;
        put(&y[j * channel], accumulate, sum[j].x);
        put(&y[j * channel + row], accumulate, sum[j].y);
    }
}

extern "C" __global__ void mode_mix_forward(
    const float*  __restrict__ x,       // [P, I, K, 2, L]
    const float2* __restrict__ weight,  // [K, I, O]
    float*        __restrict__ y,       // [P, O, K, 2, L]
    int inputs, int outputs, int modes, int row, int total)
{
    mix<false>(x, weight, y, inputs, outputs, modes, row, total, 0);
}
KERNEL_EXPORT(mode_mix_forward)

extern "C" __global__ void mode_mix_backward_data(
    const float*  __restrict__ dy,      // [P, O, K, 2, L]
    const float2* __restrict__ weight,  // [K, I, O]
    float*        __restrict__ dx,      // [P, I, K, 2, L]
    int inputs, int outputs, int modes, int row, int total, int accumulate)
{
    mix<true>(dy, weight, dx, outputs, inputs, modes, row, total, accumulate);
}
KERNEL_EXPORT(mode_mix_backward_data)

// One block per mode and kTile × kTile of its matrix, one thread per number. The sums of kTile
// terms are formed apart, so that rounding does not pile up.
extern "C" __global__ void mode_mix_backward_weight(
    const float* __restrict__ x,        // [P, I, K, 2, L]
    const float* __restrict__ dy,       // [P, O, K, 2, L]
    float2*      __restrict__ dweight,  // [K, I, O]
    int samples, int inputs, int outputs, int modes, int row, int accumulate)
{
    SHARED(float2, left, kTile * (kTile + 1));   // X [channels, terms]
    SHARED(float2, right, kTile * (kTile + 1));  // ∂L/∂Y [channels, terms]
    const int k = (int)blockIdx.x, across = (int)threadIdx.x % kTile;
    const int down = (int)threadIdx.x / kTile;
    const int i0 = (int)blockIdx.z * kTile, o0 = (int)blockIdx.y * kTile;
    const size_t channel = (size_t)2 * modes * row;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int p = 0; p < samples; ++p) {
        for (int from = 0; from < row; from += kTile) {
            const int l = from + across, at = 2 * k * row + l;
            const bool in = i0 + down < inputs && l < row, out = o0 + down < outputs && l < row;
            const float* a = x + (p * inputs + i0 + down) * channel + at;
            const float* b = dy + (p * outputs + o0 + down) * channel + at;
            left[down * (kTile + 1) + across] = make_float2(in ? a[0] : 0.0f, in ? a[row] : 0.0f);
            right[down * (kTile + 1) + across] =
                make_float2(out ? b[0] : 0.0f, out ? b[row] : 0.0f);
            __syncthreads();
            float2 part = make_float2(0.0f, 0.0f);
            for (int t = 0; t < kTile; ++t) {
                const float2 z = left[down * (kTile + 1) + t];
                part = add(part, conj_product(z, right[across * (kTile + 1) + t]));
            }
            sum = add(sum, part);
            __syncthreads();
        }
    }
    const int i = i0 + down, o = o0 + across;
    if (i >= inputs || o >= outputs) return;
    put(&dweight[((size_t)k * inputs + i) * outputs + o], accumulate, sum);
}
KERNEL_EXPORT(mode_mix_backward_weight)
