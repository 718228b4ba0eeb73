//! Padded planes and packed weights.
//!
//! A padded plane has k/2 rows of zeros above and below the image and at least 8 zeros between two
//! rows, so that the inner loops need no test for borders: row r of the image begins at
//! `(r + k/2) · stride + 8`. Rows begin at a multiple of 8 elements, so that the loads of the
//! middle tap and of the gradient do not cross cache lines.
//!
//! Packed weights are [⌈O/6⌉][I][k·k][6]: what the inner loop reads next lies next.

use rayon::prelude::*;

use super::Sizes;
use crate::backend::cpu::Real;

/// Output channels of a packed block.
pub const OUTPUTS: usize = 6;

/// Elements of one vector.
pub const LANES: usize = 8;

/// Zeros before each row; at least k/2 for every filter in use.
const MARGIN: usize = LANES;

impl Sizes {
    /// Pixels that a filter sees on each side of its own.
    pub fn reach(&self) -> usize {
        self.side / 2
    }

    /// Pixels of the input around the result, on each side: none but in a valid convolution.
    pub fn ring(&self) -> usize {
        self.reach() - self.pad
    }

    /// The convolution that gives an image as large as the input of this one.
    pub fn outer(&self) -> Sizes {
        let (height, width) = (self.height + 2 * self.ring(), self.width + 2 * self.ring());
        Sizes { height, width, pad: self.reach(), ..*self }
    }

    /// Elements between two rows of a padded plane.
    pub fn stride(&self) -> usize {
        self.width.next_multiple_of(LANES) + MARGIN
    }

    /// Elements of a padded plane.
    pub fn plane(&self) -> usize {
        (self.height + 2 * self.reach()) * self.stride() + MARGIN
    }

    /// Where row `row` of the image begins in its padded plane.
    pub fn row(&self, row: usize) -> usize {
        (row + self.reach()) * self.stride() + MARGIN
    }

    /// Where the first tap of the filter lies for the pixel at the start of row `row`.
    pub fn first_tap(&self, row: usize) -> usize {
        row * self.stride() + MARGIN - self.reach()
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

/// Copies the input, [planes, H + 2 ring, W + 2 ring], into padded planes: what lies around the
/// result takes the place of zeros.
pub fn pad_input<T: Real>(sizes: &Sizes, images: &[T], padded: &mut [T]) {
    if sizes.ring() == 0 {
        return pad(sizes, images, padded);
    }
    let outer = sizes.outer();
    let pairs = padded.par_chunks_mut(sizes.plane()).zip(images.par_chunks(outer.pixels()));
    pairs.for_each(|(padded, image)| {
        padded.fill(T::zero());
        for (row, pixels) in image.chunks_exact(outer.width).enumerate() {
            padded[sizes.first_tap(row)..][..outer.width].copy_from_slice(pixels);
        }
    });
}

/// Copies [planes, H, W] into padded planes of the outer convolution, zeros in the ring.
pub fn pad_outer<T: Real>(sizes: &Sizes, images: &[T], padded: &mut [T]) {
    let (outer, ring) = (sizes.outer(), sizes.ring());
    let pairs = padded.par_chunks_mut(outer.plane()).zip(images.par_chunks(sizes.pixels()));
    pairs.for_each(|(padded, image)| {
        padded.fill(T::zero());
        for (row, pixels) in image.chunks_exact(sizes.width).enumerate() {
            padded[outer.row(row + ring) + ring..][..sizes.width].copy_from_slice(pixels);
        }
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
    padded[..sizes.row(0)].fill(T::zero());
    for row in 0..sizes.height {
        let line = &mut padded[sizes.row(row)..sizes.row(row + 1)];
        fill(row, &mut line[..sizes.width]);
        line[sizes.width..].fill(T::zero());
    }
    padded[sizes.row(sizes.height)..].fill(T::zero());
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
