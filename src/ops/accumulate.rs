//! Sum of the gradients of several batches.
//!
//! s ← g for the first batch, s ← s + g for every later one; which of the two is decided by a
//! number that the host writes, so that the same plan serves all batches.
//! Kernel twin: `kernels/accumulate.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Accumulate {
    gradient: Value,
    sum: Value,
    keep: Value,
    total: usize,
}

/// Adds the flat region `gradient` to `sum`; `keep` is [1]: 0 starts anew, 1 adds.
pub fn accumulate(g: &mut Graph, gradient: Value, sum: Value, keep: Value) {
    let total = g.flat_len(sum);
    g.push(Accumulate { gradient, sum, keep, total });
}

impl Operation for Accumulate {
    fn reads(&self) -> Vec<Value> {
        vec![self.gradient, self.sum, self.keep]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.sum]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [gradient, sum, keep] = mem.get([self.gradient, self.sum, self.keep]);
        if keep[0] == T::zero() {
            sum.copy_from_slice(gradient);
        } else {
            sum.par_iter_mut().zip(gradient).for_each(|(s, g)| *s += *g);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Accumulate { gradient, sum, keep, total } = *self;
        let launch = Launch::elements("accumulate_forward", total)
            .buffers([gradient, keep, sum])
            .ints([total]);
        vec![launch]
    }
}
