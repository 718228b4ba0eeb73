//! Channels scaled by a gate between 0 and 1.
//!
//! y[b, c, p] = u[b, c] x[b, c, p],  u[b, c] = σ(m[2b, c] + m[2b + 1, c]);
//! ∂L/∂x = u ∂L/∂y,  ∂L/∂m[2b, c] = ∂L/∂m[2b + 1, c] = u (1 − u) Σ_p x ∂L/∂y.
//! Kernel twin: `kernels/channel_gate.cu`.

use rayon::prelude::*;

use super::Operation;
use super::activate::sigmoid;
use super::reduce::sum_pairs;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct ChannelGate {
    pub(crate) x: Value,
    pub(crate) m: Value,
    pub(crate) y: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct ChannelGateBackward {
    forward: ChannelGate,
    dy: Value,
    dx: Option<Grad>,
    dm: Option<Grad>,
}

/// [B, C, H, W] images and [2B, C, 1, 1] logits, two rows per sample → [B, C, H, W].
pub fn channel_gate(g: &mut Graph, x: Value, m: Value) -> Value {
    let [samples, channels, h, w] = g.dims(x);
    assert_eq!(g.dims(m), [2 * samples, channels, 1, 1], "two rows of logits for each sample");
    let y = g.work("channel_gate", &[samples, channels, h, w]);
    g.push(ChannelGate { x, m, y, samples, channels, pixels: h * w });
    y
}

impl ChannelGate {
    /// u of image plane `plane`.
    fn gate<T: Real>(&self, m: &[T], plane: usize) -> T {
        let mean = plane / self.channels * 2 * self.channels + plane % self.channels;
        sigmoid(m[mean] + m[mean + self.channels])
    }
}

impl Operation for ChannelGate {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.m]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let (dx, dm) = (g.grad_into(self.x), g.grad_into(self.m));
        g.push(ChannelGateBackward { forward: self.clone(), dy, dx, dm });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, m, y] = mem.get([self.x, self.m, self.y]);
        let (n, m) = (self.pixels, &*m);
        let planes = y.par_chunks_mut(n).zip(x.par_chunks(n)).enumerate();
        planes.for_each(|(plane, (y, x))| {
            let u = self.gate(m, plane);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = u * x);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ChannelGate { x, m, y, samples, channels, pixels } = *self;
        let total = samples * channels * pixels;
        let launch = Launch::elements("channel_gate_forward", total)
            .buffers([x, m, y])
            .ints([channels, pixels, total]);
        vec![launch]
    }
}

impl Operation for ChannelGateBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.m, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        self.dx.iter().chain(&self.dm).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dx {
            self.cpu_x(mem, d);
        }
        if let Some(d) = self.dm {
            self.cpu_m(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let ChannelGate { x, m, samples, channels, pixels, .. } = self.forward;
        let total = samples * channels * pixels;
        let to_image = self.dx.map(|d| {
            Launch::elements("channel_gate_backward_image", total)
                .buffers([m, self.dy, d.value])
                .ints([channels, pixels, total, d.accumulate.into()])
        });
        let to_logits = self.dm.map(|d| {
            Launch::blocks("channel_gate_backward_logits", samples * channels)
                .buffers([x, m, self.dy, d.value])
                .ints([channels, pixels, d.accumulate.into()])
        });
        to_image.into_iter().chain(to_logits).collect()
    }
}

impl ChannelGateBackward {
    fn cpu_x<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let ChannelGate { m, pixels: n, .. } = self.forward;
        let [m, dy, dx] = mem.get([m, self.dy, d.value]);
        let m = &*m;
        let planes = dx.par_chunks_mut(n).zip(dy.par_chunks(n)).enumerate();
        planes.for_each(|(plane, (dx, dy))| {
            let u = self.forward.gate(m, plane);
            dx.iter_mut().zip(dy).for_each(|(dx, &dy)| put(dx, d.accumulate, u * dy));
        });
    }

    fn cpu_m<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let ChannelGate { x, m, channels, pixels: n, .. } = self.forward;
        let [x, m, dy, dm] = mem.get([x, m, self.dy, d.value]);
        let (x, m, dy) = (&*x, &*m, &*dy);
        dm.par_chunks_mut(2 * channels).enumerate().for_each(|(b, dm)| {
            let (mean, max) = dm.split_at_mut(channels);
            mean.par_iter_mut().zip(max).enumerate().for_each(|(c, (mean, max))| {
                let plane = b * channels + c;
                let pixels = plane * n..(plane + 1) * n;
                let u = self.forward.gate(m, plane);
                let product = |x: T, dy: T| x.wide() * dy.wide();
                let total = T::of(sum_pairs(&x[pixels.clone()], &dy[pixels], product));
                let share = u * (T::one() - u) * total;
                put(mean, d.accumulate, share);
                put(max, d.accumulate, share);
            });
        });
    }
}
