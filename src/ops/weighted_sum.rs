//! The loss: terms of every sample, summed over the batch and over the terms.
//!
//! L = Σ_t c_t L_t,  L_t = Σ_b w_tb ℓ_tb;  ∂L/∂ℓ_tb = c_t w_tb. A weight of 0 marks padding of a
//! short batch. The L_t are reported and carry no gradient.
//! Kernel twin: `kernels/weighted_sum.cu`.

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// One of the terms.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// ℓ_t: [B].
    pub value: Value,
    /// w_t: [B].
    pub weight: Value,
    /// c_t.
    pub coefficient: f64,
}

#[derive(Clone, Debug)]
pub struct WeightedSum {
    terms: Vec<Term>,
    /// L_t: [T].
    sums: Value,
    loss: Value,
    batch: usize,
}

#[derive(Clone, Debug)]
pub struct WeightedSumBackward {
    dloss: Value,
    /// Each term whose gradient is wanted, and where that goes.
    dterms: Vec<(Term, Grad)>,
    batch: usize,
}

/// [B] terms with their coefficients and [B] weights of the samples → [1] `loss`. The sums of the
/// terms, without coefficients, are kept in the [T] output `loss terms`.
pub fn weighted_sum(g: &mut Graph, terms: Vec<Term>) -> Value {
    let [batch] = g.dims(terms.first().expect("a loss has a term").value);
    let numbers = |v: Value| g.shape(v) == [batch];
    assert!(terms.iter().all(|t| numbers(t.value) && numbers(t.weight)), "one for each sample");
    let (sums, loss) = (g.output("loss terms", &[terms.len()]), g.output("loss", &[1]));
    g.push(WeightedSum { terms, sums, loss, batch });
    loss
}

impl Operation for WeightedSum {
    fn reads(&self) -> Vec<Value> {
        self.terms.iter().flat_map(|term| [term.value, term.weight]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.sums, self.loss]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dloss) = g.grad_of(self.loss) else { return };
        let dterm = |&term: &Term| Some((term, g.grad_into(term.value)?));
        let dterms: Vec<_> = self.terms.iter().filter_map(dterm).collect();
        // Misfits know their share of the gradient already.
        if dterms.is_empty() {
            return;
        }
        g.push(WeightedSumBackward { dloss, dterms, batch: self.batch });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let mut total = 0.0;
        for (t, &Term { value, weight, coefficient }) in self.terms.iter().enumerate() {
            let [value, weight, sums] = mem.get([value, weight, self.sums]);
            let sum: f64 = value.iter().zip(weight).map(|(l, w)| w.wide() * l.wide()).sum();
            sums[t] = T::of(sum);
            total += coefficient * sum;
        }
        let [loss] = mem.get([self.loss]);
        loss[0] = T::of(total);
    }

    fn launches(&self) -> Vec<Launch> {
        let WeightedSum { sums, loss, batch, .. } = *self;
        let launch = |(t, &Term { value, weight, coefficient }): (usize, &Term)| {
            Launch::blocks("weighted_sum_forward", 1)
                .buffers([value, weight, sums, loss])
                .ints([batch, t])
                .floats([coefficient])
        };
        self.terms.iter().enumerate().map(launch).collect()
    }
}

impl Operation for WeightedSumBackward {
    fn reads(&self) -> Vec<Value> {
        self.dterms.iter().map(|(term, _)| term.weight).chain([self.dloss]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        self.dterms.iter().map(|(_, d)| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        for &(Term { weight, coefficient, .. }, d) in &self.dterms {
            let [weight, dloss, dterm] = mem.get([weight, self.dloss, d.value]);
            for (dterm, &mut w) in dterm.iter_mut().zip(weight) {
                put(dterm, d.accumulate, T::of(coefficient) * w * dloss[0]);
            }
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let launch = |&(Term { weight, coefficient, .. }, d): &(Term, Grad)| {
            Launch::elements("weighted_sum_backward", self.batch)
                .buffers([weight, self.dloss, d.value])
                .ints([self.batch, d.accumulate.into()])
                .floats([coefficient])
        };
        self.dterms.iter().map(launch).collect()
    }
}
