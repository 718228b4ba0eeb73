//! What the losses on the detector share: a weighted sum over the pixels of each sample, and its
//! gradient in the same pass.
//!
//! ℓ_b = s_b Σ_{c,p} m_p f(I_bcp, a_bcp, κ_b);  ∂L/∂I_bcp = u_b s_b m_p ∂f/∂I,
//! with s_b = 1 / (C Σ_p m_p) for a mean and 1 for a sum. A pixel of weight 0 is never looked at.
//!
//! A misfit is where the graph ends. What its samples count in the total, u_b = ∂L/∂ℓ_b, is known
//! before the step: the weights of the samples are inputs. So nothing has to come back from the
//! total before the gradient is written, and the patterns are read once.

use rayon::prelude::*;

use super::amplitude::amplitude;
use super::mae::mae;
use super::poisson::poisson;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// What the detector saw, and how.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Square root of the intensity, in the units of the file: [B, C, N, N].
    pub amplitude: Value,
    /// κ with counts = (κ a)²: [B], √photons for each unit of amplitude.
    pub dose: Value,
    /// Weight of each pixel, 0 for one to ignore: [S, N, N], one mask for each scan.
    pub mask: Value,
    /// Index of the scan that each sample belongs to: [B].
    pub scan: Value,
}

/// What the sum over the pixels of a sample is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalise {
    /// The weight of all pixels of the sample: a mean.
    ValidPixels,
    /// Nothing, as in published losses.
    Sum,
}

impl Normalise {
    /// s_b for a sample of `channels` patterns; 0 if nothing is left to look at.
    fn share<T: Real>(self, mask: &[T], channels: usize) -> f64 {
        let weight = channels as f64 * mask.iter().map(|m| m.wide()).sum::<f64>();
        match self {
            Normalise::Sum => 1.0,
            Normalise::ValidPixels if weight > 0.0 => weight.recip(),
            Normalise::ValidPixels => 0.0,
        }
    }
}

/// How a predicted and a measured pattern are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// [`poisson`](super::poisson) with this background, photons per pixel.
    Poisson(f64),
    /// [`mae`](super::mae).
    Mae,
    /// [`amplitude`](super::amplitude).
    Amplitude,
}

impl Distance {
    /// Its number in `kernels/misfit.cuh`.
    pub(super) fn index(self) -> usize {
        match self {
            Distance::Poisson(_) => 0,
            Distance::Mae => 1,
            Distance::Amplitude => 2,
        }
    }

    pub(super) fn name(self) -> &'static str {
        ["poisson", "mae", "amplitude"][self.index()]
    }
}

/// [B, C, N, N] intensity → [B] loss of each sample by this distance.
pub fn misfit(
    g: &mut Graph,
    distance: Distance,
    intensity: Value,
    measured: Measured,
    upstream: Upstream,
    normalise: Normalise,
) -> Value {
    match distance {
        Distance::Poisson(background) => {
            poisson(g, intensity, measured, upstream, background, normalise)
        }
        Distance::Mae => mae(g, intensity, measured, upstream, normalise),
        Distance::Amplitude => amplitude(g, intensity, measured, upstream, normalise),
    }
}

/// What the loss of each sample counts in the total: u_b = ∂L/∂ℓ_b = factor · weight_b.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    /// [B], written before the step.
    pub weight: Value,
    pub factor: f64,
}

/// The buffers of one such loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misfit {
    pub intensity: Value,
    pub measured: Measured,
    pub upstream: Upstream,
    pub loss: Value,
    /// ∂L/∂I: [B, C, N, N].
    pub dintensity: Value,
    pub normalise: Normalise,
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
}

impl Misfit {
    pub fn new(
        g: &mut Graph,
        name: &str,
        [intensity, dintensity]: [Value; 2],
        measured: Measured,
        upstream: Upstream,
        normalise: Normalise,
    ) -> Misfit {
        let [batch, channels, h, w] = g.dims(intensity);
        let [_, mh, mw] = g.dims(measured.mask);
        assert_eq!(
            g.shape(measured.amplitude),
            [batch, channels, h, w],
            "one amplitude per intensity"
        );
        assert_eq!((mh, mw), (h, w), "the mask has the shape of a pattern");
        for (what, v) in
            [("dose", measured.dose), ("scan index", measured.scan), ("weight", upstream.weight)]
        {
            assert_eq!(g.shape(v), [batch], "one {what} for each sample");
        }
        let (loss, pixels) = (g.work(name, &[batch]), h * w);
        Misfit {
            intensity,
            measured,
            upstream,
            loss,
            dintensity,
            normalise,
            batch,
            channels,
            pixels,
        }
    }

    pub fn reads(&self) -> Vec<Value> {
        let Measured { amplitude, dose, mask, scan } = self.measured;
        vec![self.intensity, amplitude, dose, mask, scan, self.upstream.weight]
    }

    pub fn writes(&self) -> Vec<Value> {
        vec![self.loss, self.dintensity]
    }

    /// The gradient is there already.
    pub fn backward(&self, g: &mut Graph) {
        g.set_grad(self.intensity, self.dintensity);
    }

    /// One block for each sample.
    pub fn launch(&self, kernel: &'static str) -> Launch {
        let Measured { amplitude, dose, mask, scan } = self.measured;
        let Upstream { weight, factor } = self.upstream;
        let mean = usize::from(self.normalise == Normalise::ValidPixels);
        Launch::blocks(kernel, self.batch)
            .buffers([self.intensity, amplitude, dose, mask, scan, weight])
            .buffers([self.loss, self.dintensity])
            .ints([self.channels, self.pixels, mean])
            .floats([factor])
    }

    /// The loss with `term(I, a, κ)` = f at each pixel, summed in double precision, and the
    /// gradient with `slope(I, a, κ)` = ∂f/∂I.
    pub fn cpu<T: Real>(
        &self,
        mem: &mut Mem<T>,
        term: impl Fn(f64, f64, f64) -> f64 + Sync,
        slope: impl Fn(T, T, T) -> T + Sync,
    ) {
        let (Measured { amplitude, dose, mask, scan }, n) = (self.measured, self.pixels);
        let [intensity, amplitude, dose, mask, scan, weight, loss, dintensity] = mem.get([
            self.intensity,
            amplitude,
            dose,
            mask,
            scan,
            self.upstream.weight,
            self.loss,
            self.dintensity,
        ]);
        let sample = self.channels * n;
        let (dose, mask, scan, weight) = (&*dose, &*mask, &*scan, &*weight);
        let measured = intensity.par_chunks(sample).zip(amplitude.par_chunks(sample));
        let results = loss.par_iter_mut().zip(dintensity.par_chunks_mut(sample));
        measured.zip(results).enumerate().for_each(|(b, ((intensity, amplitude), (loss, d)))| {
            let (mask, kappa) = (&mask[scan[b].wide() as usize * n..][..n], dose[b]);
            let share = self.normalise.share(mask, self.channels);
            let upstream = T::of(self.upstream.factor * share) * weight[b];
            let mut sum = 0.0;
            let measured = intensity.chunks_exact(n).zip(amplitude.chunks_exact(n));
            for ((intensity, amplitude), d) in measured.zip(d.chunks_exact_mut(n)) {
                let pixels = intensity.iter().zip(amplitude).zip(mask);
                for (d, ((&i, &a), &m)) in d.iter_mut().zip(pixels) {
                    if m.is_zero() {
                        *d = m;
                        continue;
                    }
                    sum += m.wide() * term(i.wide(), a.wide(), kappa.wide());
                    *d = upstream * m * slope(i, a, kappa);
                }
            }
            *loss = T::of(share * sum);
        });
    }
}
