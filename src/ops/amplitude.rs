//! Squared error of the amplitude, for each sample.
//!
//! ℓ_b = s_b Σ_{c,p} m κ_b² (√I − a)²;  ∂ℓ_b/∂I = s_b m κ_b² (1 − a/√I), s_b = 1 / (C Σ m) or 1;
//! value and gradient come in one pass.
//! It is the log-likelihood of Poisson counts after Anscombe's root, up to a constant: the noise of
//! √counts is the same at every brightness (Thibault & Guizar-Sicairos 2012).
//! Kernel twin: `kernels/amplitude.cu`.

use super::Operation;
use super::misfit::{Measured, Misfit, Normalise, Upstream};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Least I under the root: where the model is exactly dark the gradient stays finite, and that of
/// the field, which is proportional to the field, is 0. `kDarkest` in the kernel.
const DARKEST: f64 = 1e-30;

#[derive(Clone, Debug)]
pub struct Amplitude {
    pub(super) misfit: Misfit,
}

/// [B, C, N, N] intensity → [B] squared error of each sample, photons, which counts in the total as
/// `upstream` says.
pub fn amplitude(
    g: &mut Graph,
    intensity: Value,
    measured: Measured,
    upstream: Upstream,
    normalise: Normalise,
) -> Value {
    let dintensity = g.grad_buffer(intensity);
    let misfit =
        Misfit::new(g, "amplitude", [intensity, dintensity], measured, upstream, normalise);
    g.push_last(Amplitude { misfit });
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
        self.misfit.backward(g);
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let term = |intensity: f64, amplitude: f64, kappa: f64| {
            (kappa * (intensity.max(DARKEST).sqrt() - amplitude)).powi(2)
        };
        let slope = |intensity: T, amplitude: T, kappa: T| {
            kappa * kappa * (T::one() - amplitude / intensity.max(T::of(DARKEST)).sqrt())
        };
        self.misfit.cpu(mem, term, slope);
    }

    fn launches(&self) -> Vec<Launch> {
        vec![self.misfit.launch("amplitude_forward")]
    }
}
