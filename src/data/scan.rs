//! A ptychographic scan in one convention, whatever file it came from.

use std::path::PathBuf;

use ndarray::{Array2, Array3, Axis};
use num_complex::Complex32;

use super::bad_frames::Rejected;
use super::instrument::Instrument;
use super::stack::Stack;
use crate::{Error, Result};

/// A scan: what was measured, where, and with which illumination. [`load`](super::load) gives one; from
/// elsewhere it is put together like this.
///
/// ```
/// use ndarray::{Array2, Array3};
/// use num_complex::Complex32;
/// use ptycho_gpu::data::{Dose, DoseOrigin, Instrument, Position, Rejected, Scan, Source};
///
/// # fn main() -> ptycho_gpu::Result<()> {
/// let counts = Array3::<f32>::from_elem((4, 64, 64), 9.0);
/// let scan = Scan {
///     amplitude: counts.mapv(f32::sqrt).into(),
///     dose: Dose { kappa: 1.0, origin: DoseOrigin::Counts },
///     probe: Array3::from_elem((1, 64, 64), Complex32::new(1.0, 0.0)),
///     positions: (0..4).map(|i| Position { x: 32.0 + 5.0 * f64::from(i), y: 32.0 }).collect(),
///     nominal: None,
///     mask: Some(Array2::ones((64, 64))),
///     object: None,
///     labels: None,
///     instrument: Instrument::default(),
///     rejected: Rejected::default(),
///     source: Source { path: "made by hand".into(), sha256: String::new() },
/// };
/// scan.check()?;
/// assert_eq!(scan.mean_count_per_pixel(), 9.0);
/// assert_eq!(scan.subset(&[3, 0])?.positions[0].x, 47.0);
/// assert!(scan.subset(&[4]).unwrap_err().to_string().contains("there are 4"));
/// # Ok(())
/// # }
/// ```
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

impl Position {
    /// Whether both coordinates are numbers.
    pub fn is_finite(&self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }
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
    /// allowed. Dose, probe, mask and object stay, and all of them are used. Patterns that are in a file are read into memory.
    ///
    /// # Errors
    /// An index outside of the scan, parts of the scan that do not belong together, a file that cannot be
    /// read.
    pub fn subset(&self, indices: &[usize]) -> Result<Scan> {
        if let Some(problem) = self.unequal_counts() {
            return Err(Error::input(&self.source.path, problem));
        }
        let (_, height, width) = self.amplitude.dim();
        let mut pixels = Vec::with_capacity(indices.len() * height * width);
        self.amplitude.read(indices, &mut pixels)?;
        let patterns = Array3::from_shape_vec((indices.len(), height, width), pixels);
        Ok(self.with_patterns(patterns.expect("as many pixels"), indices))
    }

    /// Whether all parts belong together and hold numbers that mean something, as those of a scan from
    /// [`load`](super::load) do. What takes a scan asks this first.
    ///
    /// # Errors
    /// [`Error::Input`] names the first part that does not.
    pub fn check(&self) -> Result<()> {
        let problem = self
            .wrong_shape()
            .or_else(|| self.unequal_counts())
            .or_else(|| self.unequal_sides())
            .or_else(|| self.wrong_number());
        problem.map_or(Ok(()), |problem| Err(Error::input(&self.source.path, problem)))
    }

    fn wrong_shape(&self) -> Option<String> {
        match self.amplitude.dim() {
            (0, ..) | (_, 0, _) | (_, _, 0) => {
                Some("the scan is empty: it has no pattern, or patterns without pixels".into())
            }
            (_, height, width) if height != width => Some(format!(
                "patterns are {height} × {width} pixels, not square: crop or pad them"
            )),
            _ => None,
        }
    }

    /// What there is not one of for each pattern.
    fn unequal_counts(&self) -> Option<String> {
        let counts = [
            ("positions", Some(self.positions.len())),
            ("commanded positions", self.nominal.as_ref().map(Vec::len)),
            ("true patches", self.labels.as_ref().map(|labels| labels.dim().0)),
        ];
        let count = self.len();
        counts.into_iter().find_map(|(name, found)| {
            let found = found.filter(|&found| found != count)?;
            Some(format!("{count} patterns come with {found} {name}: one each is needed"))
        })
    }

    /// What has not the pixels of a pattern.
    fn unequal_sides(&self) -> Option<String> {
        let (modes, height, width) = self.probe.dim();
        let sides = [
            ("probe", (modes > 0).then_some((height, width))),
            ("mask", self.mask.as_ref().map(|mask| mask.dim())),
            ("true patches", self.labels.as_ref().map(|labels| (labels.dim().1, labels.dim().2))),
        ];
        let n = self.side();
        sides.into_iter().find_map(|(name, found)| {
            let (height, width) = found.filter(|&found| found != (n, n))?;
            Some(format!(
                "patterns are {n} × {n} pixels, but of the {name} {height} × {width}: crop or pad one of \
                 them"
            ))
        })
    }

    fn wrong_number(&self) -> Option<String> {
        let positions = self.positions.iter().chain(self.nominal.iter().flatten());
        if let Some(Position { x, y }) = positions.copied().find(|p| !p.is_finite()) {
            return Some(format!(
                "a position is (x {x}, y {y}): finite numbers are needed, in object pixels"
            ));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let (kappa, energy) = (self.dose.kappa, self.mean_energy());
        if !positive(kappa) {
            return Some(format!("counts are ({kappa} a)², but that factor must be above 0"));
        }
        if !positive(energy) {
            return Some(format!(
                "a mean pattern has the energy {energy}: all are dark, or hold NaN or infinity"
            ));
        }
        let seen = |mask: &Array2<f32>| {
            mask.iter().all(|w| w.is_finite() && *w >= 0.0) && mask.sum() > 0.0
        };
        if !self.mask.as_ref().is_none_or(seen) {
            return Some(
                "the mask leaves no pixel, or holds what is no weight: 0 ignores a pixel, 1 uses it".into(),
            );
        }
        let power: f64 = self.probe.iter().map(|p| f64::from(p.norm_sqr())).sum();
        if self.probe.dim().0 > 0 && !positive(power) {
            return Some(format!("the probe has the power {power}: it is dark, or holds NaN"));
        }
        None
    }

    /// Numbers of all patterns.
    pub fn pixels(&self) -> u64 {
        let (count, height, width) = self.amplitude.dim();
        count as u64 * height as u64 * width as u64
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
