//! Tiles, grids and workspace of `kernels/conv2d_tf32.cu`, and which convolutions it computes.
//!
//! A block has 64 channels of the result, and takes 8 channels of what it reads at once. A 3×3 product
//! whose result has at least half of the 64, and which reads at least those 8, is given to tensor cores;
//! of any other most of their work would be on zeros, and the layers concerned are limited by memory
//! anyway. Each of the three products of a layer is judged by itself.

use super::{Conv2d, Conv2dBackward, Sizes};
use crate::graph::{Grad, Value};
use crate::launch::Launch;

/// Threads of a block.
const THREADS: u32 = 128;

/// Side and taps of the filters that the kernels know.
const SIDE: usize = 3;
const TAPS: usize = SIDE * SIDE;

/// Channels of the result in a block, and the fewest that are worth it.
const ROWS: usize = 64;
const FEWEST_ROWS: usize = ROWS / 2;

/// Channels of what is read in a stage.
const DEPTH: usize = 8;

/// Pixels of a block, and of a stage of the weight gradient.
const PIXELS: usize = 128;
const STAGE_PIXELS: usize = 64;

/// Stages of the pipeline: one more where no second image is needed for the mask of a ReLU.
const FORWARD_STAGES: usize = 3;
const BACKWARD_STAGES: usize = 2;

/// Channels of x in a block of the weight gradient.
const INPUTS: usize = 16;

/// Floats between the channels of dy in shared memory.
const GRADIENT_PITCH: usize = STAGE_PIXELS + 4;

/// A slice of the weight gradient is halved while it has more tiles than this, or while there are
/// fewer blocks than fill a large GPU twice, but not below the last number.
const LONGEST_SLICE: usize = 64;
const BLOCKS: usize = 256;
const SHORTEST_SLICE: usize = 4;

/// Blocks of a product that a GPU should have at least, and stages that a slice of its sums then keeps.
const FEWEST_BLOCKS: usize = 64;
const FEWEST_STEPS: usize = 4;

/// Floats before and after a row in shared memory, for the border: four each, so that rows stay aligned.
const BORDER: usize = 8;

/// A tile of pixels of some samples: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    columns: usize,
    rows: usize,
    samples: usize,
    /// Floats of a channel in shared memory, one of `banks` more than a multiple of 32.
    plane: usize,
}

impl Tile {
    /// `pixels` pixels of results of height × width, at most `widest` in a row. The kernels store and
    /// multiply eight in a row; fewer than four rows would be mostly border.
    fn new(pixels: usize, widest: usize, [height, width]: [usize; 2], banks: &[usize]) -> Tile {
        let columns = width.next_power_of_two().clamp(8, widest);
        let rows = height.next_power_of_two().clamp(4, pixels / columns);
        let samples = pixels / columns / rows;
        let used = samples * (rows + SIDE - 1) * (columns + BORDER);
        let fits = |floats: &usize| banks.contains(&(floats % 32));
        let plane = (used..used + 32).find(fits).expect("one of 32 in a row has any remainder");
        Tile { columns, rows, samples, plane }
    }

    /// How many cover the results of a batch.
    fn count(&self, batch: usize, [height, width]: [usize; 2]) -> usize {
        let image = height.div_ceil(self.rows) * width.div_ceil(self.columns);
        batch.div_ceil(self.samples) * image
    }

    /// As the kernels take it.
    fn numbers(&self) -> [usize; 4] {
        [self.columns.ilog2() as usize, self.rows.ilog2() as usize, self.samples, self.plane]
    }
}

/// Whether a product with `rows` channels in its result that reads `terms` is given to tensor cores.
fn pays(sizes: &Sizes, rows: usize, terms: usize) -> bool {
    sizes.side == SIDE && rows >= FEWEST_ROWS && terms >= DEPTH && sizes.pixels() > 0
}

/// Elements that the forward product needs.
pub fn forward_len(sizes: &Sizes) -> usize {
    if pays(sizes, sizes.outputs, sizes.inputs) { forward_product(sizes).len() } else { 0 }
}

/// Elements that either of the gradients needs: one is computed after the other.
pub fn backward_len(sizes: &Sizes) -> usize {
    let Sizes { inputs, outputs, .. } = *sizes;
    let (rows, columns) = padded(sizes);
    let partial = || slices(sizes).0 * TAPS * rows * columns;
    let weight = pays(sizes, outputs, inputs).then(partial).unwrap_or(0);
    let data = pays(sizes, inputs, outputs).then(|| data_product(sizes, true).len());
    data.unwrap_or(0).max(weight)
}

/// Outputs and inputs of a partial weight gradient.
fn padded(sizes: &Sizes) -> (usize, usize) {
    (sizes.outputs.next_multiple_of(ROWS), sizes.inputs.next_multiple_of(INPUTS))
}

/// Into how many slices the tiles of a batch are cut, and the tiles of one.
fn slices(sizes: &Sizes) -> (usize, usize) {
    let tiles = weight_tile(sizes).count(sizes.batch, [sizes.height, sizes.width]);
    let (rows, columns) = padded(sizes);
    let blocks = (rows / ROWS * (columns / INPUTS)).max(1);
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

fn weight_tile(sizes: &Sizes) -> Tile {
    Tile::new(STAGE_PIXELS, 16, [sizes.height, sizes.width], &[4, 12, 20, 28])
}

/// The tile of a product with a result of this size.
fn image_tile(result: [usize; 2]) -> Tile {
    Tile::new(PIXELS, 32, result, &[8])
}

fn launch(kernel: &'static str, grid: [usize; 3], floats: usize) -> Launch {
    let grid = grid.map(|n| u32::try_from(n).expect("grids fit in 32 bits"));
    let shared = (floats * size_of::<f32>()) as u32;
    Launch { grid, block: THREADS, shared, ..Launch::blocks(kernel, 1) }
}

/// Rounds `weight` and puts it in the order in which the blocks of a product read it; `turned` for the
/// input gradient, whose rows are the inputs.
fn pack(sizes: &Sizes, weight: Value, packed: Value, turned: bool) -> Launch {
    let Sizes { inputs, outputs, .. } = *sizes;
    let [rows, terms] = if turned { [inputs, outputs] } else { [outputs, inputs] };
    let grid = [terms.div_ceil(DEPTH), rows.div_ceil(ROWS), 1].map(|n| n as u32);
    let launch = Launch { grid, ..Launch::blocks("conv2d_tf32_pack", 1) };
    launch.buffers([weight, packed]).ints([inputs, outputs, turned.into()])
}

impl Sizes {
    /// What every kernel is told.
    fn image(&self) -> [usize; 6] {
        let Sizes { inputs, outputs, height, width, pad, batch, .. } = *self;
        [inputs, outputs, height, width, pad, batch]
    }
}

/// One product: `rows` channels of the result from `terms` of what is read.
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

fn forward_product(sizes: &Sizes) -> Product {
    let Sizes { inputs: terms, outputs: rows, batch, height, width, .. } = *sizes;
    Product { rows, terms, batch, result: [height, width], stages: FORWARD_STAGES, images: 1 }
}

fn data_product(sizes: &Sizes, relu: bool) -> Product {
    let Sizes { inputs: rows, outputs: terms, batch, .. } = *sizes;
    let (outer, images) = (sizes.outer(), 1 + usize::from(relu));
    let result = [outer.height, outer.width];
    Product { rows, terms, batch, result, stages: BACKWARD_STAGES, images }
}

impl Product {
    fn tiles(&self) -> usize {
        image_tile(self.result).count(self.batch, self.result)
    }

    fn packed_len(&self) -> usize {
        self.rows.next_multiple_of(ROWS) * self.terms.next_multiple_of(DEPTH) * TAPS
    }

    /// Elements of the result.
    fn total(&self) -> usize {
        self.batch * self.rows * self.result[0] * self.result[1]
    }

    /// Elements of the packed weights, and of the partial results behind them.
    fn len(&self) -> usize {
        let (slices, _) = self.slices();
        self.packed_len() + if slices > 1 { slices * self.total() } else { 0 }
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
    fn launch(&self, kernel: &'static str, buffers: [Value; 5], sizes: &Sizes) -> Launch {
        let tile = image_tile(self.result);
        let stage = TAPS * DEPTH * ROWS + self.images * DEPTH * tile.plane;
        let (slices, slice) = self.slices();
        let grid = [self.tiles(), self.rows.div_ceil(ROWS), slices];
        let launch = launch(kernel, grid, self.stages * stage).buffers(buffers);
        launch.ints(sizes.image()).ints(tile.numbers()).ints([slice, self.packed_len()])
    }

    /// What adds the slices, if there are several: from `workspace`, with `bias`, to `image`.
    fn join(&self, [workspace, bias, image]: [Value; 3], flags: [bool; 3]) -> Option<Launch> {
        let ((slices, _), plane) = (self.slices(), self.result[0] * self.result[1]);
        let launch = Launch::elements("conv2d_tf32_join", self.total());
        let launch = launch.buffers([workspace, bias, image]);
        let launch = launch.ints([self.rows, plane, self.total(), slices, self.packed_len()]);
        (slices > 1).then(|| launch.ints(flags.map(usize::from)))
    }
}

/// The forward product; none if it is left to single precision.
pub fn forward(op: &Conv2d) -> Option<Vec<Launch>> {
    let Conv2d { x, weight, bias, y, workspace, relu, sizes, .. } = *op;
    if !pays(&sizes, sizes.outputs, sizes.inputs) {
        return None;
    }
    let (product, biased) = (forward_product(&sizes), bias.is_some());
    let bias = bias.unwrap_or(weight);
    let launch = product.launch("conv2d_tf32_forward", [x, workspace, bias, y, workspace], &sizes);
    let launch = launch.ints([biased.into(), relu.into()]);
    let join = product.join([workspace, bias, y], [biased, relu, false]);
    Some([pack(&sizes, weight, workspace, false), launch].into_iter().chain(join).collect())
}

/// The input gradient; none if it is left to single precision.
pub fn input_gradient(op: &Conv2dBackward, dx: Grad) -> Option<Vec<Launch>> {
    let Conv2d { weight, y, relu, sizes, .. } = op.forward;
    if !pays(&sizes, sizes.inputs, sizes.outputs) {
        return None;
    }
    let (product, workspace) = (data_product(&sizes, relu), op.workspace);
    let buffers = [op.dy, y, workspace, dx.value, workspace];
    let launch = product.launch("conv2d_tf32_backward_data", buffers, &sizes);
    let launch = launch.ints([relu.into(), dx.accumulate.into()]);
    let join = product.join([workspace, weight, dx.value], [false, false, dx.accumulate]);
    Some([pack(&sizes, weight, workspace, true), launch].into_iter().chain(join).collect())
}

/// The weight gradient; none if it is left to single precision.
pub fn weight_gradient(op: &Conv2dBackward, dweight: Grad) -> Option<Vec<Launch>> {
    let Conv2d { x, y, relu, sizes, .. } = op.forward;
    if !pays(&sizes, sizes.outputs, sizes.inputs) {
        return None;
    }
    let tile = weight_tile(&sizes);
    let tiles = tile.count(sizes.batch, [sizes.height, sizes.width]);
    let (slices, slice) = slices(&sizes);
    let (rows, columns) = padded(&sizes);
    let stage = (1 + usize::from(relu)) * ROWS * GRADIENT_PITCH + INPUTS * tile.plane;
    let grid = [columns / INPUTS, rows / ROWS, slices];
    let partial = launch("conv2d_tf32_backward_weight", grid, BACKWARD_STAGES * stage)
        .buffers([x, op.dy, y, op.workspace])
        .ints(sizes.image())
        .ints(tile.numbers())
        .ints([relu.into(), tiles, slice]);
    let total = sizes.outputs * sizes.inputs * TAPS;
    let sum = Launch::elements("conv2d_tf32_sum", total)
        .buffers([op.workspace, dweight.value])
        .ints([sizes.inputs, sizes.outputs, slices, dweight.accumulate.into()]);
    Some(vec![partial, sum])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the smallest of the GPUs has for a block.
    const SHARED: usize = 99 << 10;

    fn sizes() -> impl Iterator<Item = [usize; 2]> {
        let sides = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 32, 33, 64, 65, 128, 256];
        sides.into_iter().flat_map(move |height| sides.map(|width| [height, width]))
    }

    fn sized([height, width]: [usize; 2]) -> Sizes {
        Sizes { batch: 3, inputs: 64, outputs: 64, height, width, side: 3, pad: 1 }
    }

    /// The banks that the 32 lanes meet whose numbers lie at `place(g, t)`.
    fn banks(place: impl Fn(usize, usize) -> usize) -> usize {
        let all = (0..32).map(|lane| place(lane / 4, lane % 4) % 32);
        all.collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn lanes_of_a_warp_meet_in_no_bank() {
        for size in sizes() {
            let (image, weight) = (image_tile(size).plane, weight_tile(&sized(size)).plane);
            assert_eq!(banks(|g, t| t * image + g), 32, "{size:?}");
            assert_eq!(banks(|g, t| g * weight + t), 32, "{size:?}");
            assert!(image % 4 == 0 && weight % 4 == 0, "{size:?}: fours stay aligned");
        }
        assert_eq!(banks(|g, t| g * GRADIENT_PITCH + t), 32);
        // Four numbers at once: eight lanes at a time, two values of g.
        for first in (0..8).step_by(2) {
            let place = |g: usize, t: usize| t * ROWS + ((4 * (first + g % 2)) ^ (8 * t));
            let all = (0..8).flat_map(|lane| (0..4).map(move |i| place(lane / 4, lane % 4) + i));
            let met: std::collections::HashSet<_> = all.map(|at| at % 32).collect();
            assert_eq!(met.len(), 32);
        }
    }

    #[test]
    fn stages_fit_into_shared_memory() {
        for size in sizes() {
            let sizes = sized(size);
            let products = [forward_product(&sizes), data_product(&sizes, true)];
            let launches = products.map(|product| product.launch("", [Value(0); 5], &sizes));
            let tile = weight_tile(&sizes);
            let stage = 2 * ROWS * GRADIENT_PITCH + INPUTS * tile.plane;
            let weight = BACKWARD_STAGES * stage * size_of::<f32>();
            let most = launches.map(|launch| launch.shared as usize).into_iter().max();
            let most = weight.max(most.expect("there are two"));
            assert!(most <= SHARED, "{size:?}: {most} bytes");
        }
    }

    #[test]
    fn tiles_cover_a_batch() {
        for size in sizes() {
            let tile = image_tile(size);
            assert_eq!(tile.columns * tile.rows * tile.samples, PIXELS, "{size:?}");
            let whole = Tile { columns: 8, rows: 4, samples: 4, plane: tile.plane };
            assert_eq!(whole.count(5, [4, 8]), 2);
            assert!(tile.count(5, size) * PIXELS >= 5 * size[0] * size[1], "{size:?}");
        }
    }
}
