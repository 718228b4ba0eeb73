// Patches out of one canvas that all samples share.
//
//   X_b(p) = K(p + c_b + d_b)                  bilinear, zero outside
//
//   ∂L/∂K(q) = Σ_b ∂L/∂X_b(q − c_b − d_b)
//   ∂L/∂d_b  = Σ_p Re[conj(∂L/∂X_b(p)) ∂X_b(p)/∂d]
//
// K  canvas   float2  [H, W]
// c  corner   float2  [B]          column and row of the patch's first pixel, whole numbers
// d  shift    float2  [B]          (x, y), pixels
// X  patches  float2  [B, N, N]
//
// Corner and shift are kept apart: their sum would lose the shift on a large canvas. CPU twin:
// src/ops/cut.rs; bilinear rule: bilinear.cuh.

#include "bilinear.cuh"

// From patch to canvas.
__device__ inline Shift2 onto_canvas(float2 corner, float2 by)
{
    return {shift(by.x, (int)corner.x), shift(by.y, (int)corner.y)};
}

// Pixel (x, y) of the canvas, zero outside.
__device__ inline float2 pixel(const float2* canvas, int height, int width, int x, int y)
{
    if (y < 0 || y >= height || x < 0 || x >= width) return make_float2(0.0f, 0.0f);
    return canvas[(size_t)y * width + x];
}

// a + t (b − a)
__device__ inline float2 between(float2 a, float2 b, float t)
{
    return add(scaled(1.0f - t, a), scaled(t, b));
}

__device__ inline float dot(float2 a, float2 b) { return a.x * b.x + a.y * b.y; }

// One thread per pixel of a patch.
extern "C" __global__ void cut_forward(
    const float2* __restrict__ canvas,   // [H, W]
    const float2* __restrict__ corner,   // [B]
    const float2* __restrict__ shift,    // [B]
    float2*       __restrict__ patches,  // [B, N, N]
    int side, int height, int width, int total)
{
    const int i = element();
    if (i >= total) return;

    const int b = i / side / side;
    const Shift2 by = onto_canvas(corner[b], shift[b]);
    const int x = i % side + by.x.whole, y = i / side % side + by.y.whole;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int k = 0; k < 4; ++k) {
        const float w = tap(by.y, k / 2) * tap(by.x, k % 2);
        sum = add(sum, scaled(w, pixel(canvas, height, width, x + k % 2, y + k / 2)));
    }
    patches[i] = sum;
}
KERNEL_EXPORT(cut_forward)

// One thread per pixel of the canvas; patches are summed in their order.
extern "C" __global__ void cut_backward_canvas(
    const float2* __restrict__ corner,    // [B]
    const float2* __restrict__ shift,     // [B]
    const float2* __restrict__ dpatches,  // [B, N, N]
    float2*       __restrict__ dcanvas,   // [H, W]
    int batch, int side, int height, int width, int accumulate)
{
    const int i = element();
    if (i >= height * width) return;

    float2 sum = make_float2(0.0f, 0.0f);
    for (int b = 0; b < batch; ++b) {
        const Shift2 by = onto_canvas(corner[b], shift[b]);
        const int x = i % width - by.x.whole, y = i / width - by.y.whole;
        if (x < 0 || y < 0 || x > side || y > side) continue;
        const float2* patch = dpatches + (size_t)b * side * side;
        for (int k = 0; k < 4; ++k) {
            const float w = tap(by.y, k / 2) * tap(by.x, k % 2);
            sum = add(sum, scaled(w, pixel(patch, side, side, x - k % 2, y - k / 2)));
        }
    }
    put(&dcanvas[i], accumulate, sum);
}
KERNEL_EXPORT(cut_backward_canvas)

// One block per patch, so that the sums have a fixed order.
extern "C" __global__ void cut_backward_shift(
    const float2* __restrict__ canvas,    // [H, W]
    const float2* __restrict__ corner,    // [B]
    const float2* __restrict__ shift,     // [B]
    const float2* __restrict__ dpatches,  // [B, N, N]
    float2*       __restrict__ dshift,    // [B]
    int side, int height, int width, int accumulate)
{
    const int b = (int)blockIdx.x;
    const Shift2 by = onto_canvas(corner[b], shift[b]);
    double along_x = 0.0, along_y = 0.0;
    for (int i = (int)threadIdx.x; i < side * side; i += (int)blockDim.x) {
        const int x = i % side + by.x.whole, y = i / side + by.y.whole;
        const float2 a = pixel(canvas, height, width, x, y);
        const float2 right = pixel(canvas, height, width, x + 1, y);
        const float2 below = pixel(canvas, height, width, x, y + 1);
        const float2 across = pixel(canvas, height, width, x + 1, y + 1);
        const float2 d = dpatches[(size_t)b * side * side + i];
        const float2 upper = add(right, scaled(-1.0f, a)), lower = add(across, scaled(-1.0f, below));
        const float2 left = add(below, scaled(-1.0f, a)), other = add(across, scaled(-1.0f, right));
        along_x += (double)dot(d, between(upper, lower, by.y.part));
        along_y += (double)dot(d, between(left, other, by.x.part));
    }
    along_x = block_sum(along_x);
    along_y = block_sum(along_y);
    if (threadIdx.x == 0) put(&dshift[b], accumulate, make_float2((float)along_x, (float)along_y));
}
KERNEL_EXPORT(cut_backward_shift)
