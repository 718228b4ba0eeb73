//! What a training does: every choice, its unit, its default, its allowed range.
//!
//! A value is decided by the first of: flag, `--config` file, data set, default. [`resolve`]
//! records which of them it was, so that a run folder explains itself.
//!
//! Field names are unique over all sections: the same name is the TOML key, the flag (with
//! dashes), the key in run.json and the key in a checkpoint.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::Reading;
use crate::memory;

mod choices;
mod resolve;
mod validate;

pub use choices::{
    AmpActivation, Architecture, Checkpoint, ClipAlgorithm, Device, FrameOrder, GroupInput,
    Grouping, Head, InputDomain, Logger, Loss, MergeWeights, Mode, OnNonfinite, Optimiser,
    OutputMode, PatchWeighting, Precision, Resume, RowModes, Schedule,
};
pub use resolve::{DatasetFacts, Origin, Resolved, draft, resolve};

/// Everything that decides a training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    pub model: ModelConfig,
    pub loss: LossConfig,
    pub optimiser: OptimiserConfig,
    pub data: DataConfig,
    pub run: RunConfig,
}

/// The network and how the patches of a group are merged. Two networks with equal `ModelConfig`
/// have the same weights by name and shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// N, side of a pattern in pixels: 64, 128 or 256. Given by the data set.
    pub n: usize,
    /// Which network; decides which of the fields below it has.
    pub architecture: Architecture,
    /// g: a group is g² neighbouring patterns, solved together. 1, 2 or 3.
    pub gridsize: usize,
    /// What the network sees at once of a group (gridsize ≥ 2).
    pub group_input: GroupInput,
    /// cnn: factor on the number of channels of every layer, ≥ 1.
    pub n_filters_scale: usize,
    /// cnn: how the centre and the border of a patch are put together.
    pub head: Head,
    /// What makes an amplitude of the last layer's numbers.
    pub amp_activation: AmpActivation,
    /// cnn: channel and spatial attention in the encoder.
    pub cbam_encoder: bool,
    /// cnn: batch normalisation after the convolutions.
    pub batch_norm: bool,
    /// Others than cnn: channels of a feature map at full size, ≥ 1.
    pub width: usize,
    /// Others than cnn: frequencies that a spectral layer keeps, 1 to N/2.
    pub fourier_modes: usize,
    /// Others than cnn: spectral blocks, ≥ 1.
    pub blocks: usize,
    /// fno, fno_vanilla, srunet: which of the columns' frequencies are kept.
    pub row_modes: RowModes,
    /// Others than cnn: amplitude and phase, or real and imaginary part.
    pub output_mode: OutputMode,
    /// ffno: one spectral layer and one gate for all blocks.
    pub share_spectral_weights: bool,
    /// ffno: residual blocks of convolutions behind the spectral ones.
    pub refiners: usize,
    /// Weights of the patches of a group where they overlap (gridsize ≥ 2).
    pub merge_weights: MergeWeights,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            n: 64,
            architecture: Architecture::Cnn,
            gridsize: 1,
            group_input: GroupInput::Together,
            n_filters_scale: 2,
            head: Head::Joint,
            amp_activation: AmpActivation::Softplus,
            cbam_encoder: false,
            batch_norm: false,
            width: 32,
            fourier_modes: 12,
            blocks: 4,
            row_modes: RowModes::Low,
            output_mode: OutputMode::AmpPhase,
            share_spectral_weights: true,
            refiners: 2,
            merge_weights: MergeWeights::Probe,
        }
    }
}

impl ModelConfig {
    /// C = g², the patterns in a group.
    pub fn channels(&self) -> usize {
        self.gridsize * self.gridsize
    }

    /// The network without the group: what it is when it sees each pattern alone, as it does with
    /// gridsize 1 and where the patterns of a group come apart.
    pub fn alone(&self) -> ModelConfig {
        if self.group_input == GroupInput::Together {
            return self.clone();
        }
        ModelConfig {
            gridsize: 1,
            group_input: GroupInput::Together,
            merge_weights: MergeWeights::default(),
            ..self.clone()
        }
    }

    /// One sentence for each field that a checkpoint's network `stored` has otherwise than the
    /// network `self` that is asked for; of another architecture that alone. Empty: the checkpoint
    /// fits. Networks that see each pattern alone are the same for every gridsize.
    pub fn differences(&self, stored: &ModelConfig) -> Vec<String> {
        if self.architecture != stored.architecture {
            return vec![format!(
                "the checkpoint has the architecture {}, but {} was asked for",
                stored.architecture, self.architecture
            )];
        }
        let (asked, stored) =
            (resolve::fields_of(&self.alone()), resolve::fields_of(&stored.alone()));
        let differs = asked.iter().filter(|(name, value)| stored.get(*name) != Some(value));
        differs
            .map(|(name, value)| {
                let there = stored.get(name).unwrap_or(&serde_json::Value::Null);
                format!("{name} is {there} in the checkpoint, but {value} was asked for")
            })
            .collect()
    }
}

/// What training makes small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Distance between measured and predicted pattern.
    #[serde(rename = "loss")]
    pub kind: Loss,
    /// Learn from the patterns alone, from true patches, or from both.
    pub mode: Mode,
    /// Mixed: share of the true patches in the loss of the first epoch, in [0, 1]; the patterns have
    /// the rest.
    pub label_share: f64,
    /// Mixed: share of the true patches in the last epoch, in [0, 1]; linear in between.
    pub label_share_end: f64,
    /// Weight of the total variation of the amplitude, ≥ 0.
    pub tv_amplitude: f64,
    /// Weight of the total variation of the phase, ≥ 0.
    pub tv_phase: f64,
    /// Weight of the mean deviation of the amplitude, ≥ 0.
    pub md_amplitude: f64,
    /// Weight of the mean deviation of the phase, ≥ 0.
    pub md_phase: f64,
    /// Photons per pixel added to every prediction, so that the logarithm of a dark pixel stays
    /// finite.
    pub epsilon_photons: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig {
            kind: Loss::Poisson,
            mode: Mode::Unsupervised,
            label_share: 1.0,
            label_share_end: 0.0,
            tv_amplitude: 0.0,
            tv_phase: 0.0,
            md_amplitude: 0.0,
            md_phase: 0.0,
            epsilon_photons: 1e-6,
        }
    }
}

impl LossConfig {
    /// Whether the loss of one epoch means another thing than that of the next.
    pub fn changes(&self) -> bool {
        self.mode == Mode::Mixed && self.label_share != self.label_share_end
    }
}

/// How the weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimiserConfig {
    #[serde(rename = "optimizer")]
    pub kind: Optimiser,
    /// Learning rate before the schedule, > 0.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub adam_beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub adam_beta2: f64,
    /// Added to the root of the second moment, > 0.
    pub adam_epsilon: f64,
    /// Momentum of SGD (Nesterov when > 0), in [0, 1).
    pub momentum: f64,
    /// L2 penalty added to the gradient (Adam, SGD), or decoupled decay (AdamW), ≥ 0.
    pub weight_decay: f64,
    pub schedule: Schedule,
    /// Exponential: factor per epoch, in (0, 1].
    pub exponential_decay: f64,
    /// Cosine: epochs of linear warm-up.
    pub warmup_epochs: usize,
    /// Cosine: last learning rate over the first, in [0, 1].
    pub lr_min_ratio: f64,
    /// Plateau: factor on the learning rate when the loss has stopped falling, in (0, 1).
    pub plateau_factor: f64,
    /// Plateau: epochs without progress that are let pass.
    pub plateau_patience: usize,
    /// Plateau: the learning rate stays at or above this.
    pub plateau_min_lr: f64,
    /// Plateau: relative fall of the loss that counts as progress, in [0, 1).
    pub plateau_threshold: f64,
    /// Limit on the gradient; none = no clipping.
    pub gradient_clip_val: Option<f64>,
    pub gradient_clip_algorithm: ClipAlgorithm,
    /// Batches whose mean gradient makes one step, ≥ 1.
    pub accumulate_grad_batches: usize,
    /// Learn the probe together with the object.
    pub probe_trainable: bool,
    /// Learning rate of the probe, in units of the probe's rms amplitude, > 0.
    pub probe_learning_rate: f64,
    /// Incoherent modes of the learned probe; none = those that it starts with.
    pub probe_modes: Option<usize>,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        OptimiserConfig {
            kind: Optimiser::Adam,
            learning_rate: 1e-3,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            momentum: 0.9,
            weight_decay: 0.0,
            schedule: Schedule::Cosine,
            exponential_decay: 0.95,
            warmup_epochs: 0,
            lr_min_ratio: 0.05,
            plateau_factor: 0.5,
            plateau_patience: 2,
            plateau_min_lr: 5e-5,
            plateau_threshold: 0.0,
            gradient_clip_val: None,
            gradient_clip_algorithm: ClipAlgorithm::Norm,
            accumulate_grad_batches: 1,
            probe_trainable: false,
            probe_learning_rate: 2e-3,
            probe_modes: None,
        }
    }
}

/// What is learned from.
// Unknown keys are found by `resolve`: serde cannot refuse them beside a flattened structure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    /// Scans to learn from; at least one, if nothing is `synthetic`.
    pub train_data_file: Vec<PathBuf>,
    /// Simulated patterns of random objects per epoch, instead of a scan.
    pub synthetic: Option<usize>,
    /// Scan whose probe, positions, dose and mask the simulated patterns have.
    pub like: Option<PathBuf>,
    /// Reconstruction of the scan to learn from: gives true patches, probe and positions.
    pub teacher: Option<PathBuf>,
    /// Scan to validate on.
    pub test_data_file: Option<PathBuf>,
    /// Groups per epoch; none = all.
    pub n_images: Option<usize>,
    /// Which groups an epoch is made of (gridsize ≥ 2).
    pub grouping: Grouping,
    /// K: a group is drawn from a pattern and its K nearest neighbours.
    pub neighbor_count: usize,
    /// Mean photons per pattern of data that are not in counts.
    pub nphotons: Option<f64>,
    /// What the numbers in the file are.
    pub input_domain: InputDomain,
    /// Fraction of the groups held out for validation where there is no test file, in [0, 1).
    pub validation_split: f64,
    /// Which axis of the pattern array counts the frames.
    pub order: FrameOrder,
    /// How the files are read and their frames turned.
    #[serde(flatten)]
    pub reading: Reading,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            train_data_file: Vec::new(),
            synthetic: None,
            like: None,
            teacher: None,
            test_data_file: None,
            n_images: None,
            grouping: Grouping::Neighbors,
            neighbor_count: 6,
            nphotons: None,
            input_domain: InputDomain::Auto,
            validation_split: 0.0,
            order: FrameOrder::Auto,
            reading: Reading::default(),
        }
    }
}

/// Where and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Folder of the run: checkpoints, history, run.json, log.
    pub output_dir: PathBuf,
    /// Passes over the groups, ≥ 1.
    pub max_epochs: usize,
    /// Groups per step, ≥ 1.
    pub batch_size: usize,
    /// Governs selection, grouping, first weights, shuffling and noise.
    pub seed: u64,
    pub device: Device,
    /// Of convolutions on a GPU. What `auto` came to is recorded, and kept by a resumed training.
    pub precision: Precision,
    /// Bytes of buffers that a training may take; patterns that do not fit are streamed. None = what
    /// the device has.
    pub device_memory_limit: Option<usize>,
    /// What becomes of a training whose loss or gradient is not finite.
    pub on_nonfinite: OnNonfinite,
    /// Memory of the machine that the run may take; scans that do not fit are read from disk. None =
    /// what is free.
    pub memory_limit: Option<memory::Limit>,
    /// Folder for patterns that are unpacked because they do not fit; none = the output folder.
    pub scratch_dir: Option<PathBuf>,
    /// Stop after this many epochs without a better loss; none = never.
    pub early_stop_patience: Option<usize>,
    /// Go on with an interrupted training.
    pub resume: Option<Resume>,
    /// Checkpoint or run folder whose weights a new training starts with.
    pub init_from: Option<PathBuf>,
    /// What hears of each epoch.
    pub logger: Vec<Logger>,
    /// A collapsed reconstruction makes the program fail.
    pub strict: bool,
    /// End with one line of JSON on stdout.
    pub json: bool,
    /// Only warnings and errors on stderr.
    pub quiet: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            output_dir: PathBuf::new(),
            max_epochs: 50,
            batch_size: 16,
            seed: 0,
            device: Device::Auto,
            precision: Precision::Auto,
            device_memory_limit: None,
            on_nonfinite: OnNonfinite::Stop,
            memory_limit: None,
            scratch_dir: None,
            early_stop_patience: None,
            resume: None,
            init_from: None,
            logger: vec![Logger::Csv],
            strict: false,
            json: false,
            quiet: false,
        }
    }
}
