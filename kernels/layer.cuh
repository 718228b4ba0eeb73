// Sizes of a convolution, for the kernels of every precision (conv2d*.cu).

#pragma once

struct Layer {
    int from, into;     // channels of the image that is read, and of the result
    int height, width;  // of the result
    int rows, columns;  // of the image that is read
    int side, pad;      // of the filter, and how far it begins before the pixel of the result
    int total;          // in the result: pixels of the batch, or its samples
};

// Reads x.
__device__ inline Layer onward(
    int inputs, int outputs, int height, int width, int side, int pad, int total)
{
    const int more = side - 1 - 2 * pad;
    return {inputs, outputs, height, width, height + more, width + more, side, pad, total};
}

// Reads dy.
__device__ inline Layer back(
    int inputs, int outputs, int height, int width, int side, int pad, int total)
{
    const int more = side - 1 - 2 * pad;
    return {outputs, inputs, height + more, width + more, height, width, side, side - 1 - pad,
            total};
}
