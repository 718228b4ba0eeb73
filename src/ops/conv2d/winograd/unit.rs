//! Vectors of sixteen numbers on each vector unit of this machine, and the matrix products of a block.
//!
//! The loops are the same for all units; what differs is how many sums their registers hold, and whether
//! a multiply-add rounds once. AVX2 and AVX-512 give the same bits.

use ndarray::ArrayViewMut3;

use super::block::{self, Forward, Gradient, Tiles};
use super::{LANES, Lane};
use crate::backend::cpu::Real;

#[cfg(target_arch = "x86_64")]
#[path = "unit_x86.rs"]
mod x86;

/// Columns of pixels that are turned at once.
pub const TURN: usize = 8;

/// What a vector unit does with sixteen channels at a time. Its functions are inlined into code that is
/// compiled for the unit.
pub trait Unit<T: Real> {
    /// Sixteen numbers.
    type V: Copy;

    /// Rows of a matrix product whose sums the registers hold: from so many
    const FEWEST: usize;
    /// to so many.
    const MOST: usize;

    fn load(lane: &Lane<T>) -> Self::V;
    fn store(v: Self::V, lane: &mut Lane<T>);
    fn splat(x: T) -> Self::V;
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// a b + c.
    fn multiply_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// m[r] (+)= Σ_i v[r · stride + i] · u[i] for all rows of m, from FEWEST to MOST.
    fn multiply(v: &[T], stride: usize, u: &[Lane<T>], m: &mut [Lane<T>], first: bool);

    /// sums[r] += Σ_p d[p · stride + r] · v[p], for all rows of `sums`, from FEWEST to MOST.
    fn add_outer(d: &[T], stride: usize, v: &[Lane<T>], sums: &mut [Lane<T>]);

    /// Eight pixels of up to sixteen channels, from channels to pixels.
    #[inline(always)]
    fn turn(channels: &Channels<T>, at: usize, pixels: &mut [Lane<T>; TURN]) {
        channels.turn(at, pixels);
    }

    /// Eight pixels of sixteen channels back to channels, `stride` apart.
    #[inline(always)]
    fn turn_back(pixels: &[Lane<T>; TURN], channels: &mut [T], stride: usize) {
        turn_back(pixels, channels, stride);
    }

    /// Rows that a product of `rows` is computed with: what fills whole groups.
    fn padded(rows: usize) -> usize {
        rows.max(rows.div_ceil(Self::MOST) * Self::FEWEST)
    }

    /// The groups of padded rows: (first row, rows).
    #[inline(always)]
    fn groups(rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let groups = rows.div_ceil(Self::MOST);
        let first = move |k: usize| k * (rows / groups) + k.min(rows % groups);
        (0..groups).map(move |k| (first(k), first(k + 1) - first(k)))
    }
}

/// Up to sixteen channels of an image.
pub struct Channels<'a, T> {
    /// From the first channel on, and the same of what must be positive for a value to count.
    pub values: &'a [T],
    pub positive: Option<&'a [T]>,
    pub count: usize,
    /// Elements from one to the next.
    pub stride: usize,
}

impl<T: Real> Channels<'_, T> {
    /// Pixels from `at` on; zeros for channels that there are not.
    pub fn turn(&self, at: usize, pixels: &mut [Lane<T>]) {
        let count = pixels.len();
        pixels.fill([T::zero(); LANES]);
        for l in 0..self.count {
            let place = at + l * self.stride;
            let values = &self.values[place..][..count];
            match self.positive {
                Some(positive) => {
                    let pairs = values.iter().zip(&positive[place..][..count]);
                    for (pixel, (&value, &y)) in pixels.iter_mut().zip(pairs) {
                        pixel[l] = if y > T::zero() { value } else { T::zero() };
                    }
                }
                None => values.iter().zip(&mut *pixels).for_each(|(&x, pixel)| pixel[l] = x),
            }
        }
    }
}

/// Pixels of sixteen channels back to channels, `stride` apart.
pub fn turn_back<T: Real>(pixels: &[Lane<T>], channels: &mut [T], stride: usize) {
    for (l, channel) in channels.chunks_mut(stride).enumerate() {
        channel.iter_mut().zip(pixels).for_each(|(x, pixel)| *x = pixel[l]);
    }
}

/// [`block::forward`] on one vector unit.
type ForwardBlock<T> = fn(&Forward<T>, Tiles, &mut [Lane<T>], &mut ArrayViewMut3<T>);

/// [`block::gradient`] on one vector unit.
type GradientBlocks<T> = fn(&Gradient<T>, &mut [Lane<T>], &mut [Lane<T>], Option<&mut [Lane<T>]>);

/// The work on blocks for one element type on this machine.
pub struct Winograd<T> {
    pub forward: ForwardBlock<T>,
    pub gradient: GradientBlocks<T>,
    /// Rows that so many tiles take in the matrix products.
    pub padded: fn(usize) -> usize,
}

/// [`Unit::multiply`] with R rows.
#[inline(always)]
fn multiply<T: Real, U: Unit<T>, const R: usize>(
    v: &[T],
    stride: usize,
    u: &[Lane<T>],
    m: &mut [Lane<T>],
    first: bool,
) {
    let rows: [&[T]; R] = std::array::from_fn(|r| &v[r * stride..][..u.len()]);
    let mut sums = [U::splat(T::zero()); R];
    for (i, u) in u.iter().enumerate() {
        let u = U::load(u);
        for r in 0..R {
            sums[r] = U::multiply_add(U::splat(rows[r][i]), u, sums[r]);
        }
    }
    for (m, sum) in m.iter_mut().zip(sums) {
        let sum = if first { sum } else { U::add(U::load(m), sum) };
        U::store(sum, m);
    }
}

/// [`Unit::add_outer`] with R rows.
#[inline(always)]
fn add_outer<T: Real, U: Unit<T>, const R: usize>(
    d: &[T],
    stride: usize,
    v: &[Lane<T>],
    to: &mut [Lane<T>],
) {
    let mut sums = [U::splat(T::zero()); R];
    assert!(stride >= R, "a pixel has all rows");
    for (d, v) in d.chunks_exact(stride).zip(v) {
        let (d, v) = (&d[..R], U::load(v));
        for r in 0..R {
            sums[r] = U::multiply_add(U::splat(d[r]), v, sums[r]);
        }
    }
    for (to, sum) in to.iter_mut().zip(sums) {
        U::store(U::add(U::load(to), sum), to);
    }
}

/// Any machine; rounds twice.
pub struct Portable;

impl<T: Real> Unit<T> for Portable {
    type V = Lane<T>;
    const FEWEST: usize = 1;
    const MOST: usize = 2;

    #[inline(always)]
    fn load(lane: &Lane<T>) -> Lane<T> {
        *lane
    }
    #[inline(always)]
    fn store(v: Lane<T>, lane: &mut Lane<T>) {
        *lane = v;
    }
    #[inline(always)]
    fn splat(x: T) -> Lane<T> {
        [x; LANES]
    }
    #[inline(always)]
    fn add(mut a: Lane<T>, b: Lane<T>) -> Lane<T> {
        (0..LANES).for_each(|l| a[l] += b[l]);
        a
    }
    #[inline(always)]
    fn sub(mut a: Lane<T>, b: Lane<T>) -> Lane<T> {
        (0..LANES).for_each(|l| a[l] = a[l] - b[l]);
        a
    }
    #[inline(always)]
    fn mul(mut a: Lane<T>, b: Lane<T>) -> Lane<T> {
        (0..LANES).for_each(|l| a[l] = a[l] * b[l]);
        a
    }
    #[inline(always)]
    fn max(mut a: Lane<T>, b: Lane<T>) -> Lane<T> {
        (0..LANES).for_each(|l| a[l] = a[l].max(b[l]));
        a
    }
    #[inline(always)]
    fn multiply_add(a: Lane<T>, b: Lane<T>, mut c: Lane<T>) -> Lane<T> {
        (0..LANES).for_each(|l| c[l] += a[l] * b[l]);
        c
    }

    fn multiply(v: &[T], stride: usize, u: &[Lane<T>], m: &mut [Lane<T>], first: bool) {
        match m.len() {
            2 => multiply::<T, Self, 2>(v, stride, u, m, first),
            _ => multiply::<T, Self, 1>(v, stride, u, m, first),
        }
    }

    fn add_outer(d: &[T], stride: usize, v: &[Lane<T>], sums: &mut [Lane<T>]) {
        match sums.len() {
            2 => add_outer::<T, Self, 2>(d, stride, v, sums),
            _ => add_outer::<T, Self, 1>(d, stride, v, sums),
        }
    }
}

impl<T: Real> Winograd<T> {
    pub const PORTABLE: Winograd<T> = Winograd {
        forward: block::forward::<T, Portable>,
        gradient: block::gradient::<T, Portable>,
        padded: <Portable as Unit<T>>::padded,
    };
}
