//! Grids and workspace of the kernels for tensor cores, and which convolutions they compute:
//! `kernels/tensor_product.cuh`.
//!
//! A block has 64 channels of the result, and takes 8 words of what it reads at once, of one channel each
//! or of two. A 3×3 product whose result has at least half of the 64, and which reads at least 8, is given
//! to tensor cores; of any other most of their work would be on zeros, and the layers concerned are limited
//! by memory anyway. Each of the three products of a layer is judged by itself.

use super::tile::Tile;
use super::{Conv2d, Conv2dBackward, Sizes, cuda};
use crate::graph::{Grad, Precision, Value};
use crate::launch::Launch;

/// The kernels of one precision.
#[derive(Debug)]
pub struct Family {
    pub pack: &'static str,
    forward: &'static str,
    backward_data: &'static str,
    backward_weight: &'static str,
    join: &'static str,
    sum: &'static str,
    /// Channels in a word. Where there are two, kernels of their own make words of what is read.
    pub per_word: usize,
    /// Of the pipelines of the three products.
    stages: [usize; 3],
}

const TF32: Family = Family {
    pack: "conv2d_tf32_pack",
    forward: "conv2d_tf32_forward",
    backward_data: "conv2d_tf32_backward_data",
    backward_weight: "conv2d_tf32_backward_weight",
    join: "conv2d_tf32_join",
    sum: "conv2d_tf32_sum",
    per_word: 1,
    // One less where the gradients copy y too, for the mask of a ReLU.
    stages: [3, 2, 2],
};

const BF16: Family = Family {
    pack: "conv2d_bf16_pack",
    forward: "conv2d_bf16_forward",
    backward_data: "conv2d_bf16_backward_data",
    backward_weight: "conv2d_bf16_backward_weight",
    join: "conv2d_bf16_join",
    sum: "conv2d_bf16_sum",
    per_word: 2,
    stages: [3, 3, 3],
};

impl Family {
    /// None where no tensor cores are used.
    pub fn of(precision: Precision) -> Option<&'static Family> {
        match precision {
            Precision::Fp32 => None,
            Precision::Tf32 => Some(&TF32),
            Precision::Bf16 => Some(&BF16),
        }
    }

    /// Whether what is read are words of two channels.
    pub fn in_words(&self) -> bool {
        self.per_word == 2
    }

    /// Channels of x in a block of the weight gradient.
    fn inputs(&self) -> usize {
        PLANES * self.per_word
    }

    /// Channels of what is read in a stage.
    pub fn depth(&self) -> usize {
        DEPTH * self.per_word
    }

    /// Words in shared memory of a block of the weight gradient.
    fn weight_words(&self, sizes: &Sizes, relu: bool) -> usize {
        let gradients = 1 + usize::from(relu && !self.in_words());
        let gradient = gradients * ROWS / self.per_word * GRADIENT_PITCH;
        self.stages[2] * (gradient + PLANES * Tile::of_gradient(sizes).plane)
    }

    /// Outputs and inputs of a partial weight gradient.
    fn padded(&self, sizes: &Sizes) -> (usize, usize) {
        (sizes.outputs.next_multiple_of(ROWS), sizes.inputs.next_multiple_of(self.inputs()))
    }

    /// Into how many slices the tiles of a batch are cut, and the tiles of one.
    fn slices(&self, sizes: &Sizes) -> (usize, usize) {
        let tiles = Tile::of_gradient(sizes).count(sizes.batch, [sizes.height, sizes.width]);
        let (rows, columns) = self.padded(sizes);
        let blocks = (rows / ROWS * (columns / self.inputs())).max(1);
        let mut slices = 1;
        loop {
            let slice = tiles.div_ceil(slices);
            let wanted = slice > LONGEST_SLICE || blocks * slices < BLOCKS;
            if !wanted || slice <= SHORTEST_SLICE {
                return (slices, slice);
            }
            slices *= 2;
        }
    }
}

/// Threads of a block.
const THREADS: u32 = 128;

/// Side and taps of the filters that the kernels know.
const SIDE: usize = 3;
pub const TAPS: usize = SIDE * SIDE;

/// Channels of the result in a block, and the fewest that are worth it.
pub const ROWS: usize = 64;
const FEWEST_ROWS: usize = ROWS / 2;

/// Words of what is read in a stage, and the fewest channels that are worth it.
const DEPTH: usize = 8;
const FEWEST_TERMS: usize = 8;

/// Pixels of a block, and of a stage of the weight gradient.
pub const PIXELS: usize = 128;
pub const STAGE_PIXELS: usize = 64;

/// Planes of x in a block of the weight gradient.
const PLANES: usize = 16;

/// Words between the planes of dy in shared memory.
pub const GRADIENT_PITCH: usize = STAGE_PIXELS + 4;

/// A slice of the weight gradient is halved while it has more tiles than this, or while there are
/// fewer blocks than fill a large GPU twice, but not below the last number.
const LONGEST_SLICE: usize = 64;
const BLOCKS: usize = 256;
const SHORTEST_SLICE: usize = 4;

/// Blocks of a product that a GPU should have at least, and stages that a slice of its sums then keeps.
const FEWEST_BLOCKS: usize = 64;
const FEWEST_STEPS: usize = 4;

/// Whether the forward product of a layer, and so its weight gradient, is given to tensor cores,
pub fn pays(sizes: &Sizes) -> bool {
    is_wide(sizes, sizes.outputs, sizes.inputs)
}

/// and its input gradient.
pub fn gradient_pays(sizes: &Sizes) -> bool {
    is_wide(sizes, sizes.inputs, sizes.outputs)
}

/// Whether a product with `rows` channels in its result that reads `terms` is worth it.
fn is_wide(sizes: &Sizes, rows: usize, terms: usize) -> bool {
    sizes.side == SIDE && rows >= FEWEST_ROWS && terms >= FEWEST_TERMS && sizes.pixels() > 0
}

/// Elements that the forward product needs.
pub fn forward_len(family: &Family, sizes: &Sizes) -> usize {
    if pays(sizes) { forward_product(family, sizes).partial_len() } else { 0 }
}

/// Elements that either of the gradients needs: one is computed after the other.
pub fn backward_len(family: &Family, sizes: &Sizes) -> usize {
    let (rows, columns) = family.padded(sizes);
    let partial = || family.slices(sizes).0 * TAPS * rows * columns;
    let weight = pays(sizes).then(partial).unwrap_or(0);
    let data = gradient_pays(sizes).then(|| data_product(family, sizes, true).partial_len());
    data.unwrap_or(0).max(weight)
}

fn launch(kernel: &'static str, grid: [usize; 3], words: usize) -> Launch {
    let grid = grid.map(|n| u32::try_from(n).expect("grids fit in 32 bits"));
    let shared = (words * size_of::<f32>()) as u32;
    Launch { grid, block: THREADS, shared, ..Launch::blocks(kernel, 1) }
}

impl Sizes {
    /// What every kernel is told.
    fn image(&self) -> [usize; 6] {
        let Sizes { inputs, outputs, height, width, pad, batch, .. } = *self;
        [inputs, outputs, height, width, pad, batch]
    }
}

/// One product: `rows` channels of the result from `terms` words of what is read.
struct Product {
    rows: usize,
    terms: usize,
    batch: usize,
    /// Height and width.
    result: [usize; 2],
    /// Of the pipeline, and images that each has.
    stages: usize,
    images: usize,
}

fn forward_product(family: &Family, sizes: &Sizes) -> Product {
    let Sizes { inputs, outputs: rows, batch, height, width, .. } = *sizes;
    let (terms, result) = (inputs.div_ceil(family.per_word), [height, width]);
    Product { rows, terms, batch, result, stages: family.stages[0], images: 1 }
}

fn data_product(family: &Family, sizes: &Sizes, relu: bool) -> Product {
    let Sizes { inputs: rows, outputs, batch, .. } = *sizes;
    let (outer, images) = (sizes.outer(), 1 + usize::from(relu && !family.in_words()));
    let (terms, result) = (outputs.div_ceil(family.per_word), [outer.height, outer.width]);
    Product { rows, terms, batch, result, stages: family.stages[1], images }
}

impl Product {
    fn tiles(&self) -> usize {
        Tile::of_image(self.result).count(self.batch, self.result)
    }

    /// Elements of the result.
    fn total(&self) -> usize {
        self.batch * self.rows * self.result[0] * self.result[1]
    }

    /// Elements of the partial results.
    fn partial_len(&self) -> usize {
        let (slices, _) = self.slices();
        if slices > 1 { slices * self.total() } else { 0 }
    }

    /// Into how many slices its sums are cut, a power of two, and the stages of one.
    fn slices(&self) -> (usize, usize) {
        let blocks = self.tiles() * self.rows.div_ceil(ROWS);
        let steps = self.terms.div_ceil(DEPTH);
        let mut slices = 1;
        while blocks * slices < FEWEST_BLOCKS && steps.div_ceil(2 * slices) >= FEWEST_STEPS {
            slices *= 2;
        }
        (slices, steps.div_ceil(slices))
    }

    /// A block for each 64 of the channels, each tile of the result, and each slice.
    fn launch<const N: usize>(
        &self,
        kernel: &'static str,
        buffers: [Value; N],
        sizes: &Sizes,
    ) -> Launch {
        let tile = Tile::of_image(self.result);
        let stage = TAPS * DEPTH * ROWS + self.images * DEPTH * tile.plane;
        let (slices, slice) = self.slices();
        let grid = [self.tiles(), self.rows.div_ceil(ROWS), slices];
        let launch = launch(kernel, grid, self.stages * stage).buffers(buffers).for_two();
        launch.ints(sizes.image()).ints(tile.numbers()).ints([slice, slices])
    }

    /// What adds the slices, if there are several: from `workspace`, with `bias`, to `image`; `flags`
    /// are whether there is a bias, a ReLU, and something there to be added to.
    fn join(
        &self,
        family: &Family,
        [workspace, bias, image]: [Value; 3],
        flags: [bool; 3],
        words: bool,
    ) -> Option<Launch> {
        let ((slices, _), plane) = (self.slices(), self.result[0] * self.result[1]);
        let total = self.batch * self.rows.div_ceil(family.per_word) * plane;
        let launch = Launch::elements(family.join, total);
        let launch = launch.buffers([workspace, bias, image]).for_two();
        let launch = launch.ints([self.rows, plane, total, slices]).ints(flags.map(usize::from));
        let launch = if family.in_words() { launch.ints([words.into()]) } else { launch };
        (slices > 1).then_some(launch)
    }
}

/// The forward product; none if it is left to single precision.
pub fn forward(op: &Conv2d) -> Option<Vec<Launch>> {
    let Conv2d { x, weight, bias, y, workspace, relu, sizes, y_in_words, .. } = *op;
    let (family, packed) = (Family::of(op.precision)?, op.packed?);
    let (product, biased) = (forward_product(family, &sizes), bias.is_some());
    let (x, bias) = (op.x_words.unwrap_or(x), bias.unwrap_or(weight));
    let launch = product.launch(family.forward, [x, packed, bias, y, workspace], &sizes);
    let launch = launch.ints([biased.into(), relu.into()]);
    let launch = if family.in_words() { launch.ints([y_in_words.into()]) } else { launch };
    let join = product.join(family, [workspace, bias, y], [biased, relu, false], y_in_words);
    Some([launch].into_iter().chain(join).collect())
}

/// The words of dy that the gradients read, and the gradient of the bias; none where dy is read as it is.
pub fn passed(op: &Conv2dBackward) -> Option<Vec<Launch>> {
    let Conv2d { y, relu, sizes, y_in_words, .. } = op.forward;
    let (passed, biased) = (op.passed?, op.dbias.is_some());
    let (slices, pixels) = (sizes.slices(), sizes.all_pixels());
    let planes = sizes.outputs.div_ceil(BF16.per_word);
    let launch = Launch {
        grid: [planes as u32, slices as u32, 1],
        ..Launch::blocks("conv2d_bf16_gradient", 1)
    };
    let launch = launch
        .buffers([op.dy, y, passed, op.workspace])
        .for_two()
        .ints([sizes.outputs, sizes.pixels(), pixels, relu.into(), pixels.div_ceil(slices)])
        .ints([op.dy_in_words, y_in_words, biased].map(usize::from));
    let sum = op.dbias.map(|d| cuda::sum(op.workspace, d, slices, sizes.outputs));
    Some([launch].into_iter().chain(sum).collect())
}

/// The input gradient; none if it is left to single precision.
pub fn input_gradient(op: &Conv2dBackward, dx: Grad) -> Option<Vec<Launch>> {
    let Conv2d { weight, y, relu, sizes, precision, .. } = op.forward;
    let (family, packed) = (Family::of(precision)?, op.packed?);
    let (product, workspace) = (data_product(family, &sizes, relu), op.workspace);
    let add = dx.accumulate.into();
    let launch = if family.in_words() {
        let buffers = [op.passed?, packed, dx.value, workspace];
        product.launch(family.backward_data, buffers, &sizes).ints([add, op.dx_in_words.into()])
    } else {
        let buffers = [op.dy, y, packed, dx.value, workspace];
        product.launch(family.backward_data, buffers, &sizes).ints([relu.into(), add])
    };
    let (buffers, flags) = ([workspace, weight, dx.value], [false, false, dx.accumulate]);
    let join = product.join(family, buffers, flags, op.dx_in_words);
    Some([launch].into_iter().chain(join).collect())
}

/// The weight gradient; none if it is left to single precision.
pub fn weight_gradient(op: &Conv2dBackward, dweight: Grad) -> Option<Vec<Launch>> {
    let Conv2d { x, y, relu, sizes, precision, x_words, .. } = op.forward;
    let family = Family::of(precision).filter(|_| pays(&sizes))?;
    let tile = Tile::of_gradient(&sizes);
    let tiles = tile.count(sizes.batch, [sizes.height, sizes.width]);
    let (slices, slice) = family.slices(&sizes);
    let (rows, columns) = family.padded(&sizes);
    let grid = [columns / family.inputs(), rows / ROWS, slices];
    let launch = launch(family.backward_weight, grid, family.weight_words(&sizes, relu));
    let partial = if family.in_words() {
        launch.buffers([x_words?, op.passed?, op.workspace])
    } else {
        launch.buffers([x, op.dy, y, op.workspace])
    };
    let partial = partial.for_two().ints(sizes.image()).ints(tile.numbers());
    let partial = if family.in_words() { partial } else { partial.ints([relu.into()]) };
    let partial = partial.ints([tiles, slice, slices]);
    let total = sizes.outputs * sizes.inputs * TAPS;
    let sum = Launch::elements(family.sum, total).buffers([op.workspace, dweight.value]);
    let sum = sum.for_two().ints([sizes.inputs, sizes.outputs, slices, dweight.accumulate.into()]);
    Some(vec![partial, sum])
}

#[cfg(test)]
mod tests {
    use super::super::tile::tests::{sized, sizes};
    use super::*;

    /// What the smallest of the GPUs has for a block.
    const SHARED: usize = 99 << 10;

    #[test]
    fn stages_fit_into_shared_memory() {
        for (size, family) in sizes().flat_map(|size| [(size, &TF32), (size, &BF16)]) {
            let sizes = sized(size);
            let products = [forward_product(family, &sizes), data_product(family, &sizes, true)];
            let launches = products.map(|product| product.launch("", [Value(0); 5], &sizes));
            let weight = family.weight_words(&sizes, true) * size_of::<f32>();
            let most = launches.map(|launch| launch.shared as usize).into_iter().max();
            let most = weight.max(most.expect("there are two"));
            assert!(most <= SHARED, "{size:?}: {most} bytes");
        }
    }
}
