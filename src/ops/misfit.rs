//! What the losses on the detector share: a weighted sum over the pixels of each sample.
//!
//! ℓ_b = s_b Σ_{c,p} m_p f(I_bcp, a_bcp, κ_b);  ∂ℓ_b/∂I_bcp = s_b m_p ∂f/∂I,
//! with s_b = 1 / (C Σ_p m_p) for a mean and 1 for a sum. A pixel of weight 0 is never looked at.

use rayon::prelude::*;

use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
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

/// The buffers of one such loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misfit {
    pub intensity: Value,
    pub measured: Measured,
    pub loss: Value,
    /// s_b: [B], kept for the gradient.
    pub share: Value,
    pub normalise: Normalise,
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
}

impl Misfit {
    pub fn new(
        g: &mut Graph,
        name: &str,
        intensity: Value,
        measured: Measured,
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
        assert_eq!(g.shape(measured.dose), [batch], "one dose for each sample");
        assert_eq!(g.shape(measured.scan), [batch], "one scan index for each sample");
        let (loss, share) = (g.work(name, &[batch]), g.work(&format!("share of {name}"), &[batch]));
        let pixels = h * w;
        Misfit { intensity, measured, loss, share, normalise, batch, channels, pixels }
    }

    pub fn reads(&self) -> Vec<Value> {
        let Measured { amplitude, dose, mask, scan } = self.measured;
        vec![self.intensity, amplitude, dose, mask, scan]
    }

    pub fn writes(&self) -> Vec<Value> {
        vec![self.loss, self.share]
    }

    /// The forward kernel, one block for each sample.
    pub fn launch(&self, kernel: &'static str) -> Launch {
        let (Measured { amplitude, dose, mask, scan }, Misfit { loss, share, .. }) =
            (self.measured, *self);
        let mean = usize::from(self.normalise == Normalise::ValidPixels);
        Launch::blocks(kernel, self.batch)
            .buffers([self.intensity, amplitude, dose, mask, scan, loss, share])
            .ints([self.channels, self.pixels, mean])
    }

    /// The backward kernel, one thread for each pixel.
    pub fn launch_backward(&self, kernel: &'static str, dloss: Value, d: Grad) -> Launch {
        let Measured { amplitude, dose, mask, scan } = self.measured;
        let total = self.batch * self.channels * self.pixels;
        Launch::elements(kernel, total)
            .buffers([self.intensity, amplitude, dose, mask, scan, self.share, dloss, d.value])
            .ints([self.channels, self.pixels, total, d.accumulate.into()])
    }

    /// The loss with `term(I, a, κ)` at each pixel, summed in double precision.
    pub fn cpu<T: Real>(&self, mem: &mut Mem<T>, term: impl Fn(f64, f64, f64) -> f64 + Sync) {
        let (Measured { amplitude, dose, mask, scan }, n) = (self.measured, self.pixels);
        let [intensity, amplitude, dose, mask, scan, share, loss] =
            mem.get([self.intensity, amplitude, dose, mask, scan, self.share, self.loss]);
        let sample = self.channels * n;
        let (dose, mask, scan) = (&*dose, &*mask, &*scan);
        let samples = intensity.par_chunks(sample).zip(amplitude.par_chunks(sample));
        let results = loss.par_iter_mut().zip(share);
        samples.zip(results).enumerate().for_each(
            |(b, ((intensity, amplitude), (loss, share)))| {
                let (mask, kappa) = (mask_of(mask, scan, b, n), dose[b].wide());
                let mut sum = 0.0;
                for (intensity, amplitude) in
                    intensity.chunks_exact(n).zip(amplitude.chunks_exact(n))
                {
                    let pixels = intensity.iter().zip(amplitude).zip(mask);
                    for ((i, a), m) in pixels.filter(|(_, m)| !m.is_zero()) {
                        sum += m.wide() * term(i.wide(), a.wide(), kappa);
                    }
                }
                let scale = self.normalise.share(mask, self.channels);
                (*share, *loss) = (T::of(scale), T::of(scale * sum));
            },
        );
    }

    /// The gradient with `slope(I, a, κ)` = ∂f/∂I at each pixel.
    pub fn cpu_backward<T: Real>(
        &self,
        mem: &mut Mem<T>,
        dloss: Value,
        d: Grad,
        slope: impl Fn(T, T, T) -> T + Sync,
    ) {
        let (Measured { amplitude, dose, mask, scan }, n) = (self.measured, self.pixels);
        let [intensity, amplitude, dose, mask, scan, share, dloss, dintensity] =
            mem.get([self.intensity, amplitude, dose, mask, scan, self.share, dloss, d.value]);
        let (dose, mask, scan, share, dloss) = (&*dose, &*mask, &*scan, &*share, &*dloss);
        let frames = intensity.par_chunks(n).zip(amplitude.par_chunks(n));
        let frames = frames.zip(dintensity.par_chunks_mut(n)).enumerate();
        frames.for_each(|(frame, ((intensity, amplitude), dintensity))| {
            let b = frame / self.channels;
            let (mask, kappa, scale) = (mask_of(mask, scan, b, n), dose[b], share[b] * dloss[b]);
            let pixels = intensity.iter().zip(amplitude).zip(mask);
            for (dintensity, ((&i, &a), &m)) in dintensity.iter_mut().zip(pixels) {
                let share = if m.is_zero() { m } else { scale * m * slope(i, a, kappa) };
                put(dintensity, d.accumulate, share);
            }
        });
    }
}

/// The mask of sample `b`, with `n` pixels.
fn mask_of<'a, T: Real>(mask: &'a [T], scan: &[T], b: usize, n: usize) -> &'a [T] {
    &mask[scan[b].wide() as usize * n..][..n]
}
