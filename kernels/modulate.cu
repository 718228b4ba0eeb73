// A smooth complex factor on a canvas, in few numbers.
//
//   O(p) ← O(p) (1 + u/2) / (1 − u/2),   u bilinear between nodes every s pixels
//   u_node = c + (bilinear between the nodes of C, every 4th of c)
//
//   ∂L/∂c_n = Σ_p h_s(p − s n) conj(∂L/∂O(p)) O(p), the imaginary part with the other sign
//   ∂L/∂C_n = Σ_m h_4(m − 4 n) ∂L/∂c_m
//
// at c = C = 0, to which both are set; h_s is the hat function of width s of the bilinear rule.
//
// O  canvas  float2  [H, W]
// c  fine    float2  [h, w]
// C  coarse  float2  [h', w']
//
// CPU twin: src/ops/modulate.rs.

#include "common.cuh"

constexpr int kRatio = 4;

// The node at or before a point, and the weight of the next one.
struct Cell {
    int   node;
    float t;
};

__device__ inline Cell cell(int at, int spacing)
{
    return {at / spacing, (float)(at % spacing) / (float)spacing};
}

// Value of a grid between its nodes. Beyond the last node the weight is 0: any node will do.
__device__ inline float2 between(const float2* grid, int height, int width, Cell y, Cell x)
{
    const int last = height * width - 1;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int k = 0; k < 4; ++k) {
        const float w = (k / 2 ? y.t : 1.0f - y.t) * (k % 2 ? x.t : 1.0f - x.t);
        const int i = (y.node + k / 2) * width + x.node + k % 2;
        sum = add(sum, scaled(w, grid[i < last ? i : last]));
    }
    return sum;
}

__device__ inline float hat(int p, int node, int spacing)
{
    return 1.0f - (float)abs(p - node * spacing) / (float)spacing;
}

// First and end of the points within `spacing` of a node.
__device__ inline int first_around(int node, int spacing)
{
    return node > 0 ? (node - 1) * spacing + 1 : 0;
}

__device__ inline int end_around(int node, int spacing, int points)
{
    const int end = (node + 1) * spacing;
    return end < points ? end : points;
}

// One thread per pixel of the canvas.
extern "C" __global__ void modulate_forward(
    const float2* __restrict__ fine,    // [h, w]
    const float2* __restrict__ coarse,  // [h', w']
    float2*       __restrict__ canvas,  // [H, W]
    int height, int width, int spacing, int h, int w, int ch, int cw)
{
    const int i = element();
    if (i >= height * width) return;

    const Cell y = cell(i / width, spacing), x = cell(i % width, spacing);
    float2 u = between(fine, h, w, y, x);
    for (int k = 0; k < 4; ++k) {
        const int ny = y.node + k / 2, nx = x.node + k % 2;
        const float weight = (k / 2 ? y.t : 1.0f - y.t) * (k % 2 ? x.t : 1.0f - x.t);
        if (weight == 0.0f) continue;
        u = add(u, scaled(weight, between(coarse, ch, cw, cell(ny, kRatio), cell(nx, kRatio))));
    }
    const float2 above = make_float2(1.0f + 0.5f * u.x, 0.5f * u.y);
    const float2 below = make_float2(1.0f - 0.5f * u.x, -0.5f * u.y);
    const float2 factor = scaled(1.0f / norm2(below), conj_product(below, above));
    canvas[i] = product(canvas[i], factor);
}
KERNEL_EXPORT(modulate_forward)

// One thread per row of the canvas and column of nodes.
extern "C" __global__ void modulate_backward_rows(
    const float2* __restrict__ canvas,   // [H, W]
    const float2* __restrict__ dcanvas,  // [H, W]
    float2*       __restrict__ rows,     // [H, w]
    int height, int width, int spacing, int h, int w, int ch, int cw)
{
    const int i = element();
    if (i >= height * w) return;

    const size_t line = (size_t)(i / w) * width;
    const int node = i % w, end = end_around(node, spacing, width);
    float2 sum = make_float2(0.0f, 0.0f);
    for (int x = first_around(node, spacing); x < end; ++x) {
        const float2 value = conj_product(dcanvas[line + x], canvas[line + x]);
        sum = add(sum, scaled(hat(x, node, spacing), make_float2(value.x, -value.y)));
    }
    rows[i] = sum;
}
KERNEL_EXPORT(modulate_backward_rows)

// One thread per node of the finer grid.
extern "C" __global__ void modulate_backward_nodes(
    const float2* __restrict__ rows,   // [H, w]
    float2*       __restrict__ fine,   // [h, w], set to 0
    float2*       __restrict__ dfine,  // [h, w]
    int height, int width, int spacing, int h, int w, int ch, int cw)
{
    const int i = element();
    if (i >= h * w) return;

    const int node = i / w, end = end_around(node, spacing, height);
    float2 sum = make_float2(0.0f, 0.0f);
    for (int y = first_around(node, spacing); y < end; ++y) {
        sum = add(sum, scaled(hat(y, node, spacing), rows[(size_t)y * w + i % w]));
    }
    fine[i] = make_float2(0.0f, 0.0f);
    dfine[i] = sum;
}
KERNEL_EXPORT(modulate_backward_nodes)

// One thread per node of the coarser grid.
extern "C" __global__ void modulate_backward_coarse(
    const float2* __restrict__ dfine,    // [h, w]
    float2*       __restrict__ coarse,   // [h', w'], set to 0
    float2*       __restrict__ dcoarse,  // [h', w']
    int height, int width, int spacing, int h, int w, int ch, int cw)
{
    const int i = element();
    if (i >= ch * cw) return;

    const int row = i / cw, column = i % cw;
    const int bottom = end_around(row, kRatio, h), right = end_around(column, kRatio, w);
    float2 sum = make_float2(0.0f, 0.0f);
    for (int y = first_around(row, kRatio); y < bottom; ++y) {
        for (int x = first_around(column, kRatio); x < right; ++x) {
            const float weight = hat(y, row, kRatio) * hat(x, column, kRatio);
            sum = add(sum, scaled(weight, dfine[y * w + x]));
        }
    }
    coarse[i] = make_float2(0.0f, 0.0f);
    dcoarse[i] = sum;
}
KERNEL_EXPORT(modulate_backward_coarse)
