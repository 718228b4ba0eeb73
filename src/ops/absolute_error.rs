//! Sum of absolute errors of each sample, of plain numbers or of phases.
//!
//! t[b] = Σ w |d| over channels and pixels, d = x − target, for phases (rad) wrapped into (−π, π];
//! ∂L/∂x = ∂L/∂t[b] w sign d, sign 0 = 0. The target is data: it gets no gradient. The weight w of a
//! pixel is the same in all patches: what the beam does not light need not be right.
//! Kernel twin: `kernels/absolute_error.cu`.

use std::f64::consts::{PI, TAU};

use num_traits::Float;
use rayon::prelude::*;

use super::Operation;
use super::reduce::{sign, sum_triples};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct AbsoluteError {
    x: Value,
    target: Value,
    weight: Value,
    total: Value,
    wrapped: bool,
    samples: usize,
    /// Elements of one sample.
    len: usize,
    /// Elements of one image.
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct AbsoluteErrorBackward {
    forward: AbsoluteError,
    dtotal: Value,
    dx: Grad,
}

/// Two [B, C, H, W] and the [H, W] weight of each pixel → [B].
pub fn absolute_error(g: &mut Graph, x: Value, target: Value, weight: Value) -> Value {
    push(g, x, target, weight, false)
}

/// Two [B, C, H, W] of phases (rad) and the [H, W] weight of each pixel → [B]; errors of whole turns
/// count as none.
pub fn absolute_phase_error(g: &mut Graph, x: Value, target: Value, weight: Value) -> Value {
    push(g, x, target, weight, true)
}

fn push(g: &mut Graph, x: Value, target: Value, weight: Value, wrapped: bool) -> Value {
    let [samples, c, h, w] = g.dims(x);
    assert_eq!(g.dims(target), [samples, c, h, w], "a target for each pixel");
    assert_eq!(g.dims(weight), [h, w], "a weight for each pixel");
    let total = g.work("absolute_error", &[samples]);
    let (len, pixels) = (c * h * w, h * w);
    g.push(AbsoluteError { x, target, weight, total, wrapped, samples, len, pixels });
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
        vec![self.x, self.target, self.weight]
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
        let [x, target, weight, total] = mem.get([self.x, self.target, self.weight, self.total]);
        let (weight, n) = (&*weight, self.pixels);
        let samples = x.par_chunks(self.len).zip(target.par_chunks(self.len));
        total.par_iter_mut().zip(samples).for_each(|(total, (x, target))| {
            let images = x.chunks_exact(n).zip(target.chunks_exact(n));
            let error = |x, t, w: T| w.wide() * Float::abs(self.difference(x, t));
            *total = T::of(images.map(|(x, target)| sum_triples(x, target, weight, error)).sum());
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let AbsoluteError { x, target, weight, total, wrapped, samples, len, pixels } = *self;
        let launch = Launch::blocks("absolute_error_forward", samples)
            .buffers([x, target, weight, total])
            .ints([wrapped.into(), len, pixels]);
        vec![launch]
    }
}

impl Operation for AbsoluteErrorBackward {
    fn reads(&self) -> Vec<Value> {
        let AbsoluteError { x, target, weight, .. } = self.forward;
        vec![x, target, weight, self.dtotal]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let AbsoluteError { x, target, weight, len, pixels, .. } = self.forward;
        let [x, target, weight, dtotal, dx] =
            mem.get([x, target, weight, self.dtotal, self.dx.value]);
        let (weight, dtotal) = (&*weight, &*dtotal);
        let images = x.par_chunks(pixels).zip(target.par_chunks(pixels));
        dx.par_chunks_mut(pixels).zip(images).enumerate().for_each(|(i, (dx, (x, target)))| {
            let dtotal = dtotal[i * pixels / len];
            for (((dx, &x), &target), &w) in dx.iter_mut().zip(x).zip(target).zip(weight) {
                let share = dtotal * w * T::of(sign(self.forward.difference(x, target)));
                put(dx, self.dx.accumulate, share);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let AbsoluteError { x, target, weight, wrapped, samples, len, pixels, .. } = self.forward;
        let (total, Grad { value, accumulate }) = (samples * len, self.dx);
        let launch = Launch::elements("absolute_error_backward", total)
            .buffers([x, target, weight, self.dtotal, value])
            .ints([wrapped.into(), len, pixels, total, accumulate.into()]);
        vec![launch]
    }
}
