//! Normalisation of every channel over batch and pixels.
//!
//! y = γ x̂ + β,  x̂ = (x − μ) r,  r = 1 / √(σ² + ε), with μ and σ² of the n = B·H·W numbers of the
//! channel in training, the running statistics otherwise. In training the running mean moves by
//! 0.1 (μ − running), the running variance by 0.1 (σ² n / (n − 1) − running).
//! ∂L/∂γ = Σ x̂ ∂L/∂y,  ∂L/∂β = Σ ∂L/∂y,
//! ∂L/∂x = γ r (∂L/∂y − mean ∂L/∂y − x̂ mean(x̂ ∂L/∂y)): statistics of the batch are assumed.
//! Kernel twin: `kernels/batch_norm.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::{sum, sum_pairs};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// ε, in the unit of x²: keeps r finite on a constant channel.
pub(crate) const FLOOR: f64 = 1e-5;

/// Share of the batch in the running statistics.
const MOMENTUM: f64 = 0.1;

#[derive(Clone, Debug)]
pub struct BatchNorm {
    pub(crate) x: Value,
    pub(crate) gamma: Value,
    pub(crate) beta: Value,
    pub(crate) running_mean: Value,
    pub(crate) running_var: Value,
    training: Value,
    /// μ and r of each channel, [C, 2].
    used: Value,
    pub(crate) y: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct BatchNormBackward {
    forward: BatchNorm,
    dy: Value,
    /// Σ ∂L/∂y and Σ x̂ ∂L/∂y of each channel, [C, 2].
    sums: Value,
    dx: Option<Grad>,
    dgamma: Option<Grad>,
    dbeta: Option<Grad>,
}

/// [B, C, H, W] → [B, C, H, W]; γ, β and the running statistics are [C]. `training` is one number
/// that the host writes: 1 normalises by the batch and moves the running statistics, 0 normalises
/// by the running statistics.
pub fn batch_norm(
    g: &mut Graph,
    x: Value,
    gamma: Value,
    beta: Value,
    running_mean: Value,
    running_var: Value,
    training: Value,
) -> Value {
    let [samples, channels, h, w] = g.dims(x);
    for v in [gamma, beta, running_mean, running_var] {
        assert_eq!(g.dims(v), [channels], "{} holds one number per channel", g.name(v));
    }
    assert_eq!(g.len(training), 1, "training or not");
    let used = g.work("batch_norm used", &[channels, 2]);
    let shape = g.shape(x).to_vec();
    let y = g.work("batch_norm", &shape);
    let pixels = h * w;
    g.push(BatchNorm {
        x,
        gamma,
        beta,
        running_mean,
        running_var,
        training,
        used,
        y,
        samples,
        channels,
        pixels,
    });
    y
}

/// The planes of channel `c`.
fn planes<T: Real>(x: &[T], c: usize, channels: usize, n: usize) -> impl Iterator<Item = &[T]> {
    x.chunks_exact(n).skip(c).step_by(channels)
}

impl BatchNorm {
    /// Numbers of one channel.
    fn count(&self) -> usize {
        self.samples * self.pixels
    }

    /// μ and r of every channel; moves the running statistics in training.
    fn cpu_statistics<T: Real>(&self, mem: &mut Mem<T>) {
        let (mean, var) = (self.running_mean, self.running_var);
        let [x, mean, var, training, used] = mem.get([self.x, mean, var, self.training, self.used]);
        let (x, training) = (&*x, training[0] != T::zero());
        let running = mean.par_iter_mut().zip(var).enumerate();
        used.par_chunks_mut(2).zip(running).for_each(|(used, (c, (mean, var)))| {
            let (mut mu, mut sigma2) = (mean.wide(), var.wide());
            if training {
                let count = (x.len() / self.channels) as f64;
                let all = || planes(x, c, self.channels, self.pixels);
                mu = all().map(|x| sum(x, T::wide)).sum::<f64>() / count;
                let squares = all().map(|x| sum(x, |x| (x.wide() - mu) * (x.wide() - mu)));
                let squares: f64 = squares.sum();
                sigma2 = squares / count;
                let unbiased = squares / (count - 1.0).max(1.0);
                // A batch whose numbers are not finite here, and whose step is left out, leaves no trace.
                if T::of(squares).is_finite() {
                    *mean = T::of(mean.wide() + MOMENTUM * (mu - mean.wide()));
                    *var = T::of(var.wide() + MOMENTUM * (unbiased - var.wide()));
                }
            }
            used[0] = T::of(mu);
            used[1] = T::of(1.0 / (sigma2 + FLOOR).sqrt());
        });
    }
}

impl Operation for BatchNorm {
    fn reads(&self) -> Vec<Value> {
        let statistics = [self.running_mean, self.running_var, self.training];
        [self.x, self.gamma, self.beta].into_iter().chain(statistics).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.used, self.y, self.running_mean, self.running_var]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let dx = g.grad_into(self.x);
        let (dgamma, dbeta) = (g.grad_into(self.gamma), g.grad_into(self.beta));
        let sums = g.work("batch_norm sums", &[self.channels, 2]);
        g.push(BatchNormBackward { forward: self.clone(), dy, sums, dx, dgamma, dbeta });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        self.cpu_statistics(mem);
        let values = [self.x, self.gamma, self.beta, self.used, self.y];
        let [x, gamma, beta, used, y] = mem.get(values);
        let (n, gamma, beta, used) = (self.pixels, &*gamma, &*beta, &*used);
        x.par_chunks(n).zip(y.par_chunks_mut(n)).enumerate().for_each(|(plane, (x, y))| {
            let c = plane % self.channels;
            let (mean, scale, beta) = (used[2 * c], gamma[c] * used[2 * c + 1], beta[c]);
            x.iter().zip(y).for_each(|(&x, y)| *y = (x - mean) * scale + beta);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let BatchNorm { x, used, channels, pixels, .. } = *self;
        let (count, total) = (self.count(), self.count() * channels);
        let statistics = Launch::blocks("batch_norm_statistics", channels)
            .buffers([x, self.running_mean, self.running_var, self.training, used])
            .ints([channels, pixels, count]);
        let forward = Launch::elements("batch_norm_forward", total)
            .buffers([x, self.gamma, self.beta, used, self.y])
            .ints([channels, pixels, total]);
        vec![statistics, forward]
    }
}

impl Operation for BatchNormBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.gamma, self.forward.used, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        let grads = [self.dx, self.dgamma, self.dbeta];
        std::iter::once(self.sums).chain(grads.iter().flatten().map(|d| d.value)).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        self.cpu_sums(mem);
        for (d, which) in [(self.dbeta, 0), (self.dgamma, 1)] {
            let Some(d) = d else { continue };
            let [sums, grad] = mem.get([self.sums, d.value]);
            let pairs = grad.iter_mut().zip(sums.chunks_exact(2));
            pairs.for_each(|(grad, sums)| put(grad, d.accumulate, sums[which]));
        }
        if let Some(d) = self.dx {
            self.cpu_x(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let BatchNorm { x, gamma, used, channels, pixels, .. } = self.forward;
        let count = self.forward.count();
        let total = count * channels;
        let sums = Launch::blocks("batch_norm_sums", channels)
            .buffers([x, used, self.dy, self.sums])
            .ints([channels, pixels, count]);
        let affine = [(self.dbeta, 0), (self.dgamma, 1)].into_iter().filter_map(|(d, which)| {
            let Grad { value, accumulate } = d?;
            let launch = Launch::elements("batch_norm_backward_affine", channels)
                .buffers([self.sums, value])
                .ints([which, channels, accumulate.into()]);
            Some(launch)
        });
        let to_x = self.dx.map(|d| {
            Launch::elements("batch_norm_backward", total)
                .buffers([x, gamma, used, self.sums, self.dy, d.value])
                .ints([channels, pixels, count, total, d.accumulate.into()])
        });
        std::iter::once(sums).chain(affine).chain(to_x).collect()
    }
}

impl BatchNormBackward {
    fn cpu_sums<T: Real>(&self, mem: &mut Mem<T>) {
        let BatchNorm { x, used, channels, pixels: n, .. } = self.forward;
        let [x, used, dy, sums] = mem.get([x, used, self.dy, self.sums]);
        let (x, used, dy) = (&*x, &*used, &*dy);
        sums.par_chunks_mut(2).enumerate().for_each(|(c, sums)| {
            let mean = used[2 * c].wide();
            let all = || planes(x, c, channels, n).zip(planes(dy, c, channels, n));
            let product = |x: T, dy: T| (x.wide() - mean) * dy.wide();
            let centred: f64 = all().map(|(x, dy)| sum_pairs(x, dy, product)).sum();
            sums[0] = T::of(all().map(|(_, dy)| sum(dy, T::wide)).sum());
            sums[1] = T::of(centred * used[2 * c + 1].wide());
        });
    }

    fn cpu_x<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let BatchNorm { x, gamma, used, channels, pixels: n, .. } = self.forward;
        let values = [x, gamma, used, self.sums, self.dy, d.value];
        let [x, gamma, used, sums, dy, dx] = mem.get(values);
        let (gamma, used, sums) = (&*gamma, &*used, &*sums);
        let share = T::of(channels as f64 / x.len() as f64);
        let planes = dx.par_chunks_mut(n).zip(x.par_chunks(n)).zip(dy.par_chunks(n)).enumerate();
        planes.for_each(|(plane, ((dx, x), dy))| {
            let c = plane % channels;
            let (mean, r) = (used[2 * c], used[2 * c + 1]);
            let (offset, slope) = (share * sums[2 * c], share * sums[2 * c + 1] * r);
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                put(dx, d.accumulate, gamma[c] * r * (dy - offset - (x - mean) * slope));
            }
        });
    }
}
