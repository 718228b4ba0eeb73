//! Bilinear sampling of a square image, zero outside: the rule of merge and extraction.
//!
//! An image sampled at p + d takes A[p, q] = tent(p + d − q) along each axis. The tent is even, so
//! Aᴴ samples at q − d: the adjoint of a translation is the opposite one, borders included.

use crate::backend::cpu::Real;

/// A shift along one axis, as whole pixels and a part in [0, 1].
#[derive(Clone, Copy)]
pub(super) struct Shift<T> {
    pub whole: isize,
    pub part: T,
}

impl<T: Real> Shift<T> {
    pub fn new(by: T, whole: isize) -> Shift<T> {
        let floor = num_traits::Float::floor(by);
        Shift { whole: whole + floor.wide() as isize, part: by - floor }
    }

    /// The two pixels around `i` + shift, and their weights.
    #[inline(always)]
    pub fn taps(self, i: usize) -> [(isize, T); 2] {
        let at = i as isize + self.whole;
        [(at, T::one() - self.part), (at + 1, self.part)]
    }
}

/// Where the patch of one member of a group is sampled: its offset (dx, dy) along both axes.
#[derive(Clone, Copy)]
pub(super) struct Shift2<T> {
    pub x: Shift<T>,
    pub y: Shift<T>,
}

impl<T: Real> Shift2<T> {
    /// At p + pad + d: from patch to canvas.
    pub fn onto(offset: &[T], pad: usize) -> Shift2<T> {
        let [x, y] = [0, 1].map(|axis| Shift::new(offset[axis], pad as isize));
        Shift2 { x, y }
    }

    /// At p − pad − d: from canvas to patch.
    pub fn back(offset: &[T], pad: usize) -> Shift2<T> {
        let [x, y] = [0, 1].map(|axis| Shift::new(-offset[axis], -(pad as isize)));
        Shift2 { x, y }
    }

    /// The two rows of `image` that row `y` of the result lies between; `width` numbers each.
    pub fn rows<'a>(self, image: &'a [T], width: usize, y: usize) -> Rows<'a, T> {
        let row = |(at, weight)| (range(image, at, width).unwrap_or_default(), weight);
        Rows { rows: self.y.taps(y).map(row), across: self.x }
    }

    /// The rows of the image that row `y` of the result lies between, by index, if there.
    pub fn row_taps(self, y: usize, rows: usize) -> impl Iterator<Item = (usize, T)> {
        inside(self.y.taps(y), rows)
    }

    /// The same along a row.
    #[inline(always)]
    pub fn column_taps(self, x: usize, columns: usize) -> impl Iterator<Item = (usize, T)> {
        inside(self.x.taps(x), columns)
    }
}

fn inside<T: Real>(taps: [(isize, T); 2], n: usize) -> impl Iterator<Item = (usize, T)> {
    let there = move |(at, weight)| Some((usize::try_from(at).ok().filter(|&i| i < n)?, weight));
    taps.into_iter().filter_map(there)
}

/// Two neighbouring rows of an image, empty where there is none.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    rows: [(&'a [T], T); 2],
    across: Shift<T>,
}

impl<T: Real> Rows<'_, T> {
    /// The K numbers of pixel `x` of the result.
    #[inline(always)]
    pub fn sample<const K: usize>(&self, x: usize) -> [T; K] {
        let mut sum = [T::zero(); K];
        for (row, weight) in self.rows {
            for (at, across) in self.across.taps(x) {
                let pixel = range(row, at, K).unwrap_or_default();
                for (sum, &pixel) in sum.iter_mut().zip(pixel) {
                    *sum += weight * across * pixel;
                }
            }
        }
        sum
    }
}

/// Chunk `at` of `width` numbers, if `data` has it.
#[inline(always)]
fn range<T>(data: &[T], at: isize, width: usize) -> Option<&[T]> {
    let from = usize::try_from(at).ok()? * width;
    data.get(from..from + width)
}
