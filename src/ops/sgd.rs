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
    bound: Bound,
    momentum: f64,
    weight_decay: f64,
    total: usize,
}

/// Flat regions p, g, m; `control` holds [η, …]; g is taken in within `bound`.
pub fn sgd(
    g: &mut Graph,
    regions: [Value; 3],
    control: Value,
    bound: Bound,
    momentum: f64,
    weight_decay: f64,
) {
    let total = g.flat_len(regions[0]);
    g.push(Sgd { regions, control, bound, momentum, weight_decay, total });
}

impl Operation for Sgd {
    fn reads(&self) -> Vec<Value> {
        self.regions.into_iter().chain([self.control]).chain(self.bound.reads()).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let [p, _, m] = self.regions;
        vec![p, m]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let (factor, limit) = self.bound.of(mem);
        match limit {
            Some(limit) => self.run(mem, |g| g.max(-limit).min(limit)),
            None => self.run(mem, |g| factor * g),
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Sgd { regions: [p, g, m], control, bound, momentum, weight_decay, total } = *self;
        let launch = Launch::elements("sgd_forward", total)
            .buffers([g, control, bound.reads().unwrap_or(control), p, m])
            .ints([total]);
        vec![bound.ints_and_floats(launch).floats([momentum, weight_decay])]
    }
}

impl Sgd {
    fn run<T: Real>(&self, mem: &mut Mem<T>, bounded: impl Fn(T) -> T + Sync) {
        let [p, g, m] = self.regions;
        let [p, g, m, control] = mem.get([p, g, m, self.control]);
        let rate = control[0];
        let [momentum, decay] = [self.momentum, self.weight_decay].map(T::of);
        p.par_iter_mut().zip(g).zip(m).with_min_len(1 << 14).for_each(|((p, g), m)| {
            let g = bounded(*g) + decay * *p;
            *m = momentum * *m + g;
            *p = *p - rate * (g + momentum * *m);
        });
    }
}
