//! Squared error of the amplitude, for each sample.
//!
//! ℓ_b = s_b Σ_{c,p} m κ_b² (√I − a)²;  ∂ℓ_b/∂I = s_b m κ_b² (1 − a/√I), s_b = 1 / (C Σ m) or 1.
//! It is the log-likelihood of Poisson counts after Anscombe's root, up to a constant: the noise of
//! √counts is the same at every brightness (Thibault & Guizar-Sicairos 2012).
//! Kernel twin: `kernels/amplitude.cu`.

use super::Operation;
use super::misfit::{Measured, Misfit, Normalise};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// Least I under the root: where the model is exactly dark the gradient stays finite, and that of
/// the field, which is proportional to the field, is 0. `kDarkest` in the kernel.
const DARKEST: f64 = 1e-30;

#[derive(Clone, Debug)]
pub struct Amplitude {
    misfit: Misfit,
}

#[derive(Clone, Debug)]
pub struct AmplitudeBackward {
    forward: Amplitude,
    dloss: Value,
    dintensity: Grad,
}

/// [B, C, N, N] intensity → [B] squared error of each sample, photons.
pub fn amplitude(
    g: &mut Graph,
    intensity: Value,
    measured: Measured,
    normalise: Normalise,
) -> Value {
    let misfit = Misfit::new(g, "amplitude", intensity, measured, normalise);
    g.push(Amplitude { misfit });
    misfit.loss
}

impl Operation for Amplitude {
    fn reads(&self) -> Vec<Value> {
        self.misfit.reads()
    }

    fn writes(&self) -> Vec<Value> {
        self.misfit.writes()
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dloss) = g.grad_of(self.misfit.loss) else { return };
        let Some(dintensity) = g.grad_into(self.misfit.intensity) else { return };
        g.push(AmplitudeBackward { forward: self.clone(), dloss, dintensity });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        self.misfit.cpu(mem, |intensity, amplitude, kappa| {
            (kappa * (intensity.max(DARKEST).sqrt() - amplitude)).powi(2)
        });
    }

    fn launches(&self) -> Vec<Launch> {
        vec![self.misfit.launch("amplitude_forward")]
    }
}

impl Operation for AmplitudeBackward {
    fn reads(&self) -> Vec<Value> {
        [self.forward.misfit.reads(), vec![self.forward.misfit.share, self.dloss]].concat()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dintensity.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let slope = |intensity: T, amplitude: T, kappa: T| {
            kappa * kappa * (T::one() - amplitude / intensity.max(T::of(DARKEST)).sqrt())
        };
        self.forward.misfit.cpu_backward(mem, self.dloss, self.dintensity, slope);
    }

    fn launches(&self) -> Vec<Launch> {
        let misfit = self.forward.misfit;
        let launch = misfit.launch_backward("amplitude_backward", self.dloss, self.dintensity);
        vec![launch]
    }
}
