// Unitary two-dimensional Fourier transform of square complex frames.
//
//   Y[k] = 1/N Σ_r X[r] e^{∓2πi k·r/N}    minus forward, plus inverse
//
//   X̄ = F⁻¹ Ȳ                             the same kernels
//
// X  src   float2  [frames, N, N]
// Y  dst   float2  [frames, N, N]
//
// A power of two up to 128: a block holds a frame in shared memory, rows then columns, radix 2.
// Larger ones: a launch for rows and one for columns, 4096 numbers per block. Other N: sums of N
// terms, rows then columns. CPU twin: src/ops/fft2.rs.

#include "common.cuh"

// e^{∓2πi j/N} for j < count.
__device__ inline void fill_turns(float2* turn, int count, int n, int inverse)
{
    for (int j = (int)threadIdx.x; j < count; j += (int)blockDim.x) {
        float s, c;
        sincospif(2.0f * (float)j / (float)n, &s, &c);
        turn[j] = make_float2(c, inverse ? s : -s);
    }
}

// The lowest `bits` bits of i in reverse.
__device__ inline int reversed(int i, int bits)
{
    int r = 0;
    for (int bit = 0; bit < bits; ++bit) r |= (i >> bit & 1) << (bits - 1 - bit);
    return r;
}

// Transforms 2^line_bits lines of 2^bits numbers in shared memory, in place. Number j of line l is
// at l·across + j·along and holds input number reversed(j). Called by all threads of a block.
__device__ inline void transform(
    float2* data, const float2* turn, int bits, int line_bits, int across, int along)
{
    const int butterflies = 1 << (bits + line_bits) >> 1;
    for (int stage = 0; stage < bits; ++stage) {
        const int half = 1 << stage;
        for (int i = (int)threadIdx.x; i < butterflies; i += (int)blockDim.x) {
            // Neighbouring threads work on neighbouring numbers.
            const int line = along == 1 ? i >> (bits - 1) : i & ((1 << line_bits) - 1);
            const int at = along == 1 ? i & ((1 << (bits - 1)) - 1) : i >> line_bits;
            const int j = at & (half - 1);
            float2* low = data + line * across + ((at - j) * 2 + j) * along;
            float2* high = low + half * along;
            const float2 a = *low, b = product(turn[j << (bits - 1 - stage)], *high);
            *low = add(a, b);
            *high = add(a, scaled(-1.0f, b));
        }
        __syncthreads();
    }
}

// One block per frame of 2^bits × 2^bits.
extern "C" __global__ void fft2_frame(
    const float2* __restrict__ src,  // [frames, N, N]
    float2*       __restrict__ dst,  // [frames, N, N]
    int bits, int inverse, int accumulate)
{
    const int n = 1 << bits, pixels = n * n;
    SHARED_DYN(float2, data);  // [N, N], then N/2 turns
    float2* turn = data + pixels;
    src += (size_t)blockIdx.x * pixels;
    dst += (size_t)blockIdx.x * pixels;

    fill_turns(turn, n / 2, n, inverse);
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) {
        data[reversed(i >> bits, bits) * n + reversed(i & (n - 1), bits)] = src[i];
    }
    __syncthreads();
    transform(data, turn, bits, bits, n, 1);
    transform(data, turn, bits, bits, 1, n);
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) {
        put(&dst[i], accumulate, scaled(1.0f / (float)n, data[i]));
    }
}
KERNEL_EXPORT(fft2_frame)

// One block per 2^line_bits neighbouring rows or columns of a frame of 2^bits × 2^bits.
extern "C" __global__ void fft2_lines(
    const float2* __restrict__ src,  // [frames, N, N]
    float2*       __restrict__ dst,  // [frames, N, N]
    int bits, int line_bits, int columns, int inverse, int accumulate, float scale)
{
    const int n = 1 << bits, lines = 1 << line_bits, row = n + 1;
    SHARED_DYN(float2, data);  // [lines, N + 1], then N/2 turns
    float2* turn = data + lines * row;
    const size_t frame = (size_t)blockIdx.x * n * n;
    const int first = (int)blockIdx.y * lines;

    fill_turns(turn, n / 2, n, inverse);
    for (int i = (int)threadIdx.x; i < lines * n; i += (int)blockDim.x) {
        const int line = columns ? i & (lines - 1) : i >> bits;
        const int j = columns ? i >> line_bits : i & (n - 1);
        const int at = columns ? j * n + first + line : (first + line) * n + j;
        data[line * row + reversed(j, bits)] = src[frame + at];
    }
    __syncthreads();
    transform(data, turn, bits, line_bits, row, 1);
    for (int i = (int)threadIdx.x; i < lines * n; i += (int)blockDim.x) {
        const int line = columns ? i & (lines - 1) : i >> bits;
        const int j = columns ? i >> line_bits : i & (n - 1);
        const int at = columns ? j * n + first + line : (first + line) * n + j;
        put(&dst[frame + at], accumulate, scaled(scale, data[line * row + j]));
    }
}
KERNEL_EXPORT(fft2_lines)

// One block per row or column of a frame of any size.
extern "C" __global__ void fft2_any(
    const float2* __restrict__ src,  // [frames, N, N]
    float2*       __restrict__ dst,  // [frames, N, N]
    int n, int columns, int inverse, int accumulate, float scale)
{
    SHARED_DYN(float2, line);  // [N], then N turns
    float2* turn = line + n;
    const int line_index = (int)blockIdx.y, step = columns ? n : 1;
    const size_t first = (size_t)blockIdx.x * n * n + (columns ? line_index : line_index * n);

    fill_turns(turn, n, n, inverse);
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) line[j] = src[first + j * step];
    __syncthreads();
    for (int k = (int)threadIdx.x; k < n; k += (int)blockDim.x) {
        float2 sum = make_float2(0.0f, 0.0f);
        int angle = 0;  // j k mod N
        for (int j = 0; j < n; ++j) {
            sum = add(sum, product(turn[angle], line[j]));
            angle += k;
            if (angle >= n) angle -= n;
        }
        put(&dst[first + k * step], accumulate, scaled(scale, sum));
    }
}
KERNEL_EXPORT(fft2_any)
