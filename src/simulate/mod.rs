//! Simulated scans with known object and probe: the data that every other part is judged with.
//!
//! The recipe is that of a counting detector. An object and a probe give noiseless intensities
//! Σ_p |F(P_p O)|²; the probe is scaled until their mean is the wanted dose; every pixel is then
//! drawn from a Poisson distribution. Object, positions, probe and noise have independent random
//! streams, and each pattern has its own, so a scan is the same on any number of threads.

pub mod file;
pub mod forward;
pub mod fourier;
pub mod objects;
pub mod probes;
pub mod scan;

use ndarray::{Array2, Array3};
use num_complex::Complex64;
use rayon::prelude::*;
use serde::Serialize;

use crate::data::scan::Position;
use crate::memory::Budget;
use crate::random::{Purpose, Stream};
use crate::stitch::MOST_SIDE;
use crate::{Error, Result};

pub use forward::Forward;
pub use objects::ObjectSpec;
pub use probes::ProbeSpec;
pub use scan::ScanSpec;

/// Everything that determines a simulated scan: the same recipe gives the same bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// N, side of a pattern and of the probe in pixels; even.
    pub side: usize,
    pub scan: ScanSpec,
    pub object: ObjectSpec,
    pub probe: ProbeSpec,
    pub dose: DoseSpec,
    /// Draw counts from Poisson distributions; otherwise keep the expected intensities.
    pub noise: bool,
    pub seed: u64,
}

/// How bright the scan is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DoseSpec {
    /// Mean over all pixels of all patterns, in photons.
    MeanCount(f64),
    /// Mean over all patterns of the photons in a whole pattern.
    Photons(f64),
}

impl DoseSpec {
    /// Photons of a mean pattern of `side` × `side` pixels.
    pub fn photons(self, side: usize) -> f64 {
        match self {
            DoseSpec::MeanCount(count) => count * (side as f64).powi(2),
            DoseSpec::Photons(photons) => photons,
        }
    }
}

impl Default for Recipe {
    /// A demonstration: 400 patterns of 64 × 64 pixels, a million photons each.
    fn default() -> Recipe {
        Recipe {
            side: 64,
            scan: ScanSpec::default(),
            object: ObjectSpec::default(),
            probe: ProbeSpec::default(),
            dose: DoseSpec::Photons(1e6),
            noise: true,
            seed: 1,
        }
    }
}

/// Bytes of a pixel of the patterns: counts, their roots, and what is written.
const PATTERN_BYTES: u64 = 12;

/// Bytes of a pixel of the object, with the images that it is made of.
const OBJECT_BYTES: f64 = 160.0;

impl Recipe {
    /// Refuses what cannot be simulated, with a sentence for each.
    ///
    /// # Errors
    /// [`Error::Config`] for an odd or tiny side, an empty scan, a dose that is not positive, or
    /// object, probe and scan parameters outside their ranges, or more than fits in memory.
    pub fn check(&self) -> Result<()> {
        let side_ok = (8..=MOST_SIDE).contains(&self.side) && self.side.is_multiple_of(2);
        require(side_ok, || {
            format!("the pattern side must be even and from 8 to {MOST_SIDE}, not {}", self.side)
        })?;
        let photons = self.dose.photons(self.side);
        require(photons.is_finite() && photons > 0.0, || {
            format!("the dose must be a positive number of photons, not {photons}")
        })?;
        self.scan.check()?;
        self.object.check()?;
        self.probe.check(self.side)?;
        let pixels = (self.scan.patterns as f64 * (self.side as f64).powi(2)) as u64;
        let object = self.scan.object_side(self.side).powi(2);
        let needs = [
            ("patterns", PATTERN_BYTES.saturating_mul(pixels)),
            ("the object", (OBJECT_BYTES * object) as u64),
        ];
        Budget::new(None).check(&needs, "simulate fewer patterns, or a smaller step or jitter")
    }
}

/// An error of the configuration unless `holds`.
pub(crate) fn require(holds: bool, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Config(problem())) }
}

/// What the detector of a simulated scan recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Patterns {
    /// [M, N, N] photons, zero frequency at (N/2, N/2).
    Counts(Array3<u32>),
    /// [M, N, N] expected photons of a noiseless scan, zero frequency at (N/2, N/2).
    Expected(Array3<f32>),
}

/// A scan and the truth behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedScan {
    pub recipe: Recipe,
    pub patterns: Patterns,
    /// [P, N, N] modes in the physical gauge: Σ_p |F(P_p O)|² is in photons.
    pub probe: Array3<Complex64>,
    /// [H, W] the true object, in absolute units.
    pub object: Array2<Complex64>,
    /// [M] centres of the patches in the object.
    pub positions: Vec<Position>,
    /// Intensity factor from the unit-power probe to the physical one.
    pub dose_factor: f64,
}

/// Simulates the scan that `recipe` describes, patterns in parallel.
///
/// ```
/// use ptycho_gpu::simulate::{DoseSpec, ProbeSpec, Recipe, ScanSpec, simulate};
///
/// # fn main() -> ptycho_gpu::Result<()> {
/// let recipe = Recipe {
///     side: 64,
///     scan: ScanSpec { patterns: 25, step: 5.0, jitter: 1.0 },
///     probe: ProbeSpec { diameter: 20.0, powers: vec![3.0, 1.0], ..ProbeSpec::default() },
///     dose: DoseSpec::Photons(1e5),
///     ..Recipe::default()
/// };
/// let simulated = simulate(&recipe)?;
/// assert_eq!(simulated.probe.dim(), (2, 64, 64));
/// assert!((simulated.mean_photons() / 1e5 - 1.0).abs() < 0.01);
/// // As the loader would have it, had it been written to a file.
/// let scan = simulated.to_scan();
/// assert_eq!(scan.len(), 25);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Config`] where [`Recipe::check`] objects, or a pixel exceeds the range of `u32`.
pub fn simulate(recipe: &Recipe) -> Result<SimulatedScan> {
    recipe.check()?;
    let (positions, size) = scan::positions(&recipe.scan, recipe.side, recipe.seed);
    let object = objects::make(&recipe.object, size, recipe.seed);
    let mut probe = probes::make(&recipe.probe, recipe.side, recipe.seed);
    let energy: Vec<f64> = {
        let forward = Forward::new(probe.clone());
        positions.par_iter().map(|&p| forward.energy(object.view(), p)).collect()
    };
    // Summed in the order of the patterns: a parallel sum would depend on the number of threads.
    let mean_energy = energy.iter().sum::<f64>() / energy.len() as f64;
    let dose_factor = recipe.dose.photons(recipe.side) / mean_energy;
    require(dose_factor.is_finite() && dose_factor > 0.0, || {
        format!(
            "the probe puts a mean energy of {mean_energy} on the object: give it another shape"
        )
    })?;
    let scale = dose_factor.sqrt();
    probe.mapv_inplace(|z| z * scale);
    let patterns = detect(recipe, &Forward::new(probe.clone()), &object, &positions)?;
    Ok(SimulatedScan { recipe: recipe.clone(), patterns, probe, object, positions, dose_factor })
}

fn detect(
    recipe: &Recipe,
    forward: &Forward,
    object: &Array2<Complex64>,
    positions: &[Position],
) -> Result<Patterns> {
    let (frames, pixels) = (positions.len(), recipe.side * recipe.side);
    let shape = (frames, recipe.side, recipe.side);
    let stacked = "one pattern a frame";
    if !recipe.noise {
        let mut expected = vec![0f32; frames * pixels];
        expected.par_chunks_mut(pixels).zip(positions).for_each(|(out, &position)| {
            let intensity = forward.intensity(object.view(), position);
            out.iter_mut().zip(&intensity).for_each(|(o, &i)| *o = i as f32);
        });
        return Ok(Patterns::Expected(Array3::from_shape_vec(shape, expected).expect(stacked)));
    }
    let mut counts = vec![0u32; frames * pixels];
    counts.par_chunks_mut(pixels).zip(positions).enumerate().try_for_each(
        |(frame, (out, &position))| {
            let mut noise = Stream::new(recipe.seed, Purpose::Noise, frame as u32);
            let intensity = forward.intensity(object.view(), position);
            out.iter_mut().zip(&intensity).try_for_each(|(o, &mean)| {
                *o = u32::try_from(noise.poisson(mean)).map_err(|_| too_bright())?;
                Ok(())
            })
        },
    )?;
    Ok(Patterns::Counts(Array3::from_shape_vec(shape, counts).expect(stacked)))
}

fn too_bright() -> Error {
    Error::Config(format!("a pixel holds more than {} photons: lower the dose", u32::MAX))
}
