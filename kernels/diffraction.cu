// From the patches of an object to the misfit of their patterns, and back to the patches.
//
//   X_bc = the patch, or K_b(p + pad + d_bc) of the merged canvas of its group, bilinear
//   F_bcp = 1/N Σ P_{s(b) p} X_bc e^{−2πi k·r/N},  I_bc = Σ_p |F_bcp|²
//   ℓ_b = s_b Σ m f(I, a, κ)                   over channels and pixels: misfit.cuh
//
//   ∂L/∂I = u_b s_b m ∂f/∂I
//   ∂L/∂ψ_bcp = F⁻¹(2 ∂L/∂I F_bcp),  ∂L/∂X_bc = Σ_p conj(P_{s(b) p}) ∂L/∂ψ_bcp
//
// X   object     float2  [B, C, N, N]     or [B, S, S]: the canvas K
// d   offsets    float2  [B, C]           read if it is one
// P   probe      float2  [T, P, N, N]     T scans of P modes
// s   scan       float   [B]              index of the scan of each sample
// a   amplitude  float   [B, C, N, N]
// κ   dose       float   [B]
// m   mask       float   [T, N, N]
//     weight     float   [B]              u_b = factor · weight_b
// I   intensity  float   [B, C, N, N]
// ℓ   loss       float   [B]
//     partial    double  [B, C]           the part of each pattern, if there are several
//
// N = 64 or 128; a block holds a pattern in registers, in the layout of frame.cuh, from the load to
// the last store. Of one mode it reads X and a, and writes I and ∂L/∂X: 24 bytes of a pixel, where
// op after op moves 108; probe and mask are the same for all blocks and stay in the cache. Each
// further mode is transformed twice forward, for I and again for its gradient: to keep its field
// would move more.
//
// Estimated by counting for an H100 at 1.7 GHz, not measured: a pattern of 64 × 64 takes 29 ns of
// the memory (24 bytes of a pixel, 3.3 TB/s), 25 ns of all schedulers (about 175 instructions of a
// pixel, 85 of them of the transforms), 20 ns of shared memory (145 bytes of a pixel). That would be
// 40 % of the bandwidth if nothing overlapped; with two blocks on a multiprocessor 60 % is the aim.
//
// CPU twin: src/ops/diffraction.rs.

#include "bilinear.cuh"
#include "frame.cuh"
#include "misfit.cuh"

using namespace square_frame;

// The patch out of the canvas of its group; each thread makes the pixels that it will read.
template <int V>
__device__ inline void cut(
    const float2* canvas,  // [S, S]
    float2* patch,         // [N, N]
    int canvas_side, float2 offset, Member own)
{
    constexpr int n = kTeam * V;
    const Shift2 by = onto(offset, (canvas_side - n) / 2);
    ROLLED
    for (int i = 0; i < kLines * V; ++i) {
        const int at = in_column<V>(own, i / V, i % V);
        patch[at] = sample(canvas, canvas_side, by, at % n, at / n);
    }
}

// The exit wave of one mode.
template <int V>
__device__ inline void illuminate(
    const float2* patch,  // [N, N]
    const float2* probe,  // [N, N]
    float2 (&v)[kLines][V], Member own)
{
    UNROLL
    for (int i = 0; i < kLines * V; ++i) {
        const int at = in_column<V>(own, i / V, i % V);
        v[i / V][i % V] = product(probe[at], patch[at]);
        if (i % 16 == 15) __syncwarp();
    }
}

// Sum of `x` over a block of whole warps, at most 32 of them, in an order that never changes; every
// thread gets it.
__device__ inline double frame_sum(double x)
{
    SHARED(double, part, 32);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(~0u, x, (unsigned)step);
    if (lane == 0) part[warp] = x;
    __syncthreads();
    double sum = 0.0;
    for (int i = 0; i < (int)blockDim.x / 32; ++i) sum += part[i];
    __syncthreads();
    return sum;
}

// What a pattern is compared with, and how.
struct Comparison {
    int distance;
    float kappa, background, upstream;
};

// Adds a mode's part to the intensity, which stays in `frame` too.
template <int V>
__device__ inline void brighten(
    float* intensity,  // [N, N]
    float* frame, const float2 (&v)[kLines][V], int more, Member own)
{
    constexpr float kScale = 1.0f / (float)(kTeam * V * kTeam * V);
    UNROLL
    for (int i = 0; i < kLines * V; ++i) {
        const int at = in_row<V>(own, i / V, i % V);
        float sum = kScale * norm2(v[i / V][i % V]);
        if (more) sum += intensity[at];
        intensity[at] = sum;
        frame[in_frame<V>(own, i / V, i % V)] = sum;
    }
}

// This thread's part of Σ m f, and ∂L/∂I in the place of I. It is written if more modes need it.
template <int V>
__device__ inline double compare(
    const float* amplitude,  // [N, N]
    const float* mask,       // [N, N]
    float* dintensity,       // [N, N], or null
    float* frame, Comparison c, Member own)
{
    double sum = 0.0;
    // Logarithms and roots of so many pixels would be more code than the cache holds.
    ROLLED
    for (int i = 0; i < kLines * V; ++i) {
        const int at = in_row<V>(own, i / V, i % V);
        float& here = frame[in_frame<V>(own, i / V, i % V)];
        const float m = mask[at];
        float d = 0.0f;
        if (m != 0.0f) {
            const Misfit f = misfit_pixel(c.distance, here, amplitude[at], c.kappa, c.background);
            sum += (double)(m * f.term);
            d = c.upstream * m * f.slope;
        }
        here = d;
        if (dintensity) dintensity[at] = d;
    }
    return sum;
}

// From the field of a mode to the gradient of its exit wave; ∂L/∂I is in `dintensity` or `frame`.
template <int V>
__device__ inline void backward_wave(
    const float* dintensity,  // [N, N], or null
    float2 (&v)[kLines][V], const float2* turn, float* frame, Member own)
{
    constexpr float kScale = 2.0f / (float)(kTeam * V * kTeam * V);
    UNROLL
    for (int i = 0; i < kLines * V; ++i) {
        float2& z = v[i / V][i % V];
        const float d = dintensity ? dintensity[in_row<V>(own, i / V, i % V)]
                                   : frame[in_frame<V>(own, i / V, i % V)];
        z = swapped(scaled(kScale * d, z));
    }
    __syncwarp();
    transform_frame(v, turn, frame, own);
    UNROLL
    for (int i = 0; i < kLines * V; ++i) v[i / V][i % V] = swapped(v[i / V][i % V]);
}

// From the gradient of an exit wave to its share of that of the patch. In parts, whose loads cannot
// pass the stores before them: all at once they would take more registers than there are.
template <int V>
__device__ inline void backward_patch(
    const float2* probe,  // [N, N]
    float2* dpatch,       // [N, N]
    float2* dexit,        // [N, N], or null
    const float2 (&v)[kLines][V], int more, Member own)
{
    UNROLL
    for (int part = 0; part < kLines * V; part += kTeam) {
        float2 p[kTeam];
        UNROLL
        for (int j = 0; j < kTeam; ++j) {
            p[j] = probe[in_column<V>(own, (part + j) / V, (part + j) % V)];
        }
        UNROLL
        for (int j = 0; j < kTeam; ++j) {
            const int l = (part + j) / V, at = in_column<V>(own, l, (part + j) % V);
            const float2 d = v[l][(part + j) % V];
            put(&dpatch[at], more, conj_product(p[j], d));
            if (dexit) dexit[at] = d;
        }
    }
}

// Of the batch, and where in it the block's own pattern begins.
struct Buffers {
    const float2 *patches, *probe;
    const float *amplitude, *mask;
    float *intensity, *dintensity;
    float2 *dpatches, *dexit;
    int pattern, scan, modes, exits;
};

// Forward through all modes, and back, the last one first: its field is still there. Returns this
// thread's part of Σ m f.
template <int V>
__device__ inline double diffract(const Buffers& p, Comparison c, float* frame)
{
    constexpr int pixels = kTeam * V * kTeam * V;
    const Member own = member();
    SHARED(float2, turn, kTeam * V);
    fill_turns<V>(turn);
    __syncthreads();
    const int last = p.modes - 1, first = p.pattern * pixels;
    double sum = 0.0;
    float2 v[kLines][V];
    for (int pass = 0; pass <= 2 * last; ++pass) {
        const int mode = pass <= last ? pass : 2 * last - pass;
        const float2* probe = p.probe + (p.scan * p.modes + mode) * pixels;
        illuminate(p.patches + first, probe, v, own);
        transform_frame(v, turn, frame, own);
        if (pass <= last) brighten(p.intensity + first, frame, v, pass > 0, own);
        if (pass < last) continue;
        float* slopes = last > 0 ? p.dintensity + first : nullptr;
        const float* mask = p.mask + p.scan * pixels;
        if (pass == last) sum = compare<V>(p.amplitude + first, mask, slopes, frame, c, own);
        backward_wave(pass > last ? slopes : nullptr, v, turn, frame, own);
        float2* dexit = p.exits ? p.dexit + (p.pattern * p.modes + mode) * pixels : nullptr;
        backward_patch(probe, p.dpatches + first, dexit, v, pass > last, own);
    }
    return sum;
}

// One block per pattern, of eight threads for every second of its rows. Nothing is __restrict__: the
// compiler would load at once more than a thread has registers for.
extern "C" __global__ void __launch_bounds__(512) diffraction_forward(
    const float2* object,    // [B, C, N, N] or [B, S, S]
    const float2* offsets,   // [B, C], of a canvas
    const float2* probe,     // [T, P, N, N]
    const float* scan,       // [B]
    const float* amplitude,  // [B, C, N, N]
    const float* dose,       // [B]
    const float* mask,       // [T, N, N]
    const float* weight,     // [B]
    float* intensity,        // [B, C, N, N]
    float* loss,             // [B], if C = 1
    double* partial,         // [B, C], else
    float* dintensity,       // [B, C, N, N]      if there are several modes
    float2* patches,         // [B, C, N, N]      out of a canvas
    float2* dpatches,        // [B, C, N, N]
    float2* dexit,           // [B, C, P, N, N]   if wanted
    int channels, int modes, int side, int canvas_side, int exits, int distance, int mean,
    float factor, float background)
{
    SHARED_DYN(float, frame);  // [N, N + 8]
    const int own = (int)blockIdx.x, b = own / channels, s = (int)scan[b], pixels = side * side;
    if (canvas_side) {
        const float2* canvas = object + (size_t)b * canvas_side * canvas_side;
        float2* patch = patches + (size_t)own * pixels;
        if (side == 64) cut<8>(canvas, patch, canvas_side, offsets[own], member());
        else cut<16>(canvas, patch, canvas_side, offsets[own], member());
    }
    const float* valid = mask + (size_t)s * pixels;
    double share = 0.0;
    for (int i = (int)threadIdx.x; i < pixels; i += (int)blockDim.x) share += (double)valid[i];
    share = channels * frame_sum(share);
    share = !mean ? 1.0 : share > 0.0 ? 1.0 / share : 0.0;

    const Buffers buffers = {canvas_side ? patches : object, probe, amplitude, mask, intensity,
                             dintensity, dpatches, dexit, own, s, modes, exits};
    const Comparison how = {distance, dose[b], background, (float)(factor * share) * weight[b]};
    double sum = side == 64 ? diffract<8>(buffers, how, frame) : diffract<16>(buffers, how, frame);
    sum = share * frame_sum(sum);
    if (threadIdx.x > 0) return;

    if (channels == 1) loss[own] = (float)sum;
    else partial[own] = sum;
}
KERNEL_EXPORT(diffraction_forward)

// The loss of each sample. One thread each; patterns are summed in their order.
extern "C" __global__ void diffraction_sum(
    const double* partial,  // [B, C]
    float* loss,            // [B]
    int channels, int batch)
{
    const int b = element();
    if (b >= batch) return;

    double sum = 0.0;
    for (int c = b * channels; c < (b + 1) * channels; ++c) sum += partial[c];
    loss[b] = (float)sum;
}
KERNEL_EXPORT(diffraction_sum)
