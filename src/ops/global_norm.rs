//! L2 norm of all gradients.
//!
//! ‖g‖ = √ Σ g², over every gradient region in turn, in double precision and in fixed chunks whose
//! sums are added in order.
//! Kernel twin: `kernels/global_norm.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};

/// Elements per partial sum.
const CHUNK: usize = 1 << 14;

#[derive(Clone, Debug)]
pub struct GlobalNorm {
    gradients: Vec<Value>,
    norm: Value,
}

/// Flat gradient regions → [1] norm, an output called "gradient norm".
pub fn global_norm(g: &mut Graph, gradients: &[Value]) -> Value {
    let norm = g.output("gradient norm", &[1]);
    g.push(GlobalNorm { gradients: gradients.to_vec(), norm });
    norm
}

impl Operation for GlobalNorm {
    fn reads(&self) -> Vec<Value> {
        self.gradients.clone()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.norm]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let mut total = 0.0;
        for &region in &self.gradients {
            let [gradient] = mem.get([region]);
            let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(sum_of_squares).collect();
            total += sums.iter().sum::<f64>();
        }
        let [norm] = mem.get([self.norm]);
        norm[0] = T::of(total.sqrt());
    }
}

pub(super) fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.wide() * x.wide()).sum()
}
