//! Maximum of each 2×2 block.
//!
//! y[i, j] = max x[2i..2i+2, 2j..2j+2];  ∂L/∂x = ∂L/∂y at the first maximum of the block in
//! row-major order, 0 elsewhere.
//! Kernel twin: `kernels/max_pool.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::larger;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct MaxPool {
    pub(crate) x: Value,
    pub(crate) y: Value,
    height: usize,
    width: usize,
    /// Elements of `y`.
    total: usize,
    channels: usize,
    /// A GPU has x and y in words of two channels, as convolutions of bfloat16 have.
    pub(super) in_words: bool,
}

#[derive(Clone, Debug)]
pub struct MaxPoolBackward {
    pub(super) forward: MaxPool,
    pub(super) dy: Value,
    dx: Grad,
}

/// [B, C, H, W] with even H and W → [B, C, H/2, W/2].
pub fn max_pool(g: &mut Graph, x: Value) -> Value {
    let [b, c, height, width] = g.dims(x);
    assert!(height % 2 == 0 && width % 2 == 0, "2×2 blocks tile {height}×{width} pixels");
    let y = g.work("max_pool", &[b, c, height / 2, width / 2]);
    let (total, channels, in_words) = (g.len(y), c, false);
    g.push(MaxPool { x, y, height, width, total, channels, in_words });
    y
}

impl Operation for MaxPool {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(MaxPoolBackward { forward: self.clone(), dy, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y] = mem.get([self.x, self.y]);
        let (n, width) = (self.height * self.width, self.width);
        x.par_chunks(n).zip(y.par_chunks_mut(n / 4)).for_each(|(x, y)| {
            for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width / 2)) {
                let (top, bottom) = x.split_at(width);
                let blocks = top.chunks_exact(2).zip(bottom.chunks_exact(2));
                for (y, (t, b)) in y.iter_mut().zip(blocks) {
                    *y = larger(larger(t[0], t[1]), larger(b[0], b[1]));
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let MaxPool { x, y, width, total, channels, in_words, .. } = *self;
        let (kernel, total) = match in_words {
            false => ("max_pool_forward", total),
            true => ("max_pool_forward_words", total / channels * channels.div_ceil(2)),
        };
        vec![Launch::elements(kernel, total).buffers([x, y]).ints([width / 2, total])]
    }
}

impl Operation for MaxPoolBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let MaxPool { x, height, width, .. } = self.forward;
        let [x, dy, dx] = mem.get([x, self.dy, self.dx.value]);
        let n = height * width;
        let planes = dx.par_chunks_mut(n).zip(x.par_chunks(n)).zip(dy.par_chunks(n / 4));
        planes.for_each(|((dx, x), dy)| {
            let rows = dx.chunks_exact_mut(2 * width).zip(x.chunks_exact(2 * width));
            for ((dx, x), dy) in rows.zip(dy.chunks_exact(width / 2)) {
                scatter(dx, x, dy, self.dx.accumulate);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let MaxPool { x, height, width, total, channels, in_words, .. } = self.forward;
        let kernel = if in_words { "max_pool_backward_words" } else { "max_pool_backward" };
        let launch = Launch::elements(kernel, total).buffers([x, self.dy, self.dx.value]);
        let launch = if in_words { launch.ints([channels, height / 2]) } else { launch };
        vec![launch.ints([width / 2, total, self.dx.accumulate.into()])]
    }
}

/// Hands one row of `dy` to the two rows of `dx` whose maxima it belongs to.
fn scatter<T: Real>(dx: &mut [T], x: &[T], dy: &[T], accumulate: bool) {
    let (top, bottom) = x.split_at(x.len() / 2);
    let (dtop, dbottom) = dx.split_at_mut(x.len() / 2);
    let blocks = top.chunks_exact(2).zip(bottom.chunks_exact(2));
    let dblocks = dtop.chunks_exact_mut(2).zip(dbottom.chunks_exact_mut(2));
    for (((t, b), (dt, db)), &dy) in blocks.zip(dblocks).zip(dy) {
        let (right_of_top, right_of_bottom) = (t[1] > t[0], b[1] > b[0]);
        let below = larger(b[0], b[1]) > larger(t[0], t[1]);
        let share = |yes: bool| if yes { dy } else { T::zero() };
        put(&mut dt[0], accumulate, share(!below & !right_of_top));
        put(&mut dt[1], accumulate, share(!below & right_of_top));
        put(&mut db[0], accumulate, share(below & !right_of_bottom));
        put(&mut db[1], accumulate, share(below & right_of_bottom));
    }
}
