// Two-dimensional convolution of 3×3 with bias and optional ReLU, by tensor cores: the products of
// conv2d.cu with their factors rounded to TF32 (11 significant bits, to the nearest), and sums in
// single precision. Relative L2 error of a result on noise: 2.6e-4, from two roundings of 1.8e-4.
//
// packed  float  [O/64, I/8, 9, 8, 64]   rounded weights, O and I rounded up, 0 there; of the input
//                                        gradient turned by 180°, with O and I in each other's place
// partial float  [S, 9, O, I]            sums over S slices of the pixels, O and I rounded up
//
// A stage of the pipeline is 8 channels of the image with all 9 taps. Of the image it holds a tile of
// each channel with the border that the taps see, so that a pixel is loaded once and not nine times;
// a product of matrices takes 8 channels under one tap, from the place that the tap gives. Two or
// three stages are filled by asynchronous copies while one is multiplied; before that, each thread
// rounds what it has itself copied, in its place, and lets through what a ReLU has. One barrier a
// stage. Where the tiles are too few for a GPU, as at 8×8, the channels are cut into slices too, whose
// sums another kernel joins.
//
// Forward, input gradient: a block has 64 channels × 128 pixels of the result, a warp all 64 × 32, a
// thread 64 sums. Weight gradient: a block has 64 outputs × 16 inputs × 9 taps, a warp 32 × 8 × 9;
// the terms are the pixels of one slice, 64 in a stage.
//
// Banks of shared memory: lane 4 g + t reads weights [t][4 g …] as four floats, which meet no other
// where the fours of row t are exchanged by 2 t; pixels [t][g] of planes that are 8 floats apart
// modulo 32; and pixels [g][t] of planes that are 4, 12, 20 or 28 apart.
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
// Next: weights packed by the update, both towers in one launch, storage in half precision, wgmma.
//
// CPU twin: src/ops/conv2d/; S, tiles and grids: src/ops/conv2d/tensor.rs.

#include "common.cuh"
#include "tensor_tile.cuh"

using namespace tensor_tile;

constexpr int kDepth = 8;      // terms of one product of matrices: channels, or pixels in a row
constexpr int kRows = 64;      // channels of the result that a block computes
constexpr int kFilters = kTaps * kDepth * kRows;  // floats of the weights in a stage
constexpr int kGradient = 64 + 4;  // floats of a plane of dy: 64 pixels, other banks
constexpr int kInputs = 16;    // channels of x in a block of the weight gradient

// The place of row `channel` of the packed weights in a row of 64: fours are exchanged by 2 (k mod 4).
__device__ inline int exchanged(int k, int channel) { return channel ^ k % 4 * 8; }

// One block packs the weights of a stage: 64 channels of the result, 8 of the image, 9 taps.
extern "C" __global__ void conv2d_tf32_pack(
    const float* __restrict__ weight,  // [O, I, 3, 3]
    float*       __restrict__ packed,  // [rows/64, terms/8, 9, 8, 64]
    int inputs, int outputs, int turned)
{
    SHARED(float, stage, kFilters);
    const int first = (int)blockIdx.y * kRows, from = (int)blockIdx.x * kDepth;
    const int rows = turned ? inputs : outputs, terms = turned ? outputs : inputs;
    // Reads along the weights of an output, whichever of the two it is.
    const int outer = turned ? kDepth : kRows, inner = turned ? kRows : kDepth;
    for (int i = (int)threadIdx.x; i < outer * inner * kTaps; i += (int)blockDim.x) {
        const int tap = i % kTaps, a = i / kTaps % inner, b = i / kTaps / inner;
        const int k = turned ? b : a, row = turned ? a : b;
        const bool valid = first + row < rows && from + k < terms;
        const int o = turned ? from + k : first + row, in = turned ? first + row : from + k;
        const float w = valid ? weight[((size_t)o * inputs + in) * kTaps + tap] : 0.0f;
        const int at = turned ? kTaps - 1 - tap : tap;
        stage[(at * kDepth + k) * kRows + exchanged(k, row)] = tf32(w);
    }
    __syncthreads();
    packed += ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * kFilters;
    for (int i = (int)threadIdx.x; i < kFilters; i += (int)blockDim.x) packed[i] = stage[i];
}
KERNEL_EXPORT(conv2d_tf32_pack)

// Adds a stage to the sums of a warp: 64 channels × 4 rows of 8 pixels, the lane's first at `pixel`.
__device__ inline void multiply(
    const float* filters, const float* image, const int (&pixel)[4], const Tile& tile,
    float (&total)[4][4][4])
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const float* weight = filters + t * kRows + exchanged(t, 4 * g);
    for (int tap = 0; tap < kTaps; ++tap) {
        float a[4][4];
        for (int half = 0; half < 2; ++half) {
            const float* w = weight + tap * kDepth * kRows + half * 32;
            const float4 p = *reinterpret_cast<const float4*>(w);
            const float4 q = *reinterpret_cast<const float4*>(w + 4 * kRows);
            const float low[4] = {p.x, p.y, q.x, q.y}, high[4] = {p.z, p.w, q.z, q.w};
            for (int i = 0; i < 4; ++i) a[2 * half][i] = low[i], a[2 * half + 1][i] = high[i];
        }
        const float* seen = image + tap / kSide * pitch(tile) + tap % kSide;
        for (int j = 0; j < 4; ++j) {
            const float b[2] = {seen[pixel[j]], seen[pixel[j] + 4 * tile.plane]};
            for (int i = 0; i < 4; ++i) mma_tf32(total[i][j], a[i], b);
        }
    }
}

// Of two products side by side each lane has two columns; of the one or the other it gets four.
__device__ inline float4 four(const float (&left)[4], const float (&right)[4], int half)
{
    const bool odd = threadIdx.x % 2 == 1;
    const float x = left[2 * half], y = left[2 * half + 1];
    const float z = right[2 * half], w = right[2 * half + 1];
    const float p = __shfl_xor_sync(~0u, odd ? x : z, 1), q = __shfl_xor_sync(~0u, odd ? y : w, 1);
    return odd ? make_float4(p, q, z, w) : make_float4(x, y, p, q);
}

// Calls store(index into the result, channel, four pixels, how many of them there are).
template <class Store>
__device__ inline void store_all(
    const float (&total)[4][4][4], const Layer& l, const Tile& tile, Store store)
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    UNROLL
    for (int j = 0; j < 4; j += 2) {
        const Eight at = eight(tile, (int)threadIdx.x / 32 * 4 + j + t % 2);
        const int b = tile.sample + at.sample, r = tile.row + at.row;
        const int c = tile.column + at.column + t / 2 * 4;
        const int count = b < l.total && r < l.height ? min(l.width - c, 4) : 0;
        UNROLL
        for (int i = 0; i < 8; ++i) {
            const float4 z = four(total[i / 2][j], total[i / 2][j + 1], i % 2);
            const int channel = (int)blockIdx.y * kRows + i / 4 * 32 + 4 * g + i % 4;
            if (channel >= l.into || count <= 0) continue;
            store(((size_t)(b * l.into + channel) * l.height + r) * l.width + c, channel, z, count);
        }
    }
}

// Convolution of x, masked by `positive` if given, with packed filters: that part of its sums over
// channels that is this block's slice.
template <int kStages, class Store>
__device__ inline void correlate(
    float* shared, const float* x, const float* positive, const float* packed, const Layer& l,
    const Tile& tile, int slice, Store store)
{
    const int behind = positive ? kDepth * tile.plane : 0;
    const int stage = kFilters + kDepth * tile.plane + behind;
    const int channel = (int)threadIdx.x / kTeam, steps = (l.from + kDepth - 1) / kDepth;
    packed += (size_t)blockIdx.y * steps * kFilters;
    const auto load = [&](int step) {
        float* to = shared + step % kStages * stage;
        for (int i = (int)threadIdx.x * 4; i < kFilters; i += kThreads * 4) {
            cp_async16(to + i, packed + (size_t)step * kFilters + i, true);
        }
        copy_plane(to + kFilters + channel * tile.plane, behind, x, positive, l, tile,
                   step * kDepth + channel);
    };
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    int pixel[4];
    for (int j = 0; j < 4; ++j) {
        const Eight at = eight(tile, (int)threadIdx.x / 32 * 4 + j);
        pixel[j] = t * tile.plane + place(tile, at.sample, at.row, at.column - l.pad + g);
    }
    float total[4][4][4] = {};
    const int first = (int)blockIdx.z * slice, end = min(first + slice, steps);
    for (int step = first + 1 - kStages; step < end; ++step) {
        if (step >= first) {
            cp_async_wait<kStages - 2>();
            float* image = shared + step % kStages * stage + kFilters;
            settle_plane(image + channel * tile.plane, behind, positive != nullptr, tile, l.pad);
            // All is there, and the stage before this one has been read.
            __syncthreads();
        }
        if (step + kStages - 1 < end) load(step + kStages - 1);
        cp_async_commit();
        if (step < first) continue;
        const float* now = shared + step % kStages * stage;
        multiply(now, now + kFilters, pixel, tile, total);
    }
    store_all(total, l, tile, store);
}

// Sets or adds to the first `count` of four pixels in a row, all at once where they are `aligned`.
__device__ inline void put_four(float* to, int accumulate, float4 z, int count, bool aligned)
{
    if (aligned) {
        float4* all = reinterpret_cast<float4*>(to);
        const float4 y = accumulate ? *all : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        *all = make_float4(y.x + z.x, y.y + z.y, y.z + z.z, y.w + z.w);
    } else {
        put(to, accumulate, z.x);
        if (count > 1) put(to + 1, accumulate, z.y);
        if (count > 2) put(to + 2, accumulate, z.z);
        if (count > 3) put(to + 3, accumulate, z.w);
    }
}

// A block computes 64 output channels of 128 pixels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_tf32_forward(
    const float* __restrict__ x,       // [B, I, rows, columns]
    const float* __restrict__ packed,  // [O/64, I/8, 9, 8, 64]
    const float* __restrict__ bias,    // [O], if biased
    float*       __restrict__ y,       // [B, O, H, W]
    float*       __restrict__ partial, // [S, B, O, H, W], `behind` what is packed, if S > 1
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int slice, int behind,
    int biased, int relu)
{
    SHARED_DYN(float, shared);
    const Layer l = onward(inputs, outputs, height, width, kSide, pad, batch);
    const Tile tile = tile_at((int)blockIdx.x, l, tile_columns, tile_rows, tile_samples, plane);
    partial += behind + blockIdx.z * ((size_t)batch * l.into * l.height * l.width);
    const auto store = [=](size_t at, int o, float4 z, int count) {
        if (gridDim.z > 1) return put_four(&partial[at], 0, z, count, width % 4 == 0);
        const float more = biased ? bias[o] : 0.0f;
        z = make_float4(z.x + more, z.y + more, z.z + more, z.w + more);
        if (relu) {
            z = make_float4(fmaxf(z.x, 0.0f), fmaxf(z.y, 0.0f), fmaxf(z.z, 0.0f), fmaxf(z.w, 0.0f));
        }
        put_four(&y[at], 0, z, count, width % 4 == 0);
    };
    correlate<3>(shared, x, nullptr, packed, l, tile, slice, store);
}
KERNEL_EXPORT(conv2d_tf32_forward)

// A block computes 64 input channels of 128 pixels.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_tf32_backward_data(
    const float* __restrict__ dy,      // [B, O, H, W]
    const float* __restrict__ y,       // [B, O, H, W]
    const float* __restrict__ packed,  // [I/64, O/8, 9, 8, 64]
    float*       __restrict__ dx,      // [B, I, rows, columns]
    float*       __restrict__ partial, // [S, B, I, rows, columns], `behind` what is packed, if S > 1
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int slice, int behind,
    int relu, int accumulate)
{
    SHARED_DYN(float, shared);
    const Layer l = back(inputs, outputs, height, width, kSide, pad, batch);
    const Tile tile = tile_at((int)blockIdx.x, l, tile_columns, tile_rows, tile_samples, plane);
    partial += behind + blockIdx.z * ((size_t)batch * l.into * l.height * l.width);
    const auto store = [=](size_t at, int, float4 z, int count) {
        if (gridDim.z > 1) return put_four(&partial[at], 0, z, count, l.width % 4 == 0);
        put_four(&dx[at], accumulate, z, count, l.width % 4 == 0);
    };
    correlate<2>(shared, dy, relu ? y : nullptr, packed, l, tile, slice, store);
}
KERNEL_EXPORT(conv2d_tf32_backward_data)

// One thread per pixel adds the slices of its sum in their order.
extern "C" __global__ void conv2d_tf32_join(
    const float* __restrict__ partial,  // [S, B, C, H, W], `behind` what is packed
    const float* __restrict__ bias,     // [C], if biased
    float*       __restrict__ image,    // [B, C, H, W]
    int channels, int plane, int total, int slices, int behind, int biased, int relu, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    float sum = biased ? bias[i / plane % channels] : 0.0f;
    for (int s = 0; s < slices; ++s) sum += partial[behind + (size_t)s * total + i];
    put(&image[i], accumulate, relu ? fmaxf(sum, 0.0f) : sum);
}
KERNEL_EXPORT(conv2d_tf32_join)

// Calls each(place in the planes of dy, channel) for the four pixels of every 8th output that this
// thread copies.
template <class Each>
__device__ inline void each_output(Each each)
{
    const int lane = (int)threadIdx.x % kTeam;
    for (int o = (int)threadIdx.x / kTeam; o < kRows; o += kThreads / kTeam) {
        each(o * kGradient + 4 * lane, (int)blockIdx.y * kRows + o);
    }
}

// Starts to copy 64 pixels of dy, and of `positive` to behind it.
__device__ inline void copy_gradient(
    float* to, int behind, const float* dy, const float* positive, const Layer& l, const Tile& tile)
{
    const int lane = (int)threadIdx.x % kTeam;
    const Eight at = eight(tile, lane / 2);
    const int b = tile.sample + at.sample, r = tile.row + at.row;
    const int c = tile.column + at.column + lane % 2 * 4;
    each_output([&](int there, int channel) {
        const bool valid = b < l.total && r < l.height && channel < l.into;
        const size_t from = valid ? ((size_t)(b * l.into + channel) * l.height + r) * l.width : 0;
        copy(to + there, dy + from, c, l.width, 4, valid);
        if (positive) copy(to + behind + there, positive + from, c, l.width, 4, valid);
    });
}

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

// Adds the tiles from `first` to before `end`; tile(i) is where one lies.
template <class TileOf>
__device__ inline void accumulate(
    float* shared, const float* x, const float* dy, const float* positive, const Layer& l,
    int first, int end, TileOf tile, float (&total)[2][kTaps][4])
{
    const int behind = kRows * kGradient, image = positive ? 2 * behind : behind;
    const int plane = tile(first).plane, stage = image + kInputs * plane;
    const int channel = (int)threadIdx.x / kTeam, more = kThreads / kTeam;
    const auto load = [&](float* to, const Tile& at) {
        copy_gradient(to, behind, dy, positive, l, at);
        for (int n = channel; n < kInputs; n += more) {
            copy_plane(to + image + n * plane, 0, x, nullptr, l, at, (int)blockIdx.x * kInputs + n);
        }
    };
    if (first < end) load(shared, tile(first));
    cp_async_commit();
    for (int i = first; i < end; ++i) {
        float* now = shared + (i - first) % 2 * stage;
        const Tile at = tile(i);
        cp_async_wait<0>();
        each_output([&](int there, int) { settle(now + there, behind, positive != nullptr, 4); });
        for (int n = channel; n < kInputs; n += more) {
            settle_plane(now + image + n * plane, 0, false, at, l.pad);
        }
        // All is there, and the other stage has been read.
        __syncthreads();
        if (i + 1 < end) load(shared + (i + 1 - first) % 2 * stage, tile(i + 1));
        cp_async_commit();
        multiply_pixels(now, now + image, at, l.pad, total);
    }
}

// A block sums one slice of the tiles for 64 outputs and 16 inputs.
extern "C" __global__ void __launch_bounds__(kThreads) conv2d_tf32_backward_weight(
    const float* __restrict__ x,        // [B, I, rows, columns]
    const float* __restrict__ dy,       // [B, O, H, W]
    const float* __restrict__ y,        // [B, O, H, W]
    float*       __restrict__ partial,  // [S, 9, O, I], rounded up
    int inputs, int outputs, int height, int width, int pad, int batch,
    int tile_columns, int tile_rows, int tile_samples, int plane, int relu, int tiles, int slice)
{
    SHARED_DYN(float, shared);
    const Layer l = onward(inputs, outputs, height, width, kSide, pad, batch);
    const int first = (int)blockIdx.z * slice;
    const auto tile = [=](int i) {
        return tile_at(i, l, tile_columns, tile_rows, tile_samples, plane);
    };
    float total[2][kTaps][4] = {};
    accumulate(shared, x, dy, relu ? y : nullptr, l, first, min(first + slice, tiles), tile, total);

    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
    const int all_outputs = (int)gridDim.y * kRows, all_inputs = (int)gridDim.x * kInputs;
    const int o = (int)blockIdx.y * kRows + warp % 2 * 32 + g;
    partial += (size_t)blockIdx.z * kTaps * all_outputs * all_inputs;
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
    int inputs, int outputs, int slices, int accumulate)
{
    const int i = element();
    if (i >= inputs * outputs * kTaps) return;

    const int in = i % inputs, o = i / inputs % outputs, tap = i / inputs / outputs;
    const int columns = (inputs + kInputs - 1) / kInputs * kInputs;
    const int rows = (outputs + kRows - 1) / kRows * kRows;
    const size_t at = ((size_t)tap * rows + o) * columns + in;
    double sum = 0.0;
    for (int s = 0; s < slices; ++s) sum += (double)partial[(size_t)s * kTaps * rows * columns + at];
    put(&gradient[((size_t)o * inputs + in) * kTaps + tap], accumulate, (float)sum);
}
KERNEL_EXPORT(conv2d_tf32_sum)
