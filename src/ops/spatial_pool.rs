//! Maximum and mean over the channels of every pixel: what the spatial gate of an attention block
//! looks at.
//!
//! max[b, p] = max_c x[b, c, p],  mean[b, p] = Σ_c x[b, c, p] / C;
//! ∂L/∂x[b, c, p] = ∂L/∂mean / C + ∂L/∂max at the first channel that holds the maximum.
//! Kernel twin: `kernels/spatial_pool.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::{TILE, larger};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct SpatialPool {
    pub(crate) x: Value,
    pub(crate) pooled: Value,
    samples: usize,
    channels: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct SpatialPoolBackward {
    forward: SpatialPool,
    dpooled: Value,
    dx: Grad,
}

/// [B, C, H, W] → [B, 2, H, W]; channel 0 is the maximum, channel 1 the mean.
pub fn spatial_pool(g: &mut Graph, x: Value) -> Value {
    let [samples, channels, h, w] = g.dims(x);
    let pooled = g.work("spatial_pool", &[samples, 2, h, w]);
    g.push(SpatialPool { x, pooled, samples, channels, pixels: h * w });
    pooled
}

impl Operation for SpatialPool {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.pooled]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dpooled) = g.grad_of(self.pooled) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(SpatialPoolBackward { forward: self.clone(), dpooled, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, pooled] = mem.get([self.x, self.pooled]);
        let n = self.pixels;
        let scale = T::one() / T::of(self.channels as f64);
        let samples = pooled.par_chunks_mut(2 * n).zip(x.par_chunks(self.channels * n));
        samples.for_each(|(pooled, x)| {
            let (max, mean) = pooled.split_at_mut(n);
            let tiles = max.par_chunks_mut(TILE).zip(mean.par_chunks_mut(TILE)).enumerate();
            tiles.for_each(|(tile, (max, mean))| {
                let first = &x[tile * TILE..][..max.len()];
                max.copy_from_slice(first);
                mean.copy_from_slice(first);
                for plane in x.chunks_exact(n).skip(1) {
                    let pixels = max.iter_mut().zip(&mut *mean).zip(&plane[tile * TILE..]);
                    for ((max, mean), &x) in pixels {
                        *max = larger(*max, x);
                        *mean += x;
                    }
                }
                mean.iter_mut().for_each(|mean| *mean = *mean * scale);
            });
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let SpatialPool { x, pooled, samples, channels, pixels } = *self;
        let launch = Launch::elements("spatial_pool_forward", samples * pixels)
            .buffers([x, pooled])
            .ints([channels, pixels, samples * pixels]);
        vec![launch]
    }
}

impl Operation for SpatialPoolBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.forward.pooled, self.dpooled]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let SpatialPool { x, pooled, channels, pixels: n, .. } = self.forward;
        let [x, pooled, dpooled, dx] = mem.get([x, pooled, self.dpooled, self.dx.value]);
        let (scale, all) = (T::one() / T::of(channels as f64), channels * n);
        let images = dx.par_chunks_mut(all).zip(x.par_chunks(all));
        let pools = pooled.par_chunks(2 * n).zip(dpooled.par_chunks(2 * n));
        images.zip(pools).for_each(|((dx, x), (pooled, dpooled))| {
            let (dmax, dmean) = dpooled.split_at(n);
            // 1 until a channel has taken the gradient of the maximum, then 0.
            let mut open = vec![T::one(); n];
            for (dx, x) in dx.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                let pixels = dx.iter_mut().zip(x).zip(&mut open).zip(pooled);
                for ((((dx, &x), open), &max), (&dmax, &dmean)) in
                    pixels.zip(dmax.iter().zip(dmean))
                {
                    let taken = if x == max { *open } else { T::zero() };
                    *open = *open - taken;
                    put(dx, self.dx.accumulate, dmean * scale + taken * dmax);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let SpatialPool { x, pooled, samples, channels, pixels } = self.forward;
        let launch = Launch::elements("spatial_pool_backward", samples * pixels)
            .buffers([x, pooled, self.dpooled, self.dx.value])
            .ints([channels, pixels, samples * pixels, self.dx.accumulate.into()]);
        vec![launch]
    }
}
