//! Mean absolute error of the amplitude, for each sample.
//!
//! ℓ_b = s_b Σ_{c,p} m κ_b |√I − a|;  ∂ℓ_b/∂I = s_b m κ_b sign(√I − a) / (2 √I), 0 at I = 0 and at
//! √I = a; s_b = 1 / (C Σ m) or 1.
//! Kernel twin: `kernels/mae.cu`.

use super::Operation;
use super::misfit::{Measured, Misfit, Normalise};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Mae {
    misfit: Misfit,
}

#[derive(Clone, Debug)]
pub struct MaeBackward {
    forward: Mae,
    dloss: Value,
    dintensity: Grad,
}

/// [B, C, N, N] intensity → [B] error of each sample, √photons.
pub fn mae(g: &mut Graph, intensity: Value, measured: Measured, normalise: Normalise) -> Value {
    let misfit = Misfit::new(g, "mae", intensity, measured, normalise);
    g.push(Mae { misfit });
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
        let Some(dloss) = g.grad_of(self.misfit.loss) else { return };
        let Some(dintensity) = g.grad_into(self.misfit.intensity) else { return };
        g.push(MaeBackward { forward: self.clone(), dloss, dintensity });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let error = |intensity: f64, amplitude: f64, kappa: f64| {
            kappa * (intensity.sqrt() - amplitude).abs()
        };
        self.misfit.cpu(mem, error);
    }

    fn launches(&self) -> Vec<Launch> {
        vec![self.misfit.launch("mae_forward")]
    }
}

impl Operation for MaeBackward {
    fn reads(&self) -> Vec<Value> {
        [self.forward.misfit.reads(), vec![self.forward.misfit.share, self.dloss]].concat()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dintensity.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let slope = |intensity: T, amplitude: T, kappa: T| {
            let root = intensity.sqrt();
            if root == amplitude || root.is_zero() {
                return T::zero();
            }
            let slope = kappa / (T::of(2.0) * root);
            if root > amplitude { slope } else { -slope }
        };
        self.forward.misfit.cpu_backward(mem, self.dloss, self.dintensity, slope);
    }

    fn launches(&self) -> Vec<Launch> {
        let misfit = self.forward.misfit;
        let launch = misfit.launch_backward("mae_backward", self.dloss, self.dintensity);
        vec![launch]
    }
}
