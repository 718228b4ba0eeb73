//! The filters of a transposed 4×4 convolution of stride 2 as those of a plain 3×3 convolution.
//!
//! A transposed convolution y[2r − 1 + k, 2c − 1 + l] += W[i, o, k, l] x[i, r, c] fills the four
//! pixels (2r + a, 2c + b) of a block from 2×2 of its 3×3 neighbours, with filters of their own:
//! F[4o + 2a + b, i, u, v] = W[i, o, a + 3 − 2u, b + 3 − 2v], 0 where there is no such number.
//! Every number of W has one place in F: the adjoint picks it from there. 20 of 36 numbers are 0,
//! which is the price of the fast loops of the plain convolution.
//! Kernel twin: `kernels/transposed_filter.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// Side of W and of F.
const SIDE: usize = 4;
const PLAIN: usize = 3;

/// Pixels of a block.
const BLOCK: usize = 4;

#[derive(Clone, Debug)]
pub struct TransposedFilter {
    pub(crate) weight: Value,
    pub(crate) filter: Value,
    inputs: usize,
    outputs: usize,
}

#[derive(Clone, Debug)]
pub struct TransposedFilterBackward {
    forward: TransposedFilter,
    dfilter: Value,
    dweight: Grad,
}

/// [I, O, 4, 4] → [4·O, I, 3, 3]. What a 3×3 convolution with it gives, spread over blocks, is the
/// transposed convolution of stride 2 and padding 1.
pub fn transposed_filter(g: &mut Graph, weight: Value) -> Value {
    let [inputs, outputs, rows, columns] = g.dims(weight);
    assert_eq!([rows, columns], [SIDE, SIDE], "4×4 filters");
    let name = format!("{} plain", g.name(weight));
    let filter = g.work(&name, &[BLOCK * outputs, inputs, PLAIN, PLAIN]);
    g.push(TransposedFilter { weight, filter, inputs, outputs });
    filter
}

/// Row or column of W for tap `u` of a pixel at place `a` of its block.
fn source(a: usize, u: usize) -> Option<usize> {
    (a + 3).checked_sub(2 * u).filter(|&k| k < SIDE)
}

/// Place and tap that row or column `k` of W goes to.
fn target(k: usize) -> (usize, usize) {
    let a = (k + 1) % 2;
    (a, (a + 3 - k) / 2)
}

impl Operation for TransposedFilter {
    fn reads(&self) -> Vec<Value> {
        vec![self.weight]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.filter]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dfilter) = g.grad_of(self.filter) else { return };
        let Some(dweight) = g.grad_into(self.weight) else { return };
        g.push(TransposedFilterBackward { forward: self.clone(), dfilter, dweight });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [weight, filter] = mem.get([self.weight, self.filter]);
        let filters = filter.par_chunks_mut(PLAIN * PLAIN).enumerate();
        filters.for_each(|(at, filter)| {
            let (place, o, i) =
                (at / self.inputs % BLOCK, at / self.inputs / BLOCK, at % self.inputs);
            let weight = &weight[(i * self.outputs + o) * SIDE * SIDE..];
            for (tap, f) in filter.iter_mut().enumerate() {
                let row = source(place / 2, tap / PLAIN);
                let from = row.zip(source(place % 2, tap % PLAIN));
                *f = from.map_or(T::zero(), |(k, l)| weight[k * SIDE + l]);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let TransposedFilter { weight, filter, inputs, outputs } = *self;
        let total = BLOCK * outputs * inputs * PLAIN * PLAIN;
        let launch = Launch::elements("transposed_filter_forward", total)
            .buffers([weight, filter])
            .ints([inputs, outputs, total]);
        vec![launch]
    }
}

impl Operation for TransposedFilterBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.dfilter]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dweight.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let TransposedFilter { inputs, outputs, .. } = self.forward;
        let [dfilter, dweight] = mem.get([self.dfilter, self.dweight.value]);
        let weights = dweight.par_chunks_mut(SIDE * SIDE).enumerate();
        weights.for_each(|(at, dweight)| {
            let (i, o) = (at / outputs, at % outputs);
            for (k, d) in dweight.iter_mut().enumerate() {
                let ((a, u), (b, v)) = (target(k / SIDE), target(k % SIDE));
                let row = ((o * BLOCK + 2 * a + b) * inputs + i) * PLAIN + u;
                put(d, self.dweight.accumulate, dfilter[row * PLAIN + v]);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let TransposedFilter { inputs, outputs, .. } = self.forward;
        let total = inputs * outputs * SIDE * SIDE;
        let launch = Launch::elements("transposed_filter_backward", total)
            .buffers([self.dfilter, self.dweight.value])
            .ints([inputs, outputs, total, self.dweight.accumulate.into()]);
        vec![launch]
    }
}
