// Bilinear sampling of a square image, zero outside: the rule of merge and extraction.
//
// An image sampled at p + d takes A[p, q] = tent(p + d − q) along each axis. The tent is even, so
// Aᴴ samples at q − d. CPU twin: src/ops/bilinear.rs.

#pragma once

#include "common.cuh"

// A shift along one axis, as whole pixels and a part in [0, 1].
struct Shift {
    int whole;
    float part;
};

// The shift of a patch along both axes.
struct Shift2 {
    Shift x, y;
};

__device__ inline Shift shift(float by, int whole)
{
    const float below = floorf(by);
    return {whole + (int)below, by - below};
}

// At p + pad + d: from patch to canvas. `offset` is d = (x, y).
__device__ inline Shift2 onto(float2 offset, int pad)
{
    return {shift(offset.x, pad), shift(offset.y, pad)};
}

// At p − pad − d: from canvas to patch.
__device__ inline Shift2 back(float2 offset, int pad)
{
    return {shift(-offset.x, -pad), shift(-offset.y, -pad)};
}

// Weight of tap 0 or 1 of a shift.
__device__ inline float tap(Shift s, int which) { return which ? s.part : 1.0f - s.part; }

__device__ inline float weighted(float w, float pixel) { return w * pixel; }

__device__ inline float2 weighted(float w, float2 pixel) { return scaled(w, pixel); }

__device__ inline float add(float a, float b) { return a + b; }

// Pixel (x, y) of the moved image; `image` has side × side pixels.
template <class Pixel>
__device__ inline Pixel sample(const Pixel* image, int side, Shift2 by, int x, int y)
{
    Pixel sum = {};
    for (int i = 0; i < 4; ++i) {
        const int row = y + by.y.whole + i / 2, column = x + by.x.whole + i % 2;
        if (row < 0 || row >= side || column < 0 || column >= side) continue;
        const float w = tap(by.y, i / 2) * tap(by.x, i % 2);
        sum = add(sum, weighted(w, image[row * side + column]));
    }
    return sum;
}
