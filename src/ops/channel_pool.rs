//! Mean and maximum of every channel: what the channel gate of an attention block looks at.
//!
//! mean[b, c] = Σ_p x[b, c, p] / P,  max[b, c] = max_p x[b, c, p];
//! ∂L/∂x[b, c, p] = ∂L/∂mean / P + ∂L/∂max at the first maximum in row-major order.
//! The two rows of a sample lie one after the other, as two samples of 1×1 pixels, so that one
//! layer serves both.
//! Kernel twin: `kernels/channel_pool.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::{maximum, sum};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct ChannelPool {
    pub(crate) x: Value,
    pub(crate) pooled: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct ChannelPoolBackward {
    forward: ChannelPool,
    dpooled: Value,
    dx: Grad,
}

/// [B, C, H, W] → [2B, C, 1, 1]; row 2b holds the means of sample b, row 2b + 1 its maxima.
pub fn channel_pool(g: &mut Graph, x: Value) -> Value {
    let [samples, channels, h, w] = g.dims(x);
    let pooled = g.work("channel_pool", &[2 * samples, channels, 1, 1]);
    g.push(ChannelPool { x, pooled, samples, channels, pixels: h * w });
    pooled
}

impl Operation for ChannelPool {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.pooled]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dpooled) = g.grad_of(self.pooled) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(ChannelPoolBackward { forward: self.clone(), dpooled, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, pooled] = mem.get([self.x, self.pooled]);
        let (n, channels) = (self.pixels, self.channels);
        let samples = pooled.par_chunks_mut(2 * channels).zip(x.par_chunks(channels * n));
        samples.for_each(|(pooled, x)| {
            let (mean, max) = pooled.split_at_mut(channels);
            let planes = mean.par_iter_mut().zip(max).zip(x.par_chunks(n));
            planes.for_each(|((mean, max), x)| {
                *mean = T::of(sum(x, T::wide) / n as f64);
                *max = maximum(x);
            });
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ChannelPool { x, pooled, samples, channels, pixels } = *self;
        let launch = Launch::blocks("channel_pool_forward", samples * channels)
            .buffers([x, pooled])
            .ints([channels, pixels]);
        vec![launch]
    }
}

impl Operation for ChannelPoolBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.pooled, self.dpooled]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let ChannelPool { x, pooled, channels, pixels: n, .. } = self.forward;
        let [x, pooled, dpooled, dx] = mem.get([x, pooled, self.dpooled, self.dx.value]);
        let (pooled, dpooled) = (&*pooled, &*dpooled);
        let planes = dx.par_chunks_mut(n).zip(x.par_chunks(n)).enumerate();
        planes.for_each(|(plane, (dx, x))| {
            let mean = plane / channels * 2 * channels + plane % channels;
            let max = mean + channels;
            let share = dpooled[mean] / T::of(n as f64);
            dx.iter_mut().for_each(|dx| put(dx, self.dx.accumulate, share));
            if let Some(first) = x.iter().position(|&x| x == pooled[max]) {
                dx[first] += dpooled[max];
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ChannelPool { x, pooled, samples, channels, pixels } = self.forward;
        let launch = Launch::blocks("channel_pool_backward", samples * channels)
            .buffers([x, pooled, self.dpooled, self.dx.value])
            .ints([channels, pixels, self.dx.accumulate.into()]);
        vec![launch]
    }
}
