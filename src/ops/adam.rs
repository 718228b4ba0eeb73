//! One step of Adam over a flat region of parameters.
//!
//! m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,
//! p ← p − η · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//! (Kingma & Ba 2015). Weight decay λ is added to the gradient (g + λ p), or, decoupled, taken from
//! the parameter first (p ← p − η λ p; Loshchilov & Hutter 2019).
//! Kernel twin: `kernels/adam.cu`.

use rayon::prelude::*;

use super::Operation;
use super::clip::Bound;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// What does not change from step to step.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    pub beta1: f64,
    pub beta2: f64,
    /// ε, in units of the gradient.
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Decay the parameter, not the gradient.
    pub decoupled: bool,
}

#[derive(Clone, Debug)]
pub struct Adam {
    regions: [Value; 4],
    control: Value,
    norm: Value,
    bound: Bound,
    constants: Constants,
    total: usize,
}

/// Flat regions p, g, m, v; `control` holds [η, 1 − β₁ᵗ, 1 − β₂ᵗ]; g is taken in within `bound`. Where `norm`
/// [1], that of all gradients, is not finite, nothing changes.
pub fn adam(
    g: &mut Graph,
    regions: [Value; 4],
    control: Value,
    norm: Option<Value>,
    bound: Bound,
    constants: Constants,
) {
    let total = g.flat_len(regions[0]);
    let norm = bound.norm(norm, control);
    g.push(Adam { regions, control, norm, bound, constants, total });
}

impl Operation for Adam {
    fn reads(&self) -> Vec<Value> {
        self.regions.into_iter().chain([self.control, self.norm]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let [p, _, m, v] = self.regions;
        vec![p, m, v]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [norm] = mem.get([self.norm]);
        let Some(taken) = self.bound.taken(norm[0]) else { return };
        let [p, g, m, v] = self.regions;
        let [p, g, m, v, control] = mem.get([p, g, m, v, self.control]);
        let [rate, bias1, bias2] = [control[0], control[1], control[2]];
        let (one, c) = (T::one(), self.constants);
        let [beta1, beta2, epsilon, decay] =
            [c.beta1, c.beta2, c.epsilon, c.weight_decay].map(T::of);
        let (kept, added) =
            if c.decoupled { (one - rate * decay, T::zero()) } else { (one, decay) };
        let moments = m.par_iter_mut().zip(v);
        p.par_iter_mut().zip(g).zip(moments).with_min_len(1 << 14).for_each(|((p, g), (m, v))| {
            let g = taken(*g) + added * *p;
            *m = beta1 * *m + (one - beta1) * g;
            *v = beta2 * *v + (one - beta2) * g * g;
            *p = kept * *p - rate * (*m / bias1) / ((*v / bias2).sqrt() + epsilon);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Adam { regions: [p, g, m, v], control, norm, bound, constants: c, total } = *self;
        let Constants { beta1, beta2, epsilon, weight_decay, decoupled } = c;
        let launch = Launch::elements("adam_forward", total)
            .buffers([g, control, norm, p, m, v])
            .ints([total, decoupled.into()]);
        let launch = bound.ints_and_floats(launch).floats([
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            epsilon,
            weight_decay,
        ]);
        vec![launch]
    }
}
