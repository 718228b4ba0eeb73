//! Pixels scaled by a gate between 0 and 1, the same for all channels.
//!
//! z[b, c, p] = u[b, p] y[b, c, p],  u = σ(v);
//! ∂L/∂y = u ∂L/∂z,  ∂L/∂v[b, p] = u (1 − u) Σ_c y ∂L/∂z.
//! Kernel twin: `kernels/spatial_gate.cu`.

use rayon::prelude::*;

use super::Operation;
use super::activate::sigmoid;
use super::reduce::TILE;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct SpatialGate {
    pub(crate) y: Value,
    pub(crate) v: Value,
    pub(crate) z: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct SpatialGateBackward {
    forward: SpatialGate,
    dz: Value,
    dy: Option<Grad>,
    dv: Option<Grad>,
}

/// [B, C, H, W] images and [B, 1, H, W] logits → [B, C, H, W].
pub fn spatial_gate(g: &mut Graph, y: Value, v: Value) -> Value {
    let [samples, channels, h, w] = g.dims(y);
    assert_eq!(g.dims(v), [samples, 1, h, w], "one logit for each pixel");
    let z = g.work("spatial_gate", &[samples, channels, h, w]);
    g.push(SpatialGate { y, v, z, samples, channels, pixels: h * w });
    z
}

impl Operation for SpatialGate {
    fn reads(&self) -> Vec<Value> {
        vec![self.y, self.v]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.z]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dz) = g.grad_of(self.z) else { return };
        let (dy, dv) = (g.grad_into(self.y), g.grad_into(self.v));
        g.push(SpatialGateBackward { forward: self.clone(), dz, dy, dv });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [y, v, z] = mem.get([self.y, self.v, self.z]);
        self.scale(y, v, z, false);
    }

    fn launches(&self) -> Vec<Launch> {
        let SpatialGate { y, v, z, samples, channels, pixels } = *self;
        let total = samples * channels * pixels;
        let launch = Launch::elements("spatial_gate_forward", total)
            .buffers([y, v, z])
            .ints([channels, pixels, total]);
        vec![launch]
    }
}

impl SpatialGate {
    /// Sets `to` to u · `from`, or adds u · `from` to it.
    fn scale<T: Real>(&self, from: &[T], v: &[T], to: &mut [T], accumulate: bool) {
        let (n, all) = (self.pixels, self.channels * self.pixels);
        let samples = to.par_chunks_mut(all).zip(from.par_chunks(all)).zip(v.par_chunks(n));
        samples.for_each(|((to, from), v)| {
            let gate: Vec<T> = v.iter().map(|&v| sigmoid(v)).collect();
            to.par_chunks_mut(n).zip(from.par_chunks(n)).for_each(|(to, from)| {
                for ((to, &from), &u) in to.iter_mut().zip(from).zip(&gate) {
                    put(to, accumulate, u * from);
                }
            });
        });
    }
}

impl Operation for SpatialGateBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.y, self.forward.v, self.dz]
    }

    fn writes(&self) -> Vec<Value> {
        self.dy.iter().chain(&self.dv).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dy {
            let [v, dz, dy] = mem.get([self.forward.v, self.dz, d.value]);
            self.forward.scale(dz, v, dy, d.accumulate);
        }
        if let Some(d) = self.dv {
            self.cpu_v(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let SpatialGate { y, v, samples, channels, pixels, .. } = self.forward;
        let total = samples * channels * pixels;
        let to_image = self.dy.map(|d| {
            Launch::elements("spatial_gate_backward_image", total)
                .buffers([v, self.dz, d.value])
                .ints([channels, pixels, total, d.accumulate.into()])
        });
        let to_logits = self.dv.map(|d| {
            Launch::elements("spatial_gate_backward_logits", samples * pixels)
                .buffers([y, v, self.dz, d.value])
                .ints([channels, pixels, samples * pixels, d.accumulate.into()])
        });
        to_image.into_iter().chain(to_logits).collect()
    }
}

impl SpatialGateBackward {
    fn cpu_v<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let SpatialGate { y, v, channels, pixels: n, .. } = self.forward;
        let [y, v, dz, dv] = mem.get([y, v, self.dz, d.value]);
        let (y, v, dz) = (&*y, &*v, &*dz);
        dv.par_chunks_mut(n).enumerate().for_each(|(b, dv)| {
            dv.par_chunks_mut(TILE).enumerate().for_each(|(tile, dv)| {
                let mut sum = vec![T::zero(); dv.len()];
                for c in 0..channels {
                    let start = (b * channels + c) * n + tile * TILE;
                    let products = y[start..].iter().zip(&dz[start..]);
                    sum.iter_mut().zip(products).for_each(|(sum, (&y, &dz))| *sum += y * dz);
                }
                let v = &v[b * n + tile * TILE..];
                for ((dv, &v), &sum) in dv.iter_mut().zip(v).zip(&sum) {
                    let u = sigmoid(v);
                    put(dv, d.accumulate, u * (T::one() - u) * sum);
                }
            });
        });
    }
}
