//! Normalisation of every channel of every sample over its pixels.
//!
//! y = γ x̂ + β,  x̂ = (x − μ) r,  r = 1 / √(σ² + ε), with μ and σ² of the pixels of the image;
//! ∂L/∂γ = Σ x̂ ∂L/∂y and ∂L/∂β = Σ ∂L/∂y over samples and pixels,
//! ∂L/∂x = γ r (∂L/∂y − mean ∂L/∂y − x̂ mean(x̂ ∂L/∂y)).
//! Kernel twin: `kernels/instance_norm.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::{sum, sum_pairs};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// ε, in the unit of x²: keeps r finite on a constant image.
pub(crate) const FLOOR: f64 = 1e-5;

#[derive(Clone, Debug)]
pub struct InstanceNorm {
    pub(crate) x: Value,
    pub(crate) gamma: Value,
    pub(crate) beta: Value,
    /// μ and r of each image, [B, C, 2].
    used: Value,
    pub(crate) y: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct InstanceNormBackward {
    forward: InstanceNorm,
    dy: Value,
    /// Σ ∂L/∂y and Σ x̂ ∂L/∂y of each image, [B, C, 2].
    sums: Value,
    dx: Option<Grad>,
    dgamma: Option<Grad>,
    dbeta: Option<Grad>,
}

/// [B, C, H, W] → [B, C, H, W]; γ and β are [C].
pub fn instance_norm(g: &mut Graph, x: Value, gamma: Value, beta: Value) -> Value {
    let [samples, channels, h, w] = g.dims(x);
    for v in [gamma, beta] {
        assert_eq!(g.dims(v), [channels], "{} holds one number per channel", g.name(v));
    }
    let used = g.work("instance_norm used", &[samples, channels, 2]);
    let shape = g.shape(x).to_vec();
    let y = g.work("instance_norm", &shape);
    g.push(InstanceNorm { x, gamma, beta, used, y, samples, channels, pixels: h * w });
    y
}

impl Operation for InstanceNorm {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.gamma, self.beta]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.used, self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let dx = g.grad_into(self.x);
        let (dgamma, dbeta) = (g.grad_into(self.gamma), g.grad_into(self.beta));
        let sums = g.work("instance_norm sums", &[self.samples, self.channels, 2]);
        g.push(InstanceNormBackward { forward: self.clone(), dy, sums, dx, dgamma, dbeta });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let values = [self.x, self.gamma, self.beta, self.used, self.y];
        let [x, gamma, beta, used, y] = mem.get(values);
        let (n, gamma, beta) = (self.pixels, &*gamma, &*beta);
        let images = x.par_chunks(n).zip(y.par_chunks_mut(n)).zip(used.par_chunks_mut(2));
        images.enumerate().for_each(|(image, ((x, y), used))| {
            let mean = sum(x, T::wide) / n as f64;
            let variance = sum(x, |x| (x.wide() - mean) * (x.wide() - mean)) / n as f64;
            used[0] = T::of(mean);
            used[1] = T::of(1.0 / (variance + FLOOR).sqrt());
            let c = image % self.channels;
            let (mean, scale, beta) = (used[0], gamma[c] * used[1], beta[c]);
            x.iter().zip(y).for_each(|(&x, y)| *y = (x - mean) * scale + beta);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let InstanceNorm { x, gamma, beta, used, y, samples, channels, pixels } = *self;
        let launch = Launch::blocks("instance_norm_forward", samples * channels)
            .buffers([x, gamma, beta, used, y])
            .ints([channels, pixels]);
        vec![launch]
    }
}

impl Operation for InstanceNormBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.gamma, self.forward.used, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        let grads = [self.dx, self.dgamma, self.dbeta];
        std::iter::once(self.sums).chain(grads.iter().flatten().map(|d| d.value)).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let InstanceNorm { x, used, channels, pixels, .. } = self.forward;
        let [x, used, dy, sums] = mem.get([x, used, self.dy, self.sums]);
        let images = x.par_chunks(pixels).zip(dy.par_chunks(pixels)).zip(used.par_chunks(2));
        sums.par_chunks_mut(2).zip(images).for_each(|(sums, ((x, dy), used))| {
            let centred = sum_pairs(x, dy, |x, dy| (x.wide() - used[0].wide()) * dy.wide());
            sums[0] = T::of(sum(dy, T::wide));
            sums[1] = T::of(centred * used[1].wide());
        });
        for (d, which) in [(self.dbeta, 0), (self.dgamma, 1)] {
            let Some(d) = d else { continue };
            let [sums, grad] = mem.get([self.sums, d.value]);
            for (c, grad) in grad.iter_mut().enumerate() {
                let samples = sums.chunks_exact(2).skip(c).step_by(channels);
                let total: f64 = samples.map(|sums| sums[which].wide()).sum();
                put(grad, d.accumulate, T::of(total));
            }
        }
        if let Some(d) = self.dx {
            self.cpu_x(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let InstanceNorm { x, gamma, used, samples, channels, pixels, .. } = self.forward;
        let images = samples * channels;
        let sums = Launch::blocks("instance_norm_sums", images)
            .buffers([x, used, self.dy, self.sums])
            .ints([pixels]);
        let affine = [(self.dbeta, 0), (self.dgamma, 1)].into_iter().filter_map(|(d, which)| {
            let Grad { value, accumulate } = d?;
            let launch = Launch::elements("instance_norm_backward_affine", channels)
                .buffers([self.sums, value])
                .ints([which, samples, channels, accumulate.into()]);
            Some(launch)
        });
        let to_x = self.dx.map(|d| {
            Launch::elements("instance_norm_backward", images * pixels)
                .buffers([x, gamma, used, self.dy, self.sums, d.value])
                .ints([channels, pixels, images * pixels, d.accumulate.into()])
        });
        std::iter::once(sums).chain(affine).chain(to_x).collect()
    }
}

impl InstanceNormBackward {
    fn cpu_x<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let InstanceNorm { x, gamma, used, channels, pixels: n, .. } = self.forward;
        let values = [x, gamma, used, self.dy, self.sums, d.value];
        let [x, gamma, used, dy, sums, dx] = mem.get(values);
        let (gamma, used, sums, share) = (&*gamma, &*used, &*sums, T::of(1.0 / n as f64));
        let images = dx.par_chunks_mut(n).zip(x.par_chunks(n)).zip(dy.par_chunks(n));
        images.enumerate().for_each(|(image, ((dx, x), dy))| {
            let (mean, r) = (used[2 * image], used[2 * image + 1]);
            let (first, second) = (sums[2 * image] * share, sums[2 * image + 1] * share);
            let scale = gamma[image % channels] * r;
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                let centred = dy - first - (x - mean) * r * second;
                put(dx, d.accumulate, scale * centred);
            }
        });
    }
}
