//! Grids and workspace of `kernels/conv2d.cu`.
//!
//! The gradients of weights and bias are summed over slices of the pixels of the batch. How many
//! follows from the sizes of the layer alone, so that every GPU adds the same sums.

use super::{Conv2d, Conv2dBackward, Sizes, tensor};
use crate::graph::{Grad, Value};
use crate::launch::Launch;

/// Rows and columns of the result that a block computes.
const TILE: [usize; 2] = [64, 64];

/// The same in the kernels for few channels.
const NARROW_TILE: [usize; 2] = [16, 256];

/// A slice of the pixels is halved while it is longer than this, so that sums stay exact,
const LONGEST_SLICE: usize = 4096;

/// or while there are fewer blocks than fill a large GPU,
const BLOCKS: usize = 256;

/// but not below this.
const SHORTEST_SLICE: usize = 128;

impl Sizes {
    /// Pixels of the batch.
    pub(super) fn all_pixels(&self) -> usize {
        self.batch * self.pixels()
    }

    /// Weights of one output channel.
    fn weights(&self) -> usize {
        self.inputs * self.taps()
    }

    /// Into how many slices the pixels of the batch are cut: a power of two.
    pub(super) fn slices(&self) -> usize {
        let [columns, rows, _] = grid(self.outputs, self.weights(), 1);
        let tiles = (columns * rows) as usize;
        let mut slices = 1;
        loop {
            let slice = self.all_pixels().div_ceil(slices);
            let wanted = slice > LONGEST_SLICE || tiles * slices < BLOCKS;
            if !wanted || slice <= SHORTEST_SLICE {
                return slices;
            }
            slices *= 2;
        }
    }

    /// What every kernel is told; `pixels` of the batch in what it computes, or sums over.
    fn layer(&self, pixels: usize) -> [usize; 7] {
        let Sizes { inputs, outputs, height, width, side, pad, .. } = *self;
        [inputs, outputs, height, width, side, pad, pixels]
    }
}

/// Elements of the partial sums over all slices.
pub fn partial_len(sizes: &Sizes) -> usize {
    sizes.slices() * sizes.outputs * sizes.weights().max(1)
}

/// Whether a result of so many rows is computed by the kernels for few.
fn is_narrow(rows: usize) -> bool {
    rows <= NARROW_TILE[0]
}

fn grid(rows: usize, columns: usize, slices: usize) -> [u32; 3] {
    let tile = if is_narrow(rows) { NARROW_TILE } else { TILE };
    let blocks = [columns.div_ceil(tile[1]), rows.div_ceil(tile[0]), slices];
    blocks.map(|n| u32::try_from(n).expect("grids fit in 32 bits"))
}

/// The wide or the narrow one of `kernels` on a result of rows × columns, once for each slice; none
/// where there is nothing to compute.
fn tiled(kernels: [&'static str; 2], rows: usize, columns: usize, slices: usize) -> Option<Launch> {
    let kernel = kernels[usize::from(is_narrow(rows))];
    let launch = Launch { grid: grid(rows, columns, slices), ..Launch::blocks(kernel, 1) };
    (rows * columns > 0).then_some(launch)
}

pub fn forward(op: &Conv2d) -> Vec<Launch> {
    tensor::forward(op).unwrap_or_else(|| plain_forward(op))
}

fn plain_forward(op: &Conv2d) -> Vec<Launch> {
    let Conv2d { x, weight, bias, y, relu, sizes, .. } = *op;
    let kernels = ["conv2d_forward", "conv2d_forward_narrow"];
    let launch = tiled(kernels, sizes.outputs, sizes.all_pixels(), 1).map(|launch| {
        launch
            .buffers([x, weight, bias.unwrap_or(weight), y])
            .for_two()
            .ints(sizes.layer(sizes.all_pixels()))
            .ints([bias.is_some().into(), relu.into()])
    });
    launch.into_iter().collect()
}

pub fn backward(op: &Conv2dBackward) -> Vec<Launch> {
    let data = op.dx.into_iter().flat_map(|d| {
        let by_tensor_cores = tensor::input_gradient(op, d);
        by_tensor_cores.unwrap_or_else(|| input_gradient(op, d).into_iter().collect())
    });
    let weight = op
        .dweight
        .into_iter()
        .flat_map(|d| tensor::weight_gradient(op, d).unwrap_or_else(|| weight_gradient(op, d)));
    if let Some(passed) = tensor::passed(op) {
        return passed.into_iter().chain(data).chain(weight).collect();
    }
    let bias = op.dbias.into_iter().flat_map(|d| bias_gradient(op, d));
    data.chain(weight).chain(bias).collect()
}

fn input_gradient(op: &Conv2dBackward, dx: Grad) -> Option<Launch> {
    let Conv2d { weight, y, relu, sizes, .. } = op.forward;
    let kernels = ["conv2d_backward_data", "conv2d_backward_data_narrow"];
    let pixels = sizes.outer().all_pixels();
    let launch = tiled(kernels, sizes.inputs, pixels, 1)?;
    let launch = launch.buffers([op.dy, y, weight, dx.value]).for_two().ints(sizes.layer(pixels));
    Some(launch.ints([relu.into(), dx.accumulate.into()]))
}

fn weight_gradient(op: &Conv2dBackward, dweight: Grad) -> Vec<Launch> {
    let Conv2d { x, y, relu, sizes, .. } = op.forward;
    let slices = sizes.slices();
    let kernels = ["conv2d_backward_weight", "conv2d_backward_weight_narrow"];
    let Some(launch) = tiled(kernels, sizes.outputs, sizes.weights(), slices) else {
        return Vec::new();
    };
    let slice = sizes.all_pixels().div_ceil(slices);
    let partial = launch
        .buffers([x, op.dy, y, op.workspace])
        .for_two()
        .ints(sizes.layer(sizes.all_pixels()))
        .ints([relu.into(), slice, slices]);
    vec![partial, sum(op.workspace, dweight, slices, sizes.outputs * sizes.weights())]
}

fn bias_gradient(op: &Conv2dBackward, dbias: Grad) -> Vec<Launch> {
    let Conv2d { y, relu, sizes, .. } = op.forward;
    let (slices, pixels) = (sizes.slices(), sizes.all_pixels());
    if sizes.outputs == 0 {
        return Vec::new();
    }
    let partial = Launch::blocks("conv2d_backward_bias", sizes.outputs)
        .buffers([op.dy, y, op.workspace])
        .for_two()
        .ints([sizes.outputs, sizes.pixels(), pixels, relu.into(), pixels.div_ceil(slices)]);
    let grid = [partial.grid[0], slices as u32, 1];
    vec![Launch { grid, ..partial }, sum(op.workspace, dbias, slices, sizes.outputs)]
}

/// Adds the slices in their order.
pub fn sum(partial: Value, gradient: Grad, slices: usize, total: usize) -> Launch {
    let launch = Launch::elements("conv2d_backward_sum", total);
    launch.buffers([partial, gradient.value]).for_two().ints([
        slices,
        total,
        gradient.accumulate.into(),
    ])
}
