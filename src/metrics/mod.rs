//! How good a reconstruction is: against the truth where it is known, and against the data always.
//!
//! ```
//! use ptycho_gpu::metrics::{Explained, Verdict, data_space};
//! # use ptycho_gpu::simulate::{Recipe, ScanSpec, simulate};
//!
//! # fn main() -> ptycho_gpu::Result<()> {
//! # let spec = ScanSpec { patterns: 9, ..ScanSpec::default() };
//! # let scan = simulate(&Recipe { scan: spec, ..Recipe::default() })?.to_scan();
//! // The true object of a simulated scan explains its patterns but for the shot noise.
//! let object = scan.object.as_ref().unwrap();
//! let indices: Vec<usize> = (0..scan.len()).collect();
//! let figures = data_space(&Explained {
//!     amplitude: &scan.amplitude,
//!     kappa: scan.dose.kappa,
//!     mask: None,
//!     probe: scan.probe.view(),
//!     object: object.view().into(),
//!     origin_yx: [0.0, 0.0],
//!     positions: &scan.positions,
//!     indices: &indices,
//!     gains: None,
//!     background: None,
//! })?;
//! assert!((figures.residual / figures.floor - 1.0).abs() < 0.1);
//! println!("{}", Verdict::of(&figures.evidence()));
//! # Ok(())
//! # }
//! ```

pub mod bad_frames;
pub mod data_space;
pub mod filter;
pub mod frc;
pub mod gauge;
pub mod image;
pub mod truth;
pub mod verdict;

use std::fmt;

use serde::Serialize;

pub use bad_frames::bad_frames;
pub use data_space::{DataSpace, Explained, Shown, data_space};
pub use truth::{Reconstruction, TruthReport, against_truth, is_guess};
pub use verdict::{Evidence, Verdict};

/// All figures of one reconstruction.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where the scan was given.
    #[serde(flatten)]
    pub data: Option<DataSpace>,
    /// Where the truth was given.
    #[serde(flatten)]
    pub truth: Option<TruthReport>,
}

impl fmt::Display for Report {
    /// A table for people, one figure a line.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(data) = &self.data {
            writeln!(f, "Against the data ({} patterns)", data.frames)?;
            row(f, "residual  Σ(√I−√Î)²/ΣI", data.residual)?;
            row(f, "R factor  Σ|√I−√Î|/Σ√I", data.r_factor)?;
            row(f, "Poisson deviance per pixel", data.deviance)?;
            row(f, "best factor on √Î", data.scale)?;
            row(f, "residual of shot noise alone", data.floor)?;
        }
        if let Some(truth) = &self.truth {
            truth.fmt(f)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter, name: &str, value: f64) -> fmt::Result {
    writeln!(f, "  {name:<32}{value:>12.6}")
}
