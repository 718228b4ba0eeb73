// Fourier transform of a square frame that a block keeps in registers.
//
//   Y[k] = Σ_r X[r] e^{−2πi k·r/N}            N = 8 V, V = 8 or 16; not divided by N
//
// Eight threads, a team, share two lines, the second N/2 after the first; thread t of them has
// their numbers t + 8 j, j < V. A block is N/2 teams, a warp four. A line is transformed by radix 8,
// then radix V, after each of which the numbers lie as before; between the two they change hands
// inside of the team. Between columns and rows they do so inside of the block. Real and imaginary
// parts go one after the other, so that a frame of 128 × 128 takes 68 KiB of shared memory, which
// every GPU has for a block.
//
// Shared memory, frame: N lines of N + 8 floats. Of the 32 lanes of a warp, which are four lines of
// eight threads, no two ever touch one bank.
//
// The inverse: swap real and imaginary parts, transform, swap.

#pragma once

#include "common.cuh"

namespace square_frame {

constexpr int kTeam = 8;
constexpr float kDiagonal = 0.70710678118654752f;  // cos π/4
constexpr float kCosine = 0.92387953251128676f;    // cos π/8
constexpr float kSine = 0.38268343236508977f;      // sin π/8

constexpr int kLines = 2;  // of a team

// Of a thread: the first line of its team, and which of the team it is.
struct Member {
    int line, t;
};

__device__ inline Member member()
{
    return {(int)threadIdx.x / kTeam, (int)threadIdx.x % kTeam};
}

// Pixel of number j of line l of this thread, where lines are rows.
template <int V>
__device__ inline int in_row(Member own, int l, int j)
{
    constexpr int n = kTeam * V;
    return (own.line + l * (n / kLines)) * n + own.t + kTeam * j;
}

// The same where they are columns.
template <int V>
__device__ inline int in_column(Member own, int l, int j)
{
    constexpr int n = kTeam * V;
    return (own.t + kTeam * j) * n + own.line + l * (n / kLines);
}

// Where a thread may keep a float of its own for each of its numbers while nothing is transformed.
template <int V>
__device__ inline int in_frame(Member own, int l, int j)
{
    return (own.line + l * (kTeam * V / kLines)) * kTeam * (V + 1) + own.t * (V + 1) + j;
}

__device__ inline float2 subtract(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }

__device__ inline float2 swapped(float2 a) { return make_float2(a.y, a.x); }

// e^{−iπ/2} a
__device__ inline float2 quarter(float2 a) { return make_float2(a.y, -a.x); }

// e^{−iπ/4} a
__device__ inline float2 eighth(float2 a)
{
    return scaled(kDiagonal, make_float2(a.x + a.y, a.y - a.x));
}

__device__ inline void dft4(float2& a, float2& b, float2& c, float2& d)
{
    const float2 even = add(a, c), odd = subtract(a, c);
    const float2 sum = add(b, d), turn = quarter(subtract(b, d));
    a = add(even, sum);
    b = add(odd, turn);
    c = subtract(even, sum);
    d = subtract(odd, turn);
}

// Of v[0], v[S], … v[7 S], in their order.
template <int S>
__device__ inline void dft8(float2* v)
{
    dft4(v[0], v[2 * S], v[4 * S], v[6 * S]);
    dft4(v[S], v[3 * S], v[5 * S], v[7 * S]);
    const float2 even[4] = {v[0], v[2 * S], v[4 * S], v[6 * S]};
    const float2 odd[4] = {v[S], eighth(v[3 * S]), quarter(v[5 * S]), quarter(eighth(v[7 * S]))};
    UNROLL
    for (int k = 0; k < 4; ++k) {
        v[k * S] = add(even[k], odd[k]);
        v[(k + 4) * S] = subtract(even[k], odd[k]);
    }
}

// The last step of a line of 64: V = 8.
__device__ inline void dft_rest(float2 (&v)[8]) { dft8<1>(v); }

// The same of 128: V = 16.
__device__ inline void dft_rest(float2 (&v)[16])
{
    UNROLL
    for (int n = 0; n < 4; ++n) dft4(v[n], v[n + 4], v[n + 8], v[n + 12]);
    v[5] = product(make_float2(kCosine, -kSine), v[5]);
    v[6] = eighth(v[6]);
    v[7] = product(make_float2(kSine, -kCosine), v[7]);
    v[9] = eighth(v[9]);
    v[10] = quarter(v[10]);
    v[11] = quarter(eighth(v[11]));
    v[13] = product(make_float2(kSine, -kCosine), v[13]);
    v[14] = quarter(eighth(v[14]));
    v[15] = product(make_float2(-kCosine, kSine), v[15]);
    UNROLL
    for (int k = 0; k < 4; ++k) dft4(v[4 * k], v[4 * k + 1], v[4 * k + 2], v[4 * k + 3]);
    // Number k + 4 j is in v[4 k + j].
    UNROLL
    for (int k = 0; k < 4; ++k) {
        UNROLL
        for (int j = 0; j < k; ++j) {
            const float2 z = v[4 * k + j];
            v[4 * k + j] = v[4 * j + k];
            v[4 * j + k] = z;
        }
    }
}

// e^{−2πi j/N} for j < N. Not for use before a barrier.
template <int V>
__device__ inline void fill_turns(float2* turn)
{
    for (int j = (int)threadIdx.x; j < kTeam * V; j += (int)blockDim.x) {
        float s, c;
        sincospif((float)j / (float)(kTeam * V / 2), &s, &c);
        turn[j] = make_float2(c, -s);
    }
}

// From thread t having numbers t + 8 i of each part k of a line, to its having part t as a whole.
template <int V>
__device__ inline void change_hands(float2 (&v)[V], float* row, int t)
{
    constexpr int kParts = V / kTeam, kPitch = V + 1;
    UNROLL
    for (int imaginary = 0; imaginary < 2; ++imaginary) {
        UNROLL
        for (int j = 0; j < V; ++j) {
            const int at = j / kParts * kPitch + t + kTeam * (j % kParts);
            row[at] = imaginary ? v[j].y : v[j].x;
        }
        __syncwarp();
        UNROLL
        for (int j = 0; j < V; ++j) (imaginary ? v[j].y : v[j].x) = row[t * kPitch + j];
        __syncwarp();
    }
}

// A line, by its team alone.
template <int V>
__device__ inline void transform_line(float2 (&v)[V], const float2* turn, float* row, int t)
{
    constexpr int kParts = V / kTeam;
    UNROLL
    for (int i = 0; i < kParts; ++i) {
        dft8<kParts>(v + i);
        UNROLL
        for (int k = 1; k < kTeam; ++k) {
            v[i + kParts * k] = product(turn[(t + kTeam * i) * k], v[i + kParts * k]);
        }
    }
    change_hands(v, row, t);
    dft_rest(v);
}

// From lines along one axis to lines along the other. The exchange of fours keeps threads off
// each other's banks, in both directions.
template <int V>
__device__ inline void turn_frame(float2 (&v)[kLines][V], float* frame, Member own)
{
    constexpr int kPitch = kTeam * (V + 1), kApart = kTeam * V / kLines;
    UNROLL
    for (int imaginary = 0; imaginary < 2; ++imaginary) {
        UNROLL
        for (int i = 0; i < kLines * V; ++i) {
            const float2 z = v[i / V][i % V];
            const int line = own.line + i / V * kApart;
            frame[line * kPitch + ((own.t ^ (own.line & 4)) + kTeam * (i % V))] =
                imaginary ? z.y : z.x;
        }
        __syncthreads();
        UNROLL
        for (int i = 0; i < kLines * V; ++i) {
            float2& z = v[i / V][i % V];
            const int line = (own.line ^ (own.t & 4)) + i / V * kApart;
            (imaginary ? z.y : z.x) = frame[(own.t + kTeam * (i % V)) * kPitch + line];
        }
        __syncthreads();
    }
}

// Numbers of columns come in, of rows go out; or the other way round.
template <int V>
__device__ inline void transform_frame(
    float2 (&v)[kLines][V], const float2* turn, float* frame, Member own)
{
    constexpr int kPitch = kTeam * (V + 1), kApart = kTeam * V / kLines;
    ROLLED
    for (int axis = 0; axis < 2; ++axis) {
        if (axis > 0) turn_frame(v, frame, own);
        UNROLL
        for (int l = 0; l < kLines; ++l) {
            transform_line(v[l], turn, frame + (own.line + l * kApart) * kPitch, own.t);
        }
    }
}

}  // namespace square_frame
