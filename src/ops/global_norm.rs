//! L2 norm of all gradients.
//!
//! ‖g‖ = √ Σ g², over every gradient region in turn, in double precision and in fixed chunks whose
//! sums are added in order; NaN where the loss is not finite, so that one number tells whether a step is
//! worth taking.
//! Kernel twin: `kernels/global_norm.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Elements per partial sum.
pub(super) const CHUNK: usize = 1 << 14;

/// Numbers of the arena that one partial sum, in double precision, takes on a GPU.
pub(super) const WIDE: usize = size_of::<f64>() / size_of::<f32>();

#[derive(Clone, Debug)]
pub struct GlobalNorm {
    gradients: Vec<Value>,
    loss: Option<Value>,
    norm: Value,
    /// Partial sums of the kernels.
    partial: Value,
    /// Elements of each region.
    totals: Vec<usize>,
}

/// Flat gradient regions and, if it is to be finite too, the [1] loss → [1] norm, an output called
/// "gradient norm".
pub fn global_norm(g: &mut Graph, gradients: &[Value], loss: Option<Value>) -> Value {
    let norm = g.output("gradient norm", &[1]);
    let totals: Vec<usize> = gradients.iter().map(|&v| g.flat_len(v)).collect();
    let partials: usize = totals.iter().map(|total| total.div_ceil(CHUNK)).sum();
    let partial = g.work("partial sums of the norm", &[WIDE * partials]);
    g.push(GlobalNorm { gradients: gradients.to_vec(), loss, norm, partial, totals });
    norm
}

impl Operation for GlobalNorm {
    fn reads(&self) -> Vec<Value> {
        self.gradients.iter().copied().chain(self.loss).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.norm, self.partial]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let mut total = 0.0;
        for &region in &self.gradients {
            let [gradient] = mem.get([region]);
            let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(sum_of_squares).collect();
            total += sums.iter().sum::<f64>();
        }
        let witness = self.loss.map_or(0.0, |loss| {
            let [loss] = mem.get([loss]);
            0.0 * loss[0].wide()
        });
        let [norm] = mem.get([self.norm]);
        norm[0] = T::of(total.sqrt() + witness);
    }

    fn launches(&self) -> Vec<Launch> {
        let mut first = 0;
        let mut launches = Vec::new();
        for (&gradient, &total) in self.gradients.iter().zip(&self.totals) {
            let blocks = total.div_ceil(CHUNK);
            let launch = Launch::blocks("global_norm_partial", blocks)
                .buffers([gradient, self.partial])
                .ints([first, CHUNK, total]);
            // A region may be empty; a grid may not.
            launches.extend((blocks > 0).then_some(launch));
            first += blocks;
        }
        let whole = Launch::blocks("global_norm_forward", 1)
            .buffers([self.partial, self.loss.unwrap_or(self.norm), self.norm])
            .ints([first, self.loss.is_some().into()]);
        launches.push(whole);
        launches
    }
}

pub(super) fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.wide() * x.wide()).sum()
}
