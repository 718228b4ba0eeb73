//! Light that no object shapes, on every pattern: one number, or one for each pixel.
//!
//! y_bcp = I_bcp + r_p²;  ∂L/∂I = ∂L/∂y,  ∂L/∂r_p = 2 r_p Σ_{b,c} ∂L/∂y_bcp (also over p where r is
//! one number). The square keeps the background from turning negative.
//! Kernel twin: `kernels/background.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Background {
    intensity: Value,
    root: Value,
    y: Value,
    patterns: usize,
    pixels: usize,
    /// Numbers in the root: 1, or as many as pixels.
    len: usize,
}

#[derive(Clone, Debug)]
pub struct BackgroundBackward {
    forward: Background,
    dy: Value,
    dintensity: Option<Grad>,
    droot: Option<Grad>,
}

/// [B, C, N, N] intensity and [1] or [N, N] root of the background → [B, C, N, N].
pub fn background(g: &mut Graph, intensity: Value, root: Value) -> Value {
    let [b, c, h, w] = g.dims(intensity);
    let (pixels, len) = (h * w, g.len(root));
    assert!(len == 1 || len == pixels, "one background for all pixels, or one for each");
    let y = g.work("intensity with background", &[b, c, h, w]);
    g.push(Background { intensity, root, y, patterns: b * c, pixels, len });
    y
}

impl Operation for Background {
    fn reads(&self) -> Vec<Value> {
        vec![self.intensity, self.root]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let (dintensity, droot) = (g.grad_into(self.intensity), g.grad_into(self.root));
        if dintensity.is_some() || droot.is_some() {
            g.push(BackgroundBackward { forward: self.clone(), dy, dintensity, droot });
        }
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [intensity, root, y] = mem.get([self.intensity, self.root, self.y]);
        let (root, n) = (&*root, self.pixels);
        intensity.par_chunks(n).zip(y.par_chunks_mut(n)).for_each(|(intensity, y)| {
            for (p, (y, &i)) in y.iter_mut().zip(intensity).enumerate() {
                let r = root[p % self.len];
                *y = i + r * r;
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Background { intensity, root, y, patterns, pixels, len } = *self;
        let launch = Launch::elements("background_forward", patterns * pixels)
            .buffers([intensity, root, y])
            .ints([pixels, len, patterns * pixels]);
        vec![launch]
    }
}

impl Operation for BackgroundBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.root, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        self.dintensity.iter().chain(&self.droot).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let (n, len) = (self.forward.pixels, self.forward.len);
        if let Some(d) = self.dintensity {
            let [dy, dintensity] = mem.get([self.dy, d.value]);
            dintensity.par_chunks_mut(n).zip(dy.par_chunks(n)).for_each(|(dintensity, dy)| {
                dintensity.iter_mut().zip(dy).for_each(|(d_, &dy)| put(d_, d.accumulate, dy));
            });
        }
        if let Some(d) = self.droot {
            let [root, dy, droot] = mem.get([self.forward.root, self.dy, d.value]);
            let (root, dy) = (&*root, &*dy);
            droot.par_iter_mut().enumerate().for_each(|(p, droot)| {
                let sum: f64 = dy.iter().skip(p).step_by(len).map(|dy| dy.wide()).sum();
                put(droot, d.accumulate, T::of(2.0 * root[p].wide() * sum));
            });
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Background { root, patterns, pixels, len, .. } = self.forward;
        let total = patterns * pixels;
        let to_intensity = self.dintensity.map(|d| {
            Launch::elements("background_backward", total)
                .buffers([self.dy, d.value])
                .ints([total, d.accumulate.into()])
        });
        let to_root = self.droot.map(|d| {
            Launch::blocks("background_backward_root", len)
                .buffers([root, self.dy, d.value])
                .ints([len, total, d.accumulate.into()])
        });
        to_intensity.into_iter().chain(to_root).collect()
    }
}
