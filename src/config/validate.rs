//! The allowed range of every value. All problems are reported at once: nobody likes to find
//! them one run at a time.

use std::path::Path;

use super::{
    Architecture, DataConfig, DatasetFacts, Grouping, Loss, LossConfig, Mode, ModelConfig,
    OptimiserConfig, Origin, OutputMode, Resolved, RunConfig, Schedule, TrainConfig,
};
use crate::reconstruct::modes::MOST;
use crate::{Error, Result};

/// (field, what is wrong and what to do).
type Problems = Vec<(&'static str, String)>;

/// Larger networks than this are not taken from files: no machine trains them.
const MAX_STORED: usize = 1024;
const MAX_SCALE: usize = 64;

/// What is said of an option that would do nothing with single patterns.
const OF_GROUPS: &str =
    "is about groups of patterns, but --gridsize is 1; leave it out, or add --gridsize 2";

pub(super) fn check(
    resolved: &Resolved,
    dataset: Option<&DatasetFacts>,
    file: Option<&Path>,
) -> Result<()> {
    let mut problems = Problems::new();
    if let Some(facts) = dataset {
        against_dataset(&mut problems, &resolved.config, facts);
    }
    ranges(&mut problems, &resolved.config);
    report(problems, |field| match (resolved.origins.get(field), file) {
        (Some(Origin::File), Some(path)) => format!(" (set in {})", path.display()),
        _ => String::new(),
    })
}

impl TrainConfig {
    /// Whether every value lies in its range, for configurations that were not resolved but built
    /// or read from a checkpoint.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::new();
        ranges(&mut problems, self);
        side(&mut problems, self.model.n);
        report(problems, |_| String::new())
    }
}

fn report(problems: Problems, remark: impl Fn(&str) -> String) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let line = |(field, text): &(&str, String)| {
        format!("--{} {text}{}", field.replace('_', "-"), remark(field))
    };
    Err(Error::Config(problems.iter().map(line).collect::<Vec<_>>().join("\n       ")))
}

fn ranges(problems: &mut Problems, config: &TrainConfig) {
    model(problems, &config.model);
    loss(problems, &config.loss);
    together(problems, config);
    optimiser(problems, &config.optimiser);
    schedule(problems, &config.optimiser, config.run.max_epochs);
    data(problems, &config.data, config.model.channels());
    run(problems, &config.run);
}

fn against_dataset(problems: &mut Problems, config: &TrainConfig, facts: &DatasetFacts) {
    if config.model.n != facts.n {
        let text = format!(
            "is {}, but the patterns of the data set are {} pixels wide; leave it out",
            config.model.n, facts.n
        );
        problems.push(("n", text));
    }
    side(problems, facts.n);
    if config.loss.mode.sees_labels() && !facts.labels {
        let text = "needs true patches, but the data set carries none (key `Y` or `label`, which is not \
                    read of a scan that does not fit in memory); give a --teacher, or use --mode unsupervised";
        problems.push(("mode", text.into()));
    }
}

fn side(problems: &mut Problems, n: usize) {
    if ![64, 128, 256].contains(&n) {
        let text = format!(
            "(side of the patterns) is {n} pixels, but the network takes 64, 128 or 256; crop, bin \
             or pad the patterns and the probe"
        );
        problems.push(("n", text));
    }
}

fn model(problems: &mut Problems, model: &ModelConfig) {
    if !(1..=3).contains(&model.gridsize) {
        let text = format!(
            "is {}, but must be 1, 2 or 3 (groups of 1, 4 or 9 patterns); start with 1",
            model.gridsize
        );
        problems.push(("gridsize", text));
    }
    positive(problems, "n_filters_scale", model.n_filters_scale, "2 is the default");
    positive(problems, "width", model.width, "32 is the default");
    positive(problems, "blocks", model.blocks, "4 is the default");
    let most = model.n / 2;
    if !(1..=most).contains(&model.fourier_modes) {
        let text = format!(
            "is {}, but must be from 1 to {most}, half the side of the patterns; 12 is the default",
            model.fourier_modes
        );
        problems.push(("fourier_modes", text));
    }
    if model.gridsize == 1 {
        let usual = ModelConfig::default();
        let changed = [
            ("group_input", model.group_input != usual.group_input),
            ("merge_weights", model.merge_weights != usual.merge_weights),
        ];
        for (field, _) in changed.into_iter().filter(|(_, changed)| *changed) {
            problems.push((field, OF_GROUPS.into()));
        }
    }
    foreign(problems, model);
}

/// Options that another architecture has, and that would do nothing.
fn foreign(problems: &mut Problems, model: &ModelConfig) {
    use Architecture::{Cnn, Ffno, Fno, FnoVanilla, Srunet};
    let usual = ModelConfig::default();
    let spectral: &[Architecture] = &[Ffno, Fno, FnoVanilla, Srunet];
    let options: [(&'static str, bool, &[Architecture]); 11] = [
        ("n_filters_scale", model.n_filters_scale != usual.n_filters_scale, &[Cnn]),
        ("head", model.head != usual.head, &[Cnn]),
        ("cbam_encoder", model.cbam_encoder != usual.cbam_encoder, &[Cnn]),
        ("batch_norm", model.batch_norm != usual.batch_norm, &[Cnn]),
        ("width", model.width != usual.width, spectral),
        ("fourier_modes", model.fourier_modes != usual.fourier_modes, spectral),
        ("output_mode", model.output_mode != usual.output_mode, spectral),
        ("blocks", model.blocks != usual.blocks, &[Ffno, Fno, FnoVanilla]),
        ("row_modes", model.row_modes != usual.row_modes, &[Fno, FnoVanilla, Srunet]),
        (
            "share_spectral_weights",
            model.share_spectral_weights != usual.share_spectral_weights,
            &[Ffno],
        ),
        ("refiners", model.refiners != usual.refiners, &[Ffno]),
    ];
    if model.output_mode == OutputMode::RealImag && model.amp_activation != usual.amp_activation {
        let text = "makes amplitudes, which --output-mode real_imag does not give; leave it out";
        problems.push(("amp_activation", text.into()));
    }
    for (field, changed, of) in options {
        if changed && !of.contains(&model.architecture) {
            let names: Vec<String> = of.iter().map(Architecture::to_string).collect();
            let text = format!(
                "belongs to the architecture {}, but --architecture is {}; leave it out, or choose \
                 another architecture",
                names.join(", "),
                model.architecture
            );
            problems.push((field, text));
        }
    }
}

impl ModelConfig {
    /// Whether every value lies in its range and belongs to the architecture.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::new();
        model(&mut problems, self);
        side(&mut problems, self.n);
        report(problems, |_| String::new())
    }

    /// The same for a network that a file describes, whose size is bounded too: a file may say anything, and
    /// the network is planned before its weights are looked at. Error: one sentence.
    pub fn validate_stored(&self) -> Result<(), String> {
        if let Err(error) = self.validate() {
            // All that is wrong stands on lines of their own; the first is enough.
            return Err(error.to_string().lines().next().unwrap_or_default().to_owned());
        }
        let &ModelConfig { n_filters_scale, width, blocks, refiners, .. } = self;
        match width.max(blocks).max(refiners) {
            _ if n_filters_scale > MAX_SCALE => {
                Err(format!("has {n_filters_scale} times the channels, more than {MAX_SCALE}"))
            }
            size if size > MAX_STORED => {
                Err(format!("has {size} channels, blocks or refiners, more than {MAX_STORED}"))
            }
            _ => Ok(()),
        }
    }
}

fn loss(problems: &mut Problems, loss: &LossConfig) {
    let weights = [
        ("tv_amplitude", loss.tv_amplitude),
        ("tv_phase", loss.tv_phase),
        ("md_amplitude", loss.md_amplitude),
        ("md_phase", loss.md_phase),
    ];
    for (field, weight) in weights {
        within(problems, field, weight, weight >= 0.0, "0 or more; 0 switches it off");
    }
    for (field, share) in
        [("label_share", loss.label_share), ("label_share_end", loss.label_share_end)]
    {
        within(problems, field, share, (0.0..=1.0).contains(&share), "from 0 to 1");
    }
    let epsilon = loss.epsilon_photons;
    within(problems, "epsilon_photons", epsilon, epsilon > 0.0, "above 0; 1e-6 is the default");
    if loss.mode == Mode::Supervised && loss.kind != Loss::Mae {
        let text = "is poisson, but --mode supervised compares with true patches, which are no \
                    photon counts; add --loss mae";
        problems.push(("loss", text.into()));
    }
}

/// Options of several sections that contradict each other.
fn together(problems: &mut Problems, config: &TrainConfig) {
    let TrainConfig { model, optimiser, data, run, .. } = config;
    let mut refuse = |field, text: &str| problems.push((field, text.into()));
    if model.gridsize == 1 && data.grouping != Grouping::default() {
        refuse("grouping", OF_GROUPS);
    }
    if data.synthetic.is_some() && optimiser.probe_trainable {
        refuse(
            "probe_trainable",
            "learns a probe that is a guess, but --synthetic simulates with the probe as it is; \
             leave it to the training on the scan",
        );
    }
    if let Some(count) = optimiser.probe_modes {
        if !optimiser.probe_trainable {
            refuse("probe_modes", "adds modes that have to be learned; add --probe-trainable");
        }
        if !(1..=MOST).contains(&count) {
            let text = format!("is {count}, but must be from 1 to {MOST}");
            refuse("probe_modes", &text);
        }
    }
    if run.init_from.is_some() && run.resume.is_some() {
        refuse("init_from", "starts a new training, --resume goes on with one; give one of them");
    }
}

fn optimiser(problems: &mut Problems, o: &OptimiserConfig) {
    let unit = "at least 0 and below 1";
    let fraction = |x: f64| (0.0..1.0).contains(&x);
    let rate = o.learning_rate;
    within(problems, "learning_rate", rate, rate > 0.0, "above 0; 1e-3 is the default");
    within(problems, "adam_beta1", o.adam_beta1, fraction(o.adam_beta1), unit);
    within(problems, "adam_beta2", o.adam_beta2, fraction(o.adam_beta2), unit);
    let epsilon = o.adam_epsilon;
    within(problems, "adam_epsilon", epsilon, epsilon > 0.0, "above 0; 1e-8 is the default");
    within(problems, "momentum", o.momentum, fraction(o.momentum), unit);
    let decay = o.weight_decay;
    within(problems, "weight_decay", decay, decay >= 0.0, "0 or more; 0 switches it off");
    if let Some(clip) = o.gradient_clip_val {
        let range = "above 0; leave it out for no clipping";
        within(problems, "gradient_clip_val", clip, clip > 0.0, range);
    }
    positive(problems, "accumulate_grad_batches", o.accumulate_grad_batches, "1 = every batch");
    let rate = o.probe_learning_rate;
    within(problems, "probe_learning_rate", rate, rate > 0.0, "above 0; 2e-3 is the default");
}

fn schedule(problems: &mut Problems, o: &OptimiserConfig, max_epochs: usize) {
    let decay = o.exponential_decay;
    let range = "above 0 and at most 1; 0.95 is the default";
    within(problems, "exponential_decay", decay, decay > 0.0 && decay <= 1.0, range);
    let ratio = o.lr_min_ratio;
    within(problems, "lr_min_ratio", ratio, (0.0..=1.0).contains(&ratio), "from 0 to 1");
    let factor = o.plateau_factor;
    let range = "above 0 and below 1; 0.5 halves the learning rate";
    within(problems, "plateau_factor", factor, factor > 0.0 && factor < 1.0, range);
    let floor = o.plateau_min_lr;
    within(problems, "plateau_min_lr", floor, floor >= 0.0, "0 or more");
    let threshold = o.plateau_threshold;
    let inside = (0.0..1.0).contains(&threshold);
    within(problems, "plateau_threshold", threshold, inside, "at least 0 and below 1");
    if o.schedule == Schedule::Cosine && o.warmup_epochs >= max_epochs {
        let text = format!(
            "is {}, but must be below --max-epochs, which is {max_epochs}; the cosine follows the \
             warm-up",
            o.warmup_epochs
        );
        problems.push(("warmup_epochs", text));
    }
}

fn data(problems: &mut Problems, data: &DataConfig, channels: usize) {
    sources(problems, data);
    if let Some(groups) = data.n_images {
        positive(problems, "n_images", groups, "leave it out for all groups");
    }
    if data.neighbor_count + 1 < channels {
        let text = format!(
            "is {}, but a group of {channels} patterns needs at least {} neighbours",
            data.neighbor_count,
            channels - 1
        );
        problems.push(("neighbor_count", text));
    }
    if let Some(photons) = data.nphotons {
        let range = "above 0: the mean photons per pattern, such as 1e9";
        within(problems, "nphotons", photons, photons > 0.0, range);
    }
    let split = data.validation_split;
    let range = "at least 0 and below 1, such as 0.1; 0 holds nothing out";
    within(problems, "validation_split", split, (0.0..1.0).contains(&split), range);
    if split > 0.0 && data.test_data_file.is_some() {
        let text = format!("is {split}, but --test-data-file validates already; give one of them");
        problems.push(("validation_split", text));
    }
}

/// What there is to learn from.
fn sources(problems: &mut Problems, data: &DataConfig) {
    let scans = !data.train_data_file.is_empty();
    let mut refuse = |field, text: &str| problems.push((field, text.into()));
    match (data.synthetic, &data.like) {
        (None, None) if !scans => refuse(
            "train_data_file",
            "is missing: name the scan to learn from, or give --synthetic and --like",
        ),
        (Some(_), _) if scans => refuse(
            "synthetic",
            "takes the place of --train-data-file: learn from simulated patterns first, and from \
             the scan in a second training with --init-from",
        ),
        (Some(0), _) => refuse("synthetic", "is 0, but must be at least 1 pattern per epoch"),
        (Some(_), None) => refuse("synthetic", "needs --like SCAN, which gives probe and dose"),
        (None, Some(_)) => refuse("like", "needs --synthetic PATTERNS"),
        _ => {}
    }
    if data.teacher.is_some() && data.train_data_file.len() > 1 {
        refuse("teacher", "is the reconstruction of one scan, but several are learned from");
    }
    if data.teacher.is_some() && data.synthetic.is_some() {
        refuse("teacher", "is of a scan, but --synthetic makes its own patches");
    }
}

fn run(problems: &mut Problems, run: &RunConfig) {
    if run.output_dir.as_os_str().is_empty() {
        problems.push(("output_dir", "is missing: name a folder for the results".into()));
    }
    positive(problems, "max_epochs", run.max_epochs, "50 is the default");
    positive(problems, "batch_size", run.batch_size, "16 is the default");
    if let Some(patience) = run.early_stop_patience {
        positive(problems, "early_stop_patience", patience, "leave it out to never stop early");
    }
}

fn positive(problems: &mut Problems, field: &'static str, value: usize, advice: &str) {
    if value == 0 {
        problems.push((field, format!("is 0, but must be at least 1; {advice}")));
    }
}

fn within(problems: &mut Problems, field: &'static str, value: f64, inside: bool, range: &str) {
    if !(inside && value.is_finite()) {
        problems.push((field, format!("is {value}, but must be {range}")));
    }
}
