// Products of 3×3 convolutions by tensor cores, whatever their factors are: what conv2d_tf32.cu and
// conv2d_bf16.cu share. The unit is the word of 32 bits, which holds one factor or two of neighbouring
// channels; `from` and `into` of a layer count planes of words where an image is read.
//
// Factors::product     D += A B of fragments of words
// Factors::kSettles    an image is copied as floats, which each thread rounds, and masks, in their place
// Factors::kOutputs    planes of dy in a block of the weight gradient: 64 channels
//
// A stage of the pipeline is 8 planes of the image with all 9 taps. Of the image it holds a tile of
// each plane with the border that the taps see, so that a pixel is loaded once and not nine times;
// a product of matrices takes 8 planes under one tap, from the place that the tap gives. Two or
// three stages are filled by asynchronous copies while one is multiplied, with one barrier a stage.
//
// Forward, input gradient: a block has 64 channels × 128 pixels of the result, a warp all 64 × 32, a
// thread 64 sums. Weight gradient: a block has 64 outputs × 16 planes of x × 9 taps; the terms are the
// pixels of one slice, 64 in a stage.
//
// Banks of shared memory: lane 4 g + t reads weights [t][4 g …] as four words, which meet no other
// where the fours of row t are exchanged by 2 t; pixels [t][g] of planes that are 8 words apart
// modulo 32; and pixels [g][t] of planes that are 4, 12, 20 or 28 apart.

#pragma once

#include "common.cuh"
#include "tensor_tile.cuh"

namespace tensor_product {

using namespace tensor_tile;

constexpr int kDepth = 8;      // words of one product of matrices: planes, or pixels in a row
constexpr int kRows = 64;      // channels of the result that a block computes
constexpr int kFilters = kTaps * kDepth * kRows;  // words of the weights in a stage
constexpr int kGradient = 64 + 4;  // words of a plane of dy: 64 pixels, other banks
constexpr int kInputs = 16;    // planes of x in a block of the weight gradient

// The place of row `channel` of the packed weights in a row of 64: fours are exchanged by 2 (k mod 4).
__device__ inline int exchanged(int k, int channel) { return channel ^ k % 4 * 8; }

// What a block of a launch that packs weights does: a row of its table, of whole numbers.
struct Packing {
    size_t from, to;      // where the weights of the layer and the packed stage begin
    int inputs, outputs;  // of the layer
    int turned;           // by 180°, inputs and outputs in each other's place: for the input gradient
    int first, term;      // of the channels of the result, and of those that are read
};

__device__ inline Packing packing(const float* table)
{
    const float* row = table + (size_t)blockIdx.x * 8;
    const auto number = [=](int i) { return __float_as_int(row[i]); };
    return {(size_t)number(0), (size_t)number(1), number(2), number(3), number(4), number(5),
            number(6)};
}

// Calls each(which of `depth` channels that are read, which of 64 of the result, tap, weight) for the
// weights of a stage, 0 where there is none.
template <class Each>
__device__ inline void each_weight(const float* weights, const Packing& p, int depth, Each each)
{
    const int rows = p.turned ? p.inputs : p.outputs, terms = p.turned ? p.outputs : p.inputs;
    // Reads along the weights of an output, whichever of the two it is.
    const int outer = p.turned ? depth : kRows, inner = p.turned ? kRows : depth;
    weights += p.from;
    for (int i = (int)threadIdx.x; i < outer * inner * kTaps; i += (int)blockDim.x) {
        const int tap = i % kTaps, a = i / kTaps % inner, b = i / kTaps / inner;
        const int k = p.turned ? b : a, row = p.turned ? a : b;
        const bool valid = p.first + row < rows && p.term + k < terms;
        const int o = p.turned ? p.term + k : p.first + row;
        const int in = p.turned ? p.first + row : p.term + k;
        const float w = valid ? weights[((size_t)o * p.inputs + in) * kTaps + tap] : 0.0f;
        each(k, row, p.turned ? kTaps - 1 - tap : tap, w);
    }
}

// Writes the packed weights of a stage when all threads have put theirs there.
__device__ inline void store_stage(float* packed, const float* stage)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < kFilters; i += (int)blockDim.x) packed[i] = stage[i];
}

// Adds a stage to the sums of a warp: 64 channels × 4 rows of 8 pixels, the lane's first at `pixel`.
template <class Factors>
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
            for (int i = 0; i < 4; ++i) Factors::product(total[i][j], a[i], b);
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

// Where four pixels of a result lie, and how many of them there are.
struct Four {
    int sample, row, column, count;
};

// Calls store(place, channel, its four pixels, those of the next channel).
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
        for (int i = 0; i < 8; i += 2) {
            const float4 z = four(total[i / 2][j], total[i / 2][j + 1], 0);
            const float4 w = four(total[i / 2][j], total[i / 2][j + 1], 1);
            const int channel = (int)blockIdx.y * kRows + i / 4 * 32 + 4 * g + i % 4;
            if (channel < l.into && count > 0) store(Four{b, r, c, count}, channel, z, w);
        }
    }
}

// Convolution of x, masked by `positive` if given, with packed filters: its sums over `slice` stages
// from `first`.
template <class Factors, int kStages, class Store>
__device__ inline void correlate(
    float* shared, const float* x, const float* positive, const float* packed, const Layer& l,
    const Tile& tile, int first, int slice, Store store)
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
    const int end = min(first + slice, steps);
    for (int step = first + 1 - kStages; step < end; ++step) {
        if (step >= first) {
            cp_async_wait<kStages - 2>();
            if constexpr (Factors::kSettles) {
                float* image = shared + step % kStages * stage + kFilters;
                settle_plane(image + channel * tile.plane, behind, positive != nullptr, tile, l.pad);
            }
            // All is there, and the stage before this one has been read.
            __syncthreads();
        }
        if (step + kStages - 1 < end) load(step + kStages - 1);
        cp_async_commit();
        if (step < first) continue;
        const float* now = shared + step % kStages * stage;
        multiply<Factors>(now, now + kFilters, pixel, tile, total);
    }
    store_all(total, l, tile, store);
}

// Sets the first `count` of four pixels in a row, all at once where they are `aligned`.
__device__ inline void set_four(float* to, float4 z, int count, bool aligned)
{
    if (aligned) {
        *reinterpret_cast<float4*>(to) = z;
    } else {
        to[0] = z.x;
        if (count > 1) to[1] = z.y;
        if (count > 2) to[2] = z.z;
        if (count > 3) to[3] = z.w;
    }
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

__device__ inline float4 biased_relu(float4 z, float bias, int relu)
{
    z = make_float4(z.x + bias, z.y + bias, z.z + bias, z.w + bias);
    if (!relu) return z;
    return make_float4(fmaxf(z.x, 0.0f), fmaxf(z.y, 0.0f), fmaxf(z.z, 0.0f), fmaxf(z.w, 0.0f));
}

// Where a pixel lies in a result of so many planes.
__device__ inline size_t index(const Layer& l, int planes, const Four& at, int plane)
{
    return (((size_t)at.sample * planes + plane) * l.height + at.row) * l.width + at.column;
}

// The same for four pixels of a channel, and for those of the next one if there is one.
__device__ inline void put_two(float* to, int accumulate, const Layer& l, const Four& at, int channel,
                               float4 z, float4 w)
{
    const bool aligned = l.width % 4 == 0;
    to += index(l, l.into, at, channel);
    put_four(to, accumulate, z, at.count, aligned);
    if (channel + 1 < l.into) put_four(to + l.height * l.width, accumulate, w, at.count, aligned);
}

// Calls each(place in the planes of dy, which of them) for the four pixels of every 8th plane that
// this thread copies.
template <class Factors, class Each>
__device__ inline void each_output(Each each)
{
    const int lane = (int)threadIdx.x % kTeam;
    for (int o = (int)threadIdx.x / kTeam; o < Factors::kOutputs; o += kThreads / kTeam) {
        each(o * kGradient + 4 * lane, (int)blockIdx.y * Factors::kOutputs + o);
    }
}

// Starts to copy 64 pixels of dy, and of `positive` to behind it.
template <class Factors>
__device__ inline void copy_gradient(
    float* to, int behind, const float* dy, const float* positive, const Layer& l, const Tile& tile)
{
    const int lane = (int)threadIdx.x % kTeam;
    const Eight at = eight(tile, lane / 2);
    const int b = tile.sample + at.sample, r = tile.row + at.row;
    const int c = tile.column + at.column + lane % 2 * 4;
    each_output<Factors>([&](int there, int channel) {
        const bool valid = b < l.total && r < l.height && channel < l.into;
        const size_t from = valid ? ((size_t)(b * l.into + channel) * l.height + r) * l.width : 0;
        copy(to + there, dy + from, c, l.width, 4, valid);
        if (positive) copy(to + behind + there, positive + from, c, l.width, 4, valid);
    });
}

// Calls multiply(dy, x, tile) for the tiles from `first` to before `end`; tile(i) is where one lies.
template <class Factors, int kStages, class TileOf, class Multiply>
__device__ inline void add_tiles(
    float* shared, const float* x, const float* dy, const float* positive, const Layer& l,
    int first, int end, TileOf tile, Multiply multiply)
{
    const int behind = Factors::kOutputs * kGradient, image = positive ? 2 * behind : behind;
    const int plane = tile(first).plane, stage = image + kInputs * plane;
    const int channel = (int)threadIdx.x / kTeam, more = kThreads / kTeam;
    const auto load = [&](float* to, const Tile& at) {
        copy_gradient<Factors>(to, behind, dy, positive, l, at);
        for (int n = channel; n < kInputs; n += more) {
            copy_plane(to + image + n * plane, 0, x, nullptr, l, at, (int)blockIdx.x * kInputs + n);
        }
    };
    for (int i = first + 1 - kStages; i < end; ++i) {
        float* now = shared + (i - first) % kStages * stage;
        if (i >= first) {
            cp_async_wait<kStages - 2>();
            if constexpr (Factors::kSettles) {
                const Tile at = tile(i);
                each_output<Factors>(
                    [&](int there, int) { settle(now + there, behind, positive != nullptr, 4); });
                for (int n = channel; n < kInputs; n += more) {
                    settle_plane(now + image + n * plane, 0, false, at, l.pad);
                }
            }
            // All is there, and the stage before this one has been read.
            __syncthreads();
        }
        const int next = i + kStages - 1;
        if (next < end) load(shared + (next - first) % kStages * stage, tile(next));
        cp_async_commit();
        if (i >= first) multiply(now, now + image, tile(i));
    }
}

// One thread per weight adds its slices in their order, of which the inputs are rounded up to `whole`.
__device__ inline void sum_slices(const float* partial, float* gradient, int inputs, int outputs,
                                  int whole, int slices, int accumulate)
{
    const int i = element();
    if (i >= inputs * outputs * kTaps) return;

    const int in = i % inputs, o = i / inputs % outputs, tap = i / inputs / outputs;
    const int columns = (inputs + whole - 1) / whole * whole;
    const int rows = (outputs + kRows - 1) / kRows * kRows;
    const size_t at = ((size_t)tap * rows + o) * columns + in;
    double sum = 0.0;
    for (int s = 0; s < slices; ++s) sum += (double)partial[(size_t)s * kTaps * rows * columns + at];
    put(&gradient[((size_t)o * inputs + in) * kTaps + tap], accumulate, (float)sum);
}

}  // namespace tensor_product
