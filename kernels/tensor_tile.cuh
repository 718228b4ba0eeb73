// Tiles of images in shared memory, for kernels that read them through 3×3 filters: where their pixels
// lie, how they are copied there, and how they become factors for tensor cores (conv2d_tf32.cu, conv2d_bf16.cu).

#pragma once

#include "common.cuh"
#include "layer.cuh"

namespace tensor_tile {

constexpr int kThreads = 128;  // of a block: THREADS in src/ops/conv2d/tensor.rs
constexpr int kSide = 3;       // of the filter
constexpr int kTaps = kSide * kSide;
constexpr int kTeam = 16;   // threads that copy one plane
constexpr int kBefore = 4;  // floats before the tile in a row of a plane: border, still aligned

// A tile of pixels of some samples, each count a power of two given by its logarithm, and how it lies
// in shared memory.
struct Tile {
    int columns, rows;  // logarithms
    int samples;
    int plane;          // floats of one channel, border included
    int sample, row, column;  // where it begins in the result
};

// The tile `i` of all that cover the results of a batch.
__device__ inline Tile tile_at(int i, const Layer& l, int columns, int rows, int samples, int plane)
{
    const int across = (l.width + (1 << columns) - 1) >> columns;
    const int down = (l.height + (1 << rows) - 1) >> rows;
    const int column = i % across, row = i / across % down, sample = i / across / down;
    return {columns, rows, samples, plane, sample * samples, row << rows, column << columns};
}

__device__ inline int pitch(const Tile& t) { return (1 << t.columns) + 2 * kBefore; }

// Where pixel (row, column) of a sample lies in a plane; both may lie in the border.
__device__ inline int place(const Tile& t, int sample, int row, int column)
{
    return (sample * ((1 << t.rows) + kSide - 1) + row) * pitch(t) + kBefore + column;
}

// The row of 8 pixels that is the `i`th of a tile.
struct Eight {
    int sample, row, column;
};

__device__ inline Eight eight(const Tile& t, int i)
{
    const int across = t.columns - 3;
    return {i >> across >> t.rows, i >> across & ((1 << t.rows) - 1),
            (i & ((1 << across) - 1)) * 8};
}

// Calls each(sample, row, column, four or one pixels) for the part of a plane that this thread copies:
// rows of whole fours, then the two columns beside them that the taps see.
template <class Each>
__device__ inline void each_piece(const Tile& t, int pad, Each each)
{
    const int lane = (int)threadIdx.x % kTeam, fours = t.columns - 2;
    const int rows = (1 << t.rows) + kSide - 1;
    for (int s = 0; s < t.samples; ++s) {
        for (int i = lane; i < rows << fours; i += kTeam) {
            each(s, i >> fours, (i & ((1 << fours) - 1)) * 4, 4);
        }
        for (int i = lane; i < 2 * rows; i += kTeam) {
            each(s, i / 2, i % 2 < pad ? i % 2 - pad : (1 << t.columns) + i % 2 - pad, 1);
        }
    }
}

// Starts to copy what lies at `at` of a row of `columns` numbers, 0 outside of it or if not `valid`.
__device__ inline void copy(
    float* to, const float* row, int at, int columns, int count, bool valid)
{
    if (count == 4 && columns % 4 == 0) {
        const bool inside = valid && at < columns;
        return cp_async16(to, inside ? row + at : row, inside);
    }
    for (int i = 0; i < count; ++i) {
        const bool inside = valid && at + i >= 0 && at + i < columns;
        cp_async4(to + i, inside ? row + at + i : row, inside);
    }
}

// Starts to copy the tile of one channel of image, and that of `positive`, if given, to behind it.
__device__ inline void copy_plane(float* to, int behind, const float* image, const float* positive,
                                  const Layer& l, const Tile& t, int channel)
{
    each_piece(t, l.pad, [&](int s, int row, int column, int count) {
        const int b = t.sample + s, r = t.row + row - l.pad, c = t.column + column;
        const bool valid = b < l.total && channel < l.from && r >= 0 && r < l.rows;
        const size_t from = valid ? ((size_t)(b * l.from + channel) * l.rows + r) * l.columns : 0;
        float* there = to + place(t, s, row, column);
        copy(there, image + from, c, l.columns, count, valid);
        if (positive) copy(there + behind, positive + from, c, l.columns, count, valid);
    });
}

// Rounds what this thread has copied to `at`, or sets it to 0 where `masked` and what lies behind it
// is not positive.
__device__ inline void settle(float* at, int behind, bool masked, int count)
{
    if (count == 4) {
        float4 x = *reinterpret_cast<const float4*>(at);
        if (masked) {
            const float4 y = *reinterpret_cast<const float4*>(at + behind);
            x = make_float4(y.x > 0.0f ? x.x : 0.0f, y.y > 0.0f ? x.y : 0.0f,
                            y.z > 0.0f ? x.z : 0.0f, y.w > 0.0f ? x.w : 0.0f);
        }
        *reinterpret_cast<float4*>(at) = make_float4(tf32(x.x), tf32(x.y), tf32(x.z), tf32(x.w));
    } else {
        *at = masked && !(at[behind] > 0.0f) ? 0.0f : tf32(*at);
    }
}

__device__ inline void settle_plane(float* to, int behind, bool masked, const Tile& t, int pad)
{
    each_piece(t, pad, [&](int s, int row, int column, int count) {
        settle(to + place(t, s, row, column), behind, masked, count);
    });
}

}  // namespace tensor_tile
