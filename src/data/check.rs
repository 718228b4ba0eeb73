//! Everything that can be wrong with a scan, each with a sentence and a remedy.

use serde::Serialize;

use super::bad_frames::{self, BadFrame};
use crate::{Error, Result};

/// Sides of a pattern that the network takes.
pub const NETWORK_SIDES: [usize; 3] = [64, 128, 256];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The scan can be used; the result may suffer.
    Warning,
    /// The scan cannot be used.
    Error,
}

/// Something wrong with a scan. Displays as one sentence; shapes are as in the file.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Problem {
    #[error("missing {}; the file holds {}", list(missing), list(found))]
    MissingKeys { missing: Vec<String>, found: Vec<String>, alias: Option<String> },
    #[error("`diff3d` and `diffraction` are both present and differ")]
    TwoDiffractions,
    #[error("`{key}` cannot be read: {reason}")]
    Unreadable { key: String, reason: String },
    #[error("`{key}` has shape {shape:?}, expected {expected}")]
    WrongShape { key: String, shape: Vec<usize>, expected: String },
    #[error("the scan is empty: no pattern or no position")]
    Empty,
    #[error(
        "`{key}` of shape {shape:?} holds {patterns} patterns, but there are {coordinates} positions"
    )]
    CountMismatch { key: String, shape: Vec<usize>, patterns: usize, coordinates: usize },
    #[error("patterns are {height} × {width}, not square")]
    NotSquare { height: usize, width: usize },
    #[error("patterns are {side} × {side}, but the probe is {probe} × {probe}")]
    ProbeSide { side: usize, probe: usize },
    #[error("{side} patterns of {side} × {side}: the order of the axes cannot be told")]
    AmbiguousOrder { side: usize },
    #[error("`{key}` has {count} values that are NaN or infinite, the first at {first:?}")]
    NonFinite { key: String, count: usize, first: Vec<usize> },
    #[error("`{key}` has {count} negative values, the first at {first:?}")]
    Negative { key: String, count: usize, first: Vec<usize> },
    #[error("all {patterns} patterns are dark")]
    AllDark { patterns: usize },
    #[error("{count} of {patterns} patterns are dark, the first is number {first}")]
    DarkPatterns { count: usize, patterns: usize, first: usize },
    #[error("bad are {}", bad_frames::describe(bad, *patterns))]
    BadFrames { bad: Vec<BadFrame>, patterns: usize },
    #[error("the probe is 0 everywhere")]
    DarkProbe,
    #[error("the mask leaves no pixel")]
    MaskedOut,
    #[error("positions span {largest:e} at most: they look like metres, not pixels")]
    Metres { largest: f64 },
    #[error(
        "{count} pixel values equal {limit}, the largest of their type, as detectors mark dead pixels"
    )]
    Saturated { count: usize, limit: f64 },
    #[error("values reach {largest:.4}: large for normalised amplitudes, they may be counts")]
    SuspiciousUnits { largest: f32 },
    #[error("--nphotons is ignored: the file itself says how many photons it holds")]
    PhotonsIgnored,
    #[error("the metadata cannot be understood: {reason}")]
    Metadata { reason: String },
    #[error("one position only: there is no overlap to reconstruct from")]
    SinglePosition,
    #[error("{count} positions repeat an earlier one")]
    DuplicatePositions { count: usize },
    #[error("{count} of {positions} patches reach outside `objectGuess` ({height} × {width})")]
    OutsideObject { count: usize, positions: usize, height: usize, width: usize },
    #[error("positions fit `objectGuess` better with x and y exchanged")]
    SwappedAxes { outside: usize, outside_if_swapped: usize },
    #[error("neighbouring probes overlap by {percent:.0} % of their area only")]
    LittleOverlap { percent: f64 },
    #[error("`{key}` has shape {shape:?}, expected {expected}; it is ignored")]
    Ignored { key: String, shape: Vec<usize>, expected: String },
    #[error("{reason}")]
    Frames { reason: String },
    #[error("positions: {reason}")]
    Positions { reason: String },
    #[error("{reason}")]
    Memory { reason: String },
    #[error("patterns are {side} × {side}; the network takes 64, 128 or 256")]
    NetworkSide { side: usize },
}

impl Problem {
    pub fn severity(&self) -> Severity {
        use Problem::*;
        match self {
            DarkPatterns { .. }
            | BadFrames { .. }
            | Saturated { .. }
            | SuspiciousUnits { .. }
            | PhotonsIgnored
            | Metadata { .. }
            | SinglePosition
            | DuplicatePositions { .. }
            | OutsideObject { .. }
            | SwappedAxes { .. }
            | LittleOverlap { .. }
            | Ignored { .. }
            | NetworkSide { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }

    pub fn sentence(&self) -> String {
        self.to_string()
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        if let Problem::MissingKeys { alias: Some(alias), .. } = self {
            return alias.clone();
        }
        self.fixed_remedy().to_owned()
    }

    fn fixed_remedy(&self) -> &'static str {
        use Problem::*;
        match self {
            MissingKeys { .. } => "add the arrays under these names",
            TwoDiffractions => "remove the one that is wrong",
            Unreadable { .. } => "write it as an array of numbers, or copy the file again",
            WrongShape { .. } => "reshape or rename the array",
            Empty => "check the program that wrote the file",
            CountMismatch { .. } => "write one position per pattern",
            NotSquare { .. } => {
                "cut a square out with --crop (and --center), or name the axes with --order"
            }
            ProbeSide { .. } => "crop or pad the probe to the size of the patterns",
            AmbiguousOrder { .. } => "say --order first for (M,N,N) or --order last for (N,N,M)",
            NonFinite { .. } => "replace the values; in patterns, a `mask` of 0 there is enough",
            Negative { .. } => "set them to 0, or put 0 into `mask` there",
            AllDark { .. } => "check the key, the mask and the detector's threshold",
            DarkPatterns { .. } => {
                "leave them out with --reject-frames auto: they say nothing about the object"
            }
            BadFrames { .. } => "leave them out with --reject-frames auto",
            DarkProbe => "write a probe guess, a disc or a Gaussian at least",
            MaskedOut => "in `mask`, 0 ignores a pixel and 1 uses it",
            Metres { .. } => "divide by the pixel size of the object and add the object's centre",
            Saturated { .. } => "put 0 into `mask` at these pixels",
            SuspiciousUnits { .. } => {
                "--input-domain counts if they are counts; --nphotons with the photons per pattern \
                 if they are amplitudes"
            }
            PhotonsIgnored => "leave the flag out",
            Metadata { .. } => "write it as JSON in a unicode array; nothing of it is used now",
            SinglePosition => "scan more positions",
            DuplicatePositions { .. } => "check that positions and patterns belong together",
            OutsideObject { .. } => "check unit and origin of the positions, or enlarge the object",
            SwappedAxes { .. } => "x is the column and y the row: exchange xcoords and ycoords",
            LittleOverlap { .. } => "scan with a smaller step: 60 to 80 % of overlap is usual",
            Ignored { .. } => "reshape it if it is needed",
            Frames { .. } => "change the flag, or leave it out",
            Positions { .. } => "one position for each pattern is needed",
            Memory { .. } => {
                "raise --memory-limit, name another --scratch-dir, or write the scan again on a \
                 larger machine, with `ptycho-gpu convert`"
            }
            NetworkSide { .. } => "bring the patterns to one of these sides with --crop or --bin",
        }
    }
}

fn list(keys: &[String]) -> String {
    match keys {
        [] => "nothing".to_owned(),
        keys => keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
    }
}

/// Whether the network takes patterns of `side` pixels. Loading takes any side.
pub fn check_network_side(side: usize) -> Result<()> {
    if NETWORK_SIDES.contains(&side) {
        return Ok(());
    }
    let problem = Problem::NetworkSide { side };
    Err(Error::Config(format!("{problem}: {}", problem.remedy())))
}
