//! Weights in the order in which the kernels for tensor cores read them.
//!
//! One launch packs the weights of many layers: a table says what each of its blocks does.
//! Kernel twins: `pack` in `kernels/conv2d_tf32.cu`. The CPU packs weights for itself, and not these.

use super::Operation;
use super::tensor::{Family, ROWS, TAPS};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Precision, Value};
use crate::launch::Launch;

/// Words of the table for a block.
const ROW: usize = 8;

/// What one product wants of its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filters {
    /// [O, I, 3, 3].
    pub weight: Value,
    pub inputs: usize,
    pub outputs: usize,
    /// By 180°, and inputs and outputs in each other's place: for the input gradient.
    pub turned: bool,
}

impl Filters {
    /// Channels of the result and of what is read.
    fn rows_and_terms(&self) -> [usize; 2] {
        if self.turned { [self.inputs, self.outputs] } else { [self.outputs, self.inputs] }
    }

    /// Elements of the packed weights.
    pub fn len(&self, family: &Family) -> usize {
        let [rows, terms] = self.rows_and_terms();
        let words = terms.next_multiple_of(family.depth()) / family.per_word;
        rows.next_multiple_of(ROWS) * words * TAPS
    }

    /// What the blocks do that read the weights at `from` of their source and write to `to`.
    fn places(&self, family: &Family, from: usize, to: usize) -> Vec<f32> {
        let [rows, terms] = self.rows_and_terms();
        let depth = family.depth();
        let stage = ROWS * TAPS * depth / family.per_word;
        let firsts = (0..rows)
            .step_by(ROWS)
            .flat_map(|row| (0..terms).step_by(depth).map(move |term| (row, term)));
        let places = firsts.enumerate().flat_map(|(i, (row, term))| {
            let Filters { inputs, outputs, turned, .. } = *self;
            [from, to + i * stage, inputs, outputs, turned.into(), row, term, 0]
        });
        // The kernel reads whole numbers.
        let bits = |n: usize| f32::from_bits(u32::try_from(n).expect("places fit in 32 bits"));
        places.map(bits).collect()
    }
}

/// Packs the weights that lie in `source`.
#[derive(Clone, Debug)]
pub struct Pack {
    source: Value,
    packed: Value,
    table: Value,
    blocks: usize,
    precision: Precision,
}

impl Pack {
    /// Packs each of `layers`, weights and their place, out of a whole buffer or region and into another.
    pub fn new(g: &mut Graph, source: Value, packed: Value, layers: &[(Filters, Value)]) -> Pack {
        let precision = g.precision();
        let family = Family::of(precision).expect("packed for tensor cores");
        let place = |g: &Graph, whole, v| if whole == v { 0 } else { g.offset(whole, v) };
        let layers = layers.iter().flat_map(|(filters, to)| {
            let from = place(g, source, filters.weight);
            filters.places(family, from, place(g, packed, *to))
        });
        let content: Vec<f32> = layers.collect();
        let blocks = content.len() / ROW;
        let table = g.table("places of packed weights", content);
        Pack { source, packed, table, blocks, precision }
    }
}

impl Operation for Pack {
    fn reads(&self) -> Vec<Value> {
        vec![self.source, self.table]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.packed]
    }

    fn cpu<T: Real>(&self, _: &mut Mem<T>) {}

    fn launches(&self) -> Vec<Launch> {
        let family = Family::of(self.precision).expect("packed for tensor cores");
        let launch = Launch::blocks(family.pack, self.blocks);
        vec![launch.buffers([self.source, self.table, self.packed])]
    }
}
