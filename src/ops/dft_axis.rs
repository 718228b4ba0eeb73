//! A few frequencies of images along one axis, and images made of them.
//!
//! Analysis: X[k, l] = w_k Σ_n x[n, l] e^{−iθ}, synthesis: x[n, l] = Σ_k w_k Re(X[k, l] e^{iθ}),
//! with θ = 2π f_k n/N and K frequencies f_k = f₀ + k of a line of N pixels; l counts the lines.
//! With the same weights w each is the adjoint of the other.
//!
//! So few frequencies are kept that a matrix product takes fewer operations that can be done side
//! by side than a fast transform, has its sums in one order, and does not ask for a power of two.
//! Parts of a mode lie in rows of their own, [B, C, K, 2, L]: what mixes them works on whole rows.
//! L is padded to a multiple of 8; synthesis does not read the padding, analysis sets it to 0.
//! Kernel twin: `kernels/dft_axis.cu`.

use std::f64::consts::TAU;

use rayon::prelude::*;

use super::Operation;
use super::product::{Factor, pack, packed_len, padded, product};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Graph, Value};
use crate::launch::{BLOCK, Launch};

/// Numbers of an image that a block holds in shared memory.
const BLOCK_NUMBERS: usize = 4096;

/// Side of the squares in which lines are transposed.
const SQUARE: usize = 8;

/// The axis of [B, C, H, W] that is transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// H: a line is a column.
    Vertical,
    /// W: a line is a row.
    Horizontal,
}

/// w_k: what the modes are multiplied by. The kernels know each by its place in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// 1: the transform itself.
    One,
    /// 1/N: its inverse, where the modes of negative frequency are given too.
    Inverse,
    /// 2/N, but 1/N at frequencies 0 and N/2: its inverse for real numbers, from the modes of
    /// frequencies that are not negative.
    InverseReal,
}

/// K neighbouring frequencies of lines of N pixels.
#[derive(Clone, Copy, Debug)]
pub struct Band {
    /// N.
    pub length: usize,
    /// f₀, from 0 to N − 1: a negative frequency is counted from N downwards.
    pub first: usize,
    /// K.
    pub count: usize,
}

impl Band {
    /// f_k modulo N.
    pub fn frequency(&self, k: usize) -> usize {
        (self.first + k) % self.length
    }

    /// w_k.
    pub fn weight(&self, k: usize, weights: Weights) -> f64 {
        let (f, n) = (self.frequency(k), self.length);
        match weights {
            Weights::One => 1.0,
            Weights::Inverse => 1.0 / n as f64,
            Weights::InverseReal if f == 0 || 2 * f == n => 1.0 / n as f64,
            Weights::InverseReal => 2.0 / n as f64,
        }
    }

    /// cos and sin of 2π j/N for all j.
    pub fn turns(&self) -> Vec<[f64; 2]> {
        let angle = |j: usize| TAU * j as f64 / self.length as f64;
        (0..self.length).map(|j| [angle(j).cos(), angle(j).sin()]).collect()
    }
}

#[derive(Clone, Debug)]
pub struct DftAxis {
    pub(crate) image: Value,
    pub(crate) modes: Value,
    pub(crate) synthesis: bool,
    pub(crate) axis: Axis,
    pub(crate) band: Band,
    weights: Weights,
    /// Images of the batch, lines of an image and the same padded.
    planes: usize,
    lines: usize,
    row: usize,
    pub(crate) accumulate: bool,
}

/// [B, C, H, W] → [B, C, K, 2, L]: modes of `count` frequencies from `first` (modulo the length of
/// the axis) along `axis`.
pub fn analyse(g: &mut Graph, image: Value, axis: Axis, first: usize, count: usize) -> Value {
    let op = DftAxis::new(g.dims(image), axis, first, count);
    let [b, c, ..] = g.dims::<4>(image);
    let modes = g.work("modes", &[b, c, count, 2, op.row]);
    g.push(DftAxis { image, modes, ..op });
    modes
}

/// Adds to an image, or makes one of `shape` [B, C, H, W], from [B, C, K, 2, L].
pub fn synthesise(
    g: &mut Graph,
    modes: Value,
    shape: [usize; 4],
    axis: Axis,
    first: usize,
    weights: Weights,
    onto: Option<Value>,
) -> Value {
    let [b, c, count, parts, row] = g.dims(modes);
    let op = DftAxis::new(shape, axis, first, count);
    assert_eq!([b, c, parts, row], [shape[0], shape[1], 2, op.row], "modes of such images");
    let image = onto.unwrap_or_else(|| g.work("synthesis", &shape));
    assert_eq!(g.dims(image), shape, "images of one shape are added");
    let accumulate = onto.is_some();
    g.push(DftAxis { image, modes, synthesis: true, weights, accumulate, ..op });
    image
}

impl DftAxis {
    /// An analysis whose buffers are not known yet.
    fn new([b, c, h, w]: [usize; 4], axis: Axis, first: usize, count: usize) -> DftAxis {
        let (length, lines) = if axis == Axis::Vertical { (h, w) } else { (w, h) };
        assert!(first < length && (1..=length).contains(&count), "frequencies of {length} pixels");
        DftAxis {
            image: Value(0),
            modes: Value(0),
            synthesis: false,
            axis,
            band: Band { length, first, count },
            weights: Weights::One,
            planes: b * c,
            lines,
            row: padded(lines),
            accumulate: false,
        }
    }

    /// The buffers that are read and written.
    fn ends(&self) -> [Value; 2] {
        if self.synthesis { [self.modes, self.image] } else { [self.image, self.modes] }
    }

    /// w_k (cos θ, −sin θ) at row 2k + part and pixel n.
    pub(crate) fn matrix<T: Real>(&self) -> impl Fn(usize, usize) -> T + use<T> {
        let (band, weights, turns) = (self.band, self.weights, self.band.turns());
        move |row, n| {
            let [c, s] = turns[band.frequency(row / 2) * n % band.length];
            let w = band.weight(row / 2, weights);
            T::of(if row % 2 == 0 { w * c } else { -w * s })
        }
    }

    fn cpu_analyse<T: Real>(&self, image: &[T], modes: &mut [T]) {
        let (n, rows) = (self.band.length, 2 * self.band.count);
        let mut packed = vec![T::zero(); packed_len(rows, n)];
        pack(rows, n, &mut packed, self.matrix());
        let planes = image.par_chunks(n * self.lines).zip(modes.par_chunks_mut(rows * self.row));
        planes.for_each_init(
            || vec![T::zero(); n * self.row],
            |lines, (image, modes)| {
                let whole = self.axis == Axis::Vertical && self.lines == self.row;
                let lines = if whole { image } else { self.load_lines(image, lines) };
                product(rows, &packed, &Factor::matrix(lines, self.row), |r, at, numbers| {
                    let to = modes[r * self.row + at..].iter_mut().zip(numbers);
                    to.for_each(|(m, &x)| put(m, self.accumulate, x));
                });
            },
        );
    }

    /// Copies an image to [N, padded lines], zeros in the padding.
    fn load_lines<'a, T: Real>(&self, image: &[T], to: &'a mut [T]) -> &'a [T] {
        let (n, lines) = (self.band.length, self.lines);
        if self.axis == Axis::Vertical {
            for (from, to) in image.chunks_exact(lines).zip(to.chunks_exact_mut(self.row)) {
                to[..lines].copy_from_slice(from);
            }
            return to;
        }
        for (l0, n0) in squares(lines, n) {
            for l in l0..lines.min(l0 + SQUARE) {
                for n1 in n0..n.min(n0 + SQUARE) {
                    to[n1 * self.row + l] = image[l * n + n1];
                }
            }
        }
        to
    }

    fn cpu_synthesise<T: Real>(&self, modes: &[T], image: &mut [T]) {
        let (n, terms) = (self.band.length, 2 * self.band.count);
        let mut packed = vec![T::zero(); packed_len(n, terms)];
        let matrix = self.matrix();
        pack(n, terms, &mut packed, |n, row| matrix(row, n));
        let planes = modes.par_chunks(terms * self.row).zip(image.par_chunks_mut(n * self.lines));
        planes.for_each_init(
            || vec![T::zero(); n * self.row],
            |lines, (modes, image)| {
                product(n, &packed, &Factor::matrix(modes, self.row), |n, at, numbers| {
                    lines[n * self.row + at..][..numbers.len()].copy_from_slice(numbers);
                });
                self.store_lines(lines, image);
            },
        );
    }

    /// Sets or adds [N, padded lines] to an image.
    fn store_lines<T: Real>(&self, from: &[T], image: &mut [T]) {
        let (n, lines) = (self.band.length, self.lines);
        if self.axis == Axis::Vertical {
            for (from, image) in from.chunks_exact(self.row).zip(image.chunks_exact_mut(lines)) {
                image.iter_mut().zip(from).for_each(|(x, &y)| put(x, self.accumulate, y));
            }
            return;
        }
        for (l0, n0) in squares(lines, n) {
            for l in l0..lines.min(l0 + SQUARE) {
                for n1 in n0..n.min(n0 + SQUARE) {
                    put(&mut image[l * n + n1], self.accumulate, from[n1 * self.row + l]);
                }
            }
        }
    }
}

/// The upper left corners of squares that cover `rows` × `columns`.
fn squares(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = (0..rows).step_by(SQUARE);
    starts.flat_map(move |r| (0..columns).step_by(SQUARE).map(move |c| (r, c)))
}

impl Operation for DftAxis {
    fn reads(&self) -> Vec<Value> {
        vec![self.ends()[0]]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.ends()[1]]
    }

    fn backward(&self, g: &mut Graph) {
        let [from, to] = self.ends();
        let Some(dto) = g.grad_of(to) else { return };
        let Some(dfrom) = g.grad_into(from) else { return };
        let [image, modes] = if self.synthesis { [dto, dfrom.value] } else { [dfrom.value, dto] };
        let (synthesis, accumulate) = (!self.synthesis, dfrom.accumulate);
        g.push(DftAxis { image, modes, synthesis, accumulate, ..self.clone() });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [from, to] = mem.get(self.ends());
        if self.synthesis { self.cpu_synthesise(from, to) } else { self.cpu_analyse(from, to) }
    }

    /// One block for each few lines of each image.
    fn launches(&self) -> Vec<Launch> {
        let Band { length, first, count } = self.band;
        let numbers = if self.synthesis { 2 * count } else { length };
        // A power of two, so that neighbouring threads work on neighbouring lines.
        let lines = (BLOCK_NUMBERS / numbers).clamp(1, self.row);
        let lines = 1 << lines.ilog2();
        let kernel = if self.synthesis { "dft_axis_synthesise" } else { "dft_axis_analyse" };
        let [from, to] = self.ends();
        let vertical = usize::from(self.axis == Axis::Vertical);
        let launch = Launch::blocks(kernel, self.planes)
            .buffers([from, to])
            .ints([length, first, count, self.lines, self.row, lines, vertical])
            .ints([self.weights as usize, self.accumulate.into()]);
        let grid = [launch.grid[0], self.row.div_ceil(lines) as u32, 1];
        let shared = (numbers * (lines + 1) + 2 * length) * size_of::<f32>();
        let shared = u32::try_from(shared).expect("shared memory is small");
        vec![Launch { grid, shared, block: BLOCK, ..launch }]
    }
}
