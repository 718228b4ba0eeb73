//! Sum of absolute errors of each sample, of plain numbers or of phases.
//!
//! t[b] = Σ |d| over channels and pixels, d = x − target, for phases (rad) wrapped into (−π, π];
//! ∂L/∂x = ∂L/∂t[b] sign d, sign 0 = 0. The target is data: it gets no gradient.
//! Kernel twin: `kernels/absolute_error.cu`.

use std::f64::consts::{PI, TAU};

use num_traits::Float;
use rayon::prelude::*;

use super::Operation;
use super::reduce::{sign, sum_pairs};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct AbsoluteError {
    x: Value,
    target: Value,
    total: Value,
    wrapped: bool,
    samples: usize,
    /// Elements of one sample.
    len: usize,
}

#[derive(Clone, Debug)]
pub struct AbsoluteErrorBackward {
    forward: AbsoluteError,
    dtotal: Value,
    dx: Grad,
}

/// Two [B, C, H, W] → [B].
pub fn absolute_error(g: &mut Graph, x: Value, target: Value) -> Value {
    push(g, x, target, false)
}

/// Two [B, C, H, W] of phases (rad) → [B]; errors of whole turns count as none.
pub fn absolute_phase_error(g: &mut Graph, x: Value, target: Value) -> Value {
    push(g, x, target, true)
}

fn push(g: &mut Graph, x: Value, target: Value, wrapped: bool) -> Value {
    let [samples, c, h, w] = g.dims(x);
    assert_eq!(g.dims(target), [samples, c, h, w], "a target for each pixel");
    let total = g.work("absolute_error", &[samples]);
    g.push(AbsoluteError { x, target, total, wrapped, samples, len: c * h * w });
    total
}

/// `d` moved by whole turns into (−π, π].
fn wrap(d: f64) -> f64 {
    d - TAU * ((d - PI) / TAU).ceil()
}

impl AbsoluteError {
    fn difference<T: Real>(&self, x: T, target: T) -> f64 {
        let d = x.wide() - target.wide();
        if self.wrapped { wrap(d) } else { d }
    }
}

impl Operation for AbsoluteError {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.target]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.total]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dtotal) = g.grad_of(self.total) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(AbsoluteErrorBackward { forward: self.clone(), dtotal, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, target, total] = mem.get([self.x, self.target, self.total]);
        let samples = x.par_chunks(self.len).zip(target.par_chunks(self.len));
        total.par_iter_mut().zip(samples).for_each(|(total, (x, target))| {
            *total = T::of(sum_pairs(x, target, |x, t| Float::abs(self.difference(x, t))));
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let AbsoluteError { x, target, total, wrapped, samples, len } = *self;
        let launch = Launch::blocks("absolute_error_forward", samples)
            .buffers([x, target, total])
            .ints([wrapped.into(), len]);
        vec![launch]
    }
}

impl Operation for AbsoluteErrorBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.target, self.dtotal]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let AbsoluteError { x, target, len, .. } = self.forward;
        let [x, target, dtotal, dx] = mem.get([x, target, self.dtotal, self.dx.value]);
        let samples = x.par_chunks(len).zip(target.par_chunks(len)).zip(&*dtotal);
        dx.par_chunks_mut(len).zip(samples).for_each(|(dx, ((x, target), &dtotal))| {
            for ((dx, &x), &target) in dx.iter_mut().zip(x).zip(target) {
                let share = dtotal * T::of(sign(self.forward.difference(x, target)));
                put(dx, self.dx.accumulate, share);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let AbsoluteError { x, target, wrapped, samples, len, .. } = self.forward;
        let (total, Grad { value, accumulate }) = (samples * len, self.dx);
        let launch = Launch::elements("absolute_error_backward", total)
            .buffers([x, target, self.dtotal, value])
            .ints([wrapped.into(), len, total, accumulate.into()]);
        vec![launch]
    }
}
