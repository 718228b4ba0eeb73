//! Convolution with 3×3 filters in fewer multiplications: Winograd's F(2×2, 3×3).
//!
//! A tile of 2×2 results comes of 4×4 pixels d and of the filter g as Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A
//! (A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", 2015): 16 products in
//! place of 36. The products of all channels are 16 matrix products, one for each place of the 4×4,
//! and these are where the time goes. The gradient of the weights is the adjoint of the same formula.
//!
//! Work goes by blocks of tiles that fit into the second-level cache. A block's pixels are turned so
//! that 16 channels lie side by side, and from there on every step adds or multiplies 16 channels at
//! once; what leaves the block is turned back, with bias and ReLU applied on the way.
//!
//! The gradient of the weights goes by the same blocks, but tap by tap and not by transforms: a weight
//! that no light reaches has the gradient 0 to the last bit, and not what rounding leaves of a difference,
//! which Adam would take for a direction.
//!
//! Sums run over input channels in parts of [`CHAIN`], and in the weight gradient over the pixels of a
//! block, then over blocks, then over slices of the batch, whose number follows from the sizes of the
//! layer alone, so that any number of threads gives the same bits. `block` is the work on one block, `transform` the transforms, `unit` the matrix products
//! on each vector unit.
//!
//! What was tried, 64 to 64 channels on 64×64 pixels, one core of an AMD EPYC (AVX2, 98 GFLOP/s of
//! multiply-adds), GFLOP/s of the plain sum: plain sums on padded planes 45 forward; the matrix products of
//! this file alone 90 of its own, which are 200 of the plain sum, and with the transforms around them 139.
//! Loops left to the compiler's vectoriser, and closures, which it does not compile for the unit: 20 to 66.
//! Weight gradient by transforms 97, with noise where zeros belong; tap by tap 67.

mod block;
mod transform;
mod unit;

use std::ops::Range;

use ndarray::parallel::prelude::*;
use ndarray::{ArrayViewMut3, Axis};
use rayon::slice::ParallelSliceMut;

use super::{Conv2d, Conv2dBackward, Sizes};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::Grad;
use block::{Forward, Gradient, Images, Tiles, forward_len};
use transform::pack;
pub use unit::Winograd;

/// Channels side by side: a vector of AVX-512, two of AVX2.
pub const LANES: usize = 16;

/// Sixteen channels of one pixel.
pub type Lane<T> = [T; LANES];

/// Places in a transformed tile of 4×4.
const PLACES: usize = 16;

/// Places of a filter.
const TAPS: usize = 9;

/// Input channels whose products are added in registers before they join the sum: shorter sums round
/// less.
const CHAIN: usize = 64;

/// Channels below which the transforms cost more than they save.
const FEWEST_CHANNELS: usize = 16;

/// Bytes of the transformed pixels of a block: they stay in the second-level cache.
const BLOCK_BYTES: usize = 384 << 10;

/// Tiles of a block at most; more of them reuse filters that are there already.
const MOST_TILES: usize = 32;

/// Groups of sixteen output and input channels of one task of the weight gradient.
const TASK: [usize; 2] = [4, 2];

/// Tasks that the weight gradient has at least, if the batch can be cut into so many.
const TASKS: usize = 32;

/// Whether a layer is computed like this.
pub fn fits(sizes: &Sizes) -> bool {
    let wide = sizes.inputs.min(sizes.outputs) >= FEWEST_CHANNELS;
    sizes.side == 3 && sizes.pad == 1 && wide
}

/// Tiles of a block for so many input channels.
fn most_tiles<T>(inputs: usize) -> usize {
    let tile = PLACES * inputs.next_multiple_of(LANES) * size_of::<T>();
    (BLOCK_BYTES / tile).clamp(1, MOST_TILES)
}

/// Elements of the transformed filters, and what their place in the workspace may be off a line.
pub fn filters_len(outputs: usize, inputs: usize) -> usize {
    (outputs.div_ceil(LANES) * PLACES * inputs + 1) * LANES
}

/// The workspace as lanes.
fn lanes<T>(workspace: &mut [T]) -> &mut [Lane<T>] {
    workspace.as_chunks_mut().0
}

pub fn forward<T: Real>(op: &Conv2d, mem: &mut Mem<T>) {
    let Sizes { inputs, outputs, height, width, .. } = op.sizes;
    let (values, weight, bias, y, workspace);
    match op.bias {
        Some(at) => {
            let [a, b, c, d, e] = mem.get([op.x, op.weight, at, op.y, op.workspace]);
            (values, weight, bias, y, workspace) = (a, b, Some(&*c), d, e);
        }
        None => {
            let [a, b, d, e] = mem.get([op.x, op.weight, op.y, op.workspace]);
            (values, weight, bias, y, workspace) = (a, b, None, d, e);
        }
    }
    let (weight, filters) = (&*weight, lanes(workspace));
    let filters = &mut filters[..outputs.div_ceil(LANES) * PLACES * inputs];
    pack(outputs, inputs, |o, i, tap| weight[(o * inputs + i) * TAPS + tap], filters);
    let x = Images { values, positive: None, channels: inputs, height, width };
    convolve(x, outputs, filters, bias, op.relu, false, y);
}

/// The input's gradient is the convolution of the output's with the filters turned by 180°.
pub fn input_gradient<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>, d: Grad) {
    let Conv2d { weight, y, relu, sizes, .. } = op.forward;
    let Sizes { inputs, outputs, height, width, .. } = sizes;
    let [weight, y, dy, dx, workspace] = mem.get([weight, y, op.dy, d.value, op.workspace]);
    let (weight, filters) = (&*weight, lanes(workspace));
    let filters = &mut filters[..inputs.div_ceil(LANES) * PLACES * outputs];
    pack(inputs, outputs, |i, o, tap| weight[(o * inputs + i) * TAPS + 8 - tap], filters);
    let positive = relu.then_some(&*y);
    let dy = Images { values: dy, positive, channels: outputs, height, width };
    convolve(dy, inputs, filters, None, false, d.accumulate, dx);
}

/// Tasks are strips of samples.
fn convolve<T: Real>(
    x: Images<T>,
    outputs: usize,
    filters: &[Lane<T>],
    bias: Option<&[T]>,
    relu: bool,
    accumulate: bool,
    y: &mut [T],
) {
    let Images { channels, height, width, .. } = x;
    let most = most_tiles::<T>(channels);
    let winograd = &T::convolution().winograd;
    let run = |image, strip: Tiles, mut y: ArrayViewMut3<T>| {
        let job = Forward { image, filters, bias, relu, accumulate };
        for tiles in strip.parts(most) {
            let len = forward_len(channels, tiles, (winograd.padded)(tiles.count()));
            T::with_scratch(len * LANES, |scratch| {
                (winograd.forward)(&job, tiles, lanes(scratch), &mut y)
            });
        }
    };
    let rows = Tiles::strips(height, width, most).next().map_or(1, |strip| strip.rows);
    y.par_chunks_mut(outputs * height * width).enumerate().for_each(|(sample, y)| {
        let mut y = ArrayViewMut3::from_shape((outputs, height, width), y).expect("one sample");
        let strips = y.axis_chunks_iter_mut(Axis(1), 2 * rows).into_par_iter().enumerate();
        strips.for_each(|(at, y)| {
            let (all, columns) = (height.div_ceil(2), width.div_ceil(2));
            let row = at * rows;
            let strip = Tiles { row, rows: rows.min(all - row), column: 0, columns };
            run(x.sample(sample), strip, y);
        });
    });
}

/// How the sums of the weight gradient are shared out: slices of the batch, and blocks of output and
/// input channels.
struct Shares {
    batch: usize,
    /// Groups of sixteen output and input channels.
    groups: [usize; 2],
}

/// Lanes that a task has for its sums and, behind them, for those of the bias.
const SHARE: usize = TAPS * TASK[1] * TASK[0] * LANES + TASK[0];

impl Shares {
    fn of(sizes: &Sizes) -> Shares {
        let groups = [sizes.outputs, sizes.inputs].map(|channels| channels.div_ceil(LANES));
        Shares { batch: sizes.batch, groups }
    }

    fn blocks(&self, axis: usize) -> usize {
        self.groups[axis].div_ceil(TASK[axis])
    }

    fn slices(&self) -> usize {
        TASKS.div_ceil(self.blocks(0) * self.blocks(1)).min(self.batch)
    }

    fn tasks(&self) -> usize {
        self.slices() * self.blocks(0) * self.blocks(1)
    }

    /// Where the sums of a block of channels are in a slice.
    fn task(&self, slice: usize, outputs: usize, inputs: usize) -> usize {
        (slice * self.blocks(0) + outputs) * self.blocks(1) + inputs
    }

    /// Samples and groups of channels of a task: the inverse of [`Shares::task`].
    fn parts(&self, task: usize) -> [Range<usize>; 3] {
        let (outputs, inputs) = (task / self.blocks(1) % self.blocks(0), task % self.blocks(1));
        let slice = task / (self.blocks(0) * self.blocks(1));
        let first = |slice: usize| slice * self.batch / self.slices();
        [first(slice)..first(slice + 1), self.block(0, outputs), self.block(1, inputs)]
    }

    fn block(&self, axis: usize, at: usize) -> Range<usize> {
        at * TASK[axis]..((at + 1) * TASK[axis]).min(self.groups[axis])
    }
}

/// Elements of the workspace of the gradients.
pub fn gradient_len(sizes: &Sizes) -> usize {
    let shares = Shares::of(sizes).tasks() * SHARE * LANES;
    filters_len(sizes.inputs, sizes.outputs).max(shares)
}

pub fn weight_gradient<T: Real>(op: &Conv2dBackward, mem: &mut Mem<T>) {
    let Conv2d { x, y, relu, sizes, .. } = op.forward;
    let Sizes { inputs, outputs, height, width, .. } = sizes;
    let shares = Shares::of(&sizes);
    let [x, y, dy, workspace] = mem.get([x, y, op.dy, op.workspace]);
    let positive = relu.then_some(&*y);
    let x = Images { values: x, positive: None, channels: inputs, height, width };
    let dy = Images { values: dy, positive, channels: outputs, height, width };
    let tasks = lanes(workspace)[..shares.tasks() * SHARE].par_chunks_exact_mut(SHARE);
    tasks.enumerate().for_each(|(task, share)| {
        let [samples, outputs, inputs] = shares.parts(task);
        let bias = (op.dbias.is_some() && inputs.start == 0).then_some(outputs.len());
        let job = Gradient { x, dy, samples, inputs, outputs, most: MOST_TILES };
        let (sums, rest) = share.split_at_mut(SHARE - TASK[0]);
        let sums = &mut sums[..job.sums_len()];
        let bias = bias.map(|groups| &mut rest[..groups]);
        T::with_scratch(job.scratch_len() * LANES, |scratch| {
            (T::convolution().winograd.gradient)(&job, lanes(scratch), sums, bias)
        });
    });
    if let Some(d) = op.dweight {
        let [dweight, workspace] = mem.get([d.value, op.workspace]);
        let sums = lanes(workspace);
        dweight.par_chunks_mut(inputs * TAPS).enumerate().for_each(|(o, dweight)| {
            add_shares(&shares, sums, o, d.accumulate, dweight);
        });
    }
    if let Some(d) = op.dbias {
        let [dbias, workspace] = mem.get([d.value, op.workspace]);
        let workspace = lanes(workspace);
        for (o, dbias) in dbias.iter_mut().enumerate() {
            let (block, group) = (o / LANES / TASK[0], o / LANES % TASK[0]);
            let lane = |slice| (shares.task(slice, block, 0) + 1) * SHARE - TASK[0] + group;
            let slices = (0..shares.slices()).map(|slice| workspace[lane(slice)][o % LANES].wide());
            put(dbias, d.accumulate, T::of(slices.sum()));
        }
    }
}

/// The filters of one output channel.
fn add_shares<T: Real>(
    shares: &Shares,
    workspace: &[Lane<T>],
    o: usize,
    accumulate: bool,
    dweight: &mut [T],
) {
    let block = o / LANES / TASK[0];
    let outputs = shares.block(0, block).len() * LANES;
    for (group, dweight) in dweight.chunks_mut(LANES * TAPS).enumerate() {
        let groups = shares.block(1, group / TASK[1]);
        let at = (group - groups.start) * outputs + o - block * TASK[0] * LANES;
        for tap in 0..TAPS {
            let mut sum = [T::zero(); LANES];
            for slice in 0..shares.slices() {
                let share = shares.task(slice, block, group / TASK[1]) * SHARE;
                let lane = &workspace[share + tap * groups.len() * outputs + at];
                (0..LANES).for_each(|l| sum[l] += lane[l]);
            }
            let to = dweight[tap..].iter_mut().step_by(TAPS);
            to.zip(sum).for_each(|(d, sum)| put(d, accumulate, sum));
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::ops::conv2d::simd::kernels_f32;
    use crate::random::{Purpose, Stream};

    const SHAPE: [usize; 3] = [37, 9, 22];
    const OUTPUTS: usize = 50;

    fn noise(len: usize, index: u32) -> Vec<f32> {
        let mut stream = Stream::new(7, Purpose::Noise, index);
        (0..len).map(|_| (stream.uniform() - 0.5) as f32).collect()
    }

    fn images(values: &[f32], channels: usize) -> Images<'_, f32> {
        Images { values, positive: None, channels, height: SHAPE[1], width: SHAPE[2] }
    }

    /// The forward result, and the sums of the weight gradient with those of the bias.
    fn run(unit: &Winograd<f32>) -> [Vec<f32>; 2] {
        let [inputs, height, width] = SHAPE;
        let (x, dy) = (noise(inputs * height * width, 0), noise(OUTPUTS * height * width, 1));
        let mut filters = vec![[0.0; LANES]; OUTPUTS.div_ceil(LANES) * PLACES * inputs];
        let filters = filters.as_flattened_mut();
        filters.copy_from_slice(&noise(filters.len(), 2));
        let mut y = ndarray::Array3::zeros((OUTPUTS, height, width));
        let (x, dy) = (images(&x, inputs), images(&dy, OUTPUTS));
        let bias = noise(OUTPUTS, 3);
        let job = Forward {
            image: x.sample(0),
            filters: lanes(filters),
            bias: Some(&bias),
            relu: true,
            accumulate: false,
        };
        let tiles = Tiles { row: 0, rows: height.div_ceil(2), column: 0, columns: width / 2 };
        let len = forward_len(inputs, tiles, (unit.padded)(tiles.count()));
        (unit.forward)(&job, tiles, &mut vec![[0.0; LANES]; len], &mut y.view_mut());
        let (inputs, outputs) = (0..inputs.div_ceil(LANES), 1..OUTPUTS.div_ceil(LANES));
        let job = Gradient { x, dy, samples: 0..1, inputs, outputs, most: 20 };
        let mut sums = vec![[f32::NAN; LANES]; job.sums_len() + job.outputs.len()];
        let (weights, bias) = sums.split_at_mut(job.sums_len());
        let mut scratch = vec![[f32::NAN; LANES]; job.scratch_len()];
        (unit.gradient)(&job, &mut scratch, weights, Some(bias));
        [y.into_raw_vec_and_offset().0, sums.into_flattened()]
    }

    #[test]
    fn every_vector_unit_gives_the_same_bits_and_the_portable_loops_nearly_so() {
        let mut all = kernels_f32();
        let (_, portable) = all.pop().expect("the portable loops are always there");
        let want = run(&portable.winograd);
        let vectorised: Vec<_> = all.iter().map(|(_, kernels)| run(&kernels.winograd)).collect();
        for (got, (name, _)) in vectorised.iter().zip(&all) {
            assert_eq!(*got, vectorised[0], "{name}");
            for (got, want) in got.iter().zip(&want) {
                let far = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
                assert!(far < 1e-5, "{name}: {far}");
            }
        }
    }
}
