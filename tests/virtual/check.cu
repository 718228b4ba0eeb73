// Small kernels, one right and the others each with one fault, that show what the virtual device
// notices. check.cpp runs them.

// Right: the sum of a block, by halves.
extern "C" __global__ void check_sum(const float* x, float* sum)
{
    SHARED(float, part, 256);
    part[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sum[blockIdx.x] = part[0];
}
KERNEL_EXPORT(check_sum)

// Right: the same by warps, and dynamic shared memory.
extern "C" __global__ void check_warp_sum(const float* x, float* sum)
{
    SHARED_DYN(float, warps);
    float value = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(~0u, value, bits);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    value = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0.0f;
    for (unsigned by = 16; by > 0; by /= 2) value += __shfl_down_sync(~0u, value, by);
    if (threadIdx.x == 0) sum[blockIdx.x] = value;
}
KERNEL_EXPORT(check_warp_sum)

// Right: reverses each block through shared memory that is filled asynchronously.
extern "C" __global__ void check_copy(const float* x, float* y)
{
    SHARED(float, tile, 256);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    cp_async4(&tile[threadIdx.x], &x[i], true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[i] = tile[blockDim.x - 1 - threadIdx.x];
}
KERNEL_EXPORT(check_copy)

// Right, and then wrong: D = A B for A[m][k] = x[m + k] and B[k][n] = x[3 k + n], rounded or as they
// are, by the first warp of a block; the other threads copy.
template <bool kRounded>
__device__ inline void check_matrix(const float* x, float* y)
{
    x += blockIdx.x * blockDim.x;
    y += blockIdx.x * blockDim.x;
    if (threadIdx.x >= 128) y[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x >= 32) return;

    const int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    float a[4] = {x[g + t], x[g + 8 + t], x[g + t + 4], x[g + 8 + t + 4]};
    float b[2] = {x[3 * t + g], x[3 * (t + 4) + g]}, d[4] = {};
    for (float& p : a) p = kRounded ? tf32(p / 3.0f) : p / 3.0f;
    for (float& p : b) p = tf32(p);
    mma_tf32(d, a, b);
    for (int i = 0; i < 4; ++i) y[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

extern "C" __global__ void check_product(const float* x, float* y) { check_matrix<true>(x, y); }
KERNEL_EXPORT(check_product)

// Right: the same of bfloat16, D = A B for A[m][k] = x[m + k] / 3 and B[k][n] = x[2 k + n].
extern "C" __global__ void check_half_words(const float* x, float* y)
{
    x += blockIdx.x * blockDim.x;
    y += blockIdx.x * blockDim.x;
    if (threadIdx.x >= 128) y[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x >= 32) return;

    const int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    float a[4], b[2], d[4] = {};
    for (int i = 0; i < 4; ++i) {
        const float* from = x + g + i % 2 * 8 + 2 * t + i / 2 * 8;
        a[i] = pair(from[0] / 3.0f, from[1] / 3.0f);
    }
    for (int i = 0; i < 2; ++i) {
        const float* from = x + 2 * (2 * t + 8 * i) + g;
        b[i] = pair(from[0], from[2]);
    }
    mma_bf16(d, a, b);
    for (int i = 0; i < 4; ++i) y[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}
KERNEL_EXPORT(check_half_words)

// Fault: numbers of 24 significant bits in a product that looks at 11.
extern "C" __global__ void check_not_rounded(const float* x, float* y) { check_matrix<false>(x, y); }
KERNEL_EXPORT(check_not_rounded)

// Fault: half of a warp multiplies matrices.
extern "C" __global__ void check_half_product(const float* x, float* y)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float a[4] = {}, b[2] = {}, d[4] = {x[i]};
    if (threadIdx.x % 32 < 16) mma_tf32(d, a, b);
    y[i] = d[0];
}
KERNEL_EXPORT(check_half_product)

// Fault: no barrier between writing and reading.
extern "C" __global__ void check_no_barrier(const float* x, float* y)
{
    SHARED(float, tile, 256);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = x[i];
    y[i] = tile[blockDim.x - 1 - threadIdx.x];
}
KERNEL_EXPORT(check_no_barrier)

// Fault: no barrier between reading and the next writing.
extern "C" __global__ void check_no_second_barrier(const float* x, float* y)
{
    SHARED(float, tile, 256);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = x[i];
    __syncthreads();
    const float read = tile[blockDim.x - 1 - threadIdx.x];
    tile[threadIdx.x] = 0.0f;
    y[i] = read;
}
KERNEL_EXPORT(check_no_second_barrier)

// Fault: half of the threads never come.
extern "C" __global__ void check_divergent(const float* x, float* y)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x < blockDim.x / 2) __syncthreads();
    y[i] = x[i];
}
KERNEL_EXPORT(check_divergent)

// Fault: both halves come, but not to the same barrier.
extern "C" __global__ void check_two_barriers(const float* x, float* y)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x < blockDim.x / 2) {
        __syncthreads();
        y[i] = x[i];
    } else {
        __syncthreads();
        y[i] = -x[i];
    }
}
KERNEL_EXPORT(check_two_barriers)

// Fault: a shuffle of the whole warp that half of it calls.
extern "C" __global__ void check_half_warp(const float* x, float* y)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = x[i];
    if (threadIdx.x % 32 < 16) value = __shfl_down_sync(~0u, value, 1);
    y[i] = value;
}
KERNEL_EXPORT(check_half_warp)

// Fault: reads what was copied without waiting for it; the wait comes too late.
extern "C" __global__ void check_late_wait(const float* x, float* y)
{
    SHARED(float, tile, 256);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    cp_async4(&tile[threadIdx.x], &x[i], true);
    cp_async_commit();
    y[i] = tile[threadIdx.x];
    cp_async_wait<0>();
}
KERNEL_EXPORT(check_late_wait)

// Fault: never waits.
extern "C" __global__ void check_no_wait(const float* x, float* y)
{
    SHARED(float, tile, 256);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    cp_async4(&tile[threadIdx.x], &x[i], true);
    cp_async_commit();
    y[i] = x[i];
}
KERNEL_EXPORT(check_no_wait)

// Fault: sixteen bytes at once from an address that is a multiple of four.
extern "C" __global__ void check_misaligned(const float* x, float* y)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = i > 0 ? reinterpret_cast<const float4*>(&x[i - 1])->y : x[0];
}
KERNEL_EXPORT(check_misaligned)

// Fault: an asynchronous copy from an address that is no multiple of four.
extern "C" __global__ void check_misaligned_copy(const float* x, float* y)
{
    SHARED(float, tile, 256);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    cp_async4(&tile[threadIdx.x], reinterpret_cast<const char*>(&x[i]) + 2, true);
    cp_async_commit();
    cp_async_wait<0>();
    y[i] = x[i];
}
KERNEL_EXPORT(check_misaligned_copy)

// Fault: 64 KiB of static shared memory.
extern "C" __global__ void check_large(const float* x, float* y)
{
    SHARED(float, first, 8 << 10);
    SHARED(float, second, 8 << 10);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    first[threadIdx.x] = second[threadIdx.x] = x[i];
    y[i] = first[threadIdx.x];
}
KERNEL_EXPORT(check_large)

// Fault: the array is one too short.
extern "C" __global__ void check_shared_overrun(const float* x, float* y)
{
    SHARED(float, tile, 255);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = x[i];
    __syncthreads();
    y[i] = tile[threadIdx.x];
}
KERNEL_EXPORT(check_shared_overrun)

// Fault: writes behind the end of global memory.
extern "C" __global__ void check_global_overrun(const float* x, float* y)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i + 1] = x[i];
}
KERNEL_EXPORT(check_global_overrun)
