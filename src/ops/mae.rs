//! Mean absolute error of the amplitude, for each sample.
//!
//! ℓ_b = s_b Σ_{c,p} m κ_b |√I − a|;  ∂ℓ_b/∂I = s_b m κ_b sign(√I − a) / (2 √I), 0 at I = 0 and at
//! √I = a; s_b = 1 / (C Σ m) or 1; value and gradient come in one pass.
//! Kernel twin: `kernels/mae.cu`.

use super::Operation;
use super::misfit::{Measured, Misfit, Normalise, Upstream};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Mae {
    pub(super) misfit: Misfit,
}

/// [B, C, N, N] intensity → [B] error of each sample, √photons, which counts in the total as
/// `upstream` says.
pub fn mae(
    g: &mut Graph,
    intensity: Value,
    measured: Measured,
    upstream: Upstream,
    normalise: Normalise,
) -> Value {
    let dintensity = g.grad_buffer(intensity);
    let misfit = Misfit::new(g, "mae", [intensity, dintensity], measured, upstream, normalise);
    g.push_last(Mae { misfit });
    misfit.loss
}

impl Operation for Mae {
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
            kappa * (intensity.sqrt() - amplitude).abs()
        };
        let slope = |intensity: T, amplitude: T, kappa: T| {
            let root = intensity.sqrt();
            if root == amplitude || root.is_zero() {
                return T::zero();
            }
            let slope = kappa / (T::of(2.0) * root);
            if root > amplitude { slope } else { -slope }
        };
        self.misfit.cpu(mem, term, slope);
    }

    fn launches(&self) -> Vec<Launch> {
        vec![self.misfit.launch("mae_forward")]
    }
}
