//! Patches out of one canvas that all samples share: the object, where it is itself the parameter.
//!
//! X_b(p) = K(p + c_b + d_b), bilinear and zero outside, with a whole-pixel corner c and a shift d
//! of any size. They are kept apart, so that f32 loses nothing on a large canvas. The adjoint is
//! K̄(q) = Σ_b X̄_b(q − c_b − d_b), and d̄_b = Σ_p Re[conj(X̄_b(p)) ∂X_b(p)/∂d], the derivative of
//! the bilinear rule (where d is whole, that to the right).
//! Kernel twin: `kernels/cut.cu`.

use rayon::prelude::*;

use super::Operation;
use super::bilinear::Shift;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// Whole numbers up to here are exact in f32, and corners are stored so.
const EXACT: usize = 1 << 24;

#[derive(Clone, Debug)]
pub struct Cut {
    canvas: Value,
    corner: Value,
    shift: Value,
    patches: Value,
    batch: usize,
    side: usize,
    height: usize,
    width: usize,
}

#[derive(Clone, Debug)]
pub struct CutBackward {
    forward: Cut,
    dpatches: Value,
    dcanvas: Option<Grad>,
    dshift: Option<Grad>,
}

/// [H, W, 2] canvas, [B, 2] corners (column, row) in whole pixels and [B, 2] shifts (x, y) in
/// pixels → [B, 1, N, N, 2] patches, N = `side`.
pub fn cut(g: &mut Graph, canvas: Value, corner: Value, shift: Value, side: usize) -> Value {
    let [height, width, re_im] = g.dims(canvas);
    let [batch, xy] = g.dims(corner);
    assert_eq!((re_im, xy), (2, 2), "a canvas is complex, and a corner has two coordinates");
    assert_eq!(g.shape(shift), [batch, 2], "one shift for each corner");
    assert!(height.max(width) <= EXACT, "every corner is exact in f32");
    let patches = g.work("patches", &[batch, 1, side, side, 2]);
    g.push(Cut { canvas, corner, shift, patches, batch, side, height, width });
    patches
}

/// Where one patch lies.
#[derive(Clone, Copy)]
struct Place<T> {
    x: Shift<T>,
    y: Shift<T>,
}

impl Cut {
    fn places<T: Real>(corner: &[T], shift: &[T]) -> Vec<Place<T>> {
        let place = |(c, d): (&[T], &[T])| {
            let axis = |i: usize| Shift::new(d[i], c[i].wide() as isize);
            Place { x: axis(0), y: axis(1) }
        };
        corner.chunks_exact(2).zip(shift.chunks_exact(2)).map(place).collect()
    }

    /// Row `row` of the canvas, if there.
    fn row<'a, T>(&self, canvas: &'a [T], row: isize) -> Option<&'a [T]> {
        let row = usize::try_from(row).ok().filter(|&row| row < self.height)?;
        Some(&canvas[row * 2 * self.width..][..2 * self.width])
    }

    /// Columns of a patch, and of the canvas, that meet where the patch begins at column `at`:
    /// first of the patch, first of the canvas, how many.
    fn meeting(&self, at: isize) -> (usize, usize, usize) {
        let first = at.min(0).unsigned_abs().min(self.side);
        let from = at.max(0).unsigned_abs().min(self.width);
        (first, from, (self.side - first).min(self.width - from))
    }

    /// N + 1 pixels of a canvas row from column `at` on, zero outside.
    fn fetch<T: Real>(&self, canvas: &[T], row: isize, at: isize, line: &mut [T]) {
        line.fill(T::zero());
        let Some(row) = self.row(canvas, row) else { return };
        let wider = Cut { side: self.side + 1, ..self.clone() };
        let (first, from, count) = wider.meeting(at);
        line[2 * first..][..2 * count].copy_from_slice(&row[2 * from..][..2 * count]);
    }
}

/// y ← y + a x.
fn add_scaled<T: Real>(y: &mut [T], a: T, x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += a * x);
}

impl Operation for Cut {
    fn reads(&self) -> Vec<Value> {
        vec![self.canvas, self.corner, self.shift]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.patches]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dpatches) = g.grad_of(self.patches) else { return };
        let (dcanvas, dshift) = (g.grad_into(self.canvas), g.grad_into(self.shift));
        if dcanvas.is_some() || dshift.is_some() {
            g.push(CutBackward { forward: self.clone(), dpatches, dcanvas, dshift });
        }
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [canvas, corner, shift, patches] =
            mem.get([self.canvas, self.corner, self.shift, self.patches]);
        let (canvas, n, places) = (&*canvas, self.side, Cut::places(corner, shift));
        patches.par_chunks_mut(2 * n).enumerate().for_each(|(i, patch)| {
            let Place { x, y } = places[i / n];
            patch.fill(T::zero());
            for (row, down) in y.taps(i % n) {
                let Some(row) = self.row(canvas, row) else { continue };
                for (at, across) in x.taps(0) {
                    let (first, from, count) = self.meeting(at);
                    let patch = &mut patch[2 * first..][..2 * count];
                    add_scaled(patch, down * across, &row[2 * from..][..2 * count]);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Cut { canvas, corner, shift, patches, batch, side, height, width } = *self;
        let total = batch * side * side;
        let launch = Launch::elements("cut_forward", total)
            .buffers([canvas, corner, shift, patches])
            .ints([side, height, width, total]);
        vec![launch]
    }
}

impl Operation for CutBackward {
    fn reads(&self) -> Vec<Value> {
        let Cut { canvas, corner, shift, .. } = self.forward;
        let canvas = self.dshift.map(|_| canvas);
        [corner, shift, self.dpatches].into_iter().chain(canvas).collect()
    }

    fn writes(&self) -> Vec<Value> {
        self.dcanvas.iter().chain(&self.dshift).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dcanvas {
            self.cpu_canvas(mem, d);
        }
        if let Some(d) = self.dshift {
            self.cpu_shift(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Cut { canvas, corner, shift, batch, side, height, width, .. } = self.forward;
        let to_canvas = self.dcanvas.map(|d| {
            Launch::elements("cut_backward_canvas", height * width)
                .buffers([corner, shift, self.dpatches, d.value])
                .ints([batch, side, height, width, d.accumulate.into()])
        });
        let to_shift = self.dshift.map(|d| {
            Launch::blocks("cut_backward_shift", batch)
                .buffers([canvas, corner, shift, self.dpatches, d.value])
                .ints([side, height, width, d.accumulate.into()])
        });
        to_canvas.into_iter().chain(to_shift).collect()
    }
}

impl CutBackward {
    /// One canvas row at a time, which walks the patches that reach it in their order.
    fn cpu_canvas<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let Cut { corner, shift, side: n, width, .. } = self.forward;
        let [corner, shift, dpatches, dcanvas] = mem.get([corner, shift, self.dpatches, d.value]);
        let (dpatches, places) = (&*dpatches, Cut::places(corner, shift));
        dcanvas.par_chunks_mut(2 * width).enumerate().for_each(|(row, dcanvas)| {
            if !d.accumulate {
                dcanvas.fill(T::zero());
            }
            for (dpatch, Place { x, y }) in dpatches.chunks_exact(2 * n * n).zip(&places) {
                for (top, down) in y.taps(0) {
                    let line = usize::try_from(row as isize - top).ok().filter(|&line| line < n);
                    let Some(line) = line else { continue };
                    for (at, across) in x.taps(0) {
                        let (first, from, count) = self.forward.meeting(at);
                        let dpatch = &dpatch[2 * (line * n + first)..][..2 * count];
                        add_scaled(&mut dcanvas[2 * from..][..2 * count], down * across, dpatch);
                    }
                }
            }
        });
    }

    /// One patch at a time, its rows in their order, in double precision.
    fn cpu_shift<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let Cut { canvas, corner, shift, side: n, .. } = self.forward;
        let [canvas, corner, shift, dpatches, dshift] =
            mem.get([canvas, corner, shift, self.dpatches, d.value]);
        let (canvas, places) = (&*canvas, Cut::places(corner, shift));
        let patches = dpatches.par_chunks(2 * n * n).zip(dshift.par_chunks_mut(2));
        patches.zip(&places).for_each(|((dpatch, dshift), place)| {
            let (mut upper, mut lower) = (vec![T::zero(); 2 * n + 2], vec![T::zero(); 2 * n + 2]);
            self.forward.fetch(canvas, place.y.whole, place.x.whole, &mut upper);
            let mut sums = [0.0; 2];
            for (row, dpatch) in (1..).zip(dpatch.chunks_exact(2 * n)) {
                self.forward.fetch(canvas, place.y.whole + row, place.x.whole, &mut lower);
                let [x, y] = slopes(&upper, &lower, dpatch, place);
                sums = [sums[0] + x, sums[1] + y];
                std::mem::swap(&mut upper, &mut lower);
            }
            dshift.iter_mut().zip(sums).for_each(|(d_, s)| put(d_, d.accumulate, T::of(s)));
        });
    }
}

/// Σ Re[conj(X̄) ∂X/∂(x, y)] over one row of a patch, which lies between two lines of the canvas.
fn slopes<T: Real>(upper: &[T], lower: &[T], dpatch: &[T], place: &Place<T>) -> [f64; 2] {
    /// Partial sums side by side: as many as fill the lanes of a vector unit.
    const LANES: usize = 16;
    let one = T::one();
    let ([fx, fy], mut sums) = ([place.x.part, place.y.part], [[T::zero(); LANES]; 2]);
    for (chunk, d) in dpatch.chunks(LANES).enumerate() {
        let at = chunk * LANES;
        let [a, c] = [upper, lower].map(|line| &line[at..][..d.len()]);
        let [b, e] = [upper, lower].map(|line| &line[at + 2..][..d.len()]);
        for (i, &d) in d.iter().enumerate() {
            sums[0][i] += d * ((one - fy) * (b[i] - a[i]) + fy * (e[i] - c[i]));
            sums[1][i] += d * ((one - fx) * (c[i] - a[i]) + fx * (e[i] - b[i]));
        }
    }
    sums.map(|lanes| lanes.iter().map(|lane| lane.wide()).sum())
}
