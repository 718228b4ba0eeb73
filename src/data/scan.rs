//! A ptychographic scan in one convention, whatever file it came from.

use std::path::PathBuf;

use ndarray::{Array2, Array3};
use num_complex::Complex32;

/// A scan: what was measured, where, and with which illumination.
#[derive(Clone, Debug)]
pub struct Scan {
    /// [M, N, N] amplitudes a = √I / κ, zero frequency at (N/2, N/2). Finite and ≥ 0.
    pub amplitude: Array3<f32>,
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
    /// Of the whole file, in lower-case hexadecimal digits.
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
}
