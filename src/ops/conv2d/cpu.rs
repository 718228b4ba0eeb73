//! The convolution on the CPU: direct, on padded planes, in register tiles of 12 output channels by
//! 4 vectors of 8 pixels.
//!
//! The work is split over samples and output channels, never over a sum, so that any number of
//! threads gives the same bits. Sums run over input channels, then filter taps; those of the
//! weight gradient over samples and rows in 8 lanes that are added at the end.

use rayon::prelude::*;

use super::layout::{
    LANES, OUTPUTS, pack, pack_turned, packed_len, pad, pad_input, pad_outer, pad_where_positive,
    padded_len,
};
use super::simd::{BLOCKS, Correlation, Lines, Rows, TILE, VECTORS};
use super::winograd;
use super::{Conv2d, Conv2dBackward, Sizes};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::Grad;

/// Pixels per block of rows in the weight gradient: six gradient planes of this many f32 and the
/// rows of the input that belong to them fit the first-level cache.
const BLOCK_PIXELS: usize = 512;

/// Filter taps that one task of the weight gradient sums at most: 8 input channels of 3×3.
const TASK_TAPS: usize = 72;

/// The largest filter, 17×17, is a task by itself.
const MOST_TAPS: usize = 17 * 17;

/// Elements of the workspace: padded input and packed weights, or transformed weights.
pub fn workspace_len(sizes: &Sizes) -> usize {
    let Sizes { inputs, outputs, side, .. } = *sizes;
    match winograd::fits(sizes) {
        true => winograd::filters_len(outputs, inputs),
        false => padded_len(sizes, inputs) + packed_len(outputs, inputs, side),
    }
}

/// Elements of the workspace of the gradients.
pub fn gradient_workspace_len(sizes: &Sizes) -> usize {
    let Sizes { inputs, outputs, side, .. } = *sizes;
    if winograd::fits(sizes) {
        return winograd::gradient_len(sizes);
    }
    gradient_len(sizes)
        + padded_len(sizes, inputs)
        + packed_len(inputs, outputs, side).max(packed_len(outputs, inputs, side))
}

pub fn forward<T: Real>(op: &Conv2d, mem: &mut Mem<T>) {
    if winograd::fits(&op.sizes) {
        return winograd::forward(op, mem);
    }
    let Sizes { inputs, outputs, .. } = op.sizes;
    let [x, weight, y, workspace] = mem.get([op.x, op.weight, op.y, op.workspace]);
    if inputs == 0 || outputs == 0 {
        // A layer of no channels, as in the attention of a very narrow network, adds nothing.
        y.fill(T::zero());
        return finish(op, mem);
    }
    let (padded, packed) = workspace.split_at_mut(padded_len(&op.sizes, inputs));
    pad_input(&op.sizes, x, padded);
    pack(outputs, inputs, op.sizes.taps(), weight, packed);
    correlate(&op.sizes, inputs, outputs, padded, packed, y, false);
    finish(op, mem);
}

/// Adds the bias and applies the ReLU.
fn finish<T: Real>(op: &Conv2d, mem: &mut Mem<T>) {
    if let Some(bias) = op.bias {
        let [bias, y] = mem.get([bias, op.y]);
        let (bias, outputs) = (&*bias, op.sizes.outputs);
        y.par_chunks_mut(op.sizes.pixels()).enumerate().for_each(|(plane, y)| {
            let bias = bias[plane % outputs];
            if op.relu {
                y.iter_mut().for_each(|y| *y = (*y + bias).max(T::zero()));
            } else {
                y.iter_mut().for_each(|y| *y += bias);
            }
        });
    } else if op.relu {
        let [y] = mem.get([op.y]);
        y.par_iter_mut().for_each(|y| *y = y.max(T::zero()));
    }
}

/// `y[b,o] (+)= Σ_i W[o,i] ⋆ x[b,i]` on padded planes x and packed weights W.
fn correlate<T: Real>(
    sizes: &Sizes,
    inputs: usize,
    outputs: usize,
    padded: &[T],
    packed: &[T],
    y: &mut [T],
    accumulate: bool,
) {
    let (n, taps) = (sizes.pixels(), tap_offsets(sizes));
    let sample_len = inputs * sizes.plane();
    let tile_len = BLOCKS * OUTPUTS * inputs * taps.len();
    let taps = taps.as_slice();
    let tasks = y.par_chunks_mut(outputs * n).enumerate().flat_map(|(b, y)| {
        let x = &padded[b * sample_len..][..sample_len];
        let tiles = y.par_chunks_mut(BLOCKS * OUTPUTS * n).zip(packed.par_chunks(tile_len));
        tiles.map(move |(y, w)| (Correlation { x, plane: sizes.plane(), taps, w }, y))
    });
    tasks.for_each(|(c, y)| correlate_tiles(sizes, &c, y, accumulate));
}

/// All pixels of up to twelve output channels of one sample.
fn correlate_tiles<T: Real>(sizes: &Sizes, c: &Correlation<T>, y: &mut [T], accumulate: bool) {
    let kernels = T::convolution();
    let per_row = sizes.vectors_per_row();
    let vectors = sizes.height * per_row;
    let mut tile = [T::zero(); TILE];
    for first in (0..vectors).step_by(VECTORS) {
        // A tile that would reach past the last vector computes it again and stores it once.
        let place = |v: usize| {
            let v = (first + v).min(vectors - 1);
            (v / per_row, v % per_row * LANES)
        };
        let places: [_; VECTORS] = std::array::from_fn(place);
        let offsets = places.map(|(row, column)| sizes.first_tap(row) + column);
        (kernels.tile)(c, &offsets, &mut tile);
        for (v, &(row, column)) in places.iter().enumerate().take(vectors - first) {
            let valid = LANES.min(sizes.width - column);
            for (o, y) in y.chunks_exact_mut(sizes.pixels()).enumerate() {
                let from = &tile[(o * VECTORS + v) * LANES..][..valid];
                let to = &mut y[row * sizes.width + column..][..valid];
                to.iter_mut().zip(from).for_each(|(y, &t)| put(y, accumulate, t));
            }
        }
    }
}

/// Distance of each tap from the first pixel of a padded plane.
fn tap_offsets(sizes: &Sizes) -> Vec<usize> {
    (0..sizes.taps()).map(|t| t / sizes.side * sizes.stride() + t % sizes.side).collect()
}

pub fn backward<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>) {
    if winograd::fits(&op.forward.sizes) {
        if let Some(dx) = op.dx {
            winograd::input_gradient(op, mem, dx);
        }
        if op.dweight.is_some() || op.dbias.is_some() {
            winograd::weight_gradient(op, mem);
        }
        return;
    }
    if op.forward.sizes.outputs == 0 {
        // No outputs: the input gets no gradient, and the weights hold nothing.
        if let Some(Grad { value, accumulate: false }) = op.dx {
            mem.get([value])[0].fill(T::zero());
        }
        return;
    }
    pad_gradient(op, mem);
    if op.forward.sizes.inputs == 0 {
        return op.dbias.into_iter().for_each(|d| bias_gradient(op, mem, d));
    }
    if let Some(dx) = op.dx {
        input_gradient(op, mem, dx);
    }
    if let Some(dweight) = op.dweight {
        weight_gradient(op, mem, dweight);
    }
    if let Some(dbias) = op.dbias {
        bias_gradient(op, mem, dbias);
    }
}

/// Elements of the padded gradient, as the weights' and as the input's gradient need it.
fn gradient_len(sizes: &Sizes) -> usize {
    padded_len(sizes, sizes.outputs) + outer_len(sizes)
}

/// Elements of the second, which a valid convolution alone has.
fn outer_len(sizes: &Sizes) -> usize {
    if sizes.ring() == 0 { 0 } else { padded_len(&sizes.outer(), sizes.outputs) }
}

/// The workspace in parts: padded gradient, padded input, packed weights or partial sums.
fn parts<'a, T>(op: &Conv2dBackward, workspace: &'a mut [T]) -> [&'a mut [T]; 3] {
    let Sizes { inputs, .. } = op.forward.sizes;
    let (dz, rest) = workspace.split_at_mut(gradient_len(&op.forward.sizes));
    let (x, rest) = rest.split_at_mut(padded_len(&op.forward.sizes, inputs));
    [dz, x, rest]
}

fn pad_gradient<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>) {
    let [dy, y, workspace] = mem.get([op.dy, op.forward.y, op.workspace]);
    let [dz, _, _] = parts(op, workspace);
    let (dz, outer) = dz.split_at_mut(padded_len(&op.forward.sizes, op.forward.sizes.outputs));
    if op.forward.sizes.ring() > 0 {
        pad_outer(&op.forward.sizes, dy, outer);
    }
    if op.forward.relu {
        pad_where_positive(&op.forward.sizes, dy, y, dz);
    } else {
        pad(&op.forward.sizes, dy, dz);
    }
}

fn input_gradient<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>, d: Grad) {
    let sizes = op.forward.sizes.outer();
    let Sizes { inputs, outputs, side, .. } = sizes;
    let [weight, dx, workspace] = mem.get([op.forward.weight, d.value, op.workspace]);
    let [dz, _, rest] = parts(op, workspace);
    // Behind the gradient in its own size, where there are two.
    let dz = &dz[dz.len() - padded_len(&sizes, outputs)..];
    let packed = &mut rest[..packed_len(inputs, outputs, side)];
    pack_turned(outputs, inputs, sizes.taps(), weight, packed);
    correlate(&sizes, outputs, inputs, dz, packed, dx, d.accumulate);
}

fn weight_gradient<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>, d: Grad) {
    let sizes = op.forward.sizes;
    let Sizes { inputs, outputs, side, .. } = sizes;
    let [x, dweight, workspace] = mem.get([op.forward.x, d.value, op.workspace]);
    let [dz, padded, rest] = parts(op, workspace);
    pad_input(&sizes, x, padded);
    let (taps, dz, padded) = (sizes.taps(), &*dz, &*padded);
    // [⌈O/6⌉][I][k·k][6], as the packed weights.
    let sums = &mut rest[..packed_len(outputs, inputs, side)];
    let group = (TASK_TAPS / taps).max(1);
    let tasks =
        sums.par_chunks_mut(inputs * taps * OUTPUTS).enumerate().flat_map(|(block, sums)| {
            let groups = sums.par_chunks_mut(group * taps * OUTPUTS).enumerate();
            groups.map(move |(at, sums)| (block * OUTPUTS, at * group, sums))
        });
    tasks.for_each(|(o, i, sums)| weight_sums(&sizes, dz, padded, o, i, sums));
    let sums = &*sums;
    dweight.par_chunks_mut(inputs * taps).enumerate().for_each(|(o, dweight)| {
        let block = &sums[o / OUTPUTS * inputs * taps * OUTPUTS..];
        for (at, dweight) in dweight.iter_mut().enumerate() {
            put(dweight, d.accumulate, block[at * OUTPUTS + o % OUTPUTS]);
        }
    });
}

/// Sums of six output channels from `o` and of the input channels from `i` that `sums` holds.
fn weight_sums<T: Real>(sizes: &Sizes, dz: &[T], x: &[T], o: usize, i: usize, sums: &mut [T]) {
    let plane = sizes.plane();
    let mut lanes = [T::zero(); MOST_TAPS * OUTPUTS * LANES];
    let lanes = &mut lanes[..sums.len() * LANES];
    let channels: [usize; OUTPUTS] =
        std::array::from_fn(|c| (o + c).min(sizes.outputs - 1) * plane);
    let (lines, at_once) = (sizes.batch * sizes.height, (BLOCK_PIXELS / sizes.width).max(1));
    for first in (0..lines).step_by(at_once) {
        let lines = Lines {
            first,
            count: at_once.min(lines - first),
            height: sizes.height,
            stride: sizes.stride(),
            samples: (sizes.outputs * plane, sizes.inputs * plane),
            starts: (sizes.row(0), sizes.first_tap(0)),
        };
        for (c, lanes) in lanes.chunks_exact_mut(sizes.taps() * OUTPUTS * LANES).enumerate() {
            let rows = Rows {
                dz,
                channels,
                outputs: OUTPUTS.min(sizes.outputs - o),
                x: &x[(i + c) * plane..],
                side: sizes.side,
                stride: sizes.stride(),
                vectors: sizes.vectors_per_row(),
                lines,
            };
            (T::convolution().weight_rows)(&rows, lanes);
        }
    }
    // Lanes are [i][u][v][6][8]; sums are [i][u][v][6].
    for (sum, lanes) in sums.iter_mut().zip(lanes.chunks_exact(LANES)) {
        *sum = lanes.iter().copied().sum();
    }
}

fn bias_gradient<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>, d: Grad) {
    let Sizes { batch, outputs, .. } = op.forward.sizes;
    let plane = op.forward.sizes.plane();
    let [dbias, workspace]: [&mut [T]; 2] = mem.get([d.value, op.workspace]);
    let [dz, _, _] = parts(op, workspace);
    let dz = &*dz;
    dbias.par_iter_mut().enumerate().for_each(|(o, dbias)| {
        let planes = (0..batch).map(|b| &dz[(b * outputs + o) * plane..][..plane]);
        let sum: f64 = planes.flatten().map(|z| z.wide()).sum();
        put(dbias, d.accumulate, T::of(sum));
    });
}
