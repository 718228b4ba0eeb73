//! Far-field intensity of incoherent probe modes.
//!
//! I = Σ_p |F_p|²;  ∂L/∂F_p = 2 ∂L/∂I · F_p.
//! Kernel twin: `kernels/intensity.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Intensity {
    field: Value,
    pub(super) intensity: Value,
    modes: usize,
    pixels: usize,
    /// Elements of the intensity.
    total: usize,
}

#[derive(Clone, Debug)]
pub struct IntensityBackward {
    forward: Intensity,
    dintensity: Value,
    dfield: Grad,
}

/// [B, C, P, N, N, 2] far field of each mode → [B, C, N, N] intensity.
pub fn intensity(g: &mut Graph, field: Value) -> Value {
    let op = Intensity::new(g, field);
    let intensity = op.intensity;
    g.push(op);
    intensity
}

impl Intensity {
    pub(super) fn new(g: &mut Graph, field: Value) -> Intensity {
        let [b, c, modes, h, w, _] = g.dims(field);
        let intensity = g.work("intensity", &[b, c, h, w]);
        Intensity { field, intensity, modes, pixels: h * w, total: b * c * h * w }
    }

    /// From the gradient of the intensity to that of the field.
    pub(super) fn adjoint(&self, dintensity: Value, dfield: Grad) -> IntensityBackward {
        IntensityBackward { forward: self.clone(), dintensity, dfield }
    }
}

impl Operation for Intensity {
    fn reads(&self) -> Vec<Value> {
        vec![self.field]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.intensity]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dintensity) = g.grad_of(self.intensity) else { return };
        let Some(dfield) = g.grad_into(self.field) else { return };
        g.push(self.adjoint(dintensity, dfield));
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [field, intensity] = mem.get([self.field, self.intensity]);
        let n = self.pixels;
        let frames = field.par_chunks(2 * n * self.modes).zip(intensity.par_chunks_mut(n));
        frames.for_each(|(field, intensity)| {
            for (p, intensity) in intensity.iter_mut().enumerate() {
                let mode = |m: usize| {
                    let [re, im] = [field[2 * (m * n + p)], field[2 * (m * n + p) + 1]];
                    re * re + im * im
                };
                *intensity = (0..self.modes).map(mode).sum();
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Intensity { field, intensity, modes, pixels, total } = *self;
        let launch = Launch::elements("intensity_forward", total)
            .buffers([field, intensity])
            .ints([modes, pixels, total]);
        vec![launch]
    }
}

impl Operation for IntensityBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.field, self.dintensity]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dfield.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Intensity { field, modes, pixels: n, .. } = self.forward;
        let [field, dintensity, dfield] = mem.get([field, self.dintensity, self.dfield.value]);
        let (field, dintensity) = (&*field, &*dintensity);
        dfield.par_chunks_mut(2 * n).enumerate().for_each(|(plane, dfield)| {
            let dintensity = &dintensity[plane / modes * n..][..n];
            for (i, dfield) in dfield.iter_mut().enumerate() {
                let share = T::of(2.0) * dintensity[i / 2] * field[plane * 2 * n + i];
                put(dfield, self.dfield.accumulate, share);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Intensity { field, modes, pixels, total, .. } = self.forward;
        let Grad { value, accumulate } = self.dfield;
        let launch = Launch::elements("intensity_backward", modes * total)
            .buffers([field, self.dintensity, value])
            .ints([modes, pixels, modes * total, accumulate.into()]);
        vec![launch]
    }
}
