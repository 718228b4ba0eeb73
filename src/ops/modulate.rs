//! A smooth complex factor on a canvas, in few numbers: what makes the slow parts of an object
//! converge as fast as its details.
//!
//! O(p) ← O(p) (1 + u(p)/2) / (1 − u(p)/2), u bilinear between nodes every s pixels,
//!
//! which is O eᵘ to second order in u, and keeps |O| exactly where u is imaginary. The real part of u
//! is a change of log amplitude, the imaginary part one of phase. The values at the
//! nodes come from two grids, u_node = c + (bilinear between the nodes of C, every 4th of c). Both
//! are parameters that are 0 whenever a gradient is taken, so that they cost nothing in the forward
//! pass (the idea is that of multigrid, Brandt 1977):
//!
//! ∂L/∂c_n = Σ_p h_s(p − s n) conj(∂L/∂O(p)) O(p), its imaginary part with the other sign,
//! ∂L/∂C_n = Σ_m h_4(m − 4 n) ∂L/∂c_m, with h_s(x, y) = (1 − |x|/s)⁺ (1 − |y|/s)⁺.
//!
//! Kernel twin: `kernels/modulate.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Nodes of the finer grid from one node of the coarser to the next.
const RATIO: usize = 4;

/// Sizes of a canvas and its grids.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    canvas: [usize; 2],
    spacing: usize,
    fine: [usize; 2],
    coarse: [usize; 2],
}

#[derive(Clone, Debug)]
pub struct Modulate {
    canvas: Value,
    grids: [Value; 2],
    sizes: Sizes,
}

#[derive(Clone, Debug)]
pub struct ModulateBackward {
    canvas: Value,
    dcanvas: Value,
    /// [H, w, 2]: ∂L/∂c before the sum over rows.
    rows: Value,
    grids: [Value; 2],
    dgrids: [Value; 2],
    sizes: Sizes,
}

/// Shapes [h, w, 2] of the finer and the coarser grid over a canvas of `height` × `width`, with a
/// node of the finer every `spacing` pixels.
pub fn grids(height: usize, width: usize, spacing: usize) -> [[usize; 3]; 2] {
    let Sizes { fine, coarse, .. } = Sizes::new([height, width], spacing);
    [fine, coarse].map(|[h, w]| [h, w, 2])
}

/// [H, W, 2] canvas, changed in place by the [`grids`]. An update: it has no adjoint of its own.
pub fn modulate(g: &mut Graph, canvas: Value, grids: [Value; 2], spacing: usize) {
    let sizes = Sizes::of(g, canvas, grids, spacing);
    g.push(Modulate { canvas, grids, sizes });
}

/// Gradients of the grids at 0, to which they are set, from that of the canvas. Call between
/// [`Graph::differentiate`] and the update.
pub fn modulate_backward(g: &mut Graph, canvas: Value, grids: [Value; 2], spacing: usize) {
    let sizes = Sizes::of(g, canvas, grids, spacing);
    let dcanvas = g.grad_of(canvas).expect("the loss depends on the canvas");
    let rows = g.work("rows of the grid", &[sizes.canvas[0], sizes.fine[1], 2]);
    let dgrids = grids.map(|grid| g.grad_buffer(grid));
    g.push_last(ModulateBackward { canvas, dcanvas, rows, grids, dgrids, sizes });
    for (grid, dgrid) in grids.into_iter().zip(dgrids) {
        g.set_grad(grid, dgrid);
    }
}

impl Sizes {
    fn new(canvas: [usize; 2], spacing: usize) -> Sizes {
        assert!(spacing > 0, "nodes lie apart");
        let nodes = |points: usize, spacing: usize| (points - 1).div_ceil(spacing) + 1;
        let fine = canvas.map(|points| nodes(points, spacing));
        Sizes { canvas, spacing, fine, coarse: fine.map(|points| nodes(points, RATIO)) }
    }

    fn of(g: &Graph, canvas: Value, grids: [Value; 2], spacing: usize) -> Sizes {
        let [height, width, re_im] = g.dims(canvas);
        let sizes = Sizes::new([height, width], spacing);
        let shapes = self::grids(height, width, spacing);
        assert!(re_im == 2 && grids.map(|v| g.dims::<3>(v)) == shapes, "complex, with its grids");
        sizes
    }

    /// H, W, s, h, w, h', w' as the kernels take them.
    fn ints(&self) -> [usize; 7] {
        let ([height, width], [h, w], [ch, cw]) = (self.canvas, self.fine, self.coarse);
        [height, width, self.spacing, h, w, ch, cw]
    }
}

/// The node at or before `at`, and the weight of the next one.
fn cell<T: Real>(at: usize, spacing: usize) -> (usize, T) {
    (at / spacing, T::of((at % spacing) as f64 / spacing as f64))
}

/// The value of `grid` of `width` nodes between its nodes (y, x).
fn between<T: Real>(
    grid: &[T],
    width: usize,
    (y, ty): (usize, T),
    (x, tx): (usize, T),
    part: usize,
) -> T {
    // Beyond the last node the weight is 0: any node will do.
    let last = grid.len() / 2 - 1;
    let node = |y: usize, x: usize| grid[2 * (y * width + x).min(last) + part];
    let one = T::of(1.0);
    (one - ty) * ((one - tx) * node(y, x) + tx * node(y, x + 1))
        + ty * ((one - tx) * node(y + 1, x) + tx * node(y + 1, x + 1))
}

/// z (1 + half) / (1 − half).
fn turn<T: Real>(z: &mut [T], half: [T; 2]) {
    let ([above, below], [up, down]) =
        ([T::of(1.0) + half[0], T::of(1.0) - half[0]], [half[1], -half[1]]);
    // (above + i up) / (below + i down)
    let square = below * below + down * down;
    let re = (above * below + up * down) / square;
    let im = (up * below - above * down) / square;
    (z[0], z[1]) = (z[0] * re - z[1] * im, z[0] * im + z[1] * re);
}

/// The points within `spacing` of node `n`, and their weights.
fn around<T: Real>(n: usize, spacing: usize, points: usize) -> impl Iterator<Item = (usize, T)> {
    let middle = n * spacing;
    let (first, end) = ((middle + 1).saturating_sub(spacing), (middle + spacing).min(points));
    (first..end).map(move |p| (p, T::of(1.0 - p.abs_diff(middle) as f64 / spacing as f64)))
}

impl Operation for Modulate {
    fn reads(&self) -> Vec<Value> {
        vec![self.canvas, self.grids[0], self.grids[1]]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.canvas]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Sizes { canvas: [_, width], spacing, fine: [h, w], coarse: [_, cw] } = self.sizes;
        let [canvas, fine, coarse] = mem.get([self.canvas, self.grids[0], self.grids[1]]);
        let nodes: Vec<T> = (0..2 * h * w)
            .map(|i| {
                let (y, x) = (cell(i / 2 / w, RATIO), cell(i / 2 % w, RATIO));
                fine[i] + between(coarse, cw, y, x, i % 2)
            })
            .collect();
        let steps: Vec<(usize, T)> = (0..width).map(|x| cell(x, spacing)).collect();
        canvas.par_chunks_mut(2 * width).enumerate().for_each(|(y, row)| {
            let (above, t) = cell::<T>(y, spacing);
            let [above, below] =
                [above, (above + 1).min(h - 1)].map(|y| &nodes[2 * w * y..][..2 * w]);
            let line: Vec<T> =
                above.iter().zip(below).map(|(&a, &b)| (T::of(1.0) - t) * a + t * b).collect();
            for (z, &(node, t)) in row.chunks_exact_mut(2).zip(&steps) {
                let next = (node + 1).min(w - 1);
                let u = [0, 1].map(|part| {
                    (T::of(1.0) - t) * line[2 * node + part] + t * line[2 * next + part]
                });
                turn(z, u.map(|u| T::of(0.5) * u));
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let [height, width] = self.sizes.canvas;
        let launch = Launch::elements("modulate_forward", height * width);
        vec![launch.buffers([self.grids[0], self.grids[1], self.canvas]).ints(self.sizes.ints())]
    }
}

impl Operation for ModulateBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.canvas, self.dcanvas]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.rows, self.grids[0], self.grids[1], self.dgrids[0], self.dgrids[1]]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Sizes { canvas: [height, width], spacing, fine: [h, w], coarse: [_, cw] } = self.sizes;
        let ([fine, coarse], [dfine, dcoarse]) = (self.grids, self.dgrids);
        let [z, dz, rows, fine, coarse, dfine, dcoarse] =
            mem.get([self.canvas, self.dcanvas, self.rows, fine, coarse, dfine, dcoarse]);
        let steps: Vec<(usize, T)> = (0..width).map(|x| cell(x, spacing)).collect();
        let lines = z.par_chunks(2 * width).zip(dz.par_chunks(2 * width));
        rows.par_chunks_mut(2 * w).zip(lines).for_each(|(row, (z, dz))| {
            row.fill(T::of(0.0));
            let pixels = z.chunks_exact(2).zip(dz.chunks_exact(2));
            for ((z, dz), &(node, t)) in pixels.zip(&steps) {
                let value = [dz[0] * z[0] + dz[1] * z[1], dz[1] * z[0] - dz[0] * z[1]];
                let next = (node + 1).min(w - 1);
                for (part, value) in value.into_iter().enumerate() {
                    row[2 * node + part] += (T::of(1.0) - t) * value;
                    row[2 * next + part] += t * value;
                }
            }
        });
        dfine.par_chunks_mut(2 * w).enumerate().for_each(|(node, sums)| {
            sums.fill(T::of(0.0));
            for (y, weight) in around::<T>(node, spacing, height) {
                for (sum, &value) in sums.iter_mut().zip(&rows[2 * w * y..]) {
                    *sum += weight * value;
                }
            }
        });
        for (i, sum) in dcoarse.iter_mut().enumerate() {
            *sum = T::of(0.0);
            for (y, weight) in around::<T>(i / 2 / cw, RATIO, h) {
                for (x, share) in around::<T>(i / 2 % cw, RATIO, w) {
                    *sum += weight * share * dfine[2 * (y * w + x) + i % 2];
                }
            }
        }
        fine.fill(T::of(0.0));
        coarse.fill(T::of(0.0));
    }

    fn launches(&self) -> Vec<Launch> {
        let ([height, _], [h, w], [ch, cw]) =
            (self.sizes.canvas, self.sizes.fine, self.sizes.coarse);
        let ([fine, coarse], [dfine, dcoarse]) = (self.grids, self.dgrids);
        let ints = self.sizes.ints();
        let rows = Launch::elements("modulate_backward_rows", height * w);
        let nodes = Launch::elements("modulate_backward_nodes", h * w);
        let coarser = Launch::elements("modulate_backward_coarse", ch * cw);
        vec![
            rows.buffers([self.canvas, self.dcanvas, self.rows]).ints(ints),
            nodes.buffers([self.rows, fine, dfine]).ints(ints),
            coarser.buffers([dfine, coarse, dcoarse]).ints(ints),
        ]
    }
}
