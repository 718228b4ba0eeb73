// Two-dimensional convolution with bias and optional ReLU, in single precision.
//
//   y[b,o,r,c] = f( β[o] + Σ_{i,u,v} W[o,i,u,v] x[b,i,r+u−h,c+v−h] ),  h = ⌊k/2⌋
//
//   z̄ = ȳ where y > 0 under ReLU, ȳ otherwise
//   x̄[b,i,r,c]  = Σ_{o,u,v} W[o,i,k−1−u,k−1−v] z̄[b,o,r+u−h,c+v−h]
//   W̄[o,i,u,v]  = Σ_{b,r,c} z̄[b,o,r,c] x[b,i,r+u−h,c+v−h]
//   β̄[o]        = Σ_{b,r,c} z̄[b,o,r,c]
//
// A valid convolution has pad = 0 in the place of h, and an input of k − 1 more rows and columns.
//
// x  x       float  [B, I, H + k − 1 − 2 pad, W + k − 1 − 2 pad]   0 outside
// W  weight  float  [O, I, k, k]    k odd
// β  bias    float  [O]
// y  y       float  [B, O, H, W]
//    partial float  [S, n]          sums over S slices of the pixels of the batch
//
// Each is a matrix product whose second factor is gathered while it is loaded: 64 rows × 64 columns
// per block (16 × 256 for few channels), 4 × 4 per thread, 16 terms at a time in two shared
// buffers, one filled while the other is multiplied. Rows are channels of the result; columns are
// pixels, or weights of one output. Sums of 16 terms are formed apart, so that rounding does not
// pile up.
//
// CPU twin: src/ops/conv2d/; S and the grids: src/ops/conv2d/cuda.rs. With tensor cores, in lower
// precision: conv2d_tf32.cu.

#include "common.cuh"
#include "layer.cuh"

constexpr int kStep = 16;  // terms of the sums in a shared buffer
constexpr int kPad = 4;    // floats after a row of a buffer: other banks, still whole float4

// A number as digits: term (channel, row, column) of a filter, or pixel (sample, row, column).
struct Place {
    int plane, row, column;
};

__device__ inline Place place(int i, int rows, int columns)
{
    return {i / columns / rows, i / columns % rows, i % columns};
}

// a + b, without division.
__device__ inline Place sum(Place a, Place b, int rows, int columns)
{
    Place c = {a.plane + b.plane, a.row + b.row, a.column + b.column};
    if (c.column >= columns) { c.column -= columns; ++c.row; }
    if (c.row >= rows) { c.row -= rows; ++c.plane; }
    return c;
}

// Copies *from, or 0 if it is not valid; where `positive` is given, 0 unless *positive > 0.
__device__ inline void fetch(float* to, const float* from, const float* positive, bool valid)
{
    if (positive == nullptr) {
        cp_async4(to, from, valid);
    } else {
        *to = valid && *positive > 0.0f ? *from : 0.0f;
    }
}

// Weights [kStep terms][kRows channels]: a thread takes one term, `at`, of every 16th channel.
template <int kRows, bool kTurned>
__device__ inline void load_filters(float* tile, const float* weight, const Layer& l, Place at)
{
    const int k = (int)threadIdx.x % kStep, taps = l.side * l.side;
    const int tap = at.row * l.side + at.column;
    for (int r = (int)threadIdx.x / kStep; r < kRows; r += kBlock / kStep) {
        const int into = (int)blockIdx.y * kRows + r;
        const int from = kTurned ? (at.plane * l.into + into) * taps + taps - 1 - tap
                                 : (into * l.from + at.plane) * taps + tap;
        const bool valid = at.plane < l.from && into < l.into;
        cp_async4(&tile[k * (kRows + kPad) + r], valid ? weight + from : weight, valid);
    }
}

// What the filter sees [kStep terms][kColumns pixels]: a thread takes one pixel, and a run of terms
// from `at`.
template <int kColumns>
__device__ inline void load_image(
    float* tile, const float* x, const float* positive, const Layer& l, Place pixel, Place at)
{
    constexpr int kRun = kStep * kColumns / kBlock;
    const int column = (int)threadIdx.x % kColumns, first = (int)threadIdx.x / kColumns * kRun;
    const size_t sample = (size_t)pixel.plane * l.from * l.rows * l.columns;
    for (int k = first; k < first + kRun; ++k) {
        const int r = pixel.row + at.row - l.pad, c = pixel.column + at.column - l.pad;
        const bool valid = at.plane < l.from && r >= 0 && r < l.rows && c >= 0 && c < l.columns;
        const size_t from = valid ? sample + (at.plane * l.rows + r) * l.columns + c : 0;
        const float* mask = positive ? positive + from : nullptr;
        fetch(&tile[k * (kColumns + kPad) + column], x + from, mask, valid);
        at = sum(at, {0, 0, 1}, l.side, l.side);
    }
}

// Adds the product of two tiles of kStep terms to the 4 × 4 sums of this thread.
template <int kRows, int kColumns>
__device__ inline void multiply(const float* left, const float* right, float (&total)[4][4])
{
    const float* a = left + (int)threadIdx.x / (kColumns / 4) * 4;
    const float* b = right + (int)threadIdx.x % (kColumns / 4) * 4;
    float part[4][4] = {};
    for (int k = 0; k < kStep; ++k) {
        const float4 p = *reinterpret_cast<const float4*>(a + k * (kRows + kPad));
        const float4 q = *reinterpret_cast<const float4*>(b + k * (kColumns + kPad));
        const float u[4] = {p.x, p.y, p.z, p.w}, v[4] = {q.x, q.y, q.z, q.w};
        for (int i = 0; i < 4; ++i) {
            for (int j = 0; j < 4; ++j) part[i][j] += u[i] * v[j];
        }
    }
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) total[i][j] += part[i][j];
    }
}

// Convolution of x, masked by `positive` if given, with the filters as they are or turned by 180°;
// calls store(index into the result, channel, value).
template <int kRows, int kColumns, bool kTurned, class Store>
__device__ inline void correlate(
    const float* x, const float* positive, const float* weight, const Layer& l, Store store)
{
    constexpr int kLeft = kStep * (kRows + kPad), kRight = kStep * (kColumns + kPad);
    SHARED(float4, filters, kLeft / 2);
    SHARED(float4, image, kRight / 2);
    float* left = reinterpret_cast<float*>(filters);
    float* right = reinterpret_cast<float*>(image);

    const int t = (int)threadIdx.x, n = (int)blockIdx.x * kColumns + t % kColumns;
    const Place nowhere = {0, l.rows + l.side, 0};
    const Place pixel = n < l.total ? place(n, l.height, l.width) : nowhere;
    Place filter = place(t % kStep, l.side, l.side);
    Place term = place(t / kColumns * (kStep * kColumns / kBlock), l.side, l.side);
    const Place step = place(kStep, l.side, l.side);
    const int tiles = (l.from * l.side * l.side + kStep - 1) / kStep;
    float total[4][4] = {};
    for (int k = 0; k <= tiles; ++k) {
        if (k < tiles) {
            load_filters<kRows, kTurned>(left + k % 2 * kLeft, weight, l, filter);
            load_image<kColumns>(right + k % 2 * kRight, x, positive, l, pixel, term);
            filter = sum(filter, step, l.side, l.side);
            term = sum(term, step, l.side, l.side);
        }
        cp_async_commit();
        const int before = (k + 1) % 2;
        if (k > 0) multiply<kRows, kColumns>(left + before * kLeft, right + before * kRight, total);
        cp_async_wait<0>();
        __syncthreads();
    }

    const int channel = (int)blockIdx.y * kRows + t / (kColumns / 4) * 4;
    const int first = (int)blockIdx.x * kColumns + t % (kColumns / 4) * 4;
    const int plane = l.height * l.width;
    for (int j = 0; j < 4 && first + j < l.total; ++j) {
        const size_t sample = (size_t)((first + j) / plane) * l.into;
        for (int i = 0; i < 4 && channel + i < l.into; ++i) {
            store((sample + channel + i) * plane + (first + j) % plane, channel + i, total[i][j]);
        }
    }
}

template <int kRows, int kColumns>
__device__ inline void forward(
    const float* x, const float* weight, const float* bias, float* y, const Layer& l, int biased,
    int relu)
{
    correlate<kRows, kColumns, false>(x, nullptr, weight, l, [=](size_t at, int o, float z) {
        if (biased) z += bias[o];
        y[at] = relu ? fmaxf(z, 0.0f) : z;
    });
}

// A block computes 64 output channels of 64 pixels.
extern "C" __global__ void conv2d_forward(
    const float* __restrict__ x,       // [B, I, rows, columns]
    const float* __restrict__ weight,  // [O, I, k, k]
    const float* __restrict__ bias,    // [O], if biased
    float*       __restrict__ y,       // [B, O, H, W]
    const float* other_x, const float* other_weight, const float* other_bias, float* other_y,
    int inputs, int outputs, int height, int width, int side, int pad, int total,
    int biased, int relu)
{
    if (second(1)) x = other_x, weight = other_weight, bias = other_bias, y = other_y;
    const Layer layer = onward(inputs, outputs, height, width, side, pad, total);
    forward<64, 64>(x, weight, bias, y, layer, biased, relu);
}
KERNEL_EXPORT(conv2d_forward)

// The same for few channels: 16 output channels of 256 pixels.
extern "C" __global__ void conv2d_forward_narrow(
    const float* __restrict__ x,       // [B, I, rows, columns]
    const float* __restrict__ weight,  // [O, I, k, k]
    const float* __restrict__ bias,    // [O], if biased
    float*       __restrict__ y,       // [B, O, H, W]
    const float* other_x, const float* other_weight, const float* other_bias, float* other_y,
    int inputs, int outputs, int height, int width, int side, int pad, int total,
    int biased, int relu)
{
    if (second(1)) x = other_x, weight = other_weight, bias = other_bias, y = other_y;
    const Layer layer = onward(inputs, outputs, height, width, side, pad, total);
    forward<16, 256>(x, weight, bias, y, layer, biased, relu);
}
KERNEL_EXPORT(conv2d_forward_narrow)

template <int kRows, int kColumns>
__device__ inline void backward_data(
    const float* dy, const float* y, const float* weight, float* dx, const Layer& l, int relu,
    int accumulate)
{
    const float* positive = relu ? y : nullptr;
    correlate<kRows, kColumns, true>(dy, positive, weight, l, [=](size_t at, int, float z) {
        put(&dx[at], accumulate, z);
    });
}

// A block computes 64 input channels of 64 pixels.
extern "C" __global__ void conv2d_backward_data(
    const float* __restrict__ dy,      // [B, O, H, W]
    const float* __restrict__ y,       // [B, O, H, W]
    const float* __restrict__ weight,  // [O, I, k, k]
    float*       __restrict__ dx,      // [B, I, H, W]
    const float* other_dy, const float* other_y, const float* other_weight, float* other_dx,
    int inputs, int outputs, int height, int width, int side, int pad, int total,
    int relu, int accumulate)
{
    if (second(1)) dy = other_dy, y = other_y, weight = other_weight, dx = other_dx;
    const Layer layer = back(inputs, outputs, height, width, side, pad, total);
    backward_data<64, 64>(dy, y, weight, dx, layer, relu, accumulate);
}
KERNEL_EXPORT(conv2d_backward_data)

// The same for few channels: 16 input channels of 256 pixels.
extern "C" __global__ void conv2d_backward_data_narrow(
    const float* __restrict__ dy,      // [B, O, H, W]
    const float* __restrict__ y,       // [B, O, H, W]
    const float* __restrict__ weight,  // [O, I, k, k]
    float*       __restrict__ dx,      // [B, I, H, W]
    const float* other_dy, const float* other_y, const float* other_weight, float* other_dx,
    int inputs, int outputs, int height, int width, int side, int pad, int total,
    int relu, int accumulate)
{
    if (second(1)) dy = other_dy, y = other_y, weight = other_weight, dx = other_dx;
    const Layer layer = back(inputs, outputs, height, width, side, pad, total);
    backward_data<16, 256>(dy, y, weight, dx, layer, relu, accumulate);
}
KERNEL_EXPORT(conv2d_backward_data_narrow)

// z̄ [kStep pixels][kRows outputs]: a thread takes one pixel of every 16th output.
template <int kRows>
__device__ inline void load_gradient(
    float* tile, const float* dy, const float* positive, const Layer& l, Place pixel, bool inside)
{
    const int k = (int)threadIdx.x % kStep;
    for (int r = (int)threadIdx.x / kStep; r < kRows; r += kBlock / kStep) {
        const int o = (int)blockIdx.y * kRows + r;
        const bool valid = inside && o < l.into;
        const int row = pixel.row * l.width + pixel.column;
        const size_t plane = (size_t)pixel.plane * l.into + o;
        const size_t from = valid ? plane * l.height * l.width + row : 0;
        const float* mask = positive ? positive + from : nullptr;
        fetch(&tile[k * (kRows + kPad) + r], dy + from, mask, valid);
    }
}

// x under each weight [kStep pixels][kColumns weights]: a thread takes one pixel of every 16th
// weight, the first being `at`.
template <int kColumns>
__device__ inline void load_seen(
    float* tile, const float* x, const Layer& l, Place pixel, Place at, bool inside)
{
    const int k = (int)threadIdx.x % kStep;
    const size_t sample = (size_t)pixel.plane * l.from * l.rows * l.columns;
    const Place step = place(kBlock / kStep, l.side, l.side);
    for (int n = (int)threadIdx.x / kStep; n < kColumns; n += kBlock / kStep) {
        const int r = pixel.row + at.row - l.pad, c = pixel.column + at.column - l.pad;
        const bool image = r >= 0 && r < l.rows && c >= 0 && c < l.columns;
        const bool valid = inside && image && at.plane < l.from;
        const size_t from = valid ? sample + (at.plane * l.rows + r) * l.columns + c : 0;
        cp_async4(&tile[k * (kColumns + kPad) + n], x + from, valid);
        at = sum(at, step, l.side, l.side);
    }
}

template <int kRows, int kColumns>
__device__ inline void backward_weight(
    const float* x, const float* dy, const float* positive, float* partial, const Layer& l,
    int part, int slice)
{
    constexpr int kLeft = kStep * (kRows + kPad), kRight = kStep * (kColumns + kPad);
    SHARED(float4, gradient, kLeft / 2);
    SHARED(float4, seen, kRight / 2);
    float* left = reinterpret_cast<float*>(gradient);
    float* right = reinterpret_cast<float*>(seen);

    const int t = (int)threadIdx.x, weights = l.from * l.side * l.side;
    const int first = part * slice;
    const int end = first + slice < l.total ? first + slice : l.total;
    Place pixel = place(first + t % kStep, l.height, l.width);
    const Place weight = place((int)blockIdx.x * kColumns + t / kStep, l.side, l.side);
    const Place step = place(kStep, l.height, l.width);
    const int tiles = end > first ? (end - first + kStep - 1) / kStep : 0;
    float total[4][4] = {};
    for (int k = 0; k <= tiles; ++k) {
        if (k < tiles) {
            const bool inside = first + k * kStep + t % kStep < end;
            load_gradient<kRows>(left + k % 2 * kLeft, dy, positive, l, pixel, inside);
            load_seen<kColumns>(right + k % 2 * kRight, x, l, pixel, weight, inside);
            pixel = sum(pixel, step, l.height, l.width);
        }
        cp_async_commit();
        const int before = (k + 1) % 2;
        if (k > 0) multiply<kRows, kColumns>(left + before * kLeft, right + before * kRight, total);
        cp_async_wait<0>();
        __syncthreads();
    }

    const int output = (int)blockIdx.y * kRows + t / (kColumns / 4) * 4;
    const int column = (int)blockIdx.x * kColumns + t % (kColumns / 4) * 4;
    partial += (size_t)part * l.into * weights;
    for (int i = 0; i < 4 && output + i < l.into; ++i) {
        for (int j = 0; j < 4 && column + j < weights; ++j) {
            partial[(size_t)(output + i) * weights + column + j] = total[i][j];
        }
    }
}

// A block sums one slice of the pixels for 64 weights of 64 output channels.
extern "C" __global__ void conv2d_backward_weight(
    const float* __restrict__ x,        // [B, I, H, W]
    const float* __restrict__ dy,       // [B, O, H, W]
    const float* __restrict__ y,        // [B, O, H, W]
    float*       __restrict__ partial,  // [S, O, I, k, k]
    const float* other_x, const float* other_dy, const float* other_y, float* other_partial,
    int inputs, int outputs, int height, int width, int side, int pad, int total,
    int relu, int slice, int slices)
{
    if (second(slices)) x = other_x, dy = other_dy, y = other_y, partial = other_partial;
    const Layer layer = onward(inputs, outputs, height, width, side, pad, total);
    backward_weight<64, 64>(x, dy, relu ? y : nullptr, partial, layer, (int)blockIdx.z % slices, slice);
}
KERNEL_EXPORT(conv2d_backward_weight)

// The same for few channels: 256 weights of 16 output channels. Three blocks fit on a
// multiprocessor, if they use 80 registers at most.
extern "C" __global__ void __launch_bounds__(kBlock, 3) conv2d_backward_weight_narrow(
    const float* __restrict__ x,        // [B, I, H, W]
    const float* __restrict__ dy,       // [B, O, H, W]
    const float* __restrict__ y,        // [B, O, H, W]
    float*       __restrict__ partial,  // [S, O, I, k, k]
    const float* other_x, const float* other_dy, const float* other_y, float* other_partial,
    int inputs, int outputs, int height, int width, int side, int pad, int total,
    int relu, int slice, int slices)
{
    if (second(slices)) x = other_x, dy = other_dy, y = other_y, partial = other_partial;
    const Layer layer = onward(inputs, outputs, height, width, side, pad, total);
    backward_weight<16, 256>(x, dy, relu ? y : nullptr, partial, layer, (int)blockIdx.z % slices, slice);
}
KERNEL_EXPORT(conv2d_backward_weight_narrow)

// A block sums one slice of the pixels of one output channel.
extern "C" __global__ void conv2d_backward_bias(
    const float* __restrict__ dy,       // [B, O, H, W]
    const float* __restrict__ y,        // [B, O, H, W]
    float*       __restrict__ partial,  // [S, O]
    const float* other_dy, const float* other_y, float* other_partial,
    int outputs, int plane, int total, int relu, int slice)
{
    if (second(1)) dy = other_dy, y = other_y, partial = other_partial;
    const int o = (int)blockIdx.x, first = (int)blockIdx.y * slice;
    const int end = first + slice < total ? first + slice : total;
    double sum = 0.0;
    for (int n = first + (int)threadIdx.x; n < end; n += (int)blockDim.x) {
        const size_t at = ((size_t)(n / plane) * outputs + o) * plane + n % plane;
        if (!relu || y[at] > 0.0f) sum += (double)dy[at];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[(size_t)blockIdx.y * outputs + o] = (float)sum;
}
KERNEL_EXPORT(conv2d_backward_bias)

// One thread per weight or bias adds its slices in their order.
extern "C" __global__ void conv2d_backward_sum(
    const float* __restrict__ partial,   // [S, n]
    float*       __restrict__ gradient,  // [n]
    const float* other_partial, float* other_gradient,
    int slices, int total, int accumulate)
{
    if (second(1)) partial = other_partial, gradient = other_gradient;
    const int i = element();
    if (i >= total) return;

    double sum = 0.0;
    for (int s = 0; s < slices; ++s) sum += (double)partial[(size_t)s * total + i];
    put(&gradient[i], accumulate, (float)sum);
}
KERNEL_EXPORT(conv2d_backward_sum)
