//! Amplitude and phase of a complex number that is given by its parts.
//!
//! z = 1 + x + i y, a = |z|, φ = arg z;
//! ∂L/∂x + i ∂L/∂y = ∂L/∂a z/a + ∂L/∂φ i z/a², and 0 at z = 0, where there is no slope.
//! Kernel twin: `kernels/cartesian.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::TILE;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Cartesian {
    pub(crate) x: Value,
    pub(crate) y: Value,
    pub(crate) amplitude: Value,
    pub(crate) phase: Value,
    total: usize,
}

#[derive(Clone, Debug)]
pub struct CartesianBackward {
    forward: Cartesian,
    damplitude: Option<Value>,
    dphase: Option<Value>,
    dx: Option<Grad>,
    dy: Option<Grad>,
}

/// Two arrays of one shape → amplitude and phase (rad) of 1 + `x` + i `y`.
pub fn cartesian(g: &mut Graph, x: Value, y: Value) -> (Value, Value) {
    assert_eq!(g.shape(x), g.shape(y), "both parts of every number");
    let shape = g.shape(x).to_vec();
    let [amplitude, phase] = ["amplitude", "phase"].map(|name| g.work(name, &shape));
    g.push(Cartesian { x, y, amplitude, phase, total: g.len(x) });
    (amplitude, phase)
}

impl Operation for Cartesian {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.y]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.amplitude, self.phase]
    }

    fn backward(&self, g: &mut Graph) {
        let (damplitude, dphase) = (g.grad_of(self.amplitude), g.grad_of(self.phase));
        if damplitude.or(dphase).is_none() {
            return;
        }
        let (dx, dy) = (g.grad_into(self.x), g.grad_into(self.y));
        g.push(CartesianBackward { forward: self.clone(), damplitude, dphase, dx, dy });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y, amplitude, phase] = mem.get([self.x, self.y, self.amplitude, self.phase]);
        let parts = x.par_chunks(TILE).zip(y.par_chunks(TILE));
        let results = amplitude.par_chunks_mut(TILE).zip(phase.par_chunks_mut(TILE));
        parts.zip(results).for_each(|((x, y), (amplitude, phase))| {
            for ((&x, &y), (a, p)) in x.iter().zip(y).zip(amplitude.iter_mut().zip(phase)) {
                let re = T::one() + x;
                *a = (re * re + y * y).sqrt();
                *p = y.atan2(re);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Cartesian { x, y, amplitude, phase, total } = *self;
        let launch = Launch::elements("cartesian_forward", total);
        vec![launch.buffers([x, y, amplitude, phase]).ints([total])]
    }
}

impl Operation for CartesianBackward {
    fn reads(&self) -> Vec<Value> {
        let grads = [self.damplitude, self.dphase].into_iter().flatten();
        [self.forward.x, self.forward.y].into_iter().chain(grads).collect()
    }

    fn writes(&self) -> Vec<Value> {
        [self.dx, self.dy].into_iter().flatten().map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        for (d, imaginary) in [(self.dx, false), (self.dy, true)] {
            for (source, of_phase) in [(self.damplitude, false), (self.dphase, true)] {
                let (Some(d), Some(source)) = (d, source) else { continue };
                // The second share is added to the first.
                let accumulate = d.accumulate || (of_phase && self.damplitude.is_some());
                self.share(mem, source, Grad { accumulate, ..d }, imaginary, of_phase);
            }
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Cartesian { x, y, total, .. } = self.forward;
        let share = |d: Option<Grad>, imaginary: bool| {
            let Grad { value, accumulate } = d?;
            let given = [self.damplitude, self.dphase];
            let [da, dp] = given.map(|v| v.unwrap_or(x));
            let flags = given.map(|v| usize::from(v.is_some()));
            let launch = Launch::elements("cartesian_backward", total)
                .buffers([x, y, da, dp, value])
                .ints(flags)
                .ints([imaginary.into(), total, accumulate.into()]);
            Some(launch)
        };
        share(self.dx, false).into_iter().chain(share(self.dy, true)).collect()
    }
}

impl CartesianBackward {
    /// What amplitude or phase contribute to the gradient of one part.
    fn share<T: Real>(
        &self,
        mem: &mut Mem<T>,
        source: Value,
        d: Grad,
        imaginary: bool,
        of_phase: bool,
    ) {
        let [x, y, given, grad] = mem.get([self.forward.x, self.forward.y, source, d.value]);
        let inputs = x.par_chunks(TILE).zip(y.par_chunks(TILE)).zip(given.par_chunks(TILE));
        grad.par_chunks_mut(TILE).zip(inputs).for_each(|(grad, ((x, y), given))| {
            for (grad, ((&x, &y), &given)) in grad.iter_mut().zip(x.iter().zip(y).zip(given)) {
                let re = T::one() + x;
                let square = re * re + y * y;
                let (along, size) = match (of_phase, imaginary) {
                    (false, false) => (re, square.sqrt()),
                    (false, true) => (y, square.sqrt()),
                    (true, false) => (-y, square),
                    (true, true) => (re, square),
                };
                let slope = if size > T::zero() { along / size } else { T::zero() };
                put(grad, d.accumulate, given * slope);
            }
        });
    }
}
