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
