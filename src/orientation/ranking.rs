//! What the two tests say together, and how sure that is.

use serde::Serialize;
use serde_json::{Value, json};

use super::trial::Trial;
use super::turn::Turn;

/// Below this ratio of residuals above the shot noise two orientations explain the patterns alike: fits
/// as short as these differ by a quarter where they should not.
const TOLD: f64 = 1.5;
/// From this ratio on the fit is clear.
const CLEAR: f64 = 2.5;
/// From this ratio on it is beyond doubt, whatever the centres of mass say.
const BEYOND_DOUBT: f64 = 5.0;
/// Part of the shot noise that a residual may differ from it by chance.
const CHANCE: f64 = 0.02;
/// A fit that leaves less than this part of the shot noise shows that the dose is not what the file
/// says: there is no telling what noise would leave.
const CREDIBLE: f64 = 0.7;
/// From this ratio on the probe of the file tells twins apart.
const TWINS_TOLD: f64 = 1.1;

/// Which way round the probe of the file lies, as far as its fit tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeFrame {
    /// As the positions: the frames are what is turned.
    Positions,
    /// As the frames: the positions are what is turned.
    Detector,
}

/// One orientation, and what speaks for it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Candidate {
    /// What is done to the frames.
    pub turn: Turn,
    /// Which way round the probe of the file fits better.
    pub probe: ProbeFrame,
    /// e of the fit with a free probe after `epochs`; none: it diverged.
    pub residual: Option<f64>,
    /// e of the first round, with the probe of the file.
    pub residual_known_probe: Option<f64>,
    /// e of the second round, in which all have had as many epochs.
    pub residual_early: Option<f64>,
    /// Share of the rotation in the field of the centres of mass; none: the field is constant.
    pub curl_share: Option<f64>,
    /// Passes over the patterns before the fit ended or was given up.
    pub epochs: usize,
}

/// How sure the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The fit is clear and the centres of mass agree, or it is beyond doubt.
    High,
    /// The fit is clear, or tells the best one and the centres of mass agree.
    Fair,
    /// The fit tells the best one, hardly, and the centres of mass do not agree.
    Low,
    /// The fit does not tell.
    CannotTell,
}

/// The orientations, the best one first.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// All eight.
    pub candidates: Vec<Candidate>,
    /// Patterns that were fitted, and their side after cropping.
    pub frames: usize,
    pub side: usize,
    /// Share of its area that a probe has in common with its nearest neighbour.
    pub overlap: f64,
    /// What shot noise alone would leave of the best residual; 0 where the dose is not credible.
    pub floor: f64,
}

fn size(residual: Option<f64>) -> f64 {
    residual.unwrap_or(f64::INFINITY)
}

fn ratio(other: f64, best: f64) -> f64 {
    if other == best { 1.0 } else { other / best }
}

impl Ranking {
    /// Orders by how far each came and then by residual; the better one of the first pair of twins
    /// is that which the probe of the file leads to sooner.
    pub(super) fn new(mut candidates: Vec<Candidate>, floor: f64, trial: &Trial) -> Ranking {
        candidates.sort_by(|a, b| {
            let residuals = size(a.residual).total_cmp(&size(b.residual));
            b.epochs.cmp(&a.epochs).then(residuals)
        });
        let least = size(candidates[0].residual);
        let floor = if least < CREDIBLE * floor { 0.0 } else { floor };
        let twin = candidates.iter().position(|c| c.turn == candidates[0].turn.twin());
        let twin = twin.expect("all eight are there");
        let early = |i: usize| size(candidates[i].residual_early);
        if early(twin) < early(0) {
            candidates.swap(0, twin);
        }
        let (frames, side) = (trial.scan.len(), trial.scan.side());
        Ranking { candidates, frames, side, overlap: trial.overlap.nearest, floor }
    }

    pub fn best(&self) -> &Candidate {
        &self.candidates[0]
    }

    /// What the patterns alone cannot tell from the best one.
    pub fn twin(&self) -> &Candidate {
        let twin = self.best().turn.twin();
        self.candidates.iter().find(|c| c.turn == twin).expect("all eight are there")
    }

    /// The best one that is neither the best nor its twin.
    pub fn second(&self) -> &Candidate {
        let pair = [self.best().turn, self.best().turn.twin()];
        let second = self.candidates.iter().find(|c| !pair.contains(&c.turn));
        second.expect("there are four pairs")
    }

    /// Residual of the second, in units of that of the best pair.
    pub fn margin(&self) -> f64 {
        ratio(size(self.second().residual), self.least())
    }

    /// The same for what is left above the shot noise, which decides: where few photons were counted
    /// most of any residual is noise.
    pub fn margin_above_noise(&self) -> f64 {
        let above = |residual: f64| (residual - self.floor).max(CHANCE * self.floor);
        ratio(above(size(self.second().residual)), above(self.least()))
    }

    /// Residual of the best pair.
    fn least(&self) -> f64 {
        size(self.best().residual).min(size(self.twin().residual))
    }

    /// Residual of the twin, in units of that of the best, after as many epochs from the probe of the
    /// file: 1 where that probe is its own twin.
    pub fn twin_margin(&self) -> f64 {
        ratio(size(self.twin().residual_early), size(self.best().residual_early))
    }

    /// Whether the probe of the file tells the best one from its twin.
    pub fn twins_told(&self) -> bool {
        self.twin_margin() >= TWINS_TOLD
    }

    /// The one with the least rotation, of its pair the better; none: the field says nothing.
    pub fn least_curl(&self) -> Option<&Candidate> {
        let shares = self.candidates.iter().filter_map(|c| Some((c, c.curl_share?)));
        shares.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(c, _)| c)
    }

    /// Whether the centres of mass speak for the best pair too.
    pub fn curl_agrees(&self) -> bool {
        let pair = [self.best().turn, self.twin().turn];
        self.least_curl().is_some_and(|c| pair.contains(&c.turn))
    }

    pub fn confidence(&self) -> Confidence {
        let (margin, agrees) = (self.margin_above_noise(), self.curl_agrees());
        match (margin >= TOLD, margin >= CLEAR) {
            (false, _) => Confidence::CannotTell,
            (true, true) if agrees || margin >= BEYOND_DOUBT => Confidence::High,
            (true, true) => Confidence::Fair,
            (true, false) if agrees => Confidence::Fair,
            (true, false) => Confidence::Low,
        }
    }

    /// Why [`Ranking::confidence`] is what it is.
    pub fn rule(&self) -> String {
        let centres = match (self.curl_agrees(), self.least_curl()) {
            (true, _) => "the centres of mass agree".to_owned(),
            (false, Some(other)) => {
                format!("the centres of mass speak for frames {}", other.turn.words())
            }
            (false, None) => "the centres of mass say nothing".to_owned(),
        };
        let fit = match self.margin_above_noise() {
            m if m < TOLD => {
                format!("a margin above the noise of less than {TOLD} decides nothing")
            }
            m if m < CLEAR => format!("a margin above the noise from {TOLD} to {CLEAR} is small"),
            m if m < BEYOND_DOUBT => {
                format!("a margin above the noise from {CLEAR} to {BEYOND_DOUBT} is clear")
            }
            _ => format!("a margin above the noise from {BEYOND_DOUBT} on is beyond doubt"),
        };
        format!("{fit}; {centres}")
    }

    /// Everything, for `--json`.
    pub fn json(&self) -> Value {
        let candidates: Vec<Value> = self.candidates.iter().map(candidate).collect();
        let told = self.confidence() != Confidence::CannotTell;
        json!({
            "frames": self.frames,
            "side": self.side,
            "overlap": self.overlap,
            "candidates": candidates,
            "as_the_file_is": told && self.best().turn == Turn::NONE,
            "stored": told.then(|| self.best().turn.inverse()),
            "noise_floor": self.floor,
            "margin": self.margin(),
            "margin_above_noise": self.margin_above_noise(),
            "second": self.second().turn,
            "curl_agrees": self.curl_agrees(),
            "confidence": self.confidence(),
            "rule": self.rule(),
            "twin": {
                "frames": self.twin().turn,
                "margin": self.twin_margin(),
                "told_by_the_probe": self.twins_told(),
            },
        })
    }
}

fn candidate(candidate: &Candidate) -> Value {
    let mut value = json!(candidate);
    value["frame_flags"] = json!(candidate.turn.frame_flags());
    value["position_flags"] = json!(candidate.turn.inverse().position_flags());
    value["twin"] = json!(candidate.turn.twin());
    value
}
