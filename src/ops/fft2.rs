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
use crate::launch::Launch;

/// Side of the square that a transpose moves at once: two of them fit in the first-level cache.
const TILE: usize = 16;

/// The largest power of two whose frames fit the shared memory that every GPU has for a block:
/// 99 KiB. (128 would need 129 KiB, which compute capability 8.0, 9.0 and 10.0 have, 8.6, 8.9 and
/// 12.0 have not.)
const FRAME_SIDE: usize = 64;

/// Complex numbers in shared memory where they do not; the longest line that a block can take.
const BLOCK_NUMBERS: usize = 4096;

/// Bytes of a complex number on a GPU.
const COMPLEX: usize = 2 * size_of::<f32>();

#[derive(Clone, Debug)]
pub struct Fft2 {
    x: Value,
    y: Value,
    /// What the kernels keep between rows and columns, unless a block holds a whole frame.
    rows: Option<Value>,
    frames: usize,
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
    push(g, x, y, side, false, false);
    y
}

fn push(g: &mut Graph, x: Value, y: Value, side: usize, inverse: bool, accumulate: bool) {
    let (shape, frames) = (g.shape(x).to_vec(), g.len(x) / (2 * side * side));
    let rows = (!fits(side)).then(|| g.work("transformed rows", &shape));
    g.push(Fft2 { x, y, rows, frames, side, inverse, accumulate });
}

/// Whether one block transforms a whole frame.
fn fits(side: usize) -> bool {
    side.is_power_of_two() && side <= FRAME_SIDE
}

impl Fft2 {
    /// A transform that is a part of another op, whose kernel does all of it: on the CPU alone.
    pub(super) fn part([x, y]: [Value; 2], frames: usize, side: usize, inverse: bool) -> Fft2 {
        Fft2 { x, y, rows: None, frames, side, inverse, accumulate: false }
    }

    /// One block for each frame.
    fn launch_frames(&self) -> Launch {
        let (n, bits) = (self.side, self.side.ilog2() as usize);
        let flags = [self.inverse, self.accumulate].map(usize::from);
        let launch = Launch::blocks("fft2_frame", self.frames).buffers([self.x, self.y]);
        let launch = launch.ints([bits]).ints(flags);
        // Four butterflies of a pass for each thread, as far as a block can grow.
        let block = (n * n / 8).clamp(32, 1024) as u32;
        Launch { block, shared: bytes(n * n + n / 2), ..launch }
    }

    /// One block for each few rows, or columns, of each frame.
    fn launch_lines(&self, from: Value, to: Value, columns: bool) -> Launch {
        let n = self.side;
        let accumulate = usize::from(columns && self.accumulate);
        let scale = if columns { 1.0 / n as f64 } else { 1.0 };
        let (columns, inverse) = (usize::from(columns), usize::from(self.inverse));
        let whole = n.is_power_of_two() && n <= BLOCK_NUMBERS;
        let kernel = if whole { "fft2_lines" } else { "fft2_any" };
        let launch = Launch::blocks(kernel, self.frames).buffers([from, to]);
        let (launch, lines, numbers) = if whole {
            let lines = BLOCK_NUMBERS / n;
            let bits = [n, lines].map(|n| n.ilog2() as usize);
            (launch.ints(bits), lines, lines * (n + 1) + n / 2)
        } else {
            (launch.ints([n]), 1, 2 * n)
        };
        let grid = [launch.grid[0], (n / lines) as u32, 1];
        let launch = launch.ints([columns, inverse, accumulate]).floats([scale]);
        Launch { grid, shared: bytes(numbers), ..launch }
    }
}

/// Bytes of so many complex numbers.
fn bytes(numbers: usize) -> u32 {
    u32::try_from(numbers * COMPLEX).expect("shared memory is small")
}

impl Operation for Fft2 {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        [self.y].into_iter().chain(self.rows).collect()
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        push(g, dy, dx.value, self.side, !self.inverse, dx.accumulate);
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

    fn launches(&self) -> Vec<Launch> {
        let Some(between) = self.rows else { return vec![self.launch_frames()] };
        let rows = self.launch_lines(self.x, between, false);
        vec![rows, self.launch_lines(between, self.y, true)]
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
