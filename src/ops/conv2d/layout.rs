//! Padded planes and packed weights.
//!
//! A padded plane has k/2 rows and columns of zeros around the image and rows that hold a whole
//! number of vectors, so that the inner loops need no test for borders: row r of the image begins
//! at `(r + k/2) · stride + k/2`.
//!
//! Packed weights are [⌈O/4⌉][I][k·k][4]: what the inner loop reads next lies next.

use rayon::prelude::*;

use super::Sizes;
use crate::backend::cpu::Real;

/// Output channels of one register tile.
pub const OUTPUTS: usize = 4;

/// Elements of one vector.
pub const LANES: usize = 8;

impl Sizes {
    /// Zeros on each side.
    pub fn pad(&self) -> usize {
        self.side / 2
    }

    /// Elements between two rows of a padded plane.
    pub fn stride(&self) -> usize {
        self.width.next_multiple_of(LANES) + 2 * self.pad()
    }

    /// Elements of a padded plane.
    pub fn plane(&self) -> usize {
        (self.height + 2 * self.pad()) * self.stride()
    }

    /// Elements of an image.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Vectors that cover one row.
    pub fn vectors_per_row(&self) -> usize {
        self.width.div_ceil(LANES)
    }

    /// Filter taps.
    pub fn taps(&self) -> usize {
        self.side * self.side
    }
}

/// Elements of all padded planes of `channels` channels.
pub fn padded_len(sizes: &Sizes, channels: usize) -> usize {
    sizes.batch * channels * sizes.plane()
}

/// Elements of packed weights.
pub fn packed_len(outputs: usize, inputs: usize, side: usize) -> usize {
    outputs.next_multiple_of(OUTPUTS) * inputs * side * side
}

/// Copies [planes, H, W] into padded planes.
pub fn pad<T: Real>(sizes: &Sizes, images: &[T], padded: &mut [T]) {
    let pairs = padded.par_chunks_mut(sizes.plane()).zip(images.par_chunks(sizes.pixels()));
    pairs.for_each(|(padded, image)| {
        fill_plane(sizes, padded, |row, to| {
            to.copy_from_slice(&image[row * sizes.width..][..sizes.width])
        });
    });
}

/// Copies dy into padded planes where y > 0, zero elsewhere: the gradient before a ReLU.
pub fn pad_where_positive<T: Real>(sizes: &Sizes, dy: &[T], y: &[T], padded: &mut [T]) {
    let (n, w) = (sizes.pixels(), sizes.width);
    padded.par_chunks_mut(sizes.plane()).enumerate().for_each(|(i, padded)| {
        let (dy, y) = (&dy[i * n..][..n], &y[i * n..][..n]);
        fill_plane(sizes, padded, |row, to| {
            let from = dy[row * w..][..w].iter().zip(&y[row * w..][..w]);
            for (to, (&dy, &y)) in to.iter_mut().zip(from) {
                *to = if y > T::zero() { dy } else { T::zero() };
            }
        });
    });
}

/// Zeros around what `fill(row, pixels)` writes.
fn fill_plane<T: Real>(sizes: &Sizes, padded: &mut [T], mut fill: impl FnMut(usize, &mut [T])) {
    let (pad, stride) = (sizes.pad(), sizes.stride());
    padded[..pad * stride].fill(T::zero());
    padded[(pad + sizes.height) * stride..].fill(T::zero());
    for (row, line) in
        padded[pad * stride..].chunks_exact_mut(stride).take(sizes.height).enumerate()
    {
        line[..pad].fill(T::zero());
        fill(row, &mut line[pad..pad + sizes.width]);
        line[pad + sizes.width..].fill(T::zero());
    }
}

/// Packs [O, I, k, k] weights for the forward convolution.
pub fn pack<T: Real>(outputs: usize, inputs: usize, taps: usize, weight: &[T], packed: &mut [T]) {
    packed.par_chunks_mut(inputs * taps * OUTPUTS).enumerate().for_each(|(block, packed)| {
        for (at, packed) in packed.iter_mut().enumerate() {
            let (tap, o) = (at / OUTPUTS, block * OUTPUTS + at % OUTPUTS);
            *packed = if o < outputs { weight[o * inputs * taps + tap] } else { T::zero() };
        }
    });
}

/// Packs [O, I, k, k] weights for the gradient of the input: inputs and outputs exchanged, filters
/// turned by 180°.
pub fn pack_turned<T: Real>(
    outputs: usize,
    inputs: usize,
    taps: usize,
    weight: &[T],
    packed: &mut [T],
) {
    packed.par_chunks_mut(outputs * taps * OUTPUTS).enumerate().for_each(|(block, packed)| {
        for (at, packed) in packed.iter_mut().enumerate() {
            let (o, tap) = (at / OUTPUTS / taps, at / OUTPUTS % taps);
            let i = block * OUTPUTS + at % OUTPUTS;
            let turned = taps - 1 - tap;
            *packed = if i < inputs { weight[(o * inputs + i) * taps + turned] } else { T::zero() };
        }
    });
}
