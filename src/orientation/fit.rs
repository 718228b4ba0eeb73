//! The short fits: every orientation starts alike, and those that fall behind are given up.

use rayon::prelude::*;

use super::field::Field;
use super::ranking::{Candidate, ProbeFrame, Ranking};
use super::trial::Trial;
use super::turn::Turn;
use crate::backend::Chosen;
use crate::data::scan::Scan;
use crate::reconstruct::{self, Start, StartObject, reconstruct};
use crate::reconstruction::Reconstruction;
use crate::{Error, Result};

/// From this ratio of residuals on the probe of the file tells which way round it lies.
const PROBE_TOLD: f64 = 1.05;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Options {
    /// Most patterns, from the middle of the scan.
    pub frames: usize,
    /// Patterns above this side are cropped to half of it, and again, while that keeps their light.
    pub side: usize,
    /// Passes over the patterns in each round: with the probe of the file, with a free probe, and,
    /// for the better half of the orientations, more of that.
    pub epochs: [usize; 3],
    /// Governs the order of the patterns, the same in every orientation.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { frames: 200, side: 64, epochs: [5, 8, 16], seed: 0 }
    }
}

/// One orientation, and how far its fit has come.
struct Attempt {
    turn: Turn,
    probe: ProbeFrame,
    scan: Scan,
    start: Start,
    epochs: usize,
    /// After the first round, after the second one, and now; infinite where the fit diverged.
    known: f64,
    early: f64,
    residual: f64,
    /// What shot noise alone would leave, as the fit sees it.
    floor: f64,
}

/// Ranks the 8 orientations of the frames of `scan` relative to its positions; `scan` needs a probe.
///
/// # Errors
/// [`Error::Input`] for a scan that cannot tell them apart, see [`super`]; [`Error::Config`] for
/// options out of range.
pub fn rank(scan: &Scan, options: &Options) -> Result<Ranking> {
    if scan.probe.is_empty() {
        let text = "there is no probe, which a short fit needs to start from: add `probeGuess`";
        return Err(Error::input(&scan.source.path, text));
    }
    scan.check()?;
    scan.amplitude.in_memory()?;
    let trial = Trial::of(scan, options.frames, options.side)?;
    let mut attempts = known_probe(&trial, options)?;
    run_all(&mut attempts, options.epochs[1], true, options.seed)?;
    attempts.iter_mut().for_each(|attempt| attempt.early = attempt.residual);
    attempts.sort_by(|a, b| a.residual.total_cmp(&b.residual));
    let half = attempts.len() / 2;
    run_all(&mut attempts[..half], options.epochs[2], true, options.seed)?;
    attempts[..half].sort_by(|a, b| a.residual.total_cmp(&b.residual));
    let field = Field::of(scan);
    let finite = |residual: f64| Some(residual).filter(|r| r.is_finite());
    let candidates = attempts.iter().map(|attempt| Candidate {
        turn: attempt.turn,
        probe: attempt.probe,
        residual: finite(attempt.residual),
        residual_known_probe: finite(attempt.known),
        residual_early: finite(attempt.early),
        curl_share: field.curl_share(attempt.turn),
        epochs: attempt.epochs,
    });
    Ok(Ranking::new(candidates.collect(), attempts[0].floor, &trial))
}

/// The first round. Turning the frames or the positions is the same but for the probe, so both are tried.
/// The positions are turned only where that is clearly better.
fn known_probe(trial: &Trial, options: &Options) -> Result<Vec<Attempt>> {
    let both = |turn: Turn| {
        let frames = [ProbeFrame::Positions, ProbeFrame::Detector];
        frames
            .into_iter()
            .filter(move |&f| turn != Turn::NONE || f == ProbeFrame::Positions)
            .map(move |probe| Attempt::new(trial, turn, probe))
    };
    let mut all: Vec<Attempt> = Turn::all().into_iter().flat_map(both).collect();
    run_all(&mut all, options.epochs[0], false, options.seed)?;
    let mut better: Vec<Attempt> = Vec::new();
    for mut attempt in all {
        attempt.known = attempt.residual;
        match better.last_mut().filter(|last| last.turn == attempt.turn) {
            Some(last) if PROBE_TOLD * attempt.known < last.known => *last = attempt,
            Some(_) => {}
            None => better.push(attempt),
        }
    }
    Ok(better)
}

fn run_all(attempts: &mut [Attempt], epochs: usize, free: bool, seed: u64) -> Result<()> {
    attempts.par_iter_mut().try_for_each(|attempt| attempt.run(epochs, free, seed))
}

impl Attempt {
    fn new(trial: &Trial, turn: Turn, probe: ProbeFrame) -> Attempt {
        let scan = trial.turned(turn, probe == ProbeFrame::Detector);
        let start = Start::of(&scan);
        Attempt {
            turn,
            probe,
            scan,
            start,
            epochs: 0,
            known: 0.0,
            early: 0.0,
            residual: 0.0,
            floor: 0.0,
        }
    }

    /// Goes on for so many epochs. A fit that diverges ends here, with an infinite residual.
    fn run(&mut self, epochs: usize, free: bool, seed: u64) -> Result<()> {
        if self.residual.is_infinite() {
            return Ok(());
        }
        let options =
            reconstruct::Options { epochs, refine_probe: free, seed, ..Default::default() };
        match reconstruct(&self.scan, &self.start, &options, &Chosen::Cpu, None) {
            Ok(solved) => {
                self.residual = solved.figures.residual;
                self.floor = solved.figures.floor;
                self.start = go_on(solved.reconstruction);
                self.epochs += epochs;
            }
            Err(Error::Run(_)) => self.residual = f64::INFINITY,
            Err(other) => return Err(other),
        }
        Ok(())
    }
}

fn go_on(solved: Reconstruction) -> Start {
    Start {
        probe: solved.probe,
        indices: solved.indices,
        positions: solved.positions,
        object: Some(StartObject {
            object: solved.stitched.object,
            weights: solved.stitched.weights,
            origin_yx: solved.canvas.origin_yx.map(|o| o as f64),
        }),
    }
}
