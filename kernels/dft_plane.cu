// The second axis of a truncated two-dimensional transform; the samples of the batch become
// neighbours.
//
//   Z[c, (k, q), b] = w_q Σ_n U[b, c, k, n] e^{−iθ},  θ = 2π f_q n/N,  f_q = first + q   analysis
//   U[b, c, k, n] = Σ_q w_q Z[c, (k, q), b] e^{iθ}                       synthesis, its adjoint
//
// U  lines  float  [B, C, K, 2, line]   parts of a number in rows; line ≥ N, row ≥ B,
// Z  modes  float  [C, K, Q, 2, row]    0 in the padding
// w         1, 1/N, or 2/N but 1/N at frequencies 0 and N/2
//
// CPU twin: src/ops/dft_plane.rs.

#include "common.cuh"
#include "modes.cuh"

// One thread per mode; neighbours are modes of the same row, so that they read the same numbers.
extern "C" __global__ void dft_plane_analyse(
    const float* __restrict__ lines,  // [B, C, K, 2, line]
    float*       __restrict__ modes,  // [C, K, Q, 2, row]
    int length, int first, int count, int samples, int channels, int rows, int line, int row,
    int weights, int total, int accumulate)
{
    SHARED_DYN(float2, turn);  // [N]
    fill_turns(turn, length);
    __syncthreads();
    const int i = element();
    if (i >= total) return;

    const int q = i % count, k = i / count % rows;
    const int c = i / count / rows % channels, b = i / count / rows / channels;
    const int frequency = (first + q) % length;
    float2 sum = make_float2(0.0f, 0.0f);
    if (b < samples) {
        const float* u = lines + (((size_t)b * channels + c) * rows + k) * 2 * line;
        int angle = 0;  // f n mod N
        for (int n = 0; n < length; ++n) {
            sum = add(sum, conj_product(turn[angle], make_float2(u[n], u[line + n])));
            angle += frequency;
            if (angle >= length) angle -= length;
        }
    }
    const float w = mode_weight(weights, frequency, length);
    float* to = modes + (((size_t)c * rows + k) * count + q) * 2 * row + b;
    put(&to[0], accumulate, w * sum.x);
    put(&to[row], accumulate, w * sum.y);
}
KERNEL_EXPORT(dft_plane_analyse)

// One thread per number of a row; neighbours read the same modes.
extern "C" __global__ void dft_plane_synthesise(
    const float* __restrict__ modes,  // [C, K, Q, 2, row]
    float*       __restrict__ lines,  // [B, C, K, 2, line]
    int length, int first, int count, int samples, int channels, int rows, int line, int row,
    int weights, int total, int accumulate)
{
    SHARED_DYN(float2, turn);  // [N]
    fill_turns(turn, length);
    __syncthreads();
    const int i = element();
    if (i >= total) return;

    const int n = i % line, k = i / line % rows;
    const int c = i / line / rows % channels, b = i / line / rows / channels;
    float2 sum = make_float2(0.0f, 0.0f);
    if (n < length) {
        const float* z = modes + ((size_t)c * rows + k) * count * 2 * row + b;
        int angle = first * n % length;  // f_q n mod N
        for (int q = 0; q < count; ++q) {
            const float w = mode_weight(weights, (first + q) % length, length);
            const float2 mode = make_float2(z[2 * q * row], z[(2 * q + 1) * row]);
            sum = add(sum, scaled(w, product(turn[angle], mode)));
            angle += n;
            if (angle >= length) angle -= length;
        }
    }
    float* to = lines + (((size_t)b * channels + c) * rows + k) * 2 * line + n;
    put(&to[0], accumulate, sum.x);
    put(&to[line], accumulate, sum.y);
}
KERNEL_EXPORT(dft_plane_synthesise)
