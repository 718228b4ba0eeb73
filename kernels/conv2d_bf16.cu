// Two-dimensional convolution of 3×3 with bias and optional ReLU, by tensor cores: the products of
// conv2d.cu with their factors rounded to bfloat16 (8 significant bits, to the nearest), and sums in
// single precision. Relative L2 error of a result on noise: 2.1e-3, from two roundings of 1.5e-3.
//
// words   word   [B, C/2, H, W]          an image: channels 2 p and 2 p + 1 of a pixel, 0 where C is odd
// packed  word   [O/64, I/16, 9, 8, 64]  weights of two channels that are read, O and I rounded up, 0
//                                        there; of the input gradient as in conv2d_tf32.cu
// partial float  [S, 9, O, I]            sums over S slices of the pixels, O and I rounded up
//
// How: tensor_product.cuh, with words that asynchronous copies bring as they are multiplied, so that
// nothing is rounded or masked in between. An image becomes words once, by conv2d_bf16_words; dy by
// conv2d_bf16_gradient, which lets through what the ReLU has and sums the gradient of the bias as it
// passes. Where products alone, and poolings and enlargements between them, read an image, the product
// that makes it writes words at once, and single precision is never stored.
//
// Of the weight gradient a block has 64 outputs × 32 inputs, a warp 32 × 16 × 9 taps, a thread 144 sums.
// Its terms are pixels: of the words of two pixels it takes the lower halves for one channel, and the
// upper ones for the next. A product of 16 terms has pixels t, t + 4 of two rows of eight where it is
// told 2 t, 2 t + 1 of 16, of both factors alike, so that a warp reads words side by side.
//
// Ladder. Nothing here was measured, since no GPU was there: ESTIMATES as in conv2d_tf32.cu, for the same
// three products of 4.83 GFLOP, on an H100 of 990 TFLOP/s in bfloat16 of which mma.sync reaches 62 %:
//   forward, input gradient; cycles of a stage of 1180 k products, 2048 of them in each layer:
//     tensor cores 940, shared memory 1070 (864 for factors, 210 to fill): 10 µs; second cache 10 µs
//   weight gradient: 36 products a warp for 44 reads, tensor cores 940 cycles, shared memory 850: 10 µs
//   words of x and dy: 6 and 10 bytes a number from and to memory, at 64² 8 and 14 µs, at 32² and 16² half
//     and a quarter; of an image between two products nothing to make, and 2 bytes a number instead of 8
//   poolings in words: at 64² 33 MB less to move and a launch fewer, 13 µs; half and a quarter at 32², 16²
// Next: gradients of pooling and enlargement and the split of channels in words too; wgmma.
//
// CPU twin: src/ops/conv2d/; S, tiles and grids: src/ops/conv2d/tensor.rs.

#include "common.cuh"
#include "tensor_product.cuh"
#include "words.cuh"

using namespace tensor_product;

struct Bf16 {
    static constexpr bool kSettles = false;
    static constexpr int kOutputs = kRows / 2;

    __device__ static void product(float (&d)[4], const float (&a)[4], const float (&b)[2])
    {
        mma_bf16(d, a, b);
    }
};

// The lower halves of two words in one, and the upper ones.
__device__ inline void split(float first, float second, float& lower, float& upper)
{
    const unsigned x = __float_as_uint(first), y = __float_as_uint(second);
    lower = __uint_as_float((x & 0xFFFFu) | y << 16);
    upper = __uint_as_float(x >> 16 | (y & 0xFFFF0000u));
}

// Channels 2 p and 2 p + 1 of a pixel, 0 where there is none.
__device__ inline float2 two_of(
    const float* image, int words, int sample, int p, int pixel, int channels, int plane)
{
    if (words) return numbers(image[((size_t)sample * ((channels + 1) / 2) + p) * plane + pixel]);
    const float* from = image + ((size_t)sample * channels + 2 * p) * plane + pixel;
    return make_float2(from[0], 2 * p + 1 < channels ? from[plane] : 0.0f);
}

// A block packs the weights of a stage: 64 channels of the result, 16 of the image, 9 taps.
extern "C" __global__ void conv2d_bf16_pack(
    const float* __restrict__ weights,  // of some layers, each [O, I, 3, 3]
    const float* __restrict__ table,    // [blocks, 8]
    float*       __restrict__ packed)   // for each layer words [rows/64, terms/16, 9, 8, 64]
{
    SHARED(float, stage, kFilters);
    const Packing p = packing(table);
    unsigned short* halves = reinterpret_cast<unsigned short*>(stage);
    each_weight(weights, p, 2 * kDepth, [&](int k, int row, int tap, float w) {
        const int at = (tap * kDepth + k / 2) * kRows + exchanged(k / 2, row);
        halves[2 * at + k % 2] = (unsigned short)__float_as_uint(pair(w, 0.0f));
    });
    store_stage(packed + p.to, stage);
}
KERNEL_EXPORT(conv2d_bf16_pack)

// One thread per word of an image.
extern "C" __global__ void conv2d_bf16_words(
    const float* __restrict__ image,  // [B, C, H, W]
    float*       __restrict__ words,  // [B, C/2, H, W]
    const float* other_image, float* other_words,
    int channels, int plane, int total)
{
    if (second(1)) image = other_image, words = other_words;
    const int i = element();
    if (i >= total) return;

    const int planes = (channels + 1) / 2, p = i / plane % planes, sample = i / plane / planes;
    const float2 x = two_of(image, 0, sample, p, i % plane, channels, plane);
    words[i] = pair(x.x, x.y);
}
KERNEL_EXPORT(conv2d_bf16_words)

// A block takes one slice of the pixels of two outputs: it makes words of what the ReLU passes, and
// sums it.
extern "C" __global__ void conv2d_bf16_gradient(
    const float* __restrict__ dy,       // [B, O, H, W], or words [B, O/2, H, W]
    const float* __restrict__ y,        // [B, O, H, W], or words [B, O/2, H, W]
    float*       __restrict__ passed,   // words [B, O/2, H, W]
    float*       __restrict__ partial,  // [S, O], if biased
    const float* other_dy, const float* other_y, float* other_passed, float* other_partial,
    int outputs, int plane, int total, int relu, int slice, int dy_words, int y_words, int biased)
{
    if (second(1)) dy = other_dy, y = other_y, passed = other_passed, partial = other_partial;
    const int p = (int)blockIdx.x, first = (int)blockIdx.y * slice;
    const int end = min(first + slice, total);
    double low = 0.0, high = 0.0;
    for (int n = first + (int)threadIdx.x; n < end; n += (int)blockDim.x) {
        const int sample = n / plane, pixel = n % plane;
        float2 z = two_of(dy, dy_words, sample, p, pixel, outputs, plane);
        if (relu) {
            const float2 open = two_of(y, y_words, sample, p, pixel, outputs, plane);
            z = make_float2(open.x > 0.0f ? z.x : 0.0f, open.y > 0.0f ? z.y : 0.0f);
        }
        passed[((size_t)sample * gridDim.x + p) * plane + pixel] = pair(z.x, z.y);
        low += (double)z.x;
        high += (double)z.y;
    }
    if (!biased) return;
    low = block_sum(low);
    high = block_sum(high);
    if (threadIdx.x > 0) return;
    partial += (size_t)blockIdx.y * outputs + 2 * p;
    partial[0] = (float)low;
    if (2 * p + 1 < outputs) partial[1] = (float)high;
}
KERNEL_EXPORT(conv2d_bf16_gradient)

// Sets or adds to four pixels of two channels, or sets their words. Behind the last channel are 0s, since
// its weights are.
__device__ inline void put_result(float* to, int words, int accumulate, const Layer& l,
                                  const Four& at, int channel, float4 z, float4 w)
{
    if (!words) return put_two(to, accumulate, l, at, channel, z, w);
    const float4 both =
        make_float4(pair(z.x, w.x), pair(z.y, w.y), pair(z.z, w.z), pair(z.w, w.w));
    set_four(to + index(l, (l.into + 1) / 2, at, channel / 2), both, at.count, l.width % 4 == 0);
}

// A block computes 64 output channels of 128 pixels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_bf16_forward(
    const float* __restrict__ x,       // words [B, I/2, rows, columns]
    const float* __restrict__ packed,  // words [O/64, I/16, 9, 8, 64]
    const float* __restrict__ bias,    // [O], if biased
    float*       __restrict__ y,       // [B, O, H, W], or words [B, O/2, H, W]
    float*       __restrict__ partial, // [S, B, O, H, W], if S > 1
    const float* other_x, const float* other_packed, const float* other_bias, float* other_y,
    float* other_partial,
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int slice, int slices,
    int biased, int relu, int words)
{
    if (second(slices)) {
        x = other_x;
        packed = other_packed;
        bias = other_bias;
        y = other_y;
        partial = other_partial;
    }
    SHARED_DYN(float, shared);
    const Layer l = onward((inputs + 1) / 2, outputs, height, width, kSide, pad, batch);
    const Tile tile = tile_at((int)blockIdx.x, l, tile_columns, tile_rows, tile_samples, plane);
    const int part = (int)blockIdx.z % slices;
    partial += part * ((size_t)batch * l.into * l.height * l.width);
    const auto store = [=](const Four& at, int o, float4 z, float4 w) {
        if (slices > 1) return put_two(partial, 0, l, at, o, z, w);
        const float more = biased ? bias[o] : 0.0f;
        const float next = biased && o + 1 < outputs ? bias[o + 1] : 0.0f;
        z = biased_relu(z, more, relu), w = biased_relu(w, next, relu);
        put_result(y, words, 0, l, at, o, z, w);
    };
    correlate<Bf16, 3>(shared, x, nullptr, packed, l, tile, part * slice, slice, store);
}
KERNEL_EXPORT(conv2d_bf16_forward)

// A block computes 64 input channels of 128 pixels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_bf16_backward_data(
    const float* __restrict__ passed,  // words [B, O/2, H, W]
    const float* __restrict__ packed,  // words [I/64, O/16, 9, 8, 64]
    float*       __restrict__ dx,      // [B, I, rows, columns], or words [B, I/2, rows, columns]
    float*       __restrict__ partial, // [S, B, I, rows, columns], if S > 1
    const float* other_passed, const float* other_packed, float* other_dx, float* other_partial,
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int slice, int slices,
    int accumulate, int words)
{
    if (second(slices)) {
        passed = other_passed;
        packed = other_packed;
        dx = other_dx;
        partial = other_partial;
    }
    SHARED_DYN(float, shared);
    const Layer l = back(inputs, (outputs + 1) / 2, height, width, kSide, pad, batch);
    const Tile tile = tile_at((int)blockIdx.x, l, tile_columns, tile_rows, tile_samples, plane);
    const int part = (int)blockIdx.z % slices;
    partial += part * ((size_t)batch * l.into * l.height * l.width);
    const auto store = [=](const Four& at, int channel, float4 z, float4 w) {
        if (slices > 1) return put_two(partial, 0, l, at, channel, z, w);
        put_result(dx, words, accumulate, l, at, channel, z, w);
    };
    correlate<Bf16, 3>(shared, passed, nullptr, packed, l, tile, part * slice, slice, store);
}
KERNEL_EXPORT(conv2d_bf16_backward_data)

// One thread per pixel of two channels adds the slices of their sums in their order.
extern "C" __global__ void conv2d_bf16_join(
    const float* __restrict__ partial,  // [S, B, C, H, W]
    const float* __restrict__ bias,     // [C], if biased
    float*       __restrict__ image,    // [B, C, H, W], or words [B, C/2, H, W]
    const float* other_partial, const float* other_bias, float* other_image,
    int channels, int plane, int total, int slices, int biased, int relu, int accumulate, int words)
{
    if (second(1)) partial = other_partial, bias = other_bias, image = other_image;
    const int planes = (channels + 1) / 2, i = element();
    const int p = i / plane % planes, sample = i / plane / planes;
    if (i >= total) return;

    float two[2] = {};
    for (int k = 0; k < min(2, channels - 2 * p); ++k) {
        const size_t at = ((size_t)sample * channels + 2 * p + k) * plane + i % plane;
        const size_t all = (size_t)(total / planes) * channels;
        float sum = biased ? bias[2 * p + k] : 0.0f;
        for (int s = 0; s < slices; ++s) sum += partial[s * all + at];
        two[k] = relu ? fmaxf(sum, 0.0f) : sum;
        if (!words) put(&image[at], accumulate, two[k]);
    }
    if (words) image[i] = pair(two[0], two[1]);
}
KERNEL_EXPORT(conv2d_bf16_join)

// Sums of a warp: [outputs / 16][even or odd inputs][tap], 32 outputs × 16 inputs × 9 taps.
using Sums = float[2][2][kTaps][4];

__device__ inline void multiply_pixels(
    const float* gradient, const float* image, const Tile& tile, int pad, Sums& total)
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
    const float* z = gradient + (warp % 2 * 16 + g) * kGradient + t;
    const float* x = image + (warp / 2 * 8 + g) * tile.plane + t - pad;
    for (int e = 0; e < 64 / kDepth; e += 2) {
        const Eight one = eight(tile, e), other = eight(tile, e + 1);
        float a[2][4];
        for (int i = 0; i < 2; ++i) {
            const float* from = z + i * 8 * kGradient + kDepth * e;
            split(from[0], from[4], a[i][0], a[i][1]);
            split(from[8], from[12], a[i][2], a[i][3]);
        }
        const float* seen[2] = {x + place(tile, one.sample, one.row, one.column),
                                x + place(tile, other.sample, other.row, other.column)};
        UNROLL
        for (int tap = 0; tap < kTaps; ++tap) {
            const int there = tap / kSide * pitch(tile) + tap % kSide;
            float b[2][2];
            for (int k = 0; k < 2; ++k) {
                split(seen[k][there], seen[k][there + 4], b[0][k], b[1][k]);
            }
            for (int i = 0; i < 4; ++i) mma_bf16(total[i / 2][i % 2][tap], a[i / 2], b[i % 2]);
        }
    }
}

// A block sums one slice of the tiles for 64 outputs and 32 inputs.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_bf16_backward_weight(
    const float* __restrict__ x,        // words [B, I/2, rows, columns]
    const float* __restrict__ passed,   // words [B, O/2, H, W]
    float*       __restrict__ partial,  // [S, 9, O, I], rounded up
    const float* other_x, const float* other_passed, float* other_partial,
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int tiles, int slice, int slices)
{
    if (second(slices)) x = other_x, passed = other_passed, partial = other_partial;
    SHARED_DYN(float, shared);
    const Layer l = onward((inputs + 1) / 2, (outputs + 1) / 2, height, width, kSide, pad, batch);
    const int part = (int)blockIdx.z % slices, first = part * slice;
    const auto tile = [=](int i) {
        return tile_at(i, l, tile_columns, tile_rows, tile_samples, plane);
    };
    Sums total = {};
    const auto multiply = [&](const float* gradient, const float* image, const Tile& at) {
        multiply_pixels(gradient, image, at, pad, total);
    };
    add_tiles<Bf16, 3>(
        shared, x, passed, nullptr, l, first, min(first + slice, tiles), tile, multiply);

    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
    const int all_outputs = (int)gridDim.y * kRows, all_inputs = (int)gridDim.x * 2 * kInputs;
    partial += (size_t)part * kTaps * all_outputs * all_inputs;
    partial += (int)blockIdx.x * 2 * kInputs + warp / 2 * 16 + 4 * t;
    const int o = (int)blockIdx.y * kRows + warp % 2 * 32 + 2 * g;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        UNROLL
        for (int tap = 0; tap < kTaps; ++tap) {
            const size_t row = (size_t)tap * all_outputs + o + i / 2 * 16 + i % 2;
            const float *even = &total[i / 2][0][tap][i % 2 * 2], *odd = &total[i / 2][1][tap][i % 2 * 2];
            *reinterpret_cast<float4*>(&partial[row * all_inputs]) =
                make_float4(even[0], odd[0], even[1], odd[1]);
        }
    }
}
KERNEL_EXPORT(conv2d_bf16_backward_weight)

// One thread per weight adds its slices in their order.
extern "C" __global__ void conv2d_bf16_sum(
    const float* __restrict__ partial,   // [S, 9, O, I], rounded up
    float*       __restrict__ gradient,  // [O, I, 3, 3]
    const float* other_partial, float* other_gradient,
    int inputs, int outputs, int slices, int accumulate)
{
    if (second(1)) partial = other_partial, gradient = other_gradient;
    sum_slices(partial, gradient, inputs, outputs, 2 * kInputs, slices, accumulate);
}
KERNEL_EXPORT(conv2d_bf16_sum)
