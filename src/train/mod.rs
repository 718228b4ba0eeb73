//! Training: scans in, checkpoints and history out.
//!
//! [`Trainer`] holds one plan on one backend and goes through the epochs; everything that it draws
//! at random depends on (seed, purpose, epoch, index) alone, so a resumed training takes exactly
//! the steps of an uninterrupted one.

pub mod batch;
pub mod collapse;
mod nonfinite;
mod pause;
pub mod plan;
pub mod pool;
pub mod precision;
mod resume;
mod row;
mod saving;
pub mod schedule;
pub mod state;
mod steps;
pub mod synthetic;
pub mod teacher;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::backend::{Backend, Chosen};
use crate::checkpoint::Checkpoint;
use crate::config::{Resolved, TrainConfig};
use crate::data::scan::Scan;
use crate::graph::Stage;
use crate::metrics::{Evidence, Verdict};
use crate::models::plans::Training;
use crate::report::history::History;
use crate::report::loggers::Loggers;
use crate::report::{self, Progress as Bar};
use crate::{Error, Result};
use batch::{Batch, Share, Streamed};
use collapse::Structure;
use pause::Interrupts;
use pool::{Epoch, Member, Part, Pool};
use row::{COLUMNS, Row};
use state::Progress;
use synthetic::Supply;
pub use watch::Watched;

/// How a training ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub epochs: usize,
    pub steps: u64,
    pub train_loss: f64,
    pub val_loss: Option<f64>,
    pub best_loss: f64,
    pub best_epoch: usize,
    /// e = Σ(√I − √Î)² / ΣI over the patterns learned from, Î from each pattern's own patch.
    pub residual: Option<f64>,
    /// R = Σ|√I − √Î| / Σ√I over the same.
    pub r_factor: Option<f64>,
    /// What the end of the run looks like if the reconstruction has collapsed.
    pub collapse: Option<String>,
    /// How far the patches can be trusted; none where only true patches were learned from.
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    pub weights_sha256: String,
    pub patterns_per_second: f64,
}

/// What a training learns from.
pub struct Material {
    pub train: Vec<Scan>,
    pub test: Option<Scan>,
    /// Gives new patterns in every epoch; `train` are those of the first.
    pub supply: Option<Supply>,
    /// The labels are not part of the scan's file: they say nothing where no light falls.
    pub made_labels: bool,
    /// The probe is not that of the scan's file.
    pub made_probe: bool,
}

/// Patterns that change from epoch to epoch.
struct Supplied {
    supply: Supply,
    /// Epoch whose patterns are on the device.
    epoch: usize,
    test: Option<Scan>,
}

/// One training, ready to go through its epochs.
pub struct Trainer {
    config: TrainConfig,
    record: serde_json::Value,
    pool: Pool,
    step: Training,
    backend: Box<dyn Backend>,
    /// Patterns that the device cannot hold.
    streamed: Option<Streamed>,
    /// Where the patterns of the next epoch come from, if every epoch has its own.
    supply: Option<Supplied>,
    /// The probe is not that of the scan's file, so checkpoints have to hold it.
    made_probe: bool,
    progress: Progress,
    structure: Vec<(f64, Structure)>,
    folder: PathBuf,
    resumed_from: Option<PathBuf>,
    /// The page that shows the run while it goes on.
    watched: Option<Watched>,
    /// Who may ask for the end, or for a checkpoint.
    interrupts: Interrupts,
}

impl Trainer {
    /// Plans the step, allocates it, loads the patterns, and sets the first or the saved weights.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration out of range or of another side than the patterns,
    /// [`Error::Input`] for scans that are none ([`Scan::check`]) or lack the true patches that are learned
    /// from, and for a checkpoint of another training; those of the device.
    pub fn new(material: Material, resolved: &Resolved, device: &Chosen) -> Result<Trainer> {
        let resolved = &precision::decided(resolved, device)?;
        let config = resolved.config.clone();
        config.validate()?;
        let seed = config.run.seed;
        let Material { train, test, supply, made_labels, made_probe } = material;
        let mut pool = Pool::new(&train, test.as_ref(), &config.data, seed)?;
        if pool.side != config.model.n {
            return Err(Error::Config(format!(
                "--n is {}, but the patterns are {} pixels wide",
                config.model.n, pool.side
            )));
        }
        let unlabelled = train.iter().chain(&test).find(|scan| scan.labels.is_none());
        if let Some(scan) = unlabelled.filter(|_| config.loss.mode.sees_labels()) {
            let problem = "has no true patches, which --mode asks for: use --mode unsupervised";
            return Err(Error::input(&scan.source.path, problem));
        }
        if made_labels {
            pool.weigh_labels_by_light();
        }
        let supply = supply.map(|supply| Supplied { supply, epoch: 0, test: test.clone() });
        let scans = || train.iter().chain(&test);
        // A complex number is two.
        let in_memory = |scan: &Scan| {
            let patterns = if scan.amplitude.is_filed() { 0 } else { 4 * scan.pixels() };
            patterns + scan.labels.as_ref().map_or(0, |labels| 8 * labels.len() as u64)
        };
        let held = scans().map(in_memory).sum();
        let filed = scans().any(|scan| scan.amplitude.is_filed());
        let (step, streamed) = plan::plan(&config, &pool, device, held, filed)?;
        log::info!(
            "{} parameters, {:.0} MB of buffers for batches of {}",
            step.plan.elements(crate::graph::Role::Param),
            step.plan.arena as f64 * 4e-6,
            config.run.batch_size
        );
        let mut backend = device.open(step.plan.clone())?;
        let streamed = batch::load(backend.as_mut(), &step.inputs, &pool, train, test, streamed)?;
        for initial in &step.initial {
            let len = step.plan.slots[initial.value.0].len();
            backend.write(initial.value, &initial.numbers(seed, len))?;
        }
        for role in [crate::graph::Role::Moment1, crate::graph::Role::Moment2] {
            for (v, slot) in step.plan.of_role(role) {
                backend.write(v, &vec![0.0; slot.len()])?;
            }
        }
        let folder = config.run.output_dir.join("checkpoints");
        let record = serde_json::to_value(resolved).expect("configurations are JSON");
        let (progress, structure, resumed_from) = (Progress::default(), Vec::new(), None);
        let mut trainer = Trainer {
            config,
            record,
            pool,
            step,
            backend,
            streamed,
            supply,
            made_probe,
            progress,
            structure,
            folder,
            resumed_from,
            watched: None,
            interrupts: Interrupts::default(),
        };
        // Better known now than after the first epoch.
        trainer.epoch_groups(Part::Training, 0)?;
        trainer.epoch_groups(Part::Validation, 0)?;
        trainer.resume()?;
        trainer.init()?;
        Ok(trainer)
    }

    /// Bytes of the plan.
    pub fn plan_bytes(&self) -> usize {
        self.step.plan.bytes()
    }

    /// Shows the training while it goes on. What it computes does not depend on that.
    pub fn watch(&mut self, watched: Watched) {
        self.watched = Some(watched);
    }

    /// The checkpoint that this training goes on from.
    pub fn resumed_from(&self) -> Option<&Path> {
        self.resumed_from.as_deref()
    }

    /// Takes the patterns of an epoch to the device, where every epoch has its own.
    fn replenish(&mut self, epoch: usize) -> Result<()> {
        let Some(supplied) = self.supply.as_mut().filter(|s| s.epoch != epoch) else {
            return Ok(());
        };
        let scans = supplied.supply.take(epoch as u32)?;
        let seed = self.config.run.seed;
        let test = supplied.test.clone();
        let fresh = Pool::new(&scans, test.as_ref(), &self.config.data, seed)?;
        // What the network was built for stays: the scale of its input, and that of its loss.
        self.pool.members = fresh.members;
        let (backend, streamed) = (self.backend.as_mut(), self.streamed.is_some());
        self.streamed = batch::load(backend, &self.step.inputs, &self.pool, scans, test, streamed)?;
        supplied.epoch = epoch;
        Ok(())
    }

    /// Goes through the remaining epochs. `history` is the path of history.csv.
    pub fn run(&mut self, history: &Path) -> Result<Outcome> {
        let (path, run) = (history, history.parent().unwrap_or(Path::new("")).to_path_buf());
        let epochs = self.config.run.max_epochs;
        let (mut train_loss, mut val_loss) = (f64::NAN, None);
        let mut history = match &self.resumed_from {
            None => History::create(history, &COLUMNS)?,
            Some(checkpoint) => {
                if resume::carry_over(checkpoint, &self.folder, history)? {
                    // The weights of the best epoch so far are not to be had.
                    (self.progress.best_loss, self.progress.without_progress) = (None, 0);
                }
                // Epochs are counted from 1 in the file.
                let resumed = History::resume(history, &COLUMNS, self.progress.epoch + 1)?;
                let rows = report::history::read(history)?.rows;
                self.structure = rows.iter().map(|row| resume::structure(row)).collect();
                if let Some(last) = rows.last() {
                    train_loss = last[3];
                    val_loss = Some(last[4]).filter(|loss| !loss.is_nan());
                }
                if self.progress.epoch >= epochs {
                    let done = self.progress.epoch;
                    log::info!(
                        "nothing left to do: {done} epochs are done (--max-epochs {epochs})"
                    );
                }
                resumed
            }
        };
        let mut loggers =
            Loggers::open(&run, &self.config.run.logger, &report::history::read(path)?)?;
        let (mut patterns, mut seconds) = (0usize, 0.0);
        let first = self.epoch_groups(Part::Training, self.progress.epoch)?;
        let mut bar =
            Bar::new(epochs, first.len().div_ceil(self.config.run.batch_size), self.progress.epoch);
        drop(first);
        while self.progress.epoch < epochs && !self.stopped_early() && !self.stop_asked() {
            let started = Instant::now();
            let (row, better) = self.epoch(&mut bar)?;
            (train_loss, val_loss) = (row.train_loss, row.val_loss);
            let took = started.elapsed().as_secs_f64();
            (patterns, seconds) = (patterns + row.patterns, seconds + took);
            // The row first: killed in between, the epoch is done again and its row replaced.
            history.append(&row.columns(took))?;
            loggers.append(&row.columns(took))?;
            self.save(better)?;
            bar.end_epoch(&row.summary());
            self.show(&row, took)?;
        }
        self.finish(train_loss, val_loss, patterns as f64 / seconds.max(1e-9))
    }

    fn stopped_early(&self) -> bool {
        let patience = self.config.run.early_stop_patience;
        let stop = patience.is_some_and(|p| self.progress.without_progress >= p);
        if stop {
            let best = self.progress.best_epoch;
            log::info!("stopping: no better loss since epoch {best} (--early-stop-patience)");
        }
        stop
    }

    fn epoch_groups(&self, part: Part, epoch: usize) -> Result<Epoch> {
        let TrainConfig { model, data, run, .. } = &self.config;
        self.pool.epoch(part, model, data, run.seed, epoch as u32)
    }

    /// One epoch: all training batches, then validation. Also whether it is the best so far.
    fn epoch(&mut self, bar: &mut Bar) -> Result<(Row, bool)> {
        let epoch = self.progress.epoch;
        self.replenish(epoch)?;
        let groups = self.epoch_groups(Part::Training, epoch)?;
        let rate = self.config.optimiser.learning_rate
            * schedule::factor(
                &self.config.optimiser,
                &self.progress.schedule,
                epoch,
                self.config.run.max_epochs,
            );
        let begun = self.progress.within.take().unwrap_or_default();
        let skipped = begun.batches * self.config.run.batch_size * self.config.model.channels();
        let mut done = self.learn(&groups, rate, begun, bar)?;
        let structure = match done.structure {
            Some(structure) => structure,
            None => self.structure()?,
        };
        if done.skipped == groups.len() {
            let what = format!("no loss is finite in epoch {}", epoch + 1);
            return Err(self.not_finite(&what, ""));
        }
        let learned = (groups.len() - done.skipped) as f64;
        let (train_loss, norm) = (done.total / learned, done.norm);
        // From here on only validation is left, should the run be stopped.
        done.structure = Some(structure);
        self.progress.within = Some(done);
        let val_loss = self.validate()?;
        self.progress.within = None;
        let monitored = val_loss.unwrap_or(train_loss);
        let before = self.problem();
        self.structure.push((monitored, structure));
        // As soon as it is seen, so that nobody waits for the end in vain.
        if let (None, Some(problem)) = (before, self.problem()) {
            log::warn!("epoch {}: {problem}", self.progress.epoch + 1);
        }
        self.progress.epoch += 1;
        schedule::observe(&self.config.optimiser, &mut self.progress.schedule, monitored);
        if !monitored.is_finite() {
            return Err(self.not_finite(&format!("the loss is {monitored} in the validation"), ""));
        }
        let better =
            !self.comparable() || self.progress.best_loss.is_none_or(|best| monitored < best);
        if better {
            self.progress.best_loss = Some(monitored);
            self.progress.best_epoch = self.progress.epoch;
            self.progress.without_progress = 0;
        } else {
            self.progress.without_progress += 1;
        }
        let patterns = groups.index.len().saturating_sub(skipped);
        let (epoch, step) = (self.progress.epoch, self.progress.step);
        let row = Row { epoch, step, rate, train_loss, val_loss, norm, structure, patterns };
        Ok((row, better))
    }

    /// Mean loss over the validation groups, if there are any.
    fn validate(&mut self) -> Result<Option<f64>> {
        let groups = self.epoch_groups(Part::Validation, 0)?;
        if groups.is_empty() {
            return Ok(None);
        }
        let mut total = 0.0;
        self.forward(&groups, |trainer, _, in_step| {
            total += f64::from(trainer.backend.read(trainer.step.loss)?[0]) * in_step as f64;
            Ok(())
        })?;
        Ok(Some(total / groups.len() as f64))
    }

    /// Runs the forward stage over `groups` and lets `look` read the result of each batch.
    fn forward(
        &mut self,
        groups: &Epoch,
        mut look: impl FnMut(&mut Trainer, &Batch, usize) -> Result<()>,
    ) -> Result<()> {
        let size = self.config.run.batch_size;
        self.backend.write(self.step.inputs.training, &[0.0])?;
        for at in (0..groups.len()).step_by(size) {
            self.pause_if_due()?;
            let batch = Batch::new(groups, at, size, self.config.model.channels());
            // Epochs are comparable: the share of true patches is that of the end.
            let labels = self.config.loss.label_share_end;
            self.write(&batch, Share { groups: batch.len(), labels })?;
            self.backend.run(Stage::Forward)?;
            let count = batch.len();
            look(self, &batch, count)?;
        }
        Ok(())
    }

    /// Mean and spread of the patches in the batch that was run last.
    fn structure(&mut self) -> Result<Structure> {
        let [amplitude, phase] = self.step.patch;
        let (amplitude, phase) = (self.backend.read(amplitude)?, self.backend.read(phase)?);
        Ok(Structure::of(&amplitude, &phase, &self.pool.illumination(), self.pool.side))
    }

    /// Data-space figures over the patterns of the first epoch's groups.
    fn figures(&mut self) -> Result<Option<batch::Sums>> {
        let Some(intensity) = self.step.intensity else { return Ok(None) };
        let groups = self.epoch_groups(Part::Training, 0)?;
        let mut sums = batch::Sums::default();
        self.forward(&groups, |trainer, batch, _| {
            let predicted = trainer.backend.read(intensity)?;
            let measured = trainer.backend.read(trainer.step.amplitude)?;
            sums.add(&trainer.pool, batch, &predicted, &measured);
            Ok(())
        })?;
        Ok(Some(sums))
    }

    /// Whether the loss of one epoch can be held against that of another: not where the loss itself changes.
    fn comparable(&self) -> bool {
        let validated = |member: &Member| !member.kept[Part::Validation as usize].is_empty();
        self.pool.members.iter().any(validated) || !self.config.loss.changes()
    }

    /// What has gone wrong so far, if anything.
    fn problem(&self) -> Option<String> {
        let exploded = self.comparable().then(|| collapse::explosion(&self.structure)).flatten();
        exploded.or_else(|| collapse::collapse(&self.structure))
    }

    fn finish(&mut self, train_loss: f64, val_loss: Option<f64>, rate: f64) -> Result<Outcome> {
        let figures = self.figures()?;
        let collapse = self.problem();
        let verdict = figures.map(|sums| {
            let (residual, floor) = (sums.residual(), sums.floor());
            Verdict::of(&Evidence { residual, floor, spread: None, collapse: collapse.as_deref() })
        });
        let tensors = state::tensors(self.backend.as_mut())?;
        let weights = Checkpoint { tensors, metadata: serde_json::Value::Null };
        Ok(Outcome {
            epochs: self.progress.epoch,
            steps: self.progress.step,
            train_loss,
            val_loss,
            best_loss: self.progress.best_loss.unwrap_or(f64::NAN),
            best_epoch: self.progress.best_epoch,
            residual: figures.map(|sums| sums.residual()),
            r_factor: figures.map(|sums| sums.r_factor()),
            collapse,
            verdict,
            weights_sha256: weights.weights_digest(""),
            patterns_per_second: rate,
        })
    }
}
