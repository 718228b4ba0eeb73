//! From the patches of an object to the misfit of their patterns, and back to the patches: the chain
//! of [`extract`](super::extract), [`illuminate`](super::illuminate), [`fft2`](super::fft2),
//! [`intensity`](super::intensity), a misfit, and the adjoints of these, as one op.
//!
//! F_bcp = F(P_{s(b) p} X_bc),  I_bc = Σ_p |F_bcp|²,  ℓ_b = s_b Σ_{c,p} m f(I, a, κ_b);
//! ∂L/∂ψ_bcp = F⁻¹(2 ∂L/∂I F_bcp),  ∂L/∂X_bc = Σ_p conj(P_{s(b) p}) ∂L/∂ψ_bcp.
//! A misfit knows what it counts in the total before the step ([`misfit`](super::misfit)), so the
//! gradient of the patches is there with its value, and a GPU keeps a pattern in registers from the
//! load of its patch to the store of its gradient. The CPU runs the ops of the chain, in buffers that a GPU has
//! room for too and does not touch. A validation, which runs the forward stage alone, computes the gradient
//! for nothing.
//! Kernel twin: `kernels/diffraction.cu`.

use super::Operation;
use super::amplitude::Amplitude;
use super::extract::Extract;
use super::fft2::Fft2;
use super::global_norm::WIDE;
use super::illuminate::Illuminate;
use super::intensity::Intensity;
use super::mae::Mae;
use super::misfit::{Distance, Measured, Misfit, Normalise, Upstream};
use super::poisson::Poisson;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// Where the patches come from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// [B, C, N, N, 2].
    Patches(Value),
    /// The canvas [B, S, S, 2] of each group, and the offsets [B, C, 2] (x, y) of its patches in
    /// pixels: see [`extract`](super::extract::extract).
    Canvas(Value, Value),
}

#[derive(Clone, Debug)]
pub struct Diffraction {
    extract: Option<Extract>,
    illuminate: Illuminate,
    intensity: Intensity,
    distance: Distance,
    misfit: Misfit,
    dpatches: Value,
    /// Far field; at the end the gradient of the exit waves.
    field: Value,
    /// The loss of each pattern; of groups.
    partial: Option<Value>,
    /// The gradient of the exit waves is read, because the probe is trained.
    exits: bool,
}

/// Whether the kernel takes frames of this side. Those of others pass through the ops one by one.
pub fn fits(side: usize) -> bool {
    [64, 128].contains(&side)
}

/// Patches, [S, P, N, N, 2] probes of S scans and measured patterns → [B, C, N, N] intensity, which
/// nothing else may be computed from, and [B] loss of each sample, which counts in the total as
/// `upstream` says. Panics where [`fits`] is false of N.
pub fn diffraction(
    g: &mut Graph,
    source: Source,
    probe: Value,
    measured: Measured,
    upstream: Upstream,
    distance: Distance,
    normalise: Normalise,
) -> [Value; 2] {
    let [_, _, side, _, _] = g.dims(probe);
    assert!(fits(side), "patterns of side {side} do not fit a block");
    let (patches, extract) = match source {
        Source::Patches(patches) => (patches, None),
        Source::Canvas(canvas, offsets) => {
            let extract = Extract::new(g, canvas, offsets, side);
            (extract.patches, Some(extract))
        }
    };
    let illuminate = Illuminate::new(g, "scratch: waves", patches, probe, measured.scan);
    assert!(i32::try_from(g.len(illuminate.exit)).is_ok(), "the kernel counts in 31 bits");
    let shape = g.shape(illuminate.exit).to_vec();
    let field = g.work("scratch: fields", &shape);
    let intensity = Intensity::new(g, field);
    let shape = g.shape(intensity.intensity).to_vec();
    let frames = [intensity.intensity, g.work("scratch: slopes", &shape)];
    let misfit = Misfit::new(g, distance.name(), frames, measured, upstream, normalise);
    let patterns = misfit.batch * misfit.channels;
    let partial = (misfit.channels > 1).then(|| g.work("scratch: losses", &[WIDE * patterns]));
    let (dpatches, exits) = (g.grad_buffer(patches), g.is_differentiable(probe));
    let results = [misfit.intensity, misfit.loss];
    g.push_last(Diffraction {
        extract,
        illuminate,
        intensity,
        distance,
        misfit,
        dpatches,
        field,
        partial,
        exits,
    });
    results
}

impl Diffraction {
    /// Value and slope of the misfit.
    fn compare<T: Real>(&self, mem: &mut Mem<T>) {
        let misfit = self.misfit;
        match self.distance {
            Distance::Poisson(background) => Poisson { misfit, background }.cpu(mem),
            Distance::Mae => Mae { misfit }.cpu(mem),
            Distance::Amplitude => Amplitude { misfit }.cpu(mem),
        }
    }
}

impl Operation for Diffraction {
    fn reads(&self) -> Vec<Value> {
        let from = match &self.extract {
            Some(extract) => vec![extract.canvas, extract.offsets],
            None => vec![self.illuminate.object],
        };
        let Measured { amplitude, dose, mask, scan } = self.misfit.measured;
        let others = [self.illuminate.probe, amplitude, dose, mask, scan];
        from.into_iter().chain(others).chain([self.misfit.upstream.weight]).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let Misfit { intensity, loss, dintensity, .. } = self.misfit;
        let scratch = [self.illuminate.exit, self.field, dintensity];
        let patches = self.extract.as_ref().map(|extract| extract.patches);
        let results = [intensity, loss, self.dpatches];
        results.into_iter().chain(scratch).chain(patches).chain(self.partial).collect()
    }

    /// The gradient of the patches is there already, and that of the exit waves in `field`.
    fn backward(&self, g: &mut Graph) {
        g.set_grad(self.illuminate.object, self.dpatches);
        if let Some(dprobe) = g.grad_into(self.illuminate.probe) {
            g.push(self.illuminate.adjoint(self.field, None, Some(dprobe)));
        }
        if let Some(extract) = &self.extract {
            extract.backward(g);
        }
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let (wave, field, side) = (self.illuminate.exit, self.field, self.illuminate.side);
        if let Some(extract) = &self.extract {
            extract.cpu(mem);
        }
        let set = |value| Grad { value, accumulate: false };
        let frames = self.misfit.batch * self.misfit.channels * self.illuminate.modes;
        self.illuminate.cpu(mem);
        Fft2::part([wave, field], frames, side, false).cpu(mem);
        self.intensity.cpu(mem);
        self.compare(mem);
        self.intensity.adjoint(self.misfit.dintensity, set(wave)).cpu(mem);
        Fft2::part([wave, field], frames, side, true).cpu(mem);
        self.illuminate.adjoint(field, Some(set(self.dpatches)), None).cpu(mem);
    }

    /// One block for each pattern; then the sums of the groups.
    fn launches(&self) -> Vec<Launch> {
        let Illuminate { object, probe, modes, side, .. } = self.illuminate;
        let Misfit { intensity, loss, dintensity, normalise, batch, channels, .. } = self.misfit;
        let Measured { amplitude, dose, mask, scan } = self.misfit.measured;
        let Upstream { weight, factor } = self.misfit.upstream;
        let (from, offsets, canvas_side) = match &self.extract {
            Some(e) => (e.canvas, e.offsets, e.canvas_side),
            None => (object, object, 0),
        };
        let mean = usize::from(normalise == Normalise::ValidPixels);
        let background =
            if let Distance::Poisson(background) = self.distance { background } else { 0.0 };
        let partial = self.partial.unwrap_or(loss);
        let launch = Launch::blocks("diffraction_forward", batch * channels)
            .buffers([from, offsets, probe, scan, amplitude, dose, mask, weight])
            .buffers([intensity, loss, partial, dintensity, object, self.dpatches, self.field])
            .ints([channels, modes, side, canvas_side, self.exits.into()])
            .ints([self.distance.index(), mean])
            .floats([factor, background]);
        let shared = (side * (side + 8) * size_of::<f32>()) as u32;
        let launch = Launch { block: 4 * side as u32, shared, ..launch };
        let sums = self.partial.map(|partial| {
            Launch::elements("diffraction_sum", batch)
                .buffers([partial, loss])
                .ints([channels, batch])
        });
        [launch].into_iter().chain(sums).collect()
    }
}
