//! Adds patches to the canvas of a whole scan, each where its position says.
//!
//! The crop's pixel a of patch b lies at canvas point p_b + a and is shared out bilinearly. Written
//! as a gather, with w_b(p) and (w O)_b(p) interpolated at canvas pixel p, zero outside of the
//! crop, and o = (w O)_b / w_b what the patch says there:
//! W ← W + w,  μ' = μ + (w/W)(o − μ),  V ← V + w Re[conj(o − μ)(o − μ')],  n ← n + 1,
//! so that μ is the weighted mean of the patches that cover p and V/W their variance (West 1979),
//! without the cancellation of sums of squares. Patches are added in their order. No adjoint.
//! Kernel twin: `kernels/stitch.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Numbers of a canvas pixel: W, Re μ, Im μ, V, n.
pub const CELL: usize = 5;

/// Side of the square of canvas pixels that one block of threads works on.
const TILE: usize = 16;

#[derive(Clone, Debug)]
pub struct Stitch {
    patches: Value,
    places: Value,
    weight: Value,
    canvas: Value,
    batch: usize,
    side: usize,
    crop: usize,
    height: usize,
    width: usize,
    transpose: bool,
}

/// Adds the central crops of [.., N, N, 2] patches, rows and columns exchanged if `transpose`, with
/// the [c, c] weight of their pixels, to the [H, W, 5] canvas, which the host has set to 0 before
/// the first batch. [B, 4] places: canvas row and column of each crop's first pixel, whole and
/// fraction (row, column, part of row, part of column); a negative row is no patch.
pub fn stitch(
    g: &mut Graph,
    patches: Value,
    places: Value,
    weight: Value,
    [height, width]: [usize; 2],
    transpose: bool,
) -> Value {
    let &[.., rows, side, 2] = g.shape(patches) else { panic!("patches are square and complex") };
    let ([batch, 4], [crop, columns]) = (g.dims(places), g.dims(weight)) else {
        panic!("a place has four numbers")
    };
    assert!(rows == side && crop == columns && crop <= side, "square crops of square patches");
    assert_eq!(g.len(patches), batch * side * side * 2, "one place for each patch");
    let canvas = g.output("canvas", &[height, width, CELL]);
    g.push(Stitch { patches, places, weight, canvas, batch, side, crop, height, width, transpose });
    canvas
}

impl Operation for Stitch {
    fn reads(&self) -> Vec<Value> {
        vec![self.patches, self.places, self.weight]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.canvas]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [patches, places, weight, canvas] =
            mem.get([self.patches, self.places, self.weight, self.canvas]);
        let (patches, places, weight) = (&*patches, &*places, &*weight);
        canvas.par_chunks_mut(self.width * CELL).enumerate().for_each(|(y, row)| {
            for (patch, place) in
                patches.chunks_exact(2 * self.side * self.side).zip(places.chunks_exact(4))
            {
                let first = place[0].wide();
                let Some(j) = offset(y, first, self.crop) else { continue };
                for (x, cell) in row.chunks_exact_mut(CELL).enumerate() {
                    let Some(k) = offset(x, place[1].wide(), self.crop) else { continue };
                    let sample = self.sample(patch, weight, [j, k], [place[2], place[3]]);
                    add(cell, sample);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Stitch { patches, places, weight, canvas, batch, .. } = *self;
        let tiles = [self.width, self.height].map(|n| n.div_ceil(TILE));
        let [x, y] = tiles.map(|n| u32::try_from(n).expect("canvases fit in 32 bits"));
        let launch = Launch { grid: [x, y, 1], ..Launch::blocks("stitch_forward", 1) }
            .buffers([patches, places, weight, canvas])
            .ints([batch, self.side, self.crop, self.height, self.width, self.transpose.into()]);
        vec![launch]
    }
}

impl Stitch {
    /// (w, w Re O, w Im O) between the crop's pixels (j − 1, k − 1) and (j, k).
    fn sample<T: Real>(
        &self,
        patch: &[T],
        weight: &[T],
        [j, k]: [usize; 2],
        part: [T; 2],
    ) -> [T; 3] {
        let mut sum = [T::zero(); 3];
        for (row, along) in [(Some(j), T::one() - part[0]), (j.checked_sub(1), part[0])] {
            for (column, across) in [(Some(k), T::one() - part[1]), (k.checked_sub(1), part[1])] {
                let (Some(row), Some(column)) = (row, column) else { continue };
                if row >= self.crop || column >= self.crop {
                    continue;
                }
                let w = along * across * weight[row * self.crop + column];
                let margin = (self.side - self.crop) / 2;
                let (r, c) = if self.transpose { (column, row) } else { (row, column) };
                let at = 2 * ((r + margin) * self.side + c + margin);
                sum = [sum[0] + w, sum[1] + w * patch[at], sum[2] + w * patch[at + 1]];
            }
        }
        sum
    }
}

/// How far canvas pixel `at` lies behind `first`, if the crop of this side reaches it.
fn offset(at: usize, first: f64, crop: usize) -> Option<usize> {
    let offset = (at as f64 - first) as isize;
    usize::try_from(offset).ok().filter(|&offset| first >= 0.0 && offset <= crop)
}

/// One more patch for a canvas pixel.
fn add<T: Real>(cell: &mut [T], [w, re, im]: [T; 3]) {
    if w <= T::zero() {
        return;
    }
    let (before_re, before_im) = (re / w - cell[1], im / w - cell[2]);
    cell[0] += w;
    let share = w / cell[0];
    cell[1] += share * before_re;
    cell[2] += share * before_im;
    let (after_re, after_im) = (re / w - cell[1], im / w - cell[2]);
    cell[3] += w * (before_re * after_re + before_im * after_im);
    cell[4] += T::one();
}
