//! One step of stochastic gradient descent with Nesterov momentum over a flat region.
//!
//! g ← g + λ p,  m ← μ m + g,  p ← p − η (g + μ m); without momentum p ← p − η g.
//! Kernel twin: `kernels/sgd.cu`.

use rayon::prelude::*;

use super::Operation;
use super::clip::Bound;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Sgd {
    regions: [Value; 3],
    control: Value,
    norm: Value,
    bound: Bound,
    momentum: f64,
    weight_decay: f64,
    total: usize,
}

/// Flat regions p, g, m; `control` holds [η, …]; g is taken in within `bound`. Where `norm` [1], that of all
/// gradients, is not finite, nothing changes.
pub fn sgd(
    g: &mut Graph,
    regions: [Value; 3],
    control: Value,
    norm: Option<Value>,
    bound: Bound,
    [momentum, weight_decay]: [f64; 2],
) {
    let total = g.flat_len(regions[0]);
    let norm = bound.norm(norm, control);
    g.push(Sgd { regions, control, norm, bound, momentum, weight_decay, total });
}

impl Operation for Sgd {
    fn reads(&self) -> Vec<Value> {
        self.regions.into_iter().chain([self.control, self.norm]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let [p, _, m] = self.regions;
        vec![p, m]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [norm] = mem.get([self.norm]);
        let Some(taken) = self.bound.taken(norm[0]) else { return };
        let [p, g, m] = self.regions;
        let [p, g, m, control] = mem.get([p, g, m, self.control]);
        let rate = control[0];
        let [momentum, decay] = [self.momentum, self.weight_decay].map(T::of);
        p.par_iter_mut().zip(g).zip(m).with_min_len(1 << 14).for_each(|((p, g), m)| {
            let g = taken(*g) + decay * *p;
            *m = momentum * *m + g;
            *p = *p - rate * (g + momentum * *m);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Sgd { regions: [p, g, m], control, norm, bound, momentum, weight_decay, total } = *self;
        let launch =
            Launch::elements("sgd_forward", total).buffers([g, control, norm, p, m]).ints([total]);
        vec![bound.ints_and_floats(launch).floats([momentum, weight_decay])]
    }
}
