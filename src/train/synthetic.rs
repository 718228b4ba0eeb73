//! Scans of objects that never were: an endless supply of patterns whose patches are known.
//!
//! Every epoch has objects of its own, lit by the probe of a real scan, at positions of that scan,
//! with its dose and its mask. What an epoch holds depends on (seed, epoch) alone, so a resumed
//! training sees what an uninterrupted one would have seen; it is simulated beside the training.

use std::sync::Arc;
use std::thread::JoinHandle;

use ndarray::{Array2, Array3};
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;

use crate::data::Rejected;
use crate::data::scan::{Position, Scan, Source};
use crate::memory::Budget;
use crate::random::{Purpose, Stream};
use crate::simulate::objects::{self, ObjectKind, ObjectSpec};
use crate::simulate::{Forward, forward};
use crate::{Error, Result};

/// Patterns that share an object: neighbours, so that groups can be made of them, and few, so that
/// an epoch sees many objects.
const PATTERNS_PER_OBJECT: usize = 64;

/// What an object can be: random images without a place of their own.
const KINDS: [ObjectKind; 4] =
    [ObjectKind::Lines, ObjectKind::Grf, ObjectKind::DeadLeaves, ObjectKind::Polygons];

/// Range of the least amplitude of an object, the largest being 1: from nearly opaque to clear.
const LEAST_AMPLITUDE: [f64; 2] = [0.1, 1.0];

/// Range of the largest phase, rad: from weak objects to nearly whole turns.
const LARGEST_PHASE: [f64; 2] = [0.1, 3.0];

/// Pixels around the outermost patches: bilinear neighbours.
const MARGIN: usize = 2;

/// Bytes of a pixel of a pattern and of its true patch.
const PIXEL_BYTES: u64 = 12;

/// A supply of simulated scans.
#[derive(Debug)]
pub struct Synthetic {
    like: Scan,
    /// Patterns of each object, as indices into the positions of `like`.
    tiles: Vec<Vec<usize>>,
    seed: u64,
}

impl Synthetic {
    /// `patterns` of an epoch, with probe, dose, mask and positions of `like`. The positions of an
    /// object are the same in every epoch, so that groups are made once.
    ///
    /// # Errors
    /// A scan that is none ([`Scan::check`]), no probe, no pattern, or more than fit in memory.
    pub fn new(like: Scan, patterns: usize, seed: u64) -> Result<Synthetic> {
        like.check()?;
        if patterns == 0 || like.probe.is_empty() {
            return Err(Error::Config(format!(
                "{patterns} patterns by a probe of {} modes cannot be simulated: at least 1 of each is needed",
                like.probe.dim().0
            )));
        }
        let pixels = (patterns as u64).saturating_mul((like.side() as u64).pow(2));
        let needs = [("simulated patterns of two epochs", pixels.saturating_mul(2 * PIXEL_BYTES))];
        Budget::new(None).check(&needs, "ask for fewer with --synthetic")?;
        let per_object = PATTERNS_PER_OBJECT.min(like.len());
        let objects = patterns.div_ceil(per_object);
        let mut stream = Stream::new(seed, Purpose::Positions, 0);
        let tiles = (0..objects).map(|i| {
            let count = per_object.min(patterns - i * per_object);
            nearest(&like.positions, stream.below(like.len()), count)
        });
        let tiles = tiles.collect();
        Ok(Synthetic { like, tiles, seed })
    }

    /// The scans of `epoch`, one for each object, with the true patches as labels.
    ///
    /// # Errors
    /// [`Error::Config`] where a pixel would hold more photons than can be counted.
    pub fn epoch(&self, epoch: u32) -> Result<Vec<Scan>> {
        (0..self.tiles.len()).map(|i| self.scan(i, epoch)).collect()
    }

    fn scan(&self, tile: usize, epoch: u32) -> Result<Scan> {
        let (like, n) = (&self.like, self.like.side());
        let (positions, size) = framed(&like.positions, &self.tiles[tile], n);
        // Objects are counted through all epochs; each has a seed of its own.
        let number = epoch as usize * self.tiles.len() + tile;
        let seed = self.seed.wrapping_add(number as u64);
        let object = objects::make(&spec(seed), size, seed);
        let probe = like.probe.mapv(|z| Complex64::new(z.re.into(), z.im.into()));
        let lit = Forward::new(probe.clone());
        let energy: Vec<f64> =
            positions.par_iter().map(|&p| lit.energy(object.view(), p)).collect();
        // The mean energy of the patterns is that of the scan, whatever the object absorbs.
        let mean = energy.iter().sum::<f64>() / energy.len() as f64;
        let brighter = (like.mean_energy() / mean).sqrt();
        let probe = probe.mapv(|z| z * brighter);
        let frames = positions.len();
        let mut amplitude = vec![0f32; frames * n * n];
        let mut labels = Array3::zeros((frames, n, n));
        let forward = Forward::new(probe.clone());
        let patches = labels.as_slice_mut().expect("made by zeros").par_chunks_mut(n * n);
        amplitude.par_chunks_mut(n * n).zip(patches).zip(&positions).enumerate().try_for_each(
            |(frame, ((amplitude, patch), &position))| {
                let mut noise = Stream::new(seed, Purpose::Noise, frame as u32);
                self.expose(&forward.intensity(object.view(), position), &mut noise, amplitude)?;
                let truth = forward::extract(object.view(), position, n);
                patch.iter_mut().zip(&truth).for_each(|(p, t)| {
                    *p = Complex32::new(t.re as f32, t.im as f32);
                });
                Ok::<(), Error>(())
            },
        )?;
        let shape = (frames, n, n);
        Ok(Scan {
            amplitude: Array3::from_shape_vec(shape, amplitude)
                .expect("one pattern a frame")
                .into(),
            dose: like.dose,
            probe: probe.mapv(|z| Complex32::new(z.re as f32, z.im as f32)),
            positions,
            nominal: None,
            mask: like.mask.clone(),
            object: None,
            labels: Some(labels),
            instrument: like.instrument,
            rejected: Rejected::default(),
            source: Source {
                path: like.source.path.clone(),
                // Not that of the scan, which may be what is validated on.
                sha256: format!("synthetic:{}", like.source.sha256),
            },
        })
    }

    /// What the detector counts, as amplitudes; dark where the mask is 0.
    fn expose(&self, intensity: &Array2<f64>, noise: &mut Stream, out: &mut [f32]) -> Result<()> {
        let kappa = self.like.dose.kappa;
        for ((at, &mean), out) in intensity.indexed_iter().zip(out) {
            let photons = kappa * kappa * mean;
            // Beyond, whole numbers are not exact any more, and the noise is below the rounding.
            if photons > u64::MAX as f64 / 2.0 {
                return Err(Error::Config(format!(
                    "a pixel of a synthetic pattern would hold {photons:.1e} photons: give the \
                     scan's true dose by --nphotons"
                )));
            }
            let counted = noise.poisson(photons) as f64;
            let seen = self.like.mask.as_ref().is_none_or(|m| m[at] > 0.0);
            *out = if seen { (counted.sqrt() / kappa) as f32 } else { 0.0 };
        }
        Ok(())
    }
}

/// What the object of this seed looks like.
fn spec(seed: u64) -> ObjectSpec {
    let mut stream = Stream::new(seed, Purpose::Selection, 0);
    let kind = KINDS[stream.below(KINDS.len())];
    let mut between = |[low, high]: [f64; 2]| low + (high - low) * stream.uniform();
    let (amplitude_min, phase) = (between(LEAST_AMPLITUDE), between(LARGEST_PHASE));
    ObjectSpec { kind, amplitude_min, amplitude_max: 1.0, phase, ..ObjectSpec::default() }
}

/// The `count` positions nearest to position `centre`, itself among them, in the order of the scan.
fn nearest(positions: &[Position], centre: usize, count: usize) -> Vec<usize> {
    let middle = positions[centre];
    let distance = |&i: &usize| (positions[i].x - middle.x).hypot(positions[i].y - middle.y);
    let mut order: Vec<usize> = (0..positions.len()).collect();
    order.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.cmp(b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// These positions moved to where their patches lie inside of a square object, and its side.
fn framed(positions: &[Position], tile: &[usize], n: usize) -> (Vec<Position>, usize) {
    let low = |f: fn(&Position) -> f64| {
        tile.iter().map(|&i| f(&positions[i])).fold(f64::INFINITY, f64::min).floor()
    };
    let (left, top) = (low(|p| p.x), low(|p| p.y));
    let start = (n / 2 + MARGIN) as f64;
    let moved: Vec<Position> = tile
        .iter()
        .map(|&i| positions[i])
        .map(|p| Position { x: p.x - left + start, y: p.y - top + start })
        .collect();
    let reach = moved.iter().fold(0.0f64, |reach, p| reach.max(p.x).max(p.y));
    (moved, (reach.ceil() + start) as usize)
}

/// The scans of the epochs, each simulated while the one before is learned from.
#[derive(Debug)]
pub struct Supply {
    synthetic: Arc<Synthetic>,
    next: Option<(u32, JoinHandle<Result<Vec<Scan>>>)>,
}

impl Supply {
    pub fn new(synthetic: Synthetic) -> Supply {
        Supply { synthetic: Arc::new(synthetic), next: None }
    }

    /// The scan that they are like.
    pub fn like(&self) -> &Scan {
        &self.synthetic.like
    }

    /// The scans of `epoch`. Those of the next one are begun.
    pub fn take(&mut self, epoch: u32) -> Result<Vec<Scan>> {
        let scans = match self.next.take() {
            Some((ready, job)) if ready == epoch => {
                job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
            }
            _ => self.synthetic.epoch(epoch)?,
        };
        let synthetic = self.synthetic.clone();
        let job = std::thread::spawn(move || synthetic.epoch(epoch + 1));
        self.next = Some((epoch + 1, job));
        Ok(scans)
    }
}
