//! A matrix for every mode, from the channels of its input to those of its output.
//!
//! Y[p, o, k, l] = Σ_i R[k, i, o] X[p, i, k, l], all complex; ∂L/∂X[p, i, k, l] = Σ_o conj(R[k, i, o])
//! ∂L/∂Y[p, o, k, l] and ∂L/∂R[k, i, o] = Σ_{p,l} conj(X[p, i, k, l]) ∂L/∂Y[p, o, k, l].
//! Real and imaginary parts are mixed as channels of their own, by [[Re R, −Im R], [Im R, Re R]].
//! Kernel twin: `kernels/mode_mix.cu`.

use rayon::prelude::*;

use super::Operation;
use super::product::{Factor, ROWS, pack, packed_len, padded, product};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::{BLOCK, Launch};

/// Complex channels that are computed at once.
const CHANNELS: usize = ROWS / 2;

/// Output channels of one thread in the kernels; `kChannels` there.
const THREAD_CHANNELS: usize = 4;

/// Input and output channels of a block in the gradient of the weights; `kTile` in the kernel.
const TILE: usize = 16;

#[derive(Clone, Debug)]
pub struct ModeMix {
    pub(crate) x: Value,
    pub(crate) weight: Value,
    pub(crate) y: Value,
    /// Packed weights.
    workspace: Value,
    pub(crate) sizes: Sizes,
}

#[derive(Clone, Debug)]
pub struct ModeMixBackward {
    forward: ModeMix,
    dy: Value,
    dx: Option<Grad>,
    dweight: Option<Grad>,
    /// Packed weights.
    workspace: Value,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    samples: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) modes: usize,
    /// L.
    row: usize,
}

impl Sizes {
    /// Numbers of a channel.
    fn channel(&self) -> usize {
        2 * self.modes * self.row
    }
}

/// [P, I, K, 2, L] and weights [K, I, O, 2] → [P, O, K, 2, L]; L is a multiple of 8.
pub fn mode_mix(g: &mut Graph, x: Value, weight: Value) -> Value {
    let [samples, inputs, modes, parts, row] = g.dims(x);
    let [weight_modes, weight_inputs, outputs, weight_parts] = g.dims(weight);
    assert_eq!([weight_modes, weight_inputs], [modes, inputs], "weights of these modes");
    assert_eq!([parts, weight_parts], [2, 2], "real and imaginary part");
    assert_eq!(row, padded(row), "whole vectors");
    let y = g.work("mixed modes", &[samples, outputs, modes, 2, row]);
    let workspace = g.work("packed mode weights", &[modes * packed_len(2 * outputs, 2 * inputs)]);
    let sizes = Sizes { samples, inputs, outputs, modes, row };
    g.push(ModeMix { x, weight, y, workspace, sizes });
    y
}

/// Packs weight[k] as a real matrix of `rows` complex rows, `entry(row, term)` of it, for each k.
fn pack_modes<T: Real>(
    sizes: &Sizes,
    weight: &[T],
    packed: &mut [T],
    [rows, terms]: [usize; 2],
    entry: impl Fn(&[T], usize, usize) -> T + Sync,
) {
    let len = packed_len(2 * rows, 2 * terms);
    let modes = packed[..sizes.modes * len].par_chunks_mut(len);
    modes.zip(weight.par_chunks(2 * sizes.inputs * sizes.outputs)).for_each(|(packed, weight)| {
        pack(2 * rows, 2 * terms, packed, |row, term| entry(weight, row, term));
    });
}

/// Entry (2o + part, 2i + part) of the real matrix of one mode.
pub(crate) fn entry<T: Real>(weight: &[T], outputs: usize, row: usize, term: usize) -> T {
    let at = 2 * (term / 2 * outputs + row / 2);
    match (row % 2, term % 2) {
        (0, 1) => -weight[at + 1],
        (1, 0) => weight[at + 1],
        _ => weight[at],
    }
}

/// y[p, row, k] (+)= packed[k] · x[p, ·, k], `rows` complex rows of `terms` complex terms.
fn apply<T: Real>(
    sizes: &Sizes,
    [rows, terms]: [usize; 2],
    packed: &[T],
    x: &[T],
    y: &mut [T],
    accumulate: bool,
) {
    let (channel, row) = (sizes.channel(), sizes.row);
    let (mode_len, group_len) = (packed_len(2 * rows, 2 * terms), packed_len(ROWS, 2 * terms));
    let samples = y.par_chunks_mut(rows * channel).zip(x.par_chunks(terms * channel));
    let tasks = samples.flat_map(|(y, x)| {
        y.par_chunks_mut(CHANNELS * channel).enumerate().map(move |(group, y)| (group, x, y))
    });
    tasks.for_each(|(group, x, y)| {
        for (k, packed) in packed[..sizes.modes * mode_len].chunks_exact(mode_len).enumerate() {
            let first = 2 * k * row;
            let factor = Factor { x, plane: channel, taps: &[0, row], first, columns: row };
            let packed = packed[group * group_len..].chunks(group_len).next();
            let packed = packed.expect("every group has weights");
            product(2 * y.len() / channel, packed, &factor, |r, at, numbers| {
                let to = &mut y[r / 2 * channel + first + r % 2 * row + at..];
                to.iter_mut().zip(numbers).for_each(|(y, &x)| put(y, accumulate, x));
            });
        }
    });
}

impl Operation for ModeMix {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.weight]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y, self.workspace]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let (dx, dweight) = (g.grad_into(self.x), g.grad_into(self.weight));
        let Sizes { inputs, outputs, modes, .. } = self.sizes;
        let len = modes * packed_len(2 * inputs, 2 * outputs);
        let workspace = g.work("packed mode weights", &[len]);
        g.push(ModeMixBackward { forward: self.clone(), dy, dx, dweight, workspace });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, weight, y, packed] = mem.get([self.x, self.weight, self.y, self.workspace]);
        let Sizes { inputs, outputs, .. } = self.sizes;
        let size = [outputs, inputs];
        pack_modes(&self.sizes, weight, packed, size, |weight, row, term| {
            entry(weight, outputs, row, term)
        });
        apply(&self.sizes, size, packed, x, y, false);
    }

    fn launches(&self) -> Vec<Launch> {
        let Sizes { samples, inputs, outputs, modes, row } = self.sizes;
        let total = samples * modes * row * outputs.div_ceil(THREAD_CHANNELS);
        let launch = Launch::elements("mode_mix_forward", total)
            .buffers([self.x, self.weight, self.y])
            .ints([inputs, outputs, modes, row, total]);
        vec![launch]
    }
}

impl Operation for ModeMixBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.weight, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        let grads = [self.dx, self.dweight].into_iter().flatten().map(|d| d.value);
        grads.chain([self.workspace]).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let ModeMix { x, weight, sizes, .. } = self.forward;
        if let Some(d) = self.dx {
            let [weight, dy, dx, packed] = mem.get([weight, self.dy, d.value, self.workspace]);
            let Sizes { inputs, outputs, .. } = sizes;
            let size = [inputs, outputs];
            pack_modes(&sizes, weight, packed, size, |weight, row, term| {
                entry(weight, outputs, term, row)
            });
            apply(&sizes, size, packed, dy, dx, d.accumulate);
        }
        if let Some(d) = self.dweight {
            let [x, dy, dweight] = mem.get([x, self.dy, d.value]);
            cpu_weight(&sizes, x, dy, dweight, d.accumulate);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let ModeMix { x, weight, sizes, .. } = self.forward;
        let Sizes { samples, inputs, outputs, modes, row } = sizes;
        let to_x = self.dx.map(|d| {
            let total = samples * modes * row * inputs.div_ceil(THREAD_CHANNELS);
            Launch::elements("mode_mix_backward_data", total)
                .buffers([self.dy, weight, d.value])
                .ints([inputs, outputs, modes, row, total, d.accumulate.into()])
        });
        let to_weight = self.dweight.map(|d| {
            let launch = Launch::blocks("mode_mix_backward_weight", modes)
                .buffers([x, self.dy, d.value])
                .ints([samples, inputs, outputs, modes, row, d.accumulate.into()]);
            let tiles = [outputs, inputs].map(|n| n.div_ceil(TILE) as u32);
            Launch { grid: [launch.grid[0], tiles[0], tiles[1]], block: BLOCK, ..launch }
        });
        to_x.into_iter().chain(to_weight).collect()
    }
}

/// The gradient of the weights, mode by mode: the terms of its sums are the numbers of a row, real
/// and imaginary part after each other, sample by sample.
fn cpu_weight<T: Real>(sizes: &Sizes, x: &[T], dy: &[T], dweight: &mut [T], accumulate: bool) {
    let Sizes { inputs, outputs, row, .. } = *sizes;
    let (channel, width, terms) = (sizes.channel(), padded(inputs), 2 * row);
    let modes = dweight.par_chunks_mut(2 * inputs * outputs).enumerate();
    let buffers =
        || (vec![T::zero(); terms * width], vec![T::zero(); packed_len(2 * outputs, terms)]);
    modes.for_each_init(buffers, |(turned, packed), (k, dweight)| {
        let samples = x.chunks_exact(inputs * channel).zip(dy.chunks_exact(outputs * channel));
        for (p, (x, dy)) in samples.enumerate() {
            for (i, x) in x.chunks_exact(channel).enumerate() {
                let x = &x[k * terms..][..terms];
                x.iter().enumerate().for_each(|(term, &x)| turned[term * width + i] = x);
            }
            pack(2 * outputs, terms, packed, |o, term| {
                let dy = &dy[o / 2 * channel + k * terms..][..terms];
                // conj(X) dY: its real part is x·y, its imaginary part the x_re y_im − x_im y_re.
                match (o % 2, term < row) {
                    (0, _) => dy[term],
                    (_, true) => dy[term + row],
                    (_, false) => -dy[term - row],
                }
            });
            product(2 * outputs, packed, &Factor::matrix(turned, width), |o, at, numbers| {
                for (i, &sum) in (at..inputs).zip(numbers) {
                    put(&mut dweight[2 * i * outputs + o], accumulate || p > 0, sum);
                }
            });
        }
    });
}
