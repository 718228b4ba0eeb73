//! Anisotropic total variation of each sample.
//!
//! t[b] = Σ |x[i, j] − x[i + 1, j]| + Σ |x[i, j] − x[i, j + 1]| over channels and pixels;
//! ∂L/∂x = ∂L/∂t[b] Σ sign(x − neighbour) over the up to four neighbours, sign 0 = 0.
//! Kernel twin: `kernels/total_variation.cu`.

use num_traits::Float;
use rayon::prelude::*;

use super::Operation;
use super::reduce::{sign, sum_pairs};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct TotalVariation {
    x: Value,
    total: Value,
    samples: usize,
    channels: usize,
    height: usize,
    width: usize,
}

#[derive(Clone, Debug)]
pub struct TotalVariationBackward {
    forward: TotalVariation,
    dtotal: Value,
    dx: Grad,
}

/// [B, C, H, W] → [B].
pub fn total_variation(g: &mut Graph, x: Value) -> Value {
    let [samples, channels, height, width] = g.dims(x);
    let total = g.work("total_variation", &[samples]);
    g.push(TotalVariation { x, total, samples, channels, height, width });
    total
}

impl TotalVariation {
    fn of_plane<T: Real>(&self, x: &[T]) -> f64 {
        let distance = |a: T, b: T| Float::abs(a.wide() - b.wide());
        let below = &x[self.width..];
        let vertical = sum_pairs(&x[..below.len()], below, distance);
        let rows = x.chunks_exact(self.width);
        let horizontal = rows.map(|row| sum_pairs(&row[..row.len() - 1], &row[1..], distance));
        vertical + horizontal.sum::<f64>()
    }
}

impl Operation for TotalVariation {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.total]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dtotal) = g.grad_of(self.total) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(TotalVariationBackward { forward: self.clone(), dtotal, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, total] = mem.get([self.x, self.total]);
        let n = self.height * self.width;
        total.par_iter_mut().zip(x.par_chunks(self.channels * n)).for_each(|(total, x)| {
            *total = T::of(x.chunks_exact(n).map(|plane| self.of_plane(plane)).sum());
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let TotalVariation { x, total, samples, channels, height, width } = *self;
        let sizes = [channels * height, height, width];
        let launch = Launch::blocks("total_variation_forward", samples);
        vec![launch.buffers([x, total]).ints(sizes)]
    }
}

impl Operation for TotalVariationBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.dtotal]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let TotalVariation { x, channels, height, width, .. } = self.forward;
        let [x, dtotal, dx] = mem.get([x, self.dtotal, self.dx.value]);
        let (n, dtotal) = (height * width, &*dtotal);
        let planes = dx.par_chunks_mut(n).zip(x.par_chunks(n)).enumerate();
        planes.for_each(|(plane, (dx, x))| {
            let row = |y: usize| &x[y * width..][..width];
            for (y, dx) in dx.chunks_exact_mut(width).enumerate() {
                // Beyond the border a pixel is its own neighbour, which adds sign 0 = 0.
                let (here, above, below) =
                    (row(y), row(y.max(1) - 1), row((y + 1).min(height - 1)));
                for (i, dx) in dx.iter_mut().enumerate() {
                    let beside = [here[i.max(1) - 1], here[(i + 1).min(width - 1)]];
                    let neighbours = [above[i], below[i], beside[0], beside[1]];
                    let signs = neighbours.map(|other| sign(here[i] - other)).into_iter().sum();
                    put(dx, self.dx.accumulate, dtotal[plane / channels] * signs);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let TotalVariation { x, samples, channels, height, width, .. } = self.forward;
        let (rows, Grad { value, accumulate }) = (channels * height, self.dx);
        let total = samples * rows * width;
        let launch = Launch::elements("total_variation_backward", total)
            .buffers([x, self.dtotal, value])
            .ints([rows, height, width, total, accumulate.into()]);
        vec![launch]
    }
}
