//! One step of stochastic gradient descent with Nesterov momentum over a flat region.
//!
//! g ← g + λ p,  m ← μ m + g,  p ← p − η (g + μ m); without momentum p ← p − η g.
//! Kernel twin: `kernels/sgd.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Sgd {
    regions: [Value; 3],
    control: Value,
    /// `control` itself where there is none: it is always finite.
    guard: Value,
    momentum: f64,
    weight_decay: f64,
    total: usize,
}

/// Flat regions p, g, m; `control` holds [η, …]. Where `guard` [1], the norm of the gradient, is not
/// finite, nothing changes.
pub fn sgd(
    g: &mut Graph,
    regions: [Value; 3],
    control: Value,
    guard: Option<Value>,
    momentum: f64,
    weight_decay: f64,
) {
    let total = g.flat_len(regions[0]);
    let guard = guard.unwrap_or(control);
    g.push(Sgd { regions, control, guard, momentum, weight_decay, total });
}

impl Operation for Sgd {
    fn reads(&self) -> Vec<Value> {
        self.regions.into_iter().chain([self.control, self.guard]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let [p, _, m] = self.regions;
        vec![p, m]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [p, g, m] = self.regions;
        let [guard] = mem.get([self.guard]);
        if !guard[0].is_finite() {
            return;
        }
        let [p, g, m, control] = mem.get([p, g, m, self.control]);
        let rate = control[0];
        let [momentum, decay] = [self.momentum, self.weight_decay].map(T::of);
        p.par_iter_mut().zip(g).zip(m).with_min_len(1 << 14).for_each(|((p, g), m)| {
            let g = *g + decay * *p;
            *m = momentum * *m + g;
            *p = *p - rate * (g + momentum * *m);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Sgd { regions: [p, g, m], control, guard, momentum, weight_decay, total } = *self;
        let launch = Launch::elements("sgd_forward", total)
            .buffers([g, control, guard, p, m])
            .ints([total])
            .floats([momentum, weight_decay]);
        vec![launch]
    }
}
