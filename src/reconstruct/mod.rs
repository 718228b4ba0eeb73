//! Direct reconstruction: the object is solved for, with no network.
//!
//! Every pattern must follow from its patch of one common object, the probe and the physics of
//! [`models::physics`](crate::models::physics); the object is moved, with the probe and where asked
//! for the positions, until the residual stops falling. [`reconstruct`] starts from nothing but a
//! scan, or from another reconstruction, a network's for example, which it refines.
//!
//! ```
//! use ptycho_gpu::backend;
//! use ptycho_gpu::config::Device;
//! use ptycho_gpu::reconstruct::{Options, Start, reconstruct};
//! # use ptycho_gpu::simulate::{Recipe, ScanSpec, simulate};
//!
//! # fn main() -> ptycho_gpu::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let spec = ScanSpec { patterns: 25, ..ScanSpec::default() };
//! # let scan = simulate(&Recipe { scan: spec, ..Recipe::default() })?.to_scan();
//! let options = Options { epochs: 3, batch_size: Some(5), ..Options::default() };
//! let device = backend::choose(Device::Auto)?;
//! let solved = reconstruct(&scan, &Start::of(&scan), &options, &device, None)?;
//! println!("residual {:.4}", solved.figures.residual);
//! # assert!(solved.figures.residual < 0.5);
//! # let file = folder.path().join("reconstruction.npz");
//! solved.reconstruction.write(&file, &scan, &Default::default())?;
//! # Ok(())
//! # }
//! ```

pub mod guess;
pub mod halves;
pub mod maps;
pub mod modes;
pub mod positions;
mod run;
mod solve;

use std::path::Path;

use ndarray::{Array2, Array3};
use num_complex::Complex32;
use serde::Serialize;

use crate::backend::Chosen;
use crate::data::BadFrame;
use crate::data::scan::{Position, Scan};
use crate::metrics::{DataSpace, bad_frames, data_space};
use crate::models::object::{BackgroundKind, Loss};
use crate::reconstruction::{Reconstruction, Saved};
use crate::report::live::Live;
use crate::signals::Asked;
use crate::{Error, Result};

/// Rates of the smooth parts are below this: two grids that agree may then change a pixel by a factor
/// of 2 in one step.
const SMOOTH_LIMIT: f64 = 0.4;

/// Positions that move farther than this many pixels belong to another scan.
const MOST_SHIFT: f64 = 256.0;

/// How an object is solved for. Lengths are object pixels, rates are per step of Adam.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Most passes over the patterns.
    pub epochs: usize,
    /// Patterns in a step; none: a 64th of all, but 8 to 64. What counts is the number of steps.
    pub batch_size: Option<usize>,
    pub loss: Loss,
    /// Incoherent modes of the probe; none: as many as it starts with.
    pub modes: Option<usize>,
    /// Solve for the probe too.
    pub refine_probe: bool,
    /// Solve for the positions too.
    pub refine_positions: bool,
    /// Farthest that a position may move from where it started.
    pub max_shift: f64,
    /// Solve for the brightness of each pattern.
    pub frame_scale: bool,
    pub background: BackgroundKind,
    /// Diameter of the circle that the probe is confined to.
    pub probe_support: Option<f64>,
    /// Weight of the total variation of the object in the loss, per pixel of a pattern.
    pub tv: f64,
    /// Most modulus of the object, in the gauge of the file.
    pub amplitude_limit: Option<f64>,
    pub rates: Rates,
    /// Governs the order of the patterns.
    pub seed: u64,
    /// Epochs after which a loss that has not fallen by `tolerance` ends the run.
    pub patience: usize,
    /// Relative fall of the loss over `patience` epochs that counts as progress.
    pub tolerance: f64,
    /// Bytes of buffers that a run may take; patterns that do not fit are streamed. None: what the
    /// device has.
    pub device_memory_limit: Option<usize>,
}

/// Rates at the start; they fall to 0 along half a cosine, that of the smooth parts along its square.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Of the object, whose modulus is about 1.
    pub object: f64,
    /// Of the object's smooth parts, in log amplitude and in phase; 0: they have no steps of their own.
    pub smooth: f64,
    /// Of the probe, in units of its rms amplitude.
    pub probe: f64,
    /// Of the positions.
    pub positions: f64,
    /// Of the brightness of each pattern, which is about 1.
    pub frame_scale: f64,
    /// Of the root of the background, in units of the rms of a pattern.
    pub background: f64,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            object: 4e-2,
            smooth: 0.0,
            probe: 4e-2,
            positions: 1e-1,
            frame_scale: 5e-3,
            background: 1e-3,
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            epochs: 100,
            batch_size: None,
            loss: Loss::Amplitude,
            modes: None,
            refine_probe: true,
            refine_positions: false,
            max_shift: 4.0,
            frame_scale: false,
            background: BackgroundKind::None,
            probe_support: None,
            tv: 0.0,
            amplitude_limit: None,
            rates: Rates::default(),
            seed: 0,
            patience: 15,
            tolerance: 1e-3,
            device_memory_limit: None,
        }
    }
}

/// What a reconstruction starts from, in the gauge of the file.
#[derive(Clone, Debug)]
pub struct Start {
    /// [P, N, N].
    pub probe: Array3<Complex32>,
    /// Patterns that are used.
    pub indices: Vec<usize>,
    /// Where they are.
    pub positions: Vec<Position>,
    /// None: an object of ones.
    pub object: Option<StartObject>,
}

/// An object that is known already.
#[derive(Clone, Debug)]
pub struct StartObject {
    /// [H, W].
    pub object: Array2<Complex32>,
    /// [H, W], above 0 where it is known.
    pub weights: Array2<f32>,
    /// Object pixel (row, column) of canvas pixel (0, 0).
    pub origin_yx: [f64; 2],
}

impl StartObject {
    fn is_sound(&self) -> bool {
        // Beyond, a coordinate has no fraction.
        let near = |origin: &f64| origin.abs() < 1e15;
        self.object.dim() == self.weights.dim()
            && self.origin_yx.iter().all(near)
            && self.object.iter().all(|z| z.is_finite())
    }
}

impl Start {
    /// The probe of the file, all patterns that are used at the positions of the file, and an object of ones.
    pub fn of(scan: &Scan) -> Start {
        Start {
            probe: scan.probe.clone(),
            // A scan may lack some, which is found when it is taken.
            positions: scan.used().iter().filter_map(|&i| scan.positions.get(i).copied()).collect(),
            indices: scan.used(),
            object: None,
        }
    }
}

impl From<&Saved> for Start {
    /// Goes on from a reconstruction, with its probe and its positions.
    fn from(saved: &Saved) -> Start {
        Start {
            probe: saved.probe.clone(),
            indices: saved.indices.clone(),
            positions: saved.positions.clone(),
            object: Some(StartObject {
                object: saved.object.clone(),
                weights: saved.weights.clone(),
                origin_yx: saved.origin_yx,
            }),
        }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Solved {
    /// In the gauge of the file.
    pub reconstruction: Reconstruction,
    /// How well it explains the patterns.
    pub figures: DataSpace,
    pub outcome: Outcome,
}

/// How a run went.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Passes over the patterns.
    pub epochs: usize,
    pub steps: u64,
    /// Mean loss of the last epoch: close to the residual for the amplitude loss.
    pub loss: f64,
    /// Whether the loss had stopped falling before the last epoch.
    pub stopped_early: bool,
    /// How often the rates were halved because the loss rose.
    pub halvings: usize,
    /// Share of each mode in the power of the probe, the strongest first.
    pub mode_powers: Vec<f64>,
    /// Of each epoch; history.csv has them too.
    #[serde(skip)]
    pub losses: Vec<f64>,
    /// How the positions were moved, if they were solved for.
    pub moves: Option<positions::Moves>,
    pub patterns_per_second: f64,
    pub seconds: f64,
}

/// Solves for the object behind `scan`. `history` is where a row is written for each epoch.
///
/// # Errors
/// [`Error::Config`] for options outside their range, [`Error::Input`] for a scan that cannot be
/// solved (no probe to start from, dark patterns), [`Error::Device`] where the device refuses, and
/// [`Error::Run`] when the loss keeps rising however small the steps.
pub fn reconstruct(
    scan: &Scan,
    start: &Start,
    options: &Options,
    device: &Chosen,
    history: Option<&Path>,
) -> Result<Solved> {
    reconstruct_watched(scan, start, options, device, history, Watch::default())
}

impl Solved {
    /// The frames of `scan`, which was solved, that do not follow from the object of all.
    ///
    /// # Errors
    /// As of [`metrics::bad_frames`](bad_frames).
    pub fn bad_frames(&self, scan: &Scan) -> Result<Vec<BadFrame>> {
        bad_frames(scan, &self.reconstruction.explained(scan), &self.figures)
    }
}

/// Who looks on while a run goes on, and may ask for an early end. What is computed until then does
/// not depend on them.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// A page that shows it.
    pub live: Option<&'a Live>,
    pub asked: Option<&'a Asked>,
}

/// The same, with someone looking on.
pub fn reconstruct_watched(
    scan: &Scan,
    start: &Start,
    options: &Options,
    device: &Chosen,
    history: Option<&Path>,
    watch: Watch,
) -> Result<Solved> {
    options.check()?;
    scan.check()?;
    start.check(scan)?;
    if options.refine_positions {
        positions::check(scan, &start.probe, &start.indices)?;
    }
    let mut job = solve::Job::new(scan, start, options, device)?;
    let mut outcome = job.run(history, watch)?;
    let reconstruction = job.finish()?;
    if options.refine_positions {
        let moved =
            positions::moves(&start.positions, &reconstruction.positions, options.max_shift);
        outcome.moves = Some(moved);
    }
    let figures = data_space(&reconstruction.explained(scan))?;
    Ok(Solved { reconstruction, figures, outcome })
}

impl Options {
    /// Patterns in a step over `frames` of them.
    fn batch(&self, frames: usize) -> usize {
        const STEPS: usize = 64;
        self.batch_size.unwrap_or((frames / STEPS).clamp(8, 64)).min(frames)
    }

    /// Whether every value lies in its range.
    pub fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::Config(text));
        for (flag, value) in [
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size.unwrap_or(1)),
            ("--patience", self.patience),
            ("--modes", self.modes.unwrap_or(1)),
        ] {
            if value == 0 {
                return refuse(format!("{flag} is 0, but must be at least 1"));
            }
        }
        if let Some(modes) = self.modes.filter(|&modes| modes > modes::MOST) {
            return refuse(format!("--modes is {modes}, but at most {} work", modes::MOST));
        }
        if self.max_shift > MOST_SHIFT {
            return refuse(format!(
                "--max-shift is {}, but must be at most {MOST_SHIFT} pixels; 4 is usual",
                self.max_shift
            ));
        }
        let rates = [
            ("--object-rate", self.rates.object),
            ("--probe-rate", self.rates.probe),
            ("--position-rate", self.rates.positions),
            ("--frame-scale-rate", self.rates.frame_scale),
            ("--background-rate", self.rates.background),
            ("--max-shift", self.max_shift),
            ("--probe-support", self.probe_support.unwrap_or(1.0)),
            ("--amplitude-limit", self.amplitude_limit.unwrap_or(1.0)),
        ];
        for (flag, value) in rates {
            if !(value.is_finite() && value > 0.0) {
                return refuse(format!("{flag} is {value}, but must be a number above 0"));
            }
        }
        for (flag, value) in [("--smooth-rate", self.rates.smooth), ("--tv", self.tv)] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(format!("{flag} is {value}, but must be at least 0"));
            }
        }
        // The factor of a step has a pole at twice the change that a node may make (ops::modulate).
        if self.rates.smooth >= SMOOTH_LIMIT {
            let rate = self.rates.smooth;
            return refuse(format!(
                "--smooth-rate is {rate}, but must be below {SMOOTH_LIMIT}; 0.03 is usual"
            ));
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            return refuse(format!(
                "--tolerance is {}, but must be at least 0 and less than 1",
                self.tolerance
            ));
        }
        Ok(())
    }
}

impl Start {
    fn check(&self, scan: &Scan) -> Result<()> {
        let refuse = |text: String| Err(Error::input(&scan.source.path, text));
        let (modes, side, width) = self.probe.dim();
        if modes == 0 {
            return refuse("there is no probe to start from: name one with --probe".into());
        }
        if !scan.side().is_multiple_of(2) {
            return refuse(format!(
                "patterns are {0}×{0}, but the middle of a pattern is a pixel only for even sides: \
                 crop or pad them",
                scan.side()
            ));
        }
        if (side, width) != (scan.side(), scan.side()) {
            return refuse(format!(
                "patterns are {0}×{0}, but the probe to start from is {side}×{width}",
                scan.side()
            ));
        }
        if self.indices.is_empty() || self.indices.len() != self.positions.len() {
            return refuse(format!(
                "{} patterns come with {} positions: one each is needed, and at least one",
                self.indices.len(),
                self.positions.len()
            ));
        }
        if let Some(index) = self.indices.iter().find(|&&i| i >= scan.len()) {
            return refuse(format!(
                "pattern {index} is asked for, but the scan has only {}: is it another scan?",
                scan.len()
            ));
        }
        if self.object.as_ref().is_some_and(|object| !object.is_sound()) {
            return refuse(
                "the object to start from needs one weight a pixel, and numbers that are finite"
                    .into(),
            );
        }
        scan.amplitude.in_memory().map(drop)
    }
}
