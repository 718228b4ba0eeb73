//! Total variation of each sample's complex patch, the same in all directions.
//!
//! t[b] = Σ √(|z[i, j + 1] − z[i, j]|² + |z[i + 1, j] − z[i, j]|² + ε²) − ε (Rudin, Osher & Fatemi
//! 1992, for a complex image); beyond the last row and column there is no difference. With s the
//! root and Δ the differences of a pixel, ∂t/∂z = Δ_left/s_left + Δ_above/s_above − (Δ_x + Δ_y)/s.
//! Kernel twin: `kernels/complex_variation.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// ε: differences below it are smoothed rather than flattened.
const SOFT: f64 = 1e-3;

#[derive(Clone, Debug)]
pub struct ComplexVariation {
    z: Value,
    total: Value,
    samples: usize,
    channels: usize,
    side: usize,
}

#[derive(Clone, Debug)]
pub struct ComplexVariationBackward {
    forward: ComplexVariation,
    dtotal: Value,
    dz: Grad,
}

/// [B, C, N, N, 2] → [B].
pub fn complex_variation(g: &mut Graph, z: Value) -> Value {
    let [samples, channels, side, width, re_im] = g.dims(z);
    assert_eq!((width, re_im), (side, 2), "patches are square and complex");
    let total = g.work("complex variation", &[samples]);
    g.push(ComplexVariation { z, total, samples, channels, side });
    total
}

/// Differences of a pixel to the right and downwards, and the root of their squares.
struct Slope<T> {
    x: [T; 2],
    y: [T; 2],
    root: T,
}

impl<T: Real> Slope<T> {
    fn at(z: &[T], n: usize, i: usize, j: usize) -> Slope<T> {
        let pixel = |i: usize, j: usize, part: usize| z[2 * (i * n + j) + part];
        let here = [pixel(i, j, 0), pixel(i, j, 1)];
        let to = |i: usize, j: usize| [pixel(i, j, 0) - here[0], pixel(i, j, 1) - here[1]];
        // A pixel at the border is its own neighbour, which has no difference.
        let (x, y) = (to(i, (j + 1).min(n - 1)), to((i + 1).min(n - 1), j));
        let squares = x.iter().chain(&y).map(|d| *d * *d).sum::<T>();
        Slope { x, y, root: (squares + T::of(SOFT * SOFT)).sqrt() }
    }
}

impl Operation for ComplexVariation {
    fn reads(&self) -> Vec<Value> {
        vec![self.z]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.total]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dtotal) = g.grad_of(self.total) else { return };
        let Some(dz) = g.grad_into(self.z) else { return };
        g.push(ComplexVariationBackward { forward: self.clone(), dtotal, dz });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let (n, [z, total]) = (self.side, mem.get([self.z, self.total]));
        let plane = 2 * n * n;
        total.par_iter_mut().zip(z.par_chunks(self.channels * plane)).for_each(|(total, z)| {
            let mut sum = 0.0;
            for z in z.chunks_exact(plane) {
                for i in 0..n * n {
                    sum += Slope::at(z, n, i / n, i % n).root.wide() - SOFT;
                }
            }
            *total = T::of(sum);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ComplexVariation { z, total, samples, channels, side } = *self;
        let launch = Launch::blocks("complex_variation_forward", samples);
        vec![launch.buffers([z, total]).ints([channels, side])]
    }
}

impl Operation for ComplexVariationBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.z, self.dtotal]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dz.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let ComplexVariation { z, channels, side: n, .. } = self.forward;
        let [z, dtotal, dz] = mem.get([z, self.dtotal, self.dz.value]);
        let (plane, dtotal) = (2 * n * n, &*dtotal);
        let planes = dz.par_chunks_mut(plane).zip(z.par_chunks(plane)).enumerate();
        planes.for_each(|(p, (dz, z))| {
            for (at, dz) in dz.chunks_exact_mut(2).enumerate() {
                let (i, j) = (at / n, at % n);
                let here = Slope::at(z, n, i, j);
                let left = (j > 0).then(|| Slope::at(z, n, i, j - 1));
                let above = (i > 0).then(|| Slope::at(z, n, i - 1, j));
                for (part, dz) in dz.iter_mut().enumerate() {
                    let mut slope = -(here.x[part] + here.y[part]) / here.root;
                    if let Some(left) = &left {
                        slope += left.x[part] / left.root;
                    }
                    if let Some(above) = &above {
                        slope += above.y[part] / above.root;
                    }
                    put(dz, self.dz.accumulate, dtotal[p / channels] * slope);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ComplexVariation { z, samples, channels, side, .. } = self.forward;
        let total = samples * channels * side * side;
        let launch = Launch::elements("complex_variation_backward", total)
            .buffers([z, self.dtotal, self.dz.value])
            .ints([channels, side, total, self.dz.accumulate.into()]);
        vec![launch]
    }
}
