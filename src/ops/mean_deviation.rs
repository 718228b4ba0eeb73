//! Mean-absolute deviation of each sample, not divided by the number of pixels.
//!
//! t[b] = Σ_{c, p} |d|,  d = x[b, c, p] − mean_p x[b, c];
//! ∂L/∂x = ∂L/∂t[b] (sign d − mean_p sign d), sign 0 = 0.
//! Kernel twin: `kernels/mean_deviation.cu`.

use num_traits::Float;
use rayon::prelude::*;

use super::Operation;
use super::reduce::{sign, sum};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct MeanDeviation {
    x: Value,
    total: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct MeanDeviationBackward {
    forward: MeanDeviation,
    dtotal: Value,
    dx: Grad,
}

/// [B, C, H, W] → [B].
pub fn mean_deviation(g: &mut Graph, x: Value) -> Value {
    let [samples, channels, h, w] = g.dims(x);
    let total = g.work("mean_deviation", &[samples]);
    g.push(MeanDeviation { x, total, samples, channels, pixels: h * w });
    total
}

/// In double precision, so that the sign of a deviation does not depend on rounding.
fn mean<T: Real>(plane: &[T]) -> f64 {
    sum(plane, T::wide) / plane.len() as f64
}

impl Operation for MeanDeviation {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.total]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dtotal) = g.grad_of(self.total) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(MeanDeviationBackward { forward: self.clone(), dtotal, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, total] = mem.get([self.x, self.total]);
        let n = self.pixels;
        total.par_iter_mut().zip(x.par_chunks(self.channels * n)).for_each(|(total, x)| {
            let deviation = |plane: &[T]| {
                let mean = mean(plane);
                sum(plane, |x| Float::abs(x.wide() - mean))
            };
            *total = T::of(x.chunks_exact(n).map(deviation).sum());
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let MeanDeviation { x, total, samples, channels, pixels } = *self;
        let launch = Launch::blocks("mean_deviation_forward", samples)
            .buffers([x, total])
            .ints([channels, pixels]);
        vec![launch]
    }
}

impl Operation for MeanDeviationBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.dtotal]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let MeanDeviation { x, channels, pixels: n, .. } = self.forward;
        let [x, dtotal, dx] = mem.get([x, self.dtotal, self.dx.value]);
        let dtotal = &*dtotal;
        let planes = dx.par_chunks_mut(n).zip(x.par_chunks(n)).enumerate();
        planes.for_each(|(plane, (dx, x))| {
            let dtotal = dtotal[plane / channels];
            let mean = mean(x);
            let signs = sum(x, |x| sign(x.wide() - mean)) / n as f64;
            for (dx, &x) in dx.iter_mut().zip(x) {
                let share = T::of(sign(x.wide() - mean) - signs);
                put(dx, self.dx.accumulate, dtotal * share);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let MeanDeviation { x, samples, channels, pixels, .. } = self.forward;
        let launch = Launch::blocks("mean_deviation_backward", samples * channels)
            .buffers([x, self.dtotal, self.dx.value])
            .ints([channels, pixels, self.dx.accumulate.into()]);
        vec![launch]
    }
}
