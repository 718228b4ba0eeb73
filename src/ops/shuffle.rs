//! Blocks of 2×2 pixels as four channels, and back.
//!
//! y[b, 4c + 2u + v, i, j] = x[b, c, 2i + u, 2j + v]; the other direction is its inverse and its
//! adjoint. With a 1×1 convolution behind it, it is a 2×2 convolution of stride 2; the inverse
//! behind a 3×3 convolution is a transposed one of stride 2.
//! Kernel twin: `kernels/shuffle.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Pixels of a block along each side.
const SIDE: usize = 2;

/// Channels for each channel.
const BLOCK: usize = SIDE * SIDE;

#[derive(Clone, Debug)]
pub struct Shuffle {
    pub(crate) x: Value,
    pub(crate) y: Value,
    /// From channels to pixels.
    pub(crate) spread: bool,
    /// Height and width where the image is smaller.
    height: usize,
    width: usize,
    total: usize,
    accumulate: bool,
}

/// [B, C, 2H, 2W] → [B, 4C, H, W].
pub fn gather_blocks(g: &mut Graph, x: Value) -> Value {
    let [b, c, h, w] = g.dims(x);
    assert!(h % SIDE == 0 && w % SIDE == 0, "whole blocks of {h}×{w} pixels");
    let (height, width) = (h / SIDE, w / SIDE);
    let y = g.work("blocks", &[b, BLOCK * c, height, width]);
    let total = g.len(x);
    g.push(Shuffle { x, y, spread: false, height, width, total, accumulate: false });
    y
}

/// [B, 4C, H, W] → [B, C, 2H, 2W].
pub fn spread_blocks(g: &mut Graph, x: Value) -> Value {
    let [b, c, height, width] = g.dims(x);
    assert_eq!(c % BLOCK, 0, "whole blocks of {c} channels");
    let y = g.work("pixels", &[b, c / BLOCK, SIDE * height, SIDE * width]);
    let total = g.len(x);
    g.push(Shuffle { x, y, spread: true, height, width, total, accumulate: false });
    y
}

impl Operation for Shuffle {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(x) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        let (y, accumulate, spread) = (dx.value, dx.accumulate, !self.spread);
        g.push(Shuffle { x, y, spread, accumulate, ..self.clone() });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y] = mem.get([self.x, self.y]);
        let (n, wide) = (self.height * self.width, SIDE * self.width);
        // One channel of the large image, which is four of the small one.
        x.par_chunks(BLOCK * n).zip(y.par_chunks_mut(BLOCK * n)).for_each(|(x, y)| {
            for place in 0..BLOCK {
                for i in 0..self.height {
                    let small = place * n + i * self.width;
                    let large = (SIDE * i + place / SIDE) * wide + place % SIDE;
                    for j in 0..self.width {
                        let ends = [small + j, large + SIDE * j];
                        let [to, from] = if self.spread { [ends[1], ends[0]] } else { ends };
                        put(&mut y[to], self.accumulate, x[from]);
                    }
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Shuffle { x, y, spread, height, width, total, accumulate } = *self;
        let launch = Launch::elements("shuffle_forward", total).buffers([x, y]);
        vec![launch.ints([spread.into(), height, width, total, accumulate.into()])]
    }
}
