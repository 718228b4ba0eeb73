//! `ptycho-gpu train`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use material::material;

use super::report as page;
use crate::backend::Chosen;
use crate::config::{
    self, AmpActivation, Architecture, ClipAlgorithm, DatasetFacts, Device, FrameOrder, GroupInput,
    Grouping, Head, InputDomain, Logger, Loss, MergeWeights, Mode, OnNonfinite, Optimiser,
    OutputMode, Precision, Resume, RowModes, Schedule, TrainConfig,
};
use crate::data::{Reading, Scan};
use crate::memory;
use crate::reconstruct::modes;
use crate::report::live::Facts;
use crate::report::{self, Curve, OutputFolder, RunRecord, Series, loggers};
use crate::signals::Asked;
use crate::train::synthetic::Supply;
use crate::train::{Material, Outcome, Trainer, Watched, precision};
use crate::{Error, Result, backend, graph};

mod material;

/// Every option is optional, so that what was given can be told from what was not: a value comes
/// from the flag, else from `--config`, else from the data set, else from the default. The field
/// names are those of the configuration.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// TOML file of options, named as the flags; flags win. Paths in it are relative to the
    /// working directory
    #[arg(long, value_name = "FILE.toml")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Scan to learn from; several are learned together
    #[arg(long, num_args = 1.., value_name = "SCAN.npz", help_heading = "Data")]
    pub train_data_file: Option<Vec<PathBuf>>,
    /// Learn from this many simulated patterns per epoch instead of a scan: random objects, anew in
    /// every epoch; needs --like
    #[arg(long, value_name = "PATTERNS", help_heading = "Data")]
    pub synthetic: Option<usize>,
    /// Scan whose probe, positions, dose and mask the simulated patterns have
    #[arg(long, value_name = "SCAN.npz", help_heading = "Data")]
    pub like: Option<PathBuf>,
    /// Reconstruction of the scan: its patches are taken for true ones, and its probe and positions
    /// are used; goes with --mode supervised or mixed
    #[arg(long, value_name = "RECONSTRUCTION", help_heading = "Data")]
    pub teacher: Option<PathBuf>,
    /// Scan to validate on
    #[arg(long, value_name = "SCAN.npz", help_heading = "Data")]
    pub test_data_file: Option<PathBuf>,
    /// Fraction of the groups held out for validation where there is no test file [default: 0]
    #[arg(long, value_parser = finite, value_name = "FRACTION", help_heading = "Data")]
    pub validation_split: Option<f64>,
    /// Groups per epoch [default: all]
    #[arg(long, visible_alias = "n-groups", value_name = "GROUPS", help_heading = "Data")]
    pub n_images: Option<usize>,
    /// Which groups an epoch is made of, for gridsize 2 and 3 [default: neighbors]
    #[arg(long, ignore_case = true, help_heading = "Data")]
    pub grouping: Option<Grouping>,
    /// Nearest neighbours that a group is drawn from [default: 6, or 8 for gridsize 3]
    #[arg(long, value_name = "PATTERNS", help_heading = "Data")]
    pub neighbor_count: Option<usize>,
    /// Mean photons per pattern of data that are not in counts [default: the file's, else 1e9]
    #[arg(long, value_parser = finite, visible_alias = "n-photons", value_name = "PHOTONS", help_heading = "Data")]
    pub nphotons: Option<f64>,
    /// What the numbers in the file are [default: auto]
    #[arg(long, ignore_case = true, help_heading = "Data")]
    pub input_domain: Option<InputDomain>,
    /// Which axis of the pattern array counts the frames [default: auto]
    #[arg(long, ignore_case = true, help_heading = "Data")]
    pub order: Option<FrameOrder>,
    #[command(flatten)]
    #[serde(flatten)]
    pub reading: Reading,

    /// A group is the square of this many neighbouring patterns: 1, 2 or 3 [default: 1]
    #[arg(long, value_name = "G", help_heading = "Network")]
    pub gridsize: Option<usize>,
    /// The network [default: cnn]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub architecture: Option<Architecture>,
    /// Gridsize 2 and 3: what the network sees at once [default: together]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub group_input: Option<GroupInput>,
    /// cnn: factor on the channels of every layer [default: 2]
    #[arg(long, value_name = "S", help_heading = "Network")]
    pub n_filters_scale: Option<usize>,
    /// cnn: how the centre and the border of a patch are put together [default: joint]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub head: Option<Head>,
    /// What makes an amplitude of the last layer's numbers [default: softplus]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub amp_activation: Option<AmpActivation>,
    /// cnn: attention in the encoder [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Network")]
    pub cbam_encoder: Option<bool>,
    /// cnn: batch normalisation after the convolutions [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Network")]
    pub batch_norm: Option<bool>,
    /// Others than cnn: channels at full size [default: 32]
    #[arg(long, value_name = "CHANNELS", help_heading = "Network")]
    pub width: Option<usize>,
    /// Others than cnn: frequencies that a spectral layer keeps [default: 12]
    #[arg(long, value_name = "MODES", help_heading = "Network")]
    pub fourier_modes: Option<usize>,
    /// Others than cnn: amplitude and phase, or real and imaginary part [default: amp_phase]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub output_mode: Option<OutputMode>,
    /// fno, fno_vanilla, srunet: which of the columns' frequencies are kept [default: low]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub row_modes: Option<RowModes>,
    /// ffno, fno, fno_vanilla: spectral blocks [default: 4]
    #[arg(long, value_name = "BLOCKS", help_heading = "Network")]
    pub blocks: Option<usize>,
    /// ffno: one spectral layer for all blocks [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Network")]
    pub share_spectral_weights: Option<bool>,
    /// ffno: residual blocks of convolutions behind the spectral ones [default: 2]
    #[arg(long, value_name = "BLOCKS", help_heading = "Network")]
    pub refiners: Option<usize>,
    /// Weights of the patches of a group where they overlap [default: probe]
    #[arg(long, ignore_case = true, help_heading = "Network")]
    pub merge_weights: Option<MergeWeights>,

    /// Distance between measured and predicted pattern [default: poisson]
    #[arg(long, visible_alias = "torch-loss-mode", ignore_case = true, help_heading = "Loss")]
    pub loss: Option<Loss>,
    /// Learn from the patterns alone, from true patches (in the scan, of --teacher, of --synthetic),
    /// or from both [default: unsupervised]
    #[arg(long, ignore_case = true, help_heading = "Loss")]
    pub mode: Option<Mode>,
    /// Mixed mode: share of the true patches in the loss of the first epoch [default: 1]
    #[arg(long, value_parser = finite, value_name = "SHARE", help_heading = "Loss")]
    pub label_share: Option<f64>,
    /// Mixed mode: share of the true patches in the last epoch, linear in between [default: 0]
    #[arg(long, value_parser = finite, value_name = "SHARE", help_heading = "Loss")]
    pub label_share_end: Option<f64>,
    /// Weight of the total variation of the amplitude [default: 0]
    #[arg(long, value_parser = finite, value_name = "WEIGHT", help_heading = "Loss")]
    pub tv_amplitude: Option<f64>,
    /// Weight of the total variation of the phase [default: 0]
    #[arg(long, value_parser = finite, value_name = "WEIGHT", help_heading = "Loss")]
    pub tv_phase: Option<f64>,
    /// Weight of the mean deviation of the amplitude [default: 0]
    #[arg(long, value_parser = finite, value_name = "WEIGHT", help_heading = "Loss")]
    pub md_amplitude: Option<f64>,
    /// Weight of the mean deviation of the phase [default: 0]
    #[arg(long, value_parser = finite, value_name = "WEIGHT", help_heading = "Loss")]
    pub md_phase: Option<f64>,
    /// Photons per pixel added to every prediction, for dark pixels [default: 1e-6]
    #[arg(long, value_parser = finite, value_name = "PHOTONS", help_heading = "Loss")]
    pub epsilon_photons: Option<f64>,

    /// Rule that turns a gradient into a step [default: adam]
    #[arg(long, visible_alias = "optimiser", ignore_case = true, help_heading = "Optimiser")]
    pub optimizer: Option<Optimiser>,
    /// Learning rate before the schedule [default: 1e-3; ffno: 3e-3; srunet: 3e-4; less for
    /// steps of under 16 groups]
    #[arg(long, value_parser = finite, value_name = "RATE", help_heading = "Optimiser")]
    pub learning_rate: Option<f64>,
    /// Decay of Adam's first moment [default: 0.9]
    #[arg(long, value_parser = finite, value_name = "BETA", help_heading = "Optimiser")]
    pub adam_beta1: Option<f64>,
    /// Decay of Adam's second moment [default: 0.999]
    #[arg(long, value_parser = finite, value_name = "BETA", help_heading = "Optimiser")]
    pub adam_beta2: Option<f64>,
    /// Added to the root of Adam's second moment [default: 1e-8]
    #[arg(long, value_parser = finite, value_name = "EPSILON", help_heading = "Optimiser")]
    pub adam_epsilon: Option<f64>,
    /// Nesterov momentum of SGD [default: 0.9]
    #[arg(long, value_parser = finite, value_name = "MOMENTUM", help_heading = "Optimiser")]
    pub momentum: Option<f64>,
    /// L2 penalty (adam, sgd) or decoupled decay (adamw) of the weights [default: 0]
    #[arg(long, value_parser = finite, value_name = "DECAY", help_heading = "Optimiser")]
    pub weight_decay: Option<f64>,
    /// The learning rate over the epochs [default: cosine]
    #[arg(long, visible_alias = "scheduler", ignore_case = true, help_heading = "Optimiser")]
    pub schedule: Option<Schedule>,
    /// Exponential schedule: factor per epoch [default: 0.95]
    #[arg(long, value_parser = finite, value_name = "FACTOR", help_heading = "Optimiser")]
    pub exponential_decay: Option<f64>,
    /// Cosine schedule: epochs of linear warm-up [default: 0]
    #[arg(
        long,
        visible_alias = "lr-warmup-epochs",
        value_name = "EPOCHS",
        help_heading = "Optimiser"
    )]
    pub warmup_epochs: Option<usize>,
    /// Cosine schedule: last learning rate over the first [default: 0.05]
    #[arg(long, value_parser = finite, value_name = "RATIO", help_heading = "Optimiser")]
    pub lr_min_ratio: Option<f64>,
    /// Plateau schedule: factor on the learning rate [default: 0.5]
    #[arg(long, value_parser = finite, value_name = "FACTOR", help_heading = "Optimiser")]
    pub plateau_factor: Option<f64>,
    /// Plateau schedule: epochs without progress that are let pass [default: 2]
    #[arg(long, value_name = "EPOCHS", help_heading = "Optimiser")]
    pub plateau_patience: Option<usize>,
    /// Plateau schedule: lowest learning rate [default: 5e-5]
    #[arg(long, value_parser = finite, value_name = "RATE", help_heading = "Optimiser")]
    pub plateau_min_lr: Option<f64>,
    /// Plateau schedule: relative fall of the loss that counts as progress [default: 0]
    #[arg(long, value_parser = finite, value_name = "FRACTION", help_heading = "Optimiser")]
    pub plateau_threshold: Option<f64>,
    /// Limit on the gradient [default: none]
    #[arg(long, value_parser = finite, value_name = "LIMIT", help_heading = "Optimiser")]
    pub gradient_clip_val: Option<f64>,
    /// What the limit applies to [default: norm]
    #[arg(long, ignore_case = true, help_heading = "Optimiser")]
    pub gradient_clip_algorithm: Option<ClipAlgorithm>,
    /// Batches whose mean gradient makes one step [default: 1]
    #[arg(long, value_name = "BATCHES", help_heading = "Optimiser")]
    pub accumulate_grad_batches: Option<usize>,
    /// Learn the probe together with the object [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Optimiser")]
    pub probe_trainable: Option<bool>,
    /// Learning rate of the probe, in units of its rms amplitude [default: 2e-3]
    #[arg(long, value_parser = finite, value_name = "RATE", help_heading = "Optimiser")]
    pub probe_learning_rate: Option<f64>,
    /// Incoherent modes of the learned probe; new ones start weak [default: those of the scan]
    #[arg(long, value_name = "COUNT", help_heading = "Optimiser")]
    pub probe_modes: Option<usize>,

    /// Folder for checkpoints, history, run.json and log
    #[arg(long, value_name = "FOLDER", help_heading = "Run")]
    pub output_dir: Option<PathBuf>,
    /// Passes over the groups [default: 50]
    #[arg(long, value_name = "EPOCHS", help_heading = "Run")]
    pub max_epochs: Option<usize>,
    /// Groups per step [default: 16]
    #[arg(long, value_name = "GROUPS", help_heading = "Run")]
    pub batch_size: Option<usize>,
    /// Governs selection, grouping, first weights, shuffling and noise [default: 0]
    #[arg(long, value_name = "SEED", help_heading = "Run")]
    pub seed: Option<u64>,
    /// auto, cpu, cuda or cuda:INDEX [default: auto]
    #[arg(long, visible_alias = "accelerator", value_name = "DEVICE", help_heading = "Run")]
    pub device: Option<Device>,
    /// Of convolutions on a GPU: tf32 and bf16 are for tensor cores, auto means tf32 where the GPU has
    /// them; a resumed training keeps what it had [default: auto]
    #[arg(long, value_enum, ignore_case = true, value_name = "PRECISION", help_heading = "Run")]
    pub precision: Option<Precision>,
    /// Bytes of buffers that a training may take, such as 8e9; patterns that do not fit are streamed
    /// from memory [default: what the device has]
    #[arg(long, value_parser = bytes, value_name = "BYTES", help_heading = "Run")]
    pub device_memory_limit: Option<usize>,
    /// What becomes of a training when a loss or a gradient is infinite or no number [default: stop]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHAT", help_heading = "Run")]
    pub on_nonfinite: Option<OnNonfinite>,
    /// Memory of the machine that the run may take, such as 8e9, 16GB or 50%; a scan that does not fit
    /// is read from disk by batches, with the same result [default: what is free]
    #[arg(long, value_name = "BYTES", help_heading = "Run")]
    pub memory_limit: Option<memory::Limit>,
    /// Folder for a packed scan that does not fit in memory; nothing is left there [default: the
    /// output folder]
    #[arg(long, value_name = "FOLDER", help_heading = "Run")]
    pub scratch_dir: Option<PathBuf>,
    /// Stop after this many epochs without a better loss [default: never]
    #[arg(long, value_name = "EPOCHS", help_heading = "Run")]
    pub early_stop_patience: Option<usize>,
    /// Go on with an interrupted training: `auto`, a checkpoint or a run folder
    #[arg(long, value_name = "auto|PATH", help_heading = "Run",
          value_parser = |text: &str| Ok::<Resume, String>(Resume::from(text.to_string())))]
    pub resume: Option<Resume>,
    /// Start with the weights of a checkpoint or run folder, as a new training
    #[arg(long, value_name = "PATH", help_heading = "Run")]
    pub init_from: Option<PathBuf>,
    /// What hears of each epoch; several separated by commas [default: csv]
    #[arg(long, value_enum, value_delimiter = ',', help_heading = "Run")]
    pub logger: Option<Vec<Logger>>,
    /// Fail when the reconstruction has collapsed [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Run")]
    pub strict: Option<bool>,
    /// End with one line of JSON on stdout [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Run")]
    pub json: Option<bool>,
    /// Only warnings and errors on stderr [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Run")]
    pub quiet: Option<bool>,

    /// Show the training while it runs, on a page for this machine alone; 0: any free port
    #[arg(long, value_name = "PORT", help_heading = "Run")]
    #[serde(skip)]
    pub live: Option<u16>,
    /// Leave no report.html
    #[arg(long, help_heading = "Run")]
    #[serde(skip)]
    pub no_report: bool,

    #[command(flatten)]
    #[serde(skip)]
    pub compat: Compat,
}

/// Flags that scripts written for other programs carry, and that change nothing here.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Compat {
    /// Accepted: nothing is ever sent to a tracking server
    #[arg(long, help_heading = "Accepted without effect")]
    pub disable_mlflow: bool,
    /// Accepted: results are always the same for the same seed
    #[arg(long, overrides_with = "no_deterministic", help_heading = "Accepted without effect")]
    pub deterministic: bool,
    /// Accepted: results are the same for the same seed all the same
    #[arg(long, help_heading = "Accepted without effect")]
    pub no_deterministic: bool,
}

impl Compat {
    /// What to tell the person who gave such a flag.
    pub fn notes(&self) -> Vec<&'static str> {
        let notes = [
            (self.disable_mlflow, "--disable-mlflow has no effect: there is no tracking server"),
            (self.deterministic, "--deterministic has no effect: every run is deterministic"),
            (self.no_deterministic, "--no-deterministic has no effect: every run is deterministic"),
        ];
        notes.into_iter().filter(|(given, _)| *given).map(|(_, note)| note).collect()
    }
}

/// Trains, and leaves checkpoints, history and record in the output folder.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet.unwrap_or(false));
    let outcome = go(&args, Asked::by_signals);
    if let Err(error) = &outcome {
        report::log::last_words(error);
    }
    report::log::close_file();
    outcome.map(drop)
}

/// The job itself; the demo runs it too.
pub fn train(args: &Args) -> Result<Outcome> {
    go(args, || Ok(Asked::default()))
}

/// Nothing is written before everything that can be wrong with
/// the input has been looked at, and what an earlier run left in the folder is moved aside.
fn go(args: &Args, asked: impl FnOnce() -> Result<Asked>) -> Result<Outcome> {
    let started = Instant::now();
    let draft = config::draft(args)?.config;
    // The file may ask for quiet too.
    report::log::init(draft.run.quiet);
    args.compat.notes().iter().for_each(|note| log::info!("{note}"));
    let device = backend::choose(draft.run.device)?;
    // Before scans are read, which takes long.
    device.precision(draft.run.precision, graph::Precision::Fp32)?;
    let folder = &draft.run.output_dir;
    let _guard = OutputFolder::create(folder)?;
    let mut material = material(&draft, &device)?;
    if let Some(count) = draft.optimiser.probe_modes {
        let scans = material.train.iter_mut().chain(&mut material.test);
        scans.for_each(|scan| scan.probe = modes::with_count(scan.probe.view(), count));
    }
    let Material { train, test, .. } = &material;
    let facts = DatasetFacts {
        n: train[0].side(),
        nphotons: None,
        labels: train.iter().chain(test).all(|scan| scan.labels.is_some()),
    };
    let resolved = precision::decided(&config::resolve(args, &facts)?, &device)?;
    let mut record = RunRecord::new("train");
    record.configuration(&resolved).device(device.describe()).seed(resolved.config.run.seed);
    let like = material.supply.iter().map(Supply::like);
    let scans = train.iter().filter(|_| material.supply.is_none());
    scans.chain(like).chain(test).for_each(|scan| {
        record.input(scan);
    });
    record.timing("load_seconds", started.elapsed().as_secs_f64());
    let watched = watched(args, &resolved.config, train, &device)?;
    let planning = Instant::now();
    let mut trainer = Trainer::new(material, &resolved, &device)?;
    if let Some(watched) = watched {
        trainer.watch(watched);
    }
    record.timing("plan_seconds", planning.elapsed().as_secs_f64());
    record.set("plan_bytes", trainer.plan_bytes());
    match trainer.resumed_from() {
        Some(checkpoint) => {
            record.set("resumed_from", checkpoint.to_string_lossy());
            if !own(checkpoint, folder) {
                set_aside(folder)?;
            }
        }
        None => set_aside(folder)?,
    }
    report::log::open_file(folder.join("log.txt"))?;
    record.write(folder.join("run.json"))?;
    // Not before there is something to save: until then a signal may end the program.
    trainer.heed(asked()?);
    let training = Instant::now();
    let outcome = trainer.run(&folder.join("history.csv"))?;
    record.timing("training_seconds", training.elapsed().as_secs_f64());
    record.timing("total_seconds", started.elapsed().as_secs_f64());
    record.set("peak_memory_bytes", memory::peak());
    record.result("training", &outcome);
    record.write(folder.join("run.json"))?;
    finish(&outcome, folder, resolved.config.run.json, args.no_report)?;
    match &outcome.collapse {
        Some(collapse) if resolved.config.run.strict => Err(Error::Run(collapse.clone())),
        _ => Ok(outcome),
    }
}

/// The page that shows the training, where it is asked for.
fn watched(
    args: &Args,
    config: &TrainConfig,
    train: &[Scan],
    device: &Chosen,
) -> Result<Option<Watched>> {
    let Some(port) = args.live else { return Ok(None) };
    let name = page::name(&train[0]);
    let epochs = config.run.max_epochs;
    let facts = Facts { command: "train", name, epochs, checkpoints: true };
    Ok(Some(Watched::new(page::live(port, facts)?, &train[0], device)?))
}

/// Whether `checkpoint` is one of the run in `folder`, which is then gone on with.
fn own(checkpoint: &Path, folder: &Path) -> bool {
    let place = |path: &Path| path.canonicalize().ok();
    checkpoint.parent().is_some_and(|p| place(p) == place(&folder.join("checkpoints")))
}

/// What a training leaves in its folder.
const LEFT: [&str; 7] =
    ["checkpoints", "history.csv", "history.jsonl", "run.json", "log.txt", "loss.png", page::FILE];

/// Moves what an earlier training left in `folder` to `folder/previous-1`, or the next free number:
/// hours of work are never overwritten, and two runs never mixed.
fn set_aside(folder: &Path) -> Result<()> {
    if !folder.join("checkpoints").exists() && !folder.join("history.csv").exists() {
        return Ok(());
    }
    let names = (1..).map(|number| folder.join(format!("previous-{number}")));
    let aside = names.into_iter().find(|name| !name.exists()).expect("numbers do not run out");
    std::fs::create_dir(&aside).map_err(Error::io("create", &aside))?;
    let mut left: Vec<PathBuf> = LEFT.map(|name| folder.join(name)).to_vec();
    left.extend(loggers::event_files(folder)?);
    for from in left.iter().filter(|from| from.exists()) {
        let to = aside.join(from.file_name().expect("it was joined from a name"));
        std::fs::rename(from, &to).map_err(Error::io("move aside", from))?;
    }
    log::warn!(
        "{} held an earlier training, which is now in {}; to go on with it, --resume {}",
        folder.display(),
        aside.display(),
        aside.display()
    );
    Ok(())
}

/// Says how it went: the curve as a picture, the log, one line of JSON where asked for.
fn finish(outcome: &Outcome, folder: &Path, json: bool, no_report: bool) -> Result<()> {
    loss_curve(folder)?;
    match (&outcome.verdict, &outcome.collapse) {
        (Some(verdict), _) => verdict.say(),
        (None, Some(collapse)) => log::warn!("{collapse}"),
        (None, None) => {}
    }
    let figures = [("residual", outcome.residual), ("R factor", outcome.r_factor)];
    for (name, figure) in figures.iter().filter_map(|(n, f)| f.map(|f| (n, f))) {
        log::info!("{name} {figure:.4} (each pattern from its own patch)");
    }
    log::info!("checkpoints, history.csv and run.json are in {}", folder.display());
    page::leave(folder, no_report);
    if json {
        report::print_json(outcome)?;
    }
    Ok(())
}

/// Draws the losses of history.csv.
fn loss_curve(folder: &Path) -> Result<()> {
    history_curve(folder, &[("train_loss", "training"), ("val_loss", "validation")])
}

/// Draws columns of history.csv, each with its label, as loss.png.
pub(super) fn history_curve(folder: &Path, lines: &[(&str, &str)]) -> Result<()> {
    let table = report::history::read(folder.join("history.csv"))?;
    let column = |name: &str| table.columns.iter().position(|c| c == name);
    let series = |name: &str, label: &str| {
        let at = column(name)?;
        let points = table.rows.iter().map(|row| (row[0], row[at]));
        let points: Vec<_> = points.filter(|p| p.1.is_finite()).collect();
        (!points.is_empty()).then(|| Series { label: label.into(), points })
    };
    let all: Vec<Series> = lines.iter().filter_map(|(n, l)| series(n, l)).collect();
    let curve = Curve { title: "Loss", x_label: "epoch", y_label: "loss", log_y: true };
    report::write_curve(folder.join("loss.png"), &all, &curve)
}

/// A number of bytes, also as 8e9.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of bytes".to_string())?;
    if (1.0..9e15).contains(&value) {
        Ok(value as usize)
    } else {
        Err("not a number of bytes".into())
    }
}

/// A record of the run could not hold infinity or NaN, and no option means anything with them.
fn finite(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if value.is_finite() { Ok(value) } else { Err("not a finite number".into()) }
}
