//! The closed sets that options choose from. Written in snake_case in files and on the command
//! line; names that other programs of the field use are understood on the command line too.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use crate::data::{FrameOrder, InputDomain};

/// The network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Architecture {
    /// Convolutional encoder with two decoders.
    #[default]
    Cnn,
    /// Factorised Fourier operator: a few frequencies along rows and columns, in residual blocks.
    Ffno,
    /// Fourier operator: a few frequencies of both axes beside convolutions, then a refiner.
    Fno,
    /// The same without the refiner.
    FnoVanilla,
    /// Residual U-shaped network with spectral blocks in its encoder.
    Srunet,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no variant is skipped").get_name())
    }
}

impl Architecture {
    /// Learning rate for steps of 16 groups or more, from runs (docs/networks.md).
    pub fn learning_rate(self) -> f64 {
        match self {
            Architecture::Cnn | Architecture::Fno | Architecture::FnoVanilla => 1e-3,
            Architecture::Ffno => 3e-3,
            Architecture::Srunet => 3e-4,
        }
    }
}

/// Frequencies of the columns that a spectral layer keeps of both axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum RowModes {
    /// 0 to m − 1, as in the published networks.
    #[default]
    Low,
    /// −m to m − 1: waves of every direction, by twice as many weights.
    Both,
}

/// What the last layer's numbers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum OutputMode {
    /// Amplitude and phase, each through an activation that keeps it in range.
    #[default]
    AmpPhase,
    /// Real and imaginary part, 1 + x + i y, unbounded.
    RealImag,
}

/// How the decoder's two paths become one patch: path 1 fills the centre, path 2 all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Head {
    /// The paths are added before one activation: the whole patch stays in range.
    #[default]
    Joint,
    /// Each path has its activation; path 2 is added everywhere.
    Full,
    /// Each path has its activation; path 2 is added on the border alone.
    Border,
}

/// From the last layer's number x to an amplitude.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum AmpActivation {
    /// softplus(x + ln(e − 1)): always positive, 1 at x = 0.
    #[default]
    Softplus,
    /// x · sigmoid(x): may become negative.
    #[value(alias = "swish")]
    Silu,
    /// Between 0 and 1.
    Sigmoid,
}

/// What the network sees at once of a group of several patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum GroupInput {
    /// All of them, as channels.
    #[default]
    Together,
    /// Each alone, by the same weights: the group meets in the physics, and no group is needed to
    /// apply the network.
    Apart,
}

/// Weight of a patch's pixels where the patches of a group overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum MergeWeights {
    /// The intensity of the probe.
    #[default]
    Probe,
    /// 1 in the central half, 0 outside.
    #[value(alias = "central_mask")]
    Central,
}

/// Which groups of patterns an epoch is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Grouping {
    /// Each pattern with some of its neighbours, drawn at random.
    #[default]
    Neighbors,
    /// Compact groups that share out the scan: each pattern once, few of them twice.
    Cover,
}

/// Distance between a measured and a predicted pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Loss {
    /// Negative log-likelihood of the photon counts.
    #[default]
    Poisson,
    /// Mean absolute error of the amplitudes.
    Mae,
}

/// What the network learns from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Mode {
    /// The measured patterns, through the physics.
    #[default]
    Unsupervised,
    /// True patches: those that the scan carries, of a teacher, or of synthetic objects.
    Supervised,
    /// Both; the share of each may change over the epochs.
    Mixed,
}

impl Mode {
    /// Whether predicted patterns are held against measured ones.
    pub fn sees_patterns(self) -> bool {
        self != Mode::Supervised
    }

    /// Whether patches are held against true ones.
    pub fn sees_labels(self) -> bool {
        self != Mode::Unsupervised
    }
}

/// Rule that turns a gradient into a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Optimiser {
    #[default]
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
    /// Gradient descent with momentum.
    Sgd,
}

/// The learning rate over the epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Schedule {
    #[value(alias = "default")]
    Constant,
    /// Times `exponential_decay` each epoch.
    Exponential,
    /// Linear warm-up, then half a cosine down to `lr_min_ratio`.
    #[default]
    #[value(aliases = ["warmup_cosine", "warmupcosine"])]
    Cosine,
    /// Times `plateau_factor` whenever the loss stops falling.
    #[value(aliases = ["reduce_lr_on_plateau", "reducelronplateau"])]
    Plateau,
}

/// What `gradient_clip_val` limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ClipAlgorithm {
    /// The L2 norm of the whole gradient.
    #[default]
    Norm,
    /// Each entry.
    Value,
    /// The norm of each tensor's gradient relative to the norm of the tensor.
    Agc,
}

/// Weight of a patch's pixels on the stitched canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum PatchWeighting {
    /// The intensity of the probe under a squared Hann window: the middle of a patch, which the
    /// network knows best, counts most.
    #[default]
    Tapered,
    /// The intensity of the probe: what was lit best counts most.
    Probe,
    /// All alike.
    Uniform,
}

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Checkpoint {
    /// Of the lowest loss.
    #[default]
    Best,
    /// Of the last finished epoch.
    Last,
}

/// Where the rows of history.csv go too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Logger {
    /// history.csv, which is always written: a resumed training reads it.
    #[default]
    Csv,
    /// history.jsonl: an object for each epoch.
    Jsonl,
    /// events.out.tfevents.*: scalars by epoch, for TensorBoard.
    Tensorboard,
}

/// What becomes of a training when a loss or a gradient is infinite or no number. The step is left out
/// in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum OnNonfinite {
    /// It ends, and says in which batch and in which layers.
    #[default]
    Stop,
    /// It goes on with the next batch, and says which one was left out.
    Skip,
}

/// To what a GPU rounds the factors of convolutions. Sums, weights and all else have single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Precision {
    /// TF32 for training on a GPU with tensor cores, else single precision.
    #[default]
    Auto,
    /// Not at all: the results of the CPU, but for the order of sums.
    Fp32,
    /// 11 significant bits, on tensor cores.
    Tf32,
    /// 8 significant bits, on tensor cores, with images between two convolutions stored so.
    Bf16,
}

impl From<crate::graph::Precision> for Precision {
    fn from(precision: crate::graph::Precision) -> Precision {
        match precision {
            crate::graph::Precision::Fp32 => Precision::Fp32,
            crate::graph::Precision::Tf32 => Precision::Tf32,
            crate::graph::Precision::Bf16 => Precision::Bf16,
        }
    }
}

/// Where the arithmetic is done: `auto`, `cpu`, `cuda` or `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// CUDA where it is usable, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let lower = text.to_ascii_lowercase();
        let (kind, index) = match lower.split_once(':') {
            Some((kind, index)) => (kind, index.parse().ok()),
            None => (lower.as_str(), Some(0)),
        };
        match (kind, index) {
            ("auto", Some(_)) if lower == "auto" => Ok(Device::Auto),
            ("cpu", Some(_)) if lower == "cpu" => Ok(Device::Cpu),
            ("cuda" | "gpu", Some(index)) => Ok(Device::Cuda(index)),
            _ => Err(format!(
                "`{text}` is no device: write auto, cpu, cuda, or cuda:1 for the second GPU"
            )),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Device, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

/// What an interrupted training goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Resume {
    /// `checkpoints/last` of the output folder where there is one, else from the start.
    Auto,
    /// This checkpoint or run folder.
    Path(PathBuf),
}

impl From<String> for Resume {
    fn from(text: String) -> Resume {
        if text == "auto" { Resume::Auto } else { Resume::Path(text.into()) }
    }
}

impl From<Resume> for String {
    fn from(resume: Resume) -> String {
        match resume {
            Resume::Auto => "auto".into(),
            Resume::Path(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl From<Checkpoint> for crate::checkpoint::Which {
    fn from(which: Checkpoint) -> Self {
        match which {
            Checkpoint::Best => Self::Best,
            Checkpoint::Last => Self::Last,
        }
    }
}
