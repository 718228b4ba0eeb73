// Anisotropic total variation of each sample.
//
//   t[b] = Σ |x[i, j] − x[i + 1, j]| + Σ |x[i, j] − x[i, j + 1]|      over channels and pixels
//
//   ∂L/∂x = ∂L/∂t[b] Σ sign(x − neighbour)      over the up to four neighbours, sign 0 = 0
//
// x  float  [B, C, H, W]
// t  total  float  [B]
//
// In the kernels a sample is `rows` = C·H rows.
//
// CPU twin: src/ops/total_variation.rs.

#include "common.cuh"
#include "scalar.cuh"

// One block per sample, so that the sum has a fixed order.
extern "C" __global__ void total_variation_forward(
    const float* __restrict__ x,      // [B, rows, W]
    float*       __restrict__ total,  // [B]
    int rows, int height, int width)
{
    const int b = (int)blockIdx.x, pixels = rows * width;
    x += (size_t)b * pixels;
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) {
        const double here = (double)x[i];
        if (i / width % height + 1 < height) sum += fabs(here - (double)x[i + width]);
        if (i % width + 1 < width) sum += fabs(here - (double)x[i + 1]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) total[b] = (float)sum;
}
KERNEL_EXPORT(total_variation_forward)

// One thread per pixel.
extern "C" __global__ void total_variation_backward(
    const float* __restrict__ x,       // [B, rows, W]
    const float* __restrict__ dtotal,  // [B]
    float*       __restrict__ dx,      // [B, rows, W]
    int rows, int height, int width, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    // Beyond the border a pixel is its own neighbour, which adds sign 0 = 0.
    const int row = i / width % height, column = i % width;
    const float above = x[row > 0 ? i - width : i], below = x[row + 1 < height ? i + width : i];
    const float left = x[column > 0 ? i - 1 : i], right = x[column + 1 < width ? i + 1 : i];
    const float here = x[i];
    const float signs =
        sign(here - above) + sign(here - below) + sign(here - left) + sign(here - right);
    put(&dx[i], accumulate, dtotal[i / width / rows] * signs);
}
KERNEL_EXPORT(total_variation_backward)
