//! The loss: terms of every sample, summed over the batch and over the terms.
//!
//! L = Σ_t c_t L_t,  L_t = Σ_b w_b ℓ_tb;  ∂L/∂ℓ_tb = c_t w_b. A weight of 0 marks padding of a short
//! batch. The L_t are reported and carry no gradient.
//! Kernel twin: `kernels/weighted_sum.cu`.

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct WeightedSum {
    terms: Vec<(Value, f64)>,
    weight: Value,
    /// L_t: [T].
    sums: Value,
    loss: Value,
    batch: usize,
}

#[derive(Clone, Debug)]
pub struct WeightedSumBackward {
    weight: Value,
    dloss: Value,
    dterms: Vec<(Grad, f64)>,
    batch: usize,
}

/// [B] terms with their coefficients and [B] weights of the samples → [1] `loss`. The sums of the
/// terms, without coefficients, are kept in the [T] output `loss terms`.
pub fn weighted_sum(g: &mut Graph, terms: Vec<(Value, f64)>, weight: Value) -> Value {
    let [batch] = g.dims(weight);
    assert!(terms.iter().all(|&(term, _)| g.shape(term) == [batch]), "a number for each sample");
    let (sums, loss) = (g.output("loss terms", &[terms.len()]), g.output("loss", &[1]));
    g.push(WeightedSum { terms, weight, sums, loss, batch });
    loss
}

impl Operation for WeightedSum {
    fn reads(&self) -> Vec<Value> {
        self.terms.iter().map(|&(term, _)| term).chain([self.weight]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.sums, self.loss]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dloss) = g.grad_of(self.loss) else { return };
        let dterm = |&(term, c): &(Value, f64)| Some((g.grad_into(term)?, c));
        let dterms: Vec<_> = self.terms.iter().filter_map(dterm).collect();
        // Misfits know their share of the gradient already.
        if dterms.is_empty() {
            return;
        }
        let Self { weight, batch, .. } = *self;
        g.push(WeightedSumBackward { weight, dloss, dterms, batch });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let mut total = 0.0;
        for (t, &(term, coefficient)) in self.terms.iter().enumerate() {
            let [term, weight, sums] = mem.get([term, self.weight, self.sums]);
            let sum: f64 = term.iter().zip(weight).map(|(l, w)| w.wide() * l.wide()).sum();
            sums[t] = T::of(sum);
            total += coefficient * sum;
        }
        let [loss] = mem.get([self.loss]);
        loss[0] = T::of(total);
    }

    fn launches(&self) -> Vec<Launch> {
        let WeightedSum { weight, sums, loss, batch, .. } = *self;
        let launch = |(t, &(term, coefficient)): (usize, &(Value, f64))| {
            Launch::blocks("weighted_sum_forward", 1)
                .buffers([term, weight, sums, loss])
                .ints([batch, t])
                .floats([coefficient])
        };
        self.terms.iter().enumerate().map(launch).collect()
    }
}

impl Operation for WeightedSumBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.weight, self.dloss]
    }

    fn writes(&self) -> Vec<Value> {
        self.dterms.iter().map(|(d, _)| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        for &(d, coefficient) in &self.dterms {
            let [weight, dloss, dterm] = mem.get([self.weight, self.dloss, d.value]);
            for (dterm, &mut w) in dterm.iter_mut().zip(weight) {
                put(dterm, d.accumulate, T::of(coefficient) * w * dloss[0]);
            }
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let launch = |&(d, coefficient): &(Grad, f64)| {
            Launch::elements("weighted_sum_backward", self.batch)
                .buffers([self.weight, self.dloss, d.value])
                .ints([self.batch, d.accumulate.into()])
                .floats([coefficient])
        };
        self.dterms.iter().map(launch).collect()
    }
}
