//! The work on one block of tiles.

use std::ops::Range;

use ndarray::{ArrayViewMut3, Axis};

use super::unit::{Channels, TURN, Unit, turn_back};
use super::{CHAIN, LANES, Lane, PLACES, TAPS, transform};
use crate::backend::cpu::{Real, put};

/// Images [C, H, W]; where `positive` is given, zero wherever that is not positive.
#[derive(Clone, Copy)]
pub struct Image<'a, T> {
    pub values: &'a [T],
    pub positive: Option<&'a [T]>,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

/// A rectangle of tiles.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
}

/// The images of a batch, [B, C, H, W].
#[derive(Clone, Copy)]
pub struct Images<'a, T> {
    pub values: &'a [T],
    pub positive: Option<&'a [T]>,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl<'a, T> Images<'a, T> {
    pub fn sample(&self, sample: usize) -> Image<'a, T> {
        let Images { channels, height, width, .. } = *self;
        let len = channels * height * width;
        let part = |all: &'a [T]| &all[sample * len..][..len];
        Image {
            values: part(self.values),
            positive: self.positive.map(part),
            channels,
            height,
            width,
        }
    }
}

impl Tiles {
    /// Blocks of at most `most` tiles that cover an image, row by row.
    pub fn blocks(height: usize, width: usize, most: usize) -> impl Iterator<Item = Tiles> {
        let strips = Tiles::strips(height, width, most);
        strips.flat_map(move |strip| strip.parts(most))
    }

    /// Whole rows of tiles, at least one and as many as hold `most` tiles.
    pub fn strips(height: usize, width: usize, most: usize) -> impl Iterator<Item = Tiles> {
        let (all, columns) = (height.div_ceil(2), width.div_ceil(2));
        let rows = (most / columns).max(1);
        (0..all).step_by(rows).map(move |row| {
            let rows = rows.min(all - row);
            Tiles { row, rows, column: 0, columns }
        })
    }

    /// The strip, cut into parts of at most `most` tiles where it is one long row.
    pub fn parts(self, most: usize) -> impl Iterator<Item = Tiles> {
        let columns = if self.count() > most { most } else { self.columns };
        (0..self.columns).step_by(columns).map(move |column| {
            let columns = columns.min(self.columns - column);
            Tiles { column, columns, ..self }
        })
    }

    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Pixels of the rectangle and of `halo` more on each side.
    fn pixels(&self, halo: usize) -> usize {
        (2 * self.rows + 2 * halo) * self.pixel_columns(halo)
    }

    fn pixel_columns(&self, halo: usize) -> usize {
        2 * self.columns + 2 * halo
    }

    /// (number, row, column) of each tile, the last two from the corner of the rectangle.
    fn each(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let columns = self.columns;
        (0..self.count()).map(move |t| (t, t / columns, t % columns))
    }
}

/// A convolution of one sample.
pub struct Forward<'a, T> {
    pub image: Image<'a, T>,
    /// As [`transform::pack`] has them.
    pub filters: &'a [Lane<T>],
    pub bias: Option<&'a [T]>,
    pub relu: bool,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

/// Lanes of scratch for [`forward`], where `tiles` take `rows` rows in the products.
pub fn forward_len(inputs: usize, tiles: Tiles, rows: usize) -> usize {
    let groups = inputs.div_ceil(LANES);
    tiles.pixels(1) + PLACES * (rows * groups + 1 + rows) + 2 * tiles.pixels(0)
}

/// Computes the results of `tiles` into the rows of `y` [O, rows, W], whose first is that of the tiles.
#[inline(always)]
pub fn forward<T: Real, U: Unit<T>>(
    job: &Forward<T>,
    tiles: Tiles,
    scratch: &mut [Lane<T>],
    y: &mut ArrayViewMut3<T>,
) {
    let (inputs, rows) = (job.image.channels, U::padded(tiles.count()));
    let groups = inputs.div_ceil(LANES);
    // Places begin in different lines of the cache.
    let place_len = rows * groups + 1;
    let (pixels, rest) = scratch.split_at_mut(tiles.pixels(1));
    let (v, rest) = rest.split_at_mut(PLACES * place_len);
    let (m, rest) = rest.split_at_mut(PLACES * rows);
    for group in 0..groups {
        transform_pixels::<T, U>(
            &job.image,
            group,
            tiles,
            pixels,
            &mut v[group..],
            groups,
            place_len,
        );
    }
    for (group, filters) in job.filters.chunks_exact(PLACES * inputs).enumerate() {
        let places = v.chunks_exact(place_len).zip(filters.chunks_exact(inputs));
        for ((v, u), m) in places.zip(m.chunks_exact_mut(rows)) {
            multiply::<T, U>(v.as_flattened(), groups * LANES, u, m);
        }
        finish::<T, U>(job, group, tiles, m, rows, rest);
        store::<T, U>(job.accumulate, group, tiles, rest, y);
    }
}

/// All rows of one place, in parts of [`CHAIN`] input channels.
#[inline(always)]
fn multiply<T: Real, U: Unit<T>>(v: &[T], stride: usize, u: &[Lane<T>], m: &mut [Lane<T>]) {
    for (part, u) in u.chunks(CHAIN).enumerate() {
        for (first, count) in U::groups(m.len()) {
            let v = &v[first * stride + part * CHAIN..];
            U::multiply(v, stride, u, &mut m[first..first + count], part == 0);
        }
    }
}

/// Bᵀ d B of every tile, for sixteen channels: to v[place · place_len + tile · step].
#[inline(always)]
fn transform_pixels<T: Real, U: Unit<T>>(
    image: &Image<T>,
    group: usize,
    tiles: Tiles,
    pixels: &mut [Lane<T>],
    v: &mut [Lane<T>],
    step: usize,
    place_len: usize,
) {
    gather::<T, U>(image, group, tiles, 1, pixels);
    let width = tiles.pixel_columns(1);
    for (t, r, c) in tiles.each() {
        let mut tile = [[U::splat(T::zero()); 4]; 4];
        for (i, tile) in tile.iter_mut().enumerate() {
            let row = &pixels[(2 * r + i) * width + 2 * c..][..4];
            for (v, pixel) in tile.iter_mut().zip(row) {
                *v = U::load(pixel);
            }
        }
        for (place, &value) in transform::input::<T, U>(tile).as_flattened().iter().enumerate() {
            U::store(value, &mut v[place * place_len + t * step]);
        }
    }
}

/// The pixels of `tiles` and `halo` around them, sixteen channels of each side by side; zeros outside of
/// the image.
#[inline(always)]
fn gather<T: Real, U: Unit<T>>(
    image: &Image<T>,
    group: usize,
    tiles: Tiles,
    halo: usize,
    pixels: &mut [Lane<T>],
) {
    let (zero, channels) = ([T::zero(); LANES], image.channels(group));
    let columns = tiles.pixel_columns(halo);
    let first = 2 * tiles.column;
    // Columns of the image that there are, and how many are missing before them.
    let from = first.saturating_sub(halo);
    let before = (from + halo) - first;
    let count = (image.width - from).min(columns - before);
    for (r, pixels) in pixels[..tiles.pixels(halo)].chunks_exact_mut(columns).enumerate() {
        let row = (2 * tiles.row + r).wrapping_sub(halo);
        if row >= image.height {
            pixels.fill(zero);
            continue;
        }
        pixels[..before].fill(zero);
        pixels[before + count..].fill(zero);
        let pixels = &mut pixels[before..before + count];
        let at = row * image.width + from;
        for (eight, pixels) in pixels.chunks_mut(TURN).enumerate() {
            let at = at + eight * TURN;
            match pixels.try_into() {
                Ok(pixels) => U::turn(&channels, at, pixels),
                Err(_) => channels.turn(at, pixels),
            }
        }
    }
}

impl<'a, T: Real> Image<'a, T> {
    /// Up to sixteen channels.
    fn channels(&self, group: usize) -> Channels<'a, T> {
        let stride = self.height * self.width;
        let first = group * LANES;
        let part = |all: &'a [T]| &all[first * stride..];
        Channels {
            values: part(self.values),
            positive: self.positive.map(part),
            count: (self.channels - first).min(LANES),
            stride,
        }
    }
}

/// Aᵀ m A of every tile with bias and ReLU: the pixels of sixteen output channels.
#[inline(always)]
fn finish<T: Real, U: Unit<T>>(
    job: &Forward<T>,
    group: usize,
    tiles: Tiles,
    m: &[Lane<T>],
    rows: usize,
    results: &mut [Lane<T>],
) {
    let zero = U::splat(T::zero());
    let mut bias = [T::zero(); LANES];
    let all = job.bias.map_or(&[][..], |all| &all[group * LANES..]);
    bias.iter_mut().zip(all).for_each(|(to, &from)| *to = from);
    let bias = U::load(&bias);
    let width = tiles.pixel_columns(0);
    for (t, r, c) in tiles.each() {
        let mut tile = [[zero; 4]; 4];
        for (place, value) in tile.as_flattened_mut().iter_mut().enumerate() {
            *value = U::load(&m[place * rows + t]);
        }
        for (i, row) in transform::output::<T, U>(tile).iter().enumerate() {
            for (j, &value) in row.iter().enumerate() {
                let value = U::add(value, bias);
                let value = if job.relu { U::max(value, zero) } else { value };
                U::store(value, &mut results[(2 * r + i) * width + 2 * c + j]);
            }
        }
    }
}

/// Puts the pixels of sixteen output channels where they belong.
#[inline(always)]
fn store<T: Real, U: Unit<T>>(
    accumulate: bool,
    group: usize,
    tiles: Tiles,
    results: &mut [Lane<T>],
    y: &mut ArrayViewMut3<T>,
) {
    let (outputs, height, width) = y.dim();
    let pixels = tiles.pixels(0);
    let (results, turned) = results.split_at_mut(pixels);
    let turned = &mut turned.as_flattened_mut()[..LANES * pixels];
    for (at, eight) in results.chunks(TURN).enumerate() {
        let turned = &mut turned[at * TURN..];
        match eight.try_into() {
            Ok(eight) => U::turn_back(eight, turned, pixels),
            Err(_) => turn_back(eight, turned, pixels),
        }
    }
    let (columns, first) = (tiles.pixel_columns(0), 2 * tiles.column);
    let count = (width - first).min(columns);
    for (l, from) in turned.chunks_exact(pixels).enumerate().take(outputs - group * LANES) {
        let mut channel = y.index_axis_mut(Axis(0), group * LANES + l);
        let channel = channel.as_slice_mut().expect("whole rows of one channel lie together");
        let rows = channel.chunks_exact_mut(width).zip(from.chunks_exact(columns)).take(height);
        for (to, from) in rows {
            let pairs = to[first..first + count].iter_mut().zip(from);
            pairs.for_each(|(y, &value)| put(y, accumulate, value));
        }
    }
}

/// A share of the gradients of weights and bias: some samples, output channels and input channels.
pub struct Gradient<'a, T> {
    pub x: Images<'a, T>,
    pub dy: Images<'a, T>,
    pub samples: Range<usize>,
    /// Groups of sixteen channels.
    pub inputs: Range<usize>,
    pub outputs: Range<usize>,
    /// Tiles of a block at most.
    pub most: usize,
}

impl<T> Gradient<'_, T> {
    /// Lanes of the sums: [9 taps][input groups][output channels].
    pub fn sums_len(&self) -> usize {
        TAPS * self.inputs.len() * self.outputs.len() * LANES
    }

    /// Lanes of scratch for [`gradient`].
    pub fn scratch_len(&self) -> usize {
        let groups = 1 + self.inputs.len() + self.outputs.len();
        self.blocks().map(|tiles| tiles.pixels(1) * groups).max().unwrap_or(0)
    }

    fn blocks(&self) -> impl Iterator<Item = Tiles> + use<T> {
        Tiles::blocks(self.dy.height, self.dy.width, self.most)
    }
}

/// Sets `sums` to Σ z ⊗ x over samples and pixels, for each tap, and `bias`, sixteen output channels a
/// lane, to Σ z.
#[inline(always)]
pub fn gradient<T: Real, U: Unit<T>>(
    job: &Gradient<T>,
    scratch: &mut [Lane<T>],
    sums: &mut [Lane<T>],
    mut bias: Option<&mut [Lane<T>]>,
) {
    let (inputs, outputs) = (job.inputs.len(), job.outputs.len());
    sums.fill([T::zero(); LANES]);
    if let Some(bias) = &mut bias {
        bias.fill([T::zero(); LANES]);
    }
    for sample in job.samples.clone() {
        let (x, dy) = (job.x.sample(sample), job.dy.sample(sample));
        for tiles in job.blocks() {
            let len = tiles.pixels(1);
            let (pixels, rest) = scratch.split_at_mut(len);
            let (v, rest) = rest.split_at_mut(len * inputs);
            for (group, v) in job.inputs.clone().zip(v.chunks_exact_mut(len)) {
                gather::<T, U>(&x, group, tiles, 1, v);
            }
            let d = &mut rest[..2 * tiles.rows * tiles.pixel_columns(1) * outputs];
            for (at, group) in job.outputs.clone().enumerate() {
                gather::<T, U>(&dy, group, tiles, 0, pixels);
                if let Some(bias) = &mut bias {
                    add_pixels::<T, U>(&pixels[..tiles.pixels(0)], &mut bias[at]);
                }
                widen(tiles, pixels, &mut d[at..], outputs);
            }
            for (tap, sums) in sums.chunks_exact_mut(inputs * outputs * LANES).enumerate() {
                let first = tap / 3 * tiles.pixel_columns(1) + tap % 3;
                let shares = sums.chunks_exact_mut(outputs * LANES).zip(v.chunks_exact(len));
                for (sums, v) in shares {
                    add_products::<T, U>(&v[first..], d.as_flattened(), sums);
                }
            }
        }
    }
}

/// The products of one tap and sixteen input channels: sums[o] += Σ_p d[p][o] v[p].
#[inline(always)]
fn add_products<T: Real, U: Unit<T>>(v: &[Lane<T>], d: &[T], sums: &mut [Lane<T>]) {
    let stride = sums.len();
    for (first, rows) in U::groups(stride) {
        U::add_outer(&d[first..], stride, v, &mut sums[first..first + rows]);
    }
}

/// Rows of pixels as long as those with a halo, zeros at their ends: then all pixels of a block are one
/// sum, with the same distance to those that a tap meets.
#[inline(always)]
fn widen<T: Real>(tiles: Tiles, pixels: &[Lane<T>], d: &mut [Lane<T>], step: usize) {
    let (from, to) = (tiles.pixel_columns(0), tiles.pixel_columns(1));
    for (r, pixels) in pixels[..tiles.pixels(0)].chunks_exact(from).enumerate() {
        for c in 0..to {
            let pixel = pixels.get(c).copied().unwrap_or([T::zero(); LANES]);
            d[(r * to + c) * step] = pixel;
        }
    }
}

#[inline(always)]
fn add_pixels<T: Real, U: Unit<T>>(pixels: &[Lane<T>], sum: &mut Lane<T>) {
    let mut share = U::splat(T::zero());
    for pixel in pixels {
        share = U::add(share, U::load(pixel));
    }
    U::store(U::add(U::load(sum), share), sum);
}
