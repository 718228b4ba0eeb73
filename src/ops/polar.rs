//! Complex object patch from amplitude and phase.
//!
//! O = a e^{iφ};  ∂L/∂a = Re(e^{−iφ} ḡ),  ∂L/∂φ = a Im(e^{−iφ} ḡ), ḡ = ∂L/∂Re O + i ∂L/∂Im O.
//! An amplitude of one channel serves all phase channels; its gradient sums over them.
//! Kernel twin: `kernels/polar.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Polar {
    amplitude: Value,
    phase: Value,
    object: Value,
    channels: usize,
    /// Channels of the amplitude: 1 or `channels`.
    shared: usize,
    pixels: usize,
    /// Elements of the object.
    total: usize,
}

#[derive(Clone, Debug)]
pub struct PolarBackward {
    forward: Polar,
    dobject: Value,
    damplitude: Option<Grad>,
    dphase: Option<Grad>,
}

/// [B, A, H, W] amplitude with A ∈ {1, C} and [B, C, H, W] phase (rad) → [B, C, H, W, 2] object.
pub fn polar(g: &mut Graph, amplitude: Value, phase: Value) -> Value {
    let [b, c, h, w] = g.dims(phase);
    let [ab, a, ah, aw] = g.dims(amplitude);
    assert!(
        (ab, ah, aw) == (b, h, w) && (a == 1 || a == c),
        "one amplitude for each phase, or one for all"
    );
    let object = g.work("object", &[b, c, h, w, 2]);
    g.push(Polar {
        amplitude,
        phase,
        object,
        channels: c,
        shared: a,
        pixels: h * w,
        total: g.len(phase),
    });
    object
}

impl Polar {
    /// Phase channels for each amplitude.
    fn served(&self) -> usize {
        self.channels / self.shared
    }

    /// Index of the amplitude plane that serves object plane `i`.
    fn amplitude_plane(&self, i: usize) -> usize {
        if self.shared == 1 { i / self.channels } else { i }
    }
}

impl Operation for Polar {
    fn reads(&self) -> Vec<Value> {
        vec![self.amplitude, self.phase]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.object]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dobject) = g.grad_of(self.object) else { return };
        let (damplitude, dphase) = (g.grad_into(self.amplitude), g.grad_into(self.phase));
        g.push(PolarBackward { forward: self.clone(), dobject, damplitude, dphase });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [amplitude, phase, object] = mem.get([self.amplitude, self.phase, self.object]);
        let (n, phase, amplitude) = (self.pixels, &*phase, &*amplitude);
        object.par_chunks_mut(2 * n).enumerate().for_each(|(i, object)| {
            let amplitude = &amplitude[self.amplitude_plane(i) * n..][..n];
            let planes = amplitude.iter().zip(&phase[i * n..][..n]);
            for (o, (&a, &phi)) in object.chunks_exact_mut(2).zip(planes) {
                let (sin, cos) = phi.sin_cos();
                o[0] = a * cos;
                o[1] = a * sin;
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Polar { amplitude, phase, object, pixels, total, .. } = *self;
        let launch = Launch::elements("polar_forward", total)
            .buffers([amplitude, phase, object])
            .ints([self.served(), pixels, total]);
        vec![launch]
    }
}

impl Operation for PolarBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.amplitude, self.forward.phase, self.dobject]
    }

    fn writes(&self) -> Vec<Value> {
        self.damplitude.iter().chain(&self.dphase).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dphase {
            self.cpu_phase(mem, d);
        }
        if let Some(d) = self.damplitude {
            self.cpu_amplitude(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Polar { amplitude, phase, pixels, total, .. } = self.forward;
        let served = self.forward.served();
        let to_phase = self.dphase.map(|d| {
            Launch::elements("polar_backward_phase", total)
                .buffers([amplitude, phase, self.dobject, d.value])
                .ints([served, pixels, total, d.accumulate.into()])
        });
        let to_amplitude = self.damplitude.map(|d| {
            Launch::elements("polar_backward_amplitude", total / served)
                .buffers([phase, self.dobject, d.value])
                .ints([served, pixels, total / served, d.accumulate.into()])
        });
        to_phase.into_iter().chain(to_amplitude).collect()
    }
}

impl PolarBackward {
    fn cpu_phase<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let Polar { amplitude, phase, pixels: n, .. } = self.forward;
        let [amplitude, phase, dobject, dphase] =
            mem.get([amplitude, phase, self.dobject, d.value]);
        let (phase, amplitude, dobject) = (&*phase, &*amplitude, &*dobject);
        dphase.par_chunks_mut(n).enumerate().for_each(|(i, dphase)| {
            let amplitude = &amplitude[self.forward.amplitude_plane(i) * n..][..n];
            for (p, dphase) in dphase.iter_mut().enumerate() {
                let (sin, cos) = phase[i * n + p].sin_cos();
                let [re, im] = [dobject[2 * (i * n + p)], dobject[2 * (i * n + p) + 1]];
                put(dphase, d.accumulate, amplitude[p] * (cos * im - sin * re));
            }
        });
    }

    fn cpu_amplitude<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let Polar { phase, pixels: n, .. } = self.forward;
        let [phase, dobject, damplitude] = mem.get([phase, self.dobject, d.value]);
        let (phase, dobject) = (&*phase, &*dobject);
        let served = self.forward.served();
        damplitude.par_chunks_mut(n).enumerate().for_each(|(plane, damplitude)| {
            for (p, damplitude) in damplitude.iter_mut().enumerate() {
                let share = |i: usize| {
                    let (sin, cos) = phase[i * n + p].sin_cos();
                    cos * dobject[2 * (i * n + p)] + sin * dobject[2 * (i * n + p) + 1]
                };
                let sum = (plane * served..(plane + 1) * served).map(share).sum();
                put(damplitude, d.accumulate, sum);
            }
        });
    }
}
