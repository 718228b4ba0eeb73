//! From groups of patterns to the input buffers of one step, and back to data-space figures.

use num_complex::Complex32;

use super::pool::{Epoch, Pool};
use crate::Result;
use crate::backend::Backend;
use crate::data::scan::Scan;
use crate::data::{Ahead, Stack, Stacks};
use crate::graph::Value;
use crate::metrics::verdict::shot_noise;
use crate::models::physics::{central_box, probe_intensity};
use crate::models::plans::{Inputs, Labels};

/// Patterns that stay in memory because the device cannot hold all, or in a file because memory
/// cannot; batches take turns in the two halves of the buffers that the device has.
#[derive(Debug)]
pub struct Streamed {
    /// Numbers of one pattern.
    pixels: usize,
    frames: (Value, Ahead),
    /// Other buffers, and all that goes through each.
    labels: Vec<(Value, Vec<f32>)>,
    /// Where each of those is put together.
    staged: Vec<Vec<f32>>,
    half: usize,
}

impl Streamed {
    /// Uploads the patterns of `index`, and says where in the buffers they are. Those of the `next`
    /// batch are begun to be read, where they are in a file.
    fn upload(
        &mut self,
        backend: &mut dyn Backend,
        index: &[usize],
        next: Option<&[usize]>,
    ) -> Result<Vec<usize>> {
        self.half = 1 - self.half;
        self.staged.resize_with(self.labels.len(), Vec::new);
        for (staged, (_, all)) in self.staged.iter_mut().zip(&self.labels) {
            staged.clear();
            index.iter().for_each(|&i| staged.extend(&all[i * self.pixels..][..self.pixels]));
        }
        let (frames, ahead) = &mut self.frames;
        let mut parts = vec![(*frames, ahead.take(index, next)?)];
        parts.extend(self.labels.iter().zip(&self.staged).map(|((v, _), s)| (*v, s.as_slice())));
        backend.upload(self.half, &parts)?;
        let first = self.half * index.len();
        Ok((first..first + index.len()).collect())
    }
}

/// Writes what stays the same for a whole training: patterns, labels, probes, masks, merge weights.
/// If the patterns are to be `streamed`, they are given back instead.
pub fn load(
    backend: &mut dyn Backend,
    inputs: &Inputs,
    pool: &Pool,
    train: Vec<Scan>,
    test: Option<Scan>,
    streamed: bool,
) -> Result<Option<Streamed>> {
    let mut kept = Vec::new();
    let mut put = |backend: &mut dyn Backend, v: Value, all: Vec<f32>| {
        if !streamed {
            return backend.write(v, &all);
        }
        kept.push((v, all));
        Ok(())
    };
    // A test scan that is one of the training scans is not held twice.
    let test = test.filter(|t| train.iter().all(|s| s.source.sha256 != t.source.sha256));
    let scans: Vec<Scan> = train.into_iter().chain(test).collect();
    if let Some(Labels { amplitude, phase, pixels, .. }) = inputs.labels {
        backend.write(pixels, &pool.label_pixels)?;
        let labels = |f: fn(&Complex32, f64) -> f32| -> Vec<f32> {
            let pairs = scans.iter().zip(&pool.members);
            pairs.flat_map(|(s, m)| s.labels.iter().flatten().map(move |z| f(z, m.gauge))).collect()
        };
        // In the engine's gauge the probe is larger by the factor that the object is smaller by.
        put(backend, amplitude, labels(|z, gauge| (f64::from(z.norm()) / gauge) as f32))?;
        put(backend, phase, labels(|z, _| z.arg()))?;
    }
    let labels = kept;
    let mut stacks: Vec<Stack> = scans.into_iter().map(|scan| scan.amplitude).collect();
    if !streamed {
        let mut frames = Vec::with_capacity(backend.plan().range(inputs.frames).len());
        for stack in stacks.drain(..) {
            let all: Vec<usize> = (0..stack.dim().0).collect();
            stack.read(&all, &mut frames)?;
        }
        backend.write(inputs.frames, &frames)?;
    }
    backend.write(inputs.probe, &pool.probes())?;
    let masks: Vec<f32> = pool.members.iter().flat_map(|m| m.mask.iter().copied()).collect();
    backend.write(inputs.mask, &masks)?;
    if let Some(overlap) = &inputs.overlap {
        backend.write(overlap.weight, &pool.merge_weight(inputs.merge))?;
    }
    backend.write(inputs.seed, &[1.0])?;
    let (pixels, staged) = (pool.side * pool.side, Vec::new());
    let frames = (inputs.frames, Ahead::new(Stacks::new(stacks)));
    Ok(streamed.then_some(Streamed { pixels, frames, labels, staged, half: 0 }))
}

/// What a group counts in the loss.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Groups that the loss is a mean over.
    pub groups: usize,
    /// Part of the true patches in a mixed loss.
    pub labels: f64,
}

/// A slice of an epoch, padded to the batch size.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    epoch: &'a Epoch,
    first: usize,
    size: usize,
    channels: usize,
}

impl<'a> Batch<'a> {
    /// The groups from `first`, at most `size` of them, of `channels` patterns each.
    pub fn new(epoch: &'a Epoch, first: usize, size: usize, channels: usize) -> Batch<'a> {
        Batch { epoch, first, size, channels }
    }

    /// Groups that are not padding.
    pub fn len(&self) -> usize {
        self.size.min(self.epoch.len() - self.first)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Patterns that are not padding.
    pub fn patterns(&self) -> usize {
        self.len() * self.channels
    }

    /// Which patterns, counted over all scans.
    pub fn frames(&self) -> &[usize] {
        &self.epoch.index[self.first * self.channels..][..self.patterns()]
    }

    /// The batch after this one.
    fn next(&self) -> Option<Batch<'a>> {
        let first = self.first + self.size;
        (first < self.epoch.len()).then_some(Batch { first, ..*self })
    }

    /// Which groups, with the padding: that repeats the first group. It weighs nothing in the loss;
    /// batch normalisation does see it, so that its statistics of a short last batch count that group
    /// more than once.
    fn groups(&self) -> impl Iterator<Item = usize> {
        let (first, count) = (self.first, self.len());
        (0..self.size).map(move |b| first + if b < count { b } else { 0 })
    }

    /// Which patterns, with the padding.
    fn index(&self) -> Vec<usize> {
        let c = self.channels;
        self.groups().flat_map(|g| self.epoch.index[g * c..(g + 1) * c].iter().copied()).collect()
    }

    /// For messages: which patterns.
    pub fn named(&self) -> String {
        format!(", patterns {:?}", self.frames())
    }

    /// Fills the input buffers; each group weighs as `share` says, padding nothing. Of `streamed`
    /// patterns those of this batch are uploaded first.
    pub fn write(
        &self,
        backend: &mut dyn Backend,
        inputs: &Inputs,
        pool: &Pool,
        share: Share,
        streamed: Option<&mut Streamed>,
    ) -> Result<()> {
        let c = self.channels;
        let groups = || self.groups();
        let per_group = |f: &dyn Fn(usize) -> f32| -> Vec<f32> { groups().map(f).collect() };
        let index = match streamed {
            Some(streamed) => {
                let next = self.next().map(|batch| batch.index());
                streamed.upload(backend, &self.index(), next.as_deref())?
            }
            None => self.index(),
        };
        backend.write(inputs.index, &index.iter().map(|&i| i as f32).collect::<Vec<_>>())?;
        backend.write(inputs.gain, &per_group(&|_| pool.input_scale as f32))?;
        let scan = |g: usize| self.epoch.scan[g];
        backend.write(inputs.dose, &per_group(&|g| pool.members[scan(g)].kappa as f32))?;
        backend.write(inputs.scan, &per_group(&|g| scan(g) as f32))?;
        let mut weigh = |v, part: f64| {
            let each = (part / share.groups as f64) as f32;
            let weight = |b: usize| if b < self.len() { each } else { 0.0 };
            backend.write(v, &(0..self.size).map(weight).collect::<Vec<_>>())
        };
        weigh(inputs.weight, 1.0)?;
        // In a mixed loss each part has weights of its own.
        if let Some(labels) = inputs.labels.filter(|l| l.weight != inputs.weight) {
            weigh(labels.weight, share.labels)?;
            weigh(inputs.physics_weight, 1.0 - share.labels)?;
        }
        if let Some(overlap) = &inputs.overlap {
            let offsets: Vec<f32> = groups()
                .flat_map(|g| self.epoch.offsets[g * c..(g + 1) * c].iter().flatten().copied())
                .collect();
            backend.write(overlap.offsets, &offsets)?;
        }
        Ok(())
    }

    /// Scan of each pattern that is not padding.
    fn scans(&self) -> impl Iterator<Item = usize> {
        (0..self.patterns()).map(|p| self.epoch.scan[self.first + p / self.channels])
    }
}

/// Sums of the data-space figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    squared_error: f64,
    intensity: f64,
    absolute_error: f64,
    root: f64,
    noise: f64,
}

impl Sums {
    /// Adds the patterns of a batch: predicted intensity and measured amplitude, [B, C, N, N].
    pub fn add(&mut self, pool: &Pool, batch: &Batch, predicted: &[f32], measured: &[f32]) {
        let n = pool.side * pool.side;
        for (scan, (i, a)) in batch.scans().zip(predicted.chunks(n).zip(measured.chunks(n))) {
            let square = pool.members[scan].kappa.powi(2);
            for ((&i, &a), &weight) in i.iter().zip(a).zip(&pool.members[scan].mask) {
                let (a, weight) = (f64::from(a), f64::from(weight));
                let error = f64::from(i).sqrt() - a;
                self.squared_error += weight * error * error;
                self.intensity += weight * a * a;
                self.absolute_error += weight * error.abs();
                self.root += weight * a;
                self.noise += weight * shot_noise(square * f64::from(i)) / square;
            }
        }
    }

    /// e = Σ(√I − √Î)² / ΣI.
    pub fn residual(&self) -> f64 {
        self.squared_error / self.intensity
    }

    /// What shot noise alone would leave of the residual.
    pub fn floor(&self) -> f64 {
        self.noise / self.intensity
    }

    /// R = Σ|√I − √Î| / Σ√I.
    pub fn r_factor(&self) -> f64 {
        self.absolute_error / self.root
    }
}

impl Pool {
    /// [S, P, N, N, 2] probes of all scans; scans of fewer modes end in dark ones.
    pub fn probes(&self) -> Vec<f32> {
        let n = self.side * self.side;
        let mut all = Vec::with_capacity(self.members.len() * self.modes * n * 2);
        for (i, member) in self.members.iter().enumerate() {
            all.extend(member.probe.iter().flat_map(|z| [z.re, z.im]));
            all.resize((i + 1) * self.modes * n * 2, 0.0);
        }
        all
    }

    /// Root mean square of the probes' amplitude, in the engine's gauge.
    pub fn probe_rms(&self) -> f64 {
        let squares = self.members.iter().flat_map(|m| m.probe.iter());
        let (sum, count) =
            squares.fold((0.0, 0usize), |(s, n), z| (s + f64::from(z.norm_sqr()), n + 1));
        (sum / count as f64).sqrt()
    }

    /// [N, N] mean intensity of the probes: where a patch is lit.
    pub fn illumination(&self) -> Vec<f32> {
        let mut sum = vec![0.0; self.side * self.side];
        for member in &self.members {
            let lit = probe_intensity(member.probe.view());
            sum.iter_mut().zip(&lit).for_each(|(s, &p)| *s += p / self.members.len() as f32);
        }
        sum
    }

    /// [N, N] weight of a patch's pixels where the patches of a group overlap.
    pub fn merge_weight(&self, rule: crate::config::MergeWeights) -> Vec<f32> {
        match rule {
            // The threshold below which a canvas pixel is empty is a share of the largest weight.
            crate::config::MergeWeights::Probe => {
                let lit = self.illumination();
                let brightest = lit.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
                lit.iter().map(|w| w / brightest).collect()
            }
            crate::config::MergeWeights::Central => {
                central_box(self.side).into_raw_vec_and_offset().0
            }
        }
    }
}
