//! Poisson negative log-likelihood of the counted photons, for each sample.
//!
//! ℓ_b = s_b Σ_{c,p} m (Λ − k + k ln(k/Λ)),  Λ = κ_b² I + ε,  k = (κ_b a)²,  k ln k = 0 at k = 0;
//! ∂ℓ_b/∂I = s_b m κ_b² (1 − k/Λ), s_b = 1 / (C Σ m) or 1; value and gradient come in one pass.
//! The term is zero at Λ = k and positive elsewhere. It differs from −ln Poisson(k; Λ) by
//! k − k ln k + ln k!, which the data alone decide, so both have the same gradient.
//! Kernel twin: `kernels/poisson.cu`.

use super::Operation;
use super::misfit::{Measured, Misfit, Normalise, Upstream};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Least Λ, photons: with ε = 0 the gradient stays finite where the model is exactly dark.
/// `kDarkest` in the kernel.
const DARKEST: f64 = 1e-30;

#[derive(Clone, Debug)]
pub struct Poisson {
    pub(super) misfit: Misfit,
    /// ε, photons.
    pub(super) background: f64,
}

/// [B, C, N, N] intensity → [B] loss of each sample in nats, which counts in the total as `upstream`
/// says. `background` is ε, photons per pixel.
pub fn poisson(
    g: &mut Graph,
    intensity: Value,
    measured: Measured,
    upstream: Upstream,
    background: f64,
    normalise: Normalise,
) -> Value {
    assert!(background >= 0.0, "a background has no negative photons");
    let dintensity = g.grad_buffer(intensity);
    let misfit = Misfit::new(g, "poisson", [intensity, dintensity], measured, upstream, normalise);
    g.push_last(Poisson { misfit, background });
    misfit.loss
}

impl Operation for Poisson {
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
        let background = T::of(self.background);
        let term = |intensity, amplitude, kappa| {
            let (lambda, k) = photons(intensity, amplitude, kappa, self.background);
            if k > 0.0 { lambda - k + k * (k / lambda).ln() } else { lambda }
        };
        let slope = |intensity: T, amplitude: T, kappa: T| {
            let (lambda, k) = photons(intensity, amplitude, kappa, background);
            let excess = if k > T::zero() { k / lambda } else { k };
            kappa * kappa * (T::one() - excess)
        };
        self.misfit.cpu(mem, term, slope);
    }

    fn launches(&self) -> Vec<Launch> {
        vec![self.misfit.launch("poisson_forward").floats([self.background])]
    }
}

/// (Λ, k): photons expected and counted.
fn photons<T: Real>(intensity: T, amplitude: T, kappa: T, background: T) -> (T, T) {
    let lambda = (kappa * kappa * intensity + background).max(T::of(DARKEST));
    (lambda, (kappa * amplitude).powi(2))
}
