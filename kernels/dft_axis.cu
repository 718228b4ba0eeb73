// A few frequencies of images along one axis, and images made of them.
//
//   X[k, l] = w_k Σ_n x[n, l] e^{−iθ},  θ = 2π f_k n/N,  f_k = first + k     analysis
//   x[n, l] = Σ_k w_k Re(X[k, l] e^{iθ})                                      synthesis, its adjoint
//
// x  image  float  [planes, N, lines] if vertical, [planes, lines, N] otherwise
// X  modes  float  [planes, K, 2, row]   parts of a mode in rows; row ≥ lines, 0 in the padding
// w         1, 1/N, or 2/N but 1/N at frequencies 0 and N/2
//
// A block holds a few lines in shared memory. CPU twin: src/ops/dft_axis.rs.

#include "common.cuh"
#include "modes.cuh"

// One block per `lines` lines of a plane; neighbouring threads read neighbouring pixels.
extern "C" __global__ void dft_axis_analyse(
    const float* __restrict__ image,  // [planes, N, all] or [planes, all, N]
    float*       __restrict__ modes,  // [planes, K, 2, row]
    int length, int first, int count, int all, int row, int lines, int vertical, int weights,
    int accumulate)
{
    SHARED_DYN(float2, turn);                               // [N]
    float* data = reinterpret_cast<float*>(turn + length);  // [N, lines + 1]
    const int from = (int)blockIdx.y * lines;
    image += (size_t)blockIdx.x * length * all;
    modes += (size_t)blockIdx.x * 2 * count * row;

    fill_turns(turn, length);
    for (int i = (int)threadIdx.x; i < length * lines; i += (int)blockDim.x) {
        const int n = vertical ? i / lines : i % length, line = vertical ? i % lines : i / length;
        const int l = from + line, at = vertical ? n * all + l : l * length + n;
        data[n * (lines + 1) + line] = l < all ? image[at] : 0.0f;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < count * lines; i += (int)blockDim.x) {
        const int k = i / lines, line = i % lines, frequency = (first + k) % length;
        if (from + line >= row) continue;
        float re = 0.0f, im = 0.0f;
        int angle = 0;  // f n mod N
        for (int n = 0; n < length; ++n) {
            const float x = data[n * (lines + 1) + line];
            re += turn[angle].x * x;
            im -= turn[angle].y * x;
            angle += frequency;
            if (angle >= length) angle -= length;
        }
        const float w = mode_weight(weights, frequency, length);
        put(&modes[2 * k * row + from + line], accumulate, w * re);
        put(&modes[(2 * k + 1) * row + from + line], accumulate, w * im);
    }
}
KERNEL_EXPORT(dft_axis_analyse)

// One block per `lines` lines of a plane; neighbouring threads write neighbouring pixels.
extern "C" __global__ void dft_axis_synthesise(
    const float* __restrict__ modes,  // [planes, K, 2, row]
    float*       __restrict__ image,  // [planes, N, all] or [planes, all, N]
    int length, int first, int count, int all, int row, int lines, int vertical, int weights,
    int accumulate)
{
    SHARED_DYN(float2, turn);                               // [N]
    float* data = reinterpret_cast<float*>(turn + length);  // [K, 2, lines + 1]
    const int from = (int)blockIdx.y * lines;
    modes += (size_t)blockIdx.x * 2 * count * row;
    image += (size_t)blockIdx.x * length * all;

    fill_turns(turn, length);
    for (int i = (int)threadIdx.x; i < 2 * count * lines; i += (int)blockDim.x) {
        const int part = i / lines, line = i % lines;
        const int frequency = (first + part / 2) % length;
        const float w = mode_weight(weights, frequency, length);
        const float x = from + line < all ? modes[part * row + from + line] : 0.0f;
        data[part * (lines + 1) + line] = w * x;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < length * lines; i += (int)blockDim.x) {
        const int n = vertical ? i / lines : i % length, line = vertical ? i % lines : i / length;
        const int l = from + line;
        if (l >= all) continue;
        float sum = 0.0f;
        int angle = first * n % length;  // f_k n mod N
        for (int k = 0; k < count; ++k) {
            const float re = data[2 * k * (lines + 1) + line];
            const float im = data[(2 * k + 1) * (lines + 1) + line];
            sum += re * turn[angle].x - im * turn[angle].y;
            angle += n;
            if (angle >= length) angle -= length;
        }
        put(&image[vertical ? n * all + l : l * length + n], accumulate, sum);
    }
}
KERNEL_EXPORT(dft_axis_synthesise)
