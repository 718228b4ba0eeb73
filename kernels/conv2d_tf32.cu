// Two-dimensional convolution of 3×3 with bias and optional ReLU, by tensor cores: the products of
// conv2d.cu with their factors rounded to TF32 (11 significant bits, to the nearest), and sums in
// single precision. Relative L2 error of a result on noise: 2.6e-4, from two roundings of 1.8e-4.
//
// packed  float  [O/64, I/8, 9, 8, 64]   rounded weights, O and I rounded up, 0 there; of the input
//                                        gradient turned by 180°, with O and I in each other's place.
//                                        One launch packs those of all layers, after an update
// partial float  [S, 9, O, I]            sums over S slices of the pixels, O and I rounded up
//
// How: tensor_product.cuh. What is copied are floats; each thread rounds what it has itself copied, in
// its place, and lets through what a ReLU has. Where the tiles are too few for a GPU, as at 8×8, the
// channels are cut into slices too, whose sums another kernel joins. Of the weight gradient a warp has
// 32 outputs × 8 inputs × 9 taps.
//
// Ladder. Nothing here was measured, since no GPU was there: ESTIMATES for the three products of 4.83
// GFLOP at batch 16 (64 → 64 at 64², 128 → 128 at 32², 256 → 256 at 16²), on an H100 of 132 × 1.76 GHz,
// 495 TFLOP/s in TF32 of which mma.sync reaches 62 % at best, 5.5 TB/s from the second cache, 3 from memory.
//   the fp32 kernels                      72 µs at 67 TFLOP/s, as such kernels go about 130
//   a tap at a time, pixels gathered nine times by copies of 4 bytes    60 µs, by the first cache
//   tiles with border, this file; cycles of a stage of 590 k products, 4096 of them in each layer:
//     tensor cores 890, shared memory 1190 (864 for factors, 120 to round, 210 to fill): 21 µs;
//     second cache, 45 FLOP a byte: 20 µs; memory at 64²: 11 µs, at 32² and 16² less
//     forward 25 µs, of 256 → 256 one block on each multiprocessor, so 30; input gradient 28 to 33, with
//     the mask's images; weight gradient 1660 cycles, 26 reads for 18 products: 35
//   slices of channels: the products at 8² have 16 blocks and 32 stages, 18 µs; with 4 slices 7 µs
//   weights packed by the update: 2 launches of 2.3 M weights in the place of 32 of a layer each, which
//     took 2 to 3 µs apiece for what memory moves in 20 µs altogether: 60 µs less a step
//   both decoders in one launch: of their layers at 8² and 16² one fills 16 to 128 of 132 multiprocessors;
//     5 to 6 launches less for each of the three products: 40 to 70 µs less a step
// Next: conv2d_bf16.cu; pooling and upsampling in the products; wgmma.
//
// CPU twin: src/ops/conv2d/; S, tiles and grids: src/ops/conv2d/tensor.rs.

#include "common.cuh"
#include "tensor_product.cuh"

using namespace tensor_product;

struct Tf32 {
    static constexpr bool kSettles = true;
    static constexpr int kOutputs = kRows;

    __device__ static void product(float (&d)[4], const float (&a)[4], const float (&b)[2])
    {
        mma_tf32(d, a, b);
    }
};

// A block packs the weights of a stage: 64 channels of the result, 8 of the image, 9 taps.
extern "C" __global__ void conv2d_tf32_pack(
    const float* __restrict__ weights,  // of some layers, each [O, I, 3, 3]
    const float* __restrict__ table,    // [blocks, 8]
    float*       __restrict__ packed)   // for each layer [rows/64, terms/8, 9, 8, 64]
{
    SHARED(float, stage, kFilters);
    const Packing p = packing(table);
    each_weight(weights, p, kDepth, [&](int k, int row, int tap, float w) {
        stage[(tap * kDepth + k) * kRows + exchanged(k, row)] = tf32(w);
    });
    store_stage(packed + p.to, stage);
}
KERNEL_EXPORT(conv2d_tf32_pack)

// A block computes 64 output channels of 128 pixels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_tf32_forward(
    const float* __restrict__ x,       // [B, I, rows, columns]
    const float* __restrict__ packed,  // [O/64, I/8, 9, 8, 64]
    const float* __restrict__ bias,    // [O], if biased
    float*       __restrict__ y,       // [B, O, H, W]
    float*       __restrict__ partial, // [S, B, O, H, W], if S > 1
    const float* other_x, const float* other_packed, const float* other_bias, float* other_y,
    float* other_partial,
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int slice, int slices,
    int biased, int relu)
{
    if (second(slices)) {
        x = other_x;
        packed = other_packed;
        bias = other_bias;
        y = other_y;
        partial = other_partial;
    }
    SHARED_DYN(float, shared);
    const Layer l = onward(inputs, outputs, height, width, kSide, pad, batch);
    const Tile tile = tile_at((int)blockIdx.x, l, tile_columns, tile_rows, tile_samples, plane);
    const int part = (int)blockIdx.z % slices;
    partial += part * ((size_t)batch * l.into * l.height * l.width);
    const auto store = [=](const Four& at, int o, float4 z, float4 w) {
        if (slices > 1) return put_two(partial, 0, l, at, o, z, w);
        const float more = biased ? bias[o] : 0.0f;
        const float next = biased && o + 1 < outputs ? bias[o + 1] : 0.0f;
        put_two(y, 0, l, at, o, biased_relu(z, more, relu), biased_relu(w, next, relu));
    };
    correlate<Tf32, 3>(shared, x, nullptr, packed, l, tile, part * slice, slice, store);
}
KERNEL_EXPORT(conv2d_tf32_forward)

// A block computes 64 input channels of 128 pixels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_tf32_backward_data(
    const float* __restrict__ dy,      // [B, O, H, W]
    const float* __restrict__ y,       // [B, O, H, W]
    const float* __restrict__ packed,  // [I/64, O/8, 9, 8, 64]
    float*       __restrict__ dx,      // [B, I, rows, columns]
    float*       __restrict__ partial, // [S, B, I, rows, columns], if S > 1
    const float* other_dy, const float* other_y, const float* other_packed, float* other_dx,
    float* other_partial,
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int slice, int slices,
    int relu, int accumulate)
{
    if (second(slices)) {
        dy = other_dy;
        y = other_y;
        packed = other_packed;
        dx = other_dx;
        partial = other_partial;
    }
    SHARED_DYN(float, shared);
    const Layer l = back(inputs, outputs, height, width, kSide, pad, batch);
    const Tile tile = tile_at((int)blockIdx.x, l, tile_columns, tile_rows, tile_samples, plane);
    const int part = (int)blockIdx.z % slices;
    partial += part * ((size_t)batch * l.into * l.height * l.width);
    const auto store = [=](const Four& at, int channel, float4 z, float4 w) {
        if (slices > 1) return put_two(partial, 0, l, at, channel, z, w);
        put_two(dx, accumulate, l, at, channel, z, w);
    };
    correlate<Tf32, 2>(shared, dy, relu ? y : nullptr, packed, l, tile, part * slice, slice, store);
}
KERNEL_EXPORT(conv2d_tf32_backward_data)

// One thread per pixel adds the slices of its sum in their order.
extern "C" __global__ void conv2d_tf32_join(
    const float* __restrict__ partial,  // [S, B, C, H, W]
    const float* __restrict__ bias,     // [C], if biased
    float*       __restrict__ image,    // [B, C, H, W]
    const float* other_partial, const float* other_bias, float* other_image,
    int channels, int plane, int total, int slices, int biased, int relu, int accumulate)
{
    if (second(1)) partial = other_partial, bias = other_bias, image = other_image;
    const int i = element();
    if (i >= total) return;

    float sum = biased ? bias[i / plane % channels] : 0.0f;
    for (int s = 0; s < slices; ++s) sum += partial[(size_t)s * total + i];
    put(&image[i], accumulate, relu ? fmaxf(sum, 0.0f) : sum);
}
KERNEL_EXPORT(conv2d_tf32_join)

// Adds a stage to the sums of a warp: 32 outputs × 8 inputs × 9 taps.
__device__ inline void multiply_pixels(
    const float* gradient, const float* image, const Tile& tile, int pad, float (&total)[2][kTaps][4])
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
    const float* z = gradient + (warp % 2 * 32 + g) * kGradient + t;
    const float* x = image + (warp / 2 * 8 + g) * tile.plane + t - pad;
    for (int e = 0; e < 64 / kDepth; ++e) {
        const Eight at = eight(tile, e);
        float a[2][4];
        for (int i = 0; i < 8; ++i) {
            a[i / 4][i % 4] = z[(i / 4 * 16 + i % 2 * 8) * kGradient + kDepth * e + i % 4 / 2 * 4];
        }
        const float* seen = x + place(tile, at.sample, at.row, at.column);
        for (int tap = 0; tap < kTaps; ++tap) {
            const float* there = seen + tap / kSide * pitch(tile) + tap % kSide;
            const float b[2] = {there[0], there[4]};
            for (int i = 0; i < 2; ++i) mma_tf32(total[i][tap], a[i], b);
        }
    }
}

// A block sums one slice of the tiles for 64 outputs and 16 inputs.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_tf32_backward_weight(
    const float* __restrict__ x,        // [B, I, rows, columns]
    const float* __restrict__ dy,       // [B, O, H, W]
    const float* __restrict__ y,        // [B, O, H, W]
    float*       __restrict__ partial,  // [S, 9, O, I], rounded up
    const float* other_x, const float* other_dy, const float* other_y, float* other_partial,
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int relu, int tiles, int slice, int slices)
{
    if (second(slices)) x = other_x, dy = other_dy, y = other_y, partial = other_partial;
    SHARED_DYN(float, shared);
    const Layer l = onward(inputs, outputs, height, width, kSide, pad, batch);
    const int part = (int)blockIdx.z % slices, first = part * slice;
    const auto tile = [=](int i) {
        return tile_at(i, l, tile_columns, tile_rows, tile_samples, plane);
    };
    float total[2][kTaps][4] = {};
    const auto multiply = [&](const float* gradient, const float* image, const Tile& at) {
        multiply_pixels(gradient, image, at, pad, total);
    };
    add_tiles<Tf32, 2>(
        shared, x, dy, relu ? y : nullptr, l, first, min(first + slice, tiles), tile, multiply);

    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
    const int all_outputs = (int)gridDim.y * kRows, all_inputs = (int)gridDim.x * kInputs;
    const int o = (int)blockIdx.y * kRows + warp % 2 * 32 + g;
    partial += (size_t)part * kTaps * all_outputs * all_inputs;
    partial += (int)blockIdx.x * kInputs + warp / 2 * 8 + 2 * t;
    for (int i = 0; i < 4; ++i) {
        for (int tap = 0; tap < kTaps; ++tap) {
            const size_t row = (size_t)tap * all_outputs + o + i * 8;
            const float* sum = &total[i / 2][tap][i % 2 * 2];
            *reinterpret_cast<float2*>(&partial[row * all_inputs]) = make_float2(sum[0], sum[1]);
        }
    }
}
KERNEL_EXPORT(conv2d_tf32_backward_weight)

// One thread per weight adds its slices in their order.
extern "C" __global__ void conv2d_tf32_sum(
    const float* __restrict__ partial,   // [S, 9, O, I], rounded up
    float*       __restrict__ gradient,  // [O, I, 3, 3]
    const float* other_partial, float* other_gradient,
    int inputs, int outputs, int slices, int accumulate)
{
    if (second(1)) partial = other_partial, gradient = other_gradient;
    sum_slices(partial, gradient, inputs, outputs, kInputs, slices, accumulate);
}
KERNEL_EXPORT(conv2d_tf32_sum)
