// Sum of absolute errors of each sample, of plain numbers or of phases.
//
//   t[b] = Σ w |d| over channels and pixels,  d = x − target, of phases wrapped into (−π, π]
//
//   ∂L/∂x = ∂L/∂t[b] w sign d      sign 0 = 0
//
// x       float  [B, stride]      rad if phases
// target  float  [B, stride]      rad if phases
// w       weight float  [pixels]
// t       total  float  [B]
//
// CPU twin: src/ops/absolute_error.rs.

#include "common.cuh"
#include "scalar.cuh"

constexpr double kTurn = 6.28318530717958647693;  // rad

// In double precision, so that wrapping does not cost digits.
__device__ inline double difference(float x, float target, int wrapped)
{
    const double d = (double)x - (double)target;
    return wrapped ? d - kTurn * ceil((d - kTurn / 2.0) / kTurn) : d;
}

// One block per sample, so that the sum has a fixed order.
extern "C" __global__ void absolute_error_forward(
    const float* __restrict__ x,       // [B, stride]
    const float* __restrict__ target,  // [B, stride]
    const float* __restrict__ weight,  // [pixels]
    float*       __restrict__ total,   // [B]
    int wrapped, int stride, int pixels)
{
    const int b = (int)blockIdx.x;
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < stride; i += (int)blockDim.x) {
        const size_t at = (size_t)b * stride + i;
        sum += (double)weight[i % pixels] * fabs(difference(x[at], target[at], wrapped));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) total[b] = (float)sum;
}
KERNEL_EXPORT(absolute_error_forward)

// One thread per element.
extern "C" __global__ void absolute_error_backward(
    const float* __restrict__ x,       // [B, stride]
    const float* __restrict__ target,  // [B, stride]
    const float* __restrict__ weight,  // [pixels]
    const float* __restrict__ dtotal,  // [B]
    float*       __restrict__ dx,      // [B, stride]
    int wrapped, int stride, int pixels, int total, int accumulate)
{
    const int i = element();
    if (i >= total) return;

    const float towards = sign(difference(x[i], target[i], wrapped));
    put(&dx[i], accumulate, dtotal[i / stride] * weight[i % pixels] * towards);
}
KERNEL_EXPORT(absolute_error_backward)
