// Adds patches to the canvas of a whole scan, each where its position says.
//
//   w, w O   of patch b between the four pixels of its crop around canvas pixel p; o = (w O)/w
//   W ← W + w,  μ' = μ + (w/W)(o − μ),  V ← V + w Re[conj(o − μ)(o − μ')],  n ← n + 1
//
// μ is the weighted mean of the patches that cover p, V/W their variance (West 1979).
//
// O  patches  float2  [B, N, N]
//    places   float4  [B]        row and column of the crop's first pixel, parts of row and column
// w  weight   float   [c, c]     of the crop's pixels; a negative row is no patch
// W, μ, V, n  canvas  float  [H, W, 5]
//
// CPU twin: src/ops/stitch.rs.

#include "common.cuh"

constexpr int kTile = 16;  // side of the canvas pixels of a block: TILE in src/ops/stitch.rs
constexpr int kCell = 5;

// The part of one pixel of the crop; nothing outside.
__device__ inline void gather_pixel(
    const float2* patch, const float* weight, int side, int crop, int transpose,
    int row, int column, float share, float* w, float2* sum)
{
    if (row < 0 || column < 0 || row >= crop || column >= crop) return;
    const float here = share * weight[row * crop + column];
    const int margin = (side - crop) / 2;
    const int r = transpose ? column : row, c = transpose ? row : column;
    *w += here;
    *sum = add(*sum, scaled(here, patch[(r + margin) * side + c + margin]));
}

// One thread per pixel of the canvas; patches are added in their order.
extern "C" __global__ void stitch_forward(
    const float2* __restrict__ patches,  // [B, N, N]
    const float4* __restrict__ places,   // [B]
    const float*  __restrict__ weight,   // [c, c]
    float*        __restrict__ canvas,   // [H, W, 5]
    int batch, int side, int crop, int height, int width, int transpose)
{
    const int x = (int)blockIdx.x * kTile + (int)threadIdx.x % kTile;
    const int y = (int)blockIdx.y * kTile + (int)threadIdx.x / kTile;
    if (x >= width || y >= height) return;

    float* cell = canvas + ((size_t)y * width + x) * kCell;
    for (int b = 0; b < batch; ++b) {
        const float4 place = places[b];
        const int j = y - (int)place.x, k = x - (int)place.y;
        if (place.x < 0.0f || j < 0 || k < 0 || j > crop || k > crop) continue;
        const float2* patch = patches + (size_t)b * side * side;
        float w = 0.0f;
        float2 sum = make_float2(0.0f, 0.0f);
        for (int tap = 0; tap < 4; ++tap) {
            const int up = tap / 2, left = tap % 2;
            const float share = (up ? place.z : 1.0f - place.z) * (left ? place.w : 1.0f - place.w);
            gather_pixel(patch, weight, side, crop, transpose, j - up, k - left, share, &w, &sum);
        }
        if (!(w > 0.0f)) continue;
        // Not 1/w, which overflows where w is subnormal.
        const float2 o = make_float2(sum.x / w, sum.y / w);
        const float2 before = make_float2(o.x - cell[1], o.y - cell[2]);
        cell[0] += w;
        const float share = w / cell[0];
        cell[1] += share * before.x;
        cell[2] += share * before.y;
        cell[3] += w * (before.x * (o.x - cell[1]) + before.y * (o.y - cell[2]));
        cell[4] += 1.0f;
    }
}
KERNEL_EXPORT(stitch_forward)
