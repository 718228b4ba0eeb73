//! Chains of multiply-adds that nothing but arithmetic holds up: the roof of `bench`.
//!
//! y is x after n times x ← a x + b. With b = 1 − a it goes from x to 1: y = aⁿ x + 1 − aⁿ. No
//! network has this op, and it has no adjoint.
//! Kernel twin: `kernels/multiply_add.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::{BLOCK, Launch};
use crate::ops::conv2d::FULL;

/// a and b: exact in single precision, and far enough from 1 and 0 that rounding does not pile up.
const CHAIN: (f64, f64) = (1.0 - 1.0 / 64.0, 1.0 / 64.0);

/// Chains of one CUDA thread: `kChains` in the kernel.
const CHAINS: usize = 8;

/// Steps of a chain that the kernel takes at a time: `kSteps` there.
pub const STEPS: usize = 16;

/// Elements that a task of the CPU takes: whole loads of registers.
const TASK: usize = 64 * FULL;

#[derive(Clone, Debug)]
pub struct MultiplyAdd {
    x: Value,
    y: Value,
    /// Multiply-adds on each element, in units of [`STEPS`].
    rounds: usize,
    total: usize,
}

/// [n] numbers → [n], after `rounds` · [`STEPS`] steps.
pub fn multiply_add(g: &mut Graph, x: Value, rounds: usize) -> Value {
    let [total] = g.dims(x);
    let y = g.work("multiplied", &[total]);
    g.push(MultiplyAdd { x, y, rounds, total });
    y
}

impl Operation for MultiplyAdd {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y] = mem.get([self.x, self.y]);
        let (a, b) = (T::of(CHAIN.0), T::of(CHAIN.1));
        x.par_chunks(TASK).zip(y.par_chunks_mut(TASK)).for_each(|(x, y)| {
            y.copy_from_slice(x);
            (T::convolution().chains)(y, a, b, self.rounds * STEPS);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let MultiplyAdd { x, y, rounds, total } = *self;
        let launch =
            Launch::blocks("multiply_add_forward", total.div_ceil(BLOCK as usize * CHAINS));
        vec![launch.buffers([x, y]).ints([rounds, total]).floats([CHAIN.0, CHAIN.1])]
    }
}
