//! A ptychographic scan in one convention, whatever file it came from.

use std::path::PathBuf;

use ndarray::{Array2, Array3, Axis};
use num_complex::Complex32;

use super::bad_frames::Rejected;
use super::instrument::Instrument;
use super::stack::Stack;
use crate::Result;

/// A scan: what was measured, where, and with which illumination.
#[derive(Clone, Debug)]
pub struct Scan {
    /// [M, N, N] amplitudes a = √I / κ, 0 where the mask is 0, zero frequency at (N/2, N/2). Finite and ≥ 0.
    pub amplitude: Stack,
    /// counts = (κ a)².
    pub dose: Dose,
    /// [P, N, N] probe modes in the file's own gauge, summed incoherently.
    pub probe: Array3<Complex32>,
    /// [M] patch centres.
    pub positions: Vec<Position>,
    /// [M] commanded positions, where the file has them apart from the measured ones.
    pub nominal: Option<Vec<Position>>,
    /// [N, N] weight of each detector pixel in the loss, 0 = ignore.
    pub mask: Option<Array2<f32>>,
    /// [H, W] truth or guess of the object, where the file has one.
    pub object: Option<Array2<Complex32>>,
    /// [M, N, N] true object patches, for supervised training.
    pub labels: Option<Array3<Complex32>>,
    /// What pixels are in metres, as far as the file says.
    pub instrument: Instrument,
    /// Frames that are there, but not used ([`Scan::reject`]).
    pub rejected: Rejected,
    pub source: Source,
}

/// Position of patch index (N/2, N/2) in the object array, in object pixels.
/// x is the column, y the row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub x: f64,
    pub y: f64,
}

/// How many photons an amplitude stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dose {
    /// κ in counts = (κ a)².
    pub kappa: f64,
    pub origin: DoseOrigin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DoseOrigin {
    /// The file holds counts.
    Counts,
    /// The file holds amplitudes whose squares are whole numbers.
    WholeSquares,
    /// `--nphotons`.
    Flag,
    /// The file's metadata.
    Metadata,
    /// 1e9 photons per pattern.
    Default,
}

/// Where a scan came from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Source {
    pub path: PathBuf,
    /// Of the whole file, in lower-case hexadecimal digits; where the scan is in several files, of
    /// their digests.
    pub sha256: String,
}

impl Scan {
    /// M, the number of patterns.
    pub fn len(&self) -> usize {
        self.amplitude.dim().0
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// N, the side of a pattern in pixels.
    pub fn side(&self) -> usize {
        self.amplitude.dim().1
    }

    /// The patterns at `indices`, in that order, with everything that belongs to them; repeats are
    /// allowed. Dose, probe, mask and object stay; all of them are used. Panics on an index outside the scan, and where the
    /// patterns are in a file that cannot be read.
    pub fn subset(&self, indices: &[usize]) -> Scan {
        self.excerpt(indices).expect("patterns in memory can be read")
    }

    /// The same, read into memory from wherever the patterns are.
    ///
    /// # Errors
    /// Their file cannot be read.
    pub fn excerpt(&self, indices: &[usize]) -> Result<Scan> {
        let (_, height, width) = self.amplitude.dim();
        let mut pixels = Vec::with_capacity(indices.len() * height * width);
        self.amplitude.read(indices, &mut pixels)?;
        let patterns = Array3::from_shape_vec((indices.len(), height, width), pixels);
        Ok(self.with_patterns(patterns.expect("as many pixels"), indices))
    }

    /// Numbers of all patterns.
    pub fn pixels(&self) -> u64 {
        let (count, height, width) = self.amplitude.dim();
        (count * height * width) as u64
    }

    /// These patterns, which are those at `indices`.
    fn with_patterns(&self, patterns: Array3<f32>, indices: &[usize]) -> Scan {
        let pick = |all: &Vec<Position>| indices.iter().map(|&i| all[i]).collect::<Vec<_>>();
        Scan {
            amplitude: patterns.into(),
            dose: self.dose,
            probe: self.probe.clone(),
            positions: pick(&self.positions),
            nominal: self.nominal.as_ref().map(pick),
            mask: self.mask.clone(),
            object: self.object.clone(),
            labels: self.labels.as_ref().map(|labels| labels.select(Axis(0), indices)),
            instrument: self.instrument,
            rejected: Rejected::default(),
            source: self.source.clone(),
        }
    }

    /// Σ a² of one pattern, averaged over the patterns that are used. Masked pixels count as 0.
    pub fn mean_energy(&self) -> f64 {
        self.rejected.energy().unwrap_or_else(|| self.amplitude.mean_energy())
    }

    /// Mean photons in a pattern: κ² · [`mean_energy`](Scan::mean_energy).
    pub fn mean_photons(&self) -> f64 {
        self.dose.kappa.powi(2) * self.mean_energy()
    }

    /// Mean of the counts (κ a)² over all pixels whose mask is not 0.
    pub fn mean_count_per_pixel(&self) -> f64 {
        let valid = match &self.mask {
            Some(mask) => mask.iter().filter(|&&weight| weight > 0.0).count(),
            None => self.side().pow(2),
        };
        self.mean_photons() / valid.max(1) as f64
    }

    /// s in x = a·s, which gives the network inputs with mean Σ x² = (N/2)².
    pub fn input_scale(&self) -> f64 {
        let half = self.side() as f64 / 2.0;
        half / self.mean_energy().sqrt()
    }

    /// q such that q·probe with an object of mean amplitude 1 explains the mean measured energy:
    /// the unitary transform keeps Σ|P·O|², so q² Σ|P|² must be it.
    pub fn probe_gauge(&self) -> f64 {
        let power: f64 =
            self.probe.iter().map(|p| f64::from(p.re).powi(2) + f64::from(p.im).powi(2)).sum();
        (self.mean_energy() / power).sqrt()
    }
}
