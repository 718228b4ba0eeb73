//! The second axis of a truncated two-dimensional transform: what [`dft_axis`](super::dft_axis) has
//! done with columns goes on along rows, and the samples of the batch become neighbours.
//!
//! Analysis: Z[c, (k, q), b] = w_q Σ_n U[b, c, k, n] e^{−iθ}, synthesis:
//! U[b, c, k, n] = Σ_q w_q Z[c, (k, q), b] e^{iθ}, all complex, θ = 2π f_q n/N, f_q = f₀ + q. With
//! the same weights w each is the adjoint of the other. Every mode has one number a sample and
//! channel: with the samples side by side, what mixes modes works on whole rows again.
//! Rows are padded to a multiple of 8 with zeros that nothing depends on.
//! Kernel twin: `kernels/dft_plane.cu`.

use rayon::prelude::*;

use super::Operation;
use super::dft_axis::{Band, Weights};
use super::product::{Factor, pack, packed_len, padded, product};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct DftPlane {
    /// U, [B, C, K, 2, N padded].
    pub(crate) lines: Value,
    /// Z, [1, C, K·Q, 2, B padded].
    pub(crate) modes: Value,
    pub(crate) synthesis: bool,
    pub(crate) band: Band,
    weights: Weights,
    samples: usize,
    pub(crate) channels: usize,
    /// K, frequencies of the first axis.
    pub(crate) rows: usize,
    accumulate: bool,
}

/// [B, C, K, 2, L] modes of columns, of which there are `length` → [1, C, K·`count`, 2, B padded to
/// a multiple of 8]: modes of both axes, those of the columns outermost.
pub fn analyse(g: &mut Graph, lines: Value, length: usize, first: usize, count: usize) -> Value {
    let [samples, channels, rows, parts, row] = g.dims(lines);
    assert_eq!([parts, row], [2, padded(length)], "modes of {length} columns");
    assert!(first < length && (1..=length).contains(&count), "frequencies of {length} pixels");
    let modes = g.work("plane modes", &[1, channels, rows * count, 2, padded(samples)]);
    let (band, weights) = (Band { length, first, count }, Weights::One);
    let (synthesis, accumulate) = (false, false);
    g.push(DftPlane {
        lines,
        modes,
        synthesis,
        band,
        weights,
        samples,
        channels,
        rows,
        accumulate,
    });
    modes
}

/// [1, C, K·Q, 2, B padded] → [B, C, K, 2, L]: modes of columns, of which there are `length`, for
/// `samples` samples; the Q frequencies begin at `first`.
pub fn synthesise(
    g: &mut Graph,
    modes: Value,
    [samples, rows, length]: [usize; 3],
    first: usize,
    weights: Weights,
) -> Value {
    let [one, channels, both, parts, row] = g.dims(modes);
    assert_eq!([one, parts, row], [1, 2, padded(samples)], "modes of {samples} samples");
    let count = both / rows;
    assert!(first < length && (1..=length).contains(&count), "frequencies of {length} pixels");
    let lines = g.work("modes of columns", &[samples, channels, rows, 2, padded(length)]);
    let (band, synthesis, accumulate) = (Band { length, first, count }, true, false);
    g.push(DftPlane {
        lines,
        modes,
        synthesis,
        band,
        weights,
        samples,
        channels,
        rows,
        accumulate,
    });
    lines
}

impl DftPlane {
    /// The buffers that are read and written.
    fn ends(&self) -> [Value; 2] {
        if self.synthesis { [self.modes, self.lines] } else { [self.lines, self.modes] }
    }

    /// Numbers of a complex row of `lines`, padding included.
    fn line(&self) -> usize {
        2 * padded(self.band.length)
    }

    /// w_q e^{iθ} as a real matrix: row 2q + part of the modes, and number n of the part's half of a
    /// row of `lines`; 0 in the padding.
    pub(crate) fn matrix<T: Real>(&self) -> impl Fn(usize, usize) -> T + use<T> {
        let (band, weights, turns) = (self.band, self.weights, self.band.turns());
        let half = padded(band.length);
        move |row, at| {
            let (q, n) = (row / 2, at % half);
            if n >= band.length {
                return T::zero();
            }
            let [c, s] = turns[band.frequency(q) * n % band.length];
            let turn = match (row % 2, at / half) {
                (0, 1) => s,
                (1, 0) => -s,
                _ => c,
            };
            T::of(band.weight(q, weights) * turn)
        }
    }

    /// Channel by channel; the rows of a sample are the left factor.
    fn cpu_analyse<T: Real>(&self, lines: &[T], modes: &mut [T]) {
        let (line, terms) = (self.line(), 2 * self.band.count);
        let (columns, row) = (padded(terms), padded(self.samples));
        let entry = self.matrix();
        let mut matrix = vec![T::zero(); line * columns];
        for (at, numbers) in matrix.chunks_exact_mut(columns).enumerate() {
            numbers[..terms].iter_mut().enumerate().for_each(|(r, m)| *m = entry(r, at));
        }
        let channels = modes.par_chunks_mut(self.rows * terms * row).enumerate();
        let packed = || vec![T::zero(); packed_len(self.rows, line)];
        channels.for_each_init(packed, |packed, (c, modes)| {
            if !self.accumulate {
                modes.fill(T::zero());
            }
            for b in 0..self.samples {
                let lines = &lines[(b * self.channels + c) * self.rows * line..];
                pack(self.rows, line, packed, |k, at| lines[k * line + at]);
                product(self.rows, packed, &Factor::matrix(&matrix, columns), |k, at, sums| {
                    for (r, &sum) in (at..terms).zip(sums) {
                        put(&mut modes[(k * terms + r) * row + b], self.accumulate, sum);
                    }
                });
            }
        });
    }

    /// Image by image; the modes are the left factor.
    fn cpu_synthesise<T: Real>(&self, modes: &[T], lines: &mut [T]) {
        let (line, terms, row) = (self.line(), 2 * self.band.count, padded(self.samples));
        let entry = self.matrix();
        let mut matrix = vec![T::zero(); terms * line];
        for (r, numbers) in matrix.chunks_exact_mut(line).enumerate() {
            numbers.iter_mut().enumerate().for_each(|(at, m)| *m = entry(r, at));
        }
        let images = lines.par_chunks_mut(self.rows * line).enumerate();
        let packed = || vec![T::zero(); packed_len(self.rows, terms)];
        images.for_each_init(packed, |packed, (image, lines)| {
            let (b, c) = (image / self.channels, image % self.channels);
            let modes = &modes[c * self.rows * terms * row..];
            pack(self.rows, terms, packed, |k, r| modes[(k * terms + r) * row + b]);
            product(self.rows, packed, &Factor::matrix(&matrix, line), |k, at, numbers| {
                let to = lines[k * line + at..].iter_mut().zip(numbers);
                to.for_each(|(u, &x)| put(u, self.accumulate, x));
            });
        });
    }
}

impl Operation for DftPlane {
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
        let [lines, modes] = if self.synthesis { [dto, dfrom.value] } else { [dfrom.value, dto] };
        let (synthesis, accumulate) = (!self.synthesis, dfrom.accumulate);
        g.push(DftPlane { lines, modes, synthesis, accumulate, ..self.clone() });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [from, to] = mem.get(self.ends());
        if self.synthesis { self.cpu_synthesise(from, to) } else { self.cpu_analyse(from, to) }
    }

    fn launches(&self) -> Vec<Launch> {
        let Band { length, first, count } = self.band;
        let (line, row) = (self.line() / 2, padded(self.samples));
        let (kernel, total) = if self.synthesis {
            ("dft_plane_synthesise", self.samples * self.channels * self.rows * line)
        } else {
            ("dft_plane_analyse", row * self.channels * self.rows * count)
        };
        let [from, to] = self.ends();
        let launch = Launch::elements(kernel, total)
            .buffers([from, to])
            .ints([length, first, count, self.samples, self.channels, self.rows, line, row])
            .ints([self.weights as usize, total, self.accumulate.into()]);
        let shared = u32::try_from(2 * length * size_of::<f32>()).expect("shared memory is small");
        vec![Launch { shared, ..launch }]
    }
}
