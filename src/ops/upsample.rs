//! Enlargement by 2, nearest neighbour.
//!
//! y[i, j] = x[⌊i/2⌋, ⌊j/2⌋];  ∂L/∂x[i, j] = Σ ∂L/∂y over the 2×2 block.
//! Kernel twin: `kernels/upsample.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Upsample {
    pub(crate) x: Value,
    pub(crate) y: Value,
    /// Height and width of `x`.
    height: usize,
    width: usize,
    /// Elements of `x`.
    total: usize,
    channels: usize,
    /// A GPU has x and y in words of two channels, as convolutions of bfloat16 have.
    pub(super) in_words: bool,
}

#[derive(Clone, Debug)]
pub struct UpsampleBackward {
    forward: Upsample,
    dy: Value,
    dx: Grad,
}

/// [B, C, H, W] → [B, C, 2H, 2W].
pub fn upsample(g: &mut Graph, x: Value) -> Value {
    let [b, c, height, width] = g.dims(x);
    let y = g.work("upsample", &[b, c, 2 * height, 2 * width]);
    let (total, channels, in_words) = (g.len(x), c, false);
    g.push(Upsample { x, y, height, width, total, channels, in_words });
    y
}

impl Operation for Upsample {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(UpsampleBackward { forward: self.clone(), dy, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y] = mem.get([self.x, self.y]);
        let (n, width) = (self.height * self.width, self.width);
        x.par_chunks(n).zip(y.par_chunks_mut(4 * n)).for_each(|(x, y)| {
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(4 * width)) {
                let (top, bottom) = y.split_at_mut(2 * width);
                for (pair, &x) in top.chunks_exact_mut(2).zip(x) {
                    pair[0] = x;
                    pair[1] = x;
                }
                bottom.copy_from_slice(top);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Upsample { x, y, width, channels, in_words, .. } = *self;
        // The kernel moves numbers, and so words.
        let planes = if in_words { channels.div_ceil(2) } else { channels };
        let total = self.total / channels * planes;
        vec![Launch::elements("upsample_forward", total).buffers([x, y]).ints([width, total])]
    }
}

impl Operation for UpsampleBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Upsample { height, width, .. } = self.forward;
        let [dy, dx] = mem.get([self.dy, self.dx.value]);
        let n = height * width;
        dy.par_chunks(4 * n).zip(dx.par_chunks_mut(n)).for_each(|(dy, dx)| {
            for (dy, dx) in dy.chunks_exact(4 * width).zip(dx.chunks_exact_mut(width)) {
                let (top, bottom) = dy.split_at(2 * width);
                let blocks = top.chunks_exact(2).zip(bottom.chunks_exact(2));
                for (dx, (t, b)) in dx.iter_mut().zip(blocks) {
                    put(dx, self.dx.accumulate, (t[0] + t[1]) + (b[0] + b[1]));
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Upsample { width, total, .. } = self.forward;
        let launch = Launch::elements("upsample_backward", total)
            .buffers([self.dy, self.dx.value])
            .ints([width, total, self.dx.accumulate.into()]);
        vec![launch]
    }
}
