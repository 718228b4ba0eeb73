//! Keeps the modulus of a complex parameter below a limit.
//!
//! z ← z · min(1, A/|z|). An update: it has no adjoint.
//! Kernel twin: `kernels/limit_modulus.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::TILE;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct LimitModulus {
    z: Value,
    limit: Value,
    pixels: usize,
}

/// [.., 2] parameter, changed in place, and [1] limit A.
pub fn limit_modulus(g: &mut Graph, z: Value, limit: Value) {
    assert_eq!((g.shape(z).last(), g.len(limit)), (Some(&2), 1), "complex numbers and one limit");
    g.push(LimitModulus { z, limit, pixels: g.len(z) / 2 });
}

impl Operation for LimitModulus {
    fn reads(&self) -> Vec<Value> {
        vec![self.z, self.limit]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.z]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [z, limit] = mem.get([self.z, self.limit]);
        let limit = limit[0];
        z.par_chunks_mut(2 * TILE).for_each(|tile| {
            for z in tile.chunks_exact_mut(2) {
                let square = z[0] * z[0] + z[1] * z[1];
                if square > limit * limit {
                    let share = limit / square.sqrt();
                    z.iter_mut().for_each(|part| *part = *part * share);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let launch = Launch::elements("limit_modulus_forward", self.pixels);
        vec![launch.buffers([self.limit, self.z]).ints([self.pixels])]
    }
}
