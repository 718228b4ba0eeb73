//! Unitary two-dimensional Fourier transform of square complex frames.
//!
//! Y[k] = 1/N Σ_r X[r] e^{∓2πi k·r/N}, minus forward, plus inverse. The map is unitary, so that the
//! adjoint is the inverse: x̄ = F⁻¹ ȳ.
//! Kernel twin: `kernels/fft2.cu`.

use rayon::prelude::*;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftDirection};

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Graph, Value};

/// Side of the square that a transpose moves at once: two of them fit in the first-level cache.
const TILE: usize = 16;

#[derive(Clone, Debug)]
pub struct Fft2 {
    x: Value,
    y: Value,
    side: usize,
    inverse: bool,
    /// Add to `y` instead of overwriting it: `y` is a gradient.
    accumulate: bool,
}

/// [.., N, N, 2] → [.., N, N, 2]: the forward transform of every frame. Any N.
pub fn fft2(g: &mut Graph, x: Value) -> Value {
    let shape = g.shape(x).to_vec();
    let &[.., rows, side, 2] = shape.as_slice() else {
        panic!("{} has shape {shape:?}, not square complex frames", g.name(x))
    };
    assert_eq!(rows, side, "frames of {} are square", g.name(x));
    let y = g.work("far field", &shape);
    g.push(Fft2 { x, y, side, inverse: false, accumulate: false });
    y
}

impl Operation for Fft2 {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        let inverse = !self.inverse;
        g.push(Fft2 { x: dy, y: dx.value, side: self.side, inverse, accumulate: dx.accumulate });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let direction = if self.inverse { FftDirection::Inverse } else { FftDirection::Forward };
        let fft = &*mem.fft(self.side, direction);
        let [x, y] = mem.get([self.x, self.y]);
        let frame = 2 * self.side * self.side;
        x.par_chunks(frame).zip(y.par_chunks_mut(frame)).for_each_init(
            || Scratch::new(fft),
            |scratch, (x, y)| scratch.transform(fft, x, y, self.accumulate),
        );
    }
}

/// Working memory of one rayon task.
struct Scratch<T> {
    frame: Vec<Complex<T>>,
    turned: Vec<Complex<T>>,
    fft: Vec<Complex<T>>,
}

impl<T: Real> Scratch<T> {
    fn new(fft: &dyn Fft<T>) -> Scratch<T> {
        let zeros = |len| vec![Complex::new(T::zero(), T::zero()); len];
        let pixels = fft.len() * fft.len();
        Scratch {
            frame: zeros(pixels),
            turned: zeros(pixels),
            fft: zeros(fft.get_inplace_scratch_len()),
        }
    }

    /// Rows, transpose, rows, transpose.
    fn transform(&mut self, fft: &dyn Fft<T>, x: &[T], y: &mut [T], accumulate: bool) {
        let n = fft.len();
        for (z, x) in self.frame.iter_mut().zip(x.chunks_exact(2)) {
            *z = Complex::new(x[0], x[1]);
        }
        fft.process_with_scratch(&mut self.frame, &mut self.fft);
        let turned = &mut self.turned;
        transposed(n, |to, from| turned[to] = self.frame[from]);
        fft.process_with_scratch(&mut self.turned, &mut self.fft);
        let unitary = T::one() / T::of(n as f64);
        transposed(n, |to, from| {
            let z = self.turned[from];
            put(&mut y[2 * to], accumulate, unitary * z.re);
            put(&mut y[2 * to + 1], accumulate, unitary * z.im);
        });
    }
}

/// Calls `copy(to, from)` for every pixel of an n × n frame and its transpose, tile by tile.
#[inline(always)]
fn transposed(n: usize, mut copy: impl FnMut(usize, usize)) {
    for y0 in (0..n).step_by(TILE) {
        for x0 in (0..n).step_by(TILE) {
            for y in y0..n.min(y0 + TILE) {
                for x in x0..n.min(x0 + TILE) {
                    copy(y * n + x, x * n + y);
                }
            }
        }
    }
}
