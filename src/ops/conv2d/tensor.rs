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

/// Floats before and after a row in shared memory, for the border: four each, so that rows stay aligned.
const BORDER: usize = 8;

/// A tile of pixels of some samples: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    columns: usize,
    rows: usize,
    samples: usize,
    /// Floats of a channel in shared memory, which is `banks` more than a multiple of 32.
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

/// Elements of the packed weights of a product.
fn packed_len(rows: usize, terms: usize) -> usize {
    rows.next_multiple_of(ROWS) * terms.next_multiple_of(DEPTH) * TAPS
}

/// Elements that the forward product needs.
pub fn forward_len(sizes: &Sizes) -> usize {
    packed_len(sizes.outputs, sizes.inputs)
}

/// Elements that either of the gradients needs: one is computed after the other.
pub fn backward_len(sizes: &Sizes) -> usize {
    let (rows, columns) = padded(sizes);
    let partial = slices(sizes).0 * TAPS * rows * columns;
    packed_len(sizes.inputs, sizes.outputs).max(partial)
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
    Tile::new(PIXELS, 32, result, &[8, 24])
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

/// A block for each 64 of `rows` channels and each tile of the result.
fn product(
    kernel: &'static str,
    [rows, batch]: [usize; 2],
    result: [usize; 2],
    [stages, images]: [usize; 2],
) -> (Launch, Tile) {
    let tile = image_tile(result);
    let stage = TAPS * DEPTH * ROWS + images * DEPTH * tile.plane;
    let grid = [tile.count(batch, result), rows.div_ceil(ROWS), 1];
    (launch(kernel, grid, stages * stage), tile)
}

/// The forward product; none if it is left to single precision.
pub fn forward(op: &Conv2d) -> Option<Vec<Launch>> {
    let Conv2d { x, weight, bias, y, workspace, relu, sizes, .. } = *op;
    if !pays(&sizes, sizes.outputs, sizes.inputs) {
        return None;
    }
    let result = [sizes.height, sizes.width];
    let packed = pack(&sizes, weight, workspace, false);
    let (launch, tile) = product(
        "conv2d_tf32_forward",
        [sizes.outputs, sizes.batch],
        result,
        [FORWARD_STAGES, 1],
    );
    let launch = launch.buffers([x, workspace, bias.unwrap_or(weight), y]).ints(sizes.image());
    let launch = launch.ints(tile.numbers()).ints([bias.is_some().into(), relu.into()]);
    Some(vec![packed, launch])
}

/// The input gradient; none if it is left to single precision.
pub fn input_gradient(op: &Conv2dBackward, dx: Grad) -> Option<Vec<Launch>> {
    let Conv2d { weight, y, relu, sizes, .. } = op.forward;
    if !pays(&sizes, sizes.inputs, sizes.outputs) {
        return None;
    }
    let outer = sizes.outer();
    let packed = pack(&sizes, weight, op.workspace, true);
    let (launch, tile) = product(
        "conv2d_tf32_backward_data",
        [sizes.inputs, sizes.batch],
        [outer.height, outer.width],
        [BACKWARD_STAGES, 1 + usize::from(relu)],
    );
    let launch = launch.buffers([op.dy, y, op.workspace, dx.value]).ints(sizes.image());
    let launch = launch.ints(tile.numbers()).ints([relu.into(), dx.accumulate.into()]);
    Some(vec![packed, launch])
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
