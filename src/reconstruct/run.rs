//! The epochs of one run: order, rates, and what is done when the loss rises or stands still.

use std::path::Path;
use std::time::Instant;

use num_complex::Complex32;

use super::solve::Job;
use super::{Outcome, Watch, modes};
use crate::graph::{Group, Role, Stage, Value};
use crate::models::object::BETAS;
use crate::models::plans::RING;
use crate::random::{Purpose, Stream};
use crate::report::Progress as Bar;
use crate::report::history::History;
use crate::report::live::{Epoch, Live};
use crate::signals::Asked;
use crate::{Error, Result};

/// The rates end at this part of what they began with.
const LAST_RATE: f64 = 0.02;

/// An epoch whose loss is this many times the best one has diverged.
const DIVERGED: f64 = 2.0;

/// Rates that were halved so often are no use.
const MOST_HALVINGS: usize = 12;

/// Steps over which the rates rise at the start: the first step of Adam is a full one for every
/// pixel, whatever its gradient.
const WARM_UP: f64 = 20.0;

/// A final loss above the best one by this factor is not kept.
const WORSE: f64 = 1.02;

/// Part of the epochs in which positions stay where they are: an object of ones says nothing about
/// them.
const POSITIONS_WAIT: f64 = 0.05;

/// Part of the epochs in which the rates fall to their end once the loss stands still.
const ENDING: f64 = 0.1;

/// Power that the probe may gain or lose before it is set back, relative.
const POWER_SLACK: f64 = 1e-3;

/// Columns of history.csv.
const COLUMNS: [&str; 6] = ["epoch", "step", "rate", "loss", "patterns_per_second", "seconds"];

/// How far a run has come.
#[derive(Clone, Debug)]
pub(super) struct State {
    epoch: usize,
    step: u64,
    /// Factor on all rates: 1/2 for each divergence.
    damping: f64,
    halvings: usize,
    /// Whether the last epoch diverged.
    failed: bool,
    losses: Vec<f64>,
    /// Loss of the very first batch, before any step; of all batches, where that had to be known.
    first_loss: Option<f64>,
    first_of_all: bool,
    /// The epoch after which the rates fall to their end, and the factor that they fall from.
    ending: Option<(usize, f64)>,
}

impl Default for State {
    fn default() -> State {
        State {
            epoch: 0,
            step: 0,
            damping: 1.0,
            halvings: 0,
            failed: false,
            losses: Vec::new(),
            first_loss: None,
            first_of_all: false,
            ending: None,
        }
    }
}

/// The parameters and their moments at the end of an epoch.
#[derive(Clone)]
struct Snapshot {
    values: Vec<(Value, Vec<f32>)>,
    loss: f64,
}

impl Job<'_> {
    /// All epochs. `history` is the path of history.csv.
    pub fn run(&mut self, history: Option<&Path>, watch: Watch) -> Result<Outcome> {
        let live = watch.live;
        let started = Instant::now();
        let mut history = history.map(|path| History::create(path, &COLUMNS)).transpose()?;
        let frames = self.start.indices.len();
        let mut bar = Bar::new(self.options.epochs, frames.div_ceil(self.batch), 0);
        let first = self.snapshot(f64::INFINITY)?;
        let mut good = first.clone();
        while self.state.epoch < self.last_epoch() && !watch.stop_asked() {
            let began = Instant::now();
            let rate = self.rate(0.0);
            let loss = self.epoch(&mut bar)?;
            if self.diverged(loss, good.loss) && loss.is_finite() && !self.state.first_of_all {
                self.measure_start(&first)?;
            }
            if self.diverged(loss, good.loss) {
                good = self.step_back(good, &first, loss)?;
                continue;
            }
            self.tidy(false)?;
            self.state.failed = false;
            self.state.epoch += 1;
            self.state.losses.push(loss);
            if loss <= good.loss {
                good = self.snapshot(loss)?;
            }
            let seconds = began.elapsed().as_secs_f64();
            if let Some(history) = &mut history {
                let speed = frames as f64 / seconds.max(1e-9);
                let (epoch, step) = (self.state.epoch as f64, self.state.step as f64);
                history.append(&[epoch, step, rate, loss, speed, seconds])?;
            }
            bar.end_epoch(&format!("loss {loss:.5}"));
            if let Some(live) = live {
                self.show(live, loss, seconds)?;
            }
            self.watch();
        }
        if self.state.losses.last().is_some_and(|&last| last > WORSE * good.loss) {
            good.restore(self)?;
            self.state.losses.push(good.loss);
        }
        self.tidy(true)?;
        self.outcome(started.elapsed().as_secs_f64())
    }

    fn diverged(&self, loss: f64, good: f64) -> bool {
        let limit = DIVERGED * good.min(self.state.first_loss.unwrap_or(f64::INFINITY));
        !(loss.is_finite() && loss <= limit)
    }

    /// The first batch may have been an easy one: notes what all patterns began with.
    fn measure_start(&mut self, first: &Snapshot) -> Result<()> {
        let now = self.snapshot(f64::NAN)?;
        first.restore(self)?;
        let loss = self.pass(Stage::Backward, |_, _| ())?;
        self.state.first_loss = Some(loss);
        self.state.first_of_all = true;
        now.restore(self)
    }

    /// Shows the epoch that has just ended, and now and then the object as it is.
    fn show(&mut self, live: &Live, loss: f64, seconds: f64) -> Result<()> {
        let patterns_per_second = self.start.indices.len() as f64 / seconds.max(1e-9);
        let (epoch, validation) = (self.state.epoch, None);
        live.epoch(Epoch { epoch, loss, validation, patterns_per_second });
        if live.wants_picture() {
            let began = Instant::now();
            let now = self.finish()?;
            live.picture(&now.seen(&now.lit()), began);
        }
        Ok(())
    }

    fn outcome(&mut self, seconds: f64) -> Result<Outcome> {
        let probe = self.read_probe()?;
        let frames = self.start.indices.len();
        Ok(Outcome {
            epochs: self.state.epoch,
            steps: self.state.step,
            loss: self.state.losses.last().copied().unwrap_or(f64::NAN),
            stopped_early: self.state.epoch < self.options.epochs,
            halvings: self.state.halvings,
            mode_powers: modes::powers(probe.view()),
            moves: None,
            losses: self.state.losses.clone(),
            patterns_per_second: (self.state.epoch * frames) as f64 / seconds.max(1e-9),
            seconds,
        })
    }

    /// Epochs in which the rates fall to their end once the loss stands still.
    fn ending_epochs(&self) -> usize {
        ((ENDING * self.options.epochs as f64).ceil() as usize).max(1)
    }

    fn last_epoch(&self) -> usize {
        let ending = self.state.ending.map(|(epoch, _)| epoch + self.ending_epochs());
        ending.unwrap_or(usize::MAX).min(self.options.epochs)
    }

    /// Factor on the rates, a part `within` the present epoch: half a cosine.
    fn rate(&self, within: f64) -> f64 {
        let now = self.state.epoch as f64 + within;
        let (first, epochs, from) = match self.state.ending {
            None => (0, self.options.epochs, 1.0),
            Some((epoch, factor)) => (epoch, self.last_epoch() - epoch, factor),
        };
        let t = (now - first as f64) / epochs as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * t).cos());
        let end = LAST_RATE.min(from);
        self.state.damping * (end + (from - end) * cosine)
    }

    fn epoch(&mut self, bar: &mut Bar) -> Result<f64> {
        self.pass(Stage::Update, |patterns, loss| bar.step(patterns, Some(loss)))
    }

    /// One pass over the patterns, each batch up to the stage `last`; the mean loss, or the first that is not
    /// finite. Patterns and loss of every batch are shown to `see`.
    fn pass(&mut self, last: Stage, mut see: impl FnMut(usize, f64)) -> Result<f64> {
        let (frames, size) = (self.start.indices.len(), self.batch);
        let epoch = u32::try_from(self.state.epoch).expect("epochs are few");
        let mut order = Stream::new(self.options.seed, Purpose::Shuffle, epoch).permutation(frames);
        order.resize(frames.next_multiple_of(size), order[0]);
        let batches = order.len() / size;
        let patience = self.backend.patience().min(RING);
        let (mut total, mut unseen) = (0.0, Vec::with_capacity(patience));
        for (at, members) in order.chunks_exact(size).enumerate() {
            let real = size.min(frames - at * size);
            self.write_batch(members, real)?;
            self.backend.write(self.step.buffers.slot, &[unseen.len() as f32])?;
            if last == Stage::Update {
                self.write_rates(at as f64 / batches as f64)?;
            }
            self.backend.run_stages(Stage::Forward..=last)?;
            unseen.push(real);
            if unseen.len() == patience || at == batches - 1 {
                let losses = self.backend.read(self.step.losses)?;
                for (&real, loss) in unseen.iter().zip(losses) {
                    if !loss.is_finite() {
                        return Ok(loss.into());
                    }
                    self.state.first_loss.get_or_insert(loss.into());
                    total += f64::from(loss) * real as f64;
                    see(real, loss.into());
                }
                unseen.clear();
            }
        }
        Ok(total / frames as f64)
    }

    /// The `real` first of `members` are patterns of this step, the others padding.
    fn write_batch(&mut self, members: &[usize], real: usize) -> Result<()> {
        let index = match &mut self.streamed {
            Some(streamed) => streamed.upload(self.backend.as_mut(), members)?,
            None => members.to_vec(),
        };
        let floats = |all: &[usize]| all.iter().map(|&i| i as f32).collect::<Vec<_>>();
        self.backend.write(self.step.buffers.index, &floats(&index))?;
        self.backend.write(self.step.buffers.member, &floats(members))?;
        let weight = |b: usize| if b < real { 1.0 / real as f32 } else { 0.0 };
        let weights: Vec<f32> = (0..members.len()).map(weight).collect();
        self.backend.write(self.step.buffers.weight, &weights)
    }

    /// Counts one more step of the optimiser, and writes its rates.
    fn write_rates(&mut self, within: f64) -> Result<()> {
        self.state.step += 1;
        let t = i32::try_from(self.state.step).unwrap_or(i32::MAX);
        let biases = BETAS.map(|beta| (1.0 - beta.powi(t)) as f32);
        let warm = (f64::from(t) / WARM_UP).min(1.0);
        let (factor, rates) = (warm * self.rate(within), self.options.rates);
        let pixels = (self.side * self.side) as f64;
        let wait = (POSITIONS_WAIT * self.options.epochs as f64).ceil() as usize;
        let settled = self.start.object.is_some() || self.state.epoch >= wait;
        for &(group, control) in &self.step.rates {
            let rate = match group {
                Group::Object => rates.object,
                // They settle first: noise in a smooth part is noise in many pixels.
                Group::Smooth => rates.smooth * self.rate(within) / self.state.damping,
                Group::Probe => rates.probe * (self.power / pixels).sqrt(),
                Group::Positions if settled => rates.positions,
                Group::Positions => 0.0,
                Group::Exposure => rates.frame_scale,
                Group::Background => rates.background * self.rms_pattern,
                Group::Network => unreachable!("there is no network"),
            };
            self.backend.write(control, &[(factor * rate) as f32, biases[0], biases[1]])?;
        }
        Ok(())
    }

    /// What is put right on the host between two epochs, and in full at the `end`.
    fn tidy(&mut self, end: bool) -> Result<()> {
        if self.options.refine_positions {
            let limit = self.options.max_shift as f32;
            let mut shifts = self.backend.read(self.step.buffers.shifts)?;
            for (shift, &first) in shifts.iter_mut().zip(&self.first_shifts) {
                *shift = shift.clamp(first - limit, first + limit);
            }
            self.backend.write(self.step.buffers.shifts, &shifts)?;
        }
        if let Some(gains) = self.step.buffers.gains {
            // A factor on all of them is the probe's.
            let mut values = self.backend.read(gains)?;
            let mean = values.iter().map(|&g| f64::from(g)).sum::<f64>() / values.len() as f64;
            values.iter_mut().for_each(|g| *g = (f64::from(*g) / mean).max(0.0) as f32);
            self.backend.write(gains, &values)?;
        }
        if self.options.refine_probe { self.tidy_probe(end) } else { Ok(()) }
    }

    /// Modes orthogonal, nothing outside the support, the power that was measured.
    fn tidy_probe(&mut self, end: bool) -> Result<()> {
        let mut probe = self.engine_probe()?;
        let mut changed = false;
        if self.modes > 1 {
            probe = modes::orthogonal(probe.view());
            changed = true;
        }
        if let Some(diameter) = self.options.probe_support {
            modes::confine(&mut probe, diameter);
            changed = true;
        }
        let power: f64 = probe.iter().map(|z| f64::from(z.norm_sqr())).sum();
        let factor = (self.power / power).sqrt();
        // Under a limit on the object the power is what the data ask for.
        let free = self.options.amplitude_limit.is_none() && factor.is_finite();
        if free && (end || (factor - 1.0).abs() > POWER_SLACK) {
            probe.mapv_inplace(|z| z * factor as f32);
            let mut canvas = self.backend.read(self.step.buffers.canvas)?;
            canvas.iter_mut().for_each(|x| *x /= factor as f32);
            self.backend.write(self.step.buffers.canvas, &canvas)?;
            changed = true;
        }
        if changed {
            let values: Vec<f32> = probe.iter().flat_map(|z: &Complex32| [z.re, z.im]).collect();
            self.backend.write(self.step.buffers.probe, &values)?;
        }
        Ok(())
    }

    /// Lets the rates fall to their end once the loss stands still.
    fn watch(&mut self) {
        let (losses, patience) = (&self.state.losses, self.options.patience);
        if self.state.ending.is_some() || losses.len() <= patience {
            return;
        }
        let least = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
        let (before, now) = losses.split_at(losses.len() - patience);
        if least(now) > least(before) * (1.0 - self.options.tolerance) {
            let factor = self.rate(0.0) / self.state.damping;
            self.state.ending = Some((self.state.epoch, factor));
            log::info!(
                "the loss has fallen by less than {:.2} % in {patience} epochs: ending after \
                 epoch {} (--tolerance, --patience)",
                100.0 * self.options.tolerance,
                self.last_epoch()
            );
        }
    }

    fn snapshot(&mut self, loss: f64) -> Result<Snapshot> {
        let roles = [Role::Param, Role::Moment1, Role::Moment2];
        let kept: Vec<Value> =
            roles.iter().flat_map(|&r| self.step.plan.of_role(r)).map(|(v, _)| v).collect();
        let values = kept.into_iter().map(|v| Ok((v, self.backend.read(v)?)));
        Ok(Snapshot { values: values.collect::<Result<_>>()?, loss })
    }

    /// Back to the last good state with half the rates, or, where that has just been tried, to the
    /// start: an epoch may do well on average and end badly.
    fn step_back(&mut self, good: Snapshot, first: &Snapshot, loss: f64) -> Result<Snapshot> {
        self.state.halvings += 1;
        if self.state.halvings > MOST_HALVINGS {
            return Err(Error::Run(format!(
                "the loss is {loss} in epoch {}, however small the steps are (the rates were \
                 halved {MOST_HALVINGS} times): check probe, mask and positions with `inspect`, and leave \
                 out bad frames with --reject-frames auto",
                self.state.epoch + 1
            )));
        }
        let back = if self.state.failed { first.clone() } else { good };
        back.restore(self)?;
        log::warn!(
            "the loss rose to {loss:.4} in epoch {}: back to the {}, with {} of the rates that were \
             asked for",
            self.state.epoch + 1,
            if self.state.failed { "start" } else { "last good state" },
            0.5 * self.state.damping
        );
        if self.state.failed {
            (self.state.epoch, self.state.step, self.state.ending) = (0, 0, None);
            self.state.losses.clear();
        }
        self.state.failed = !self.state.failed;
        self.state.damping *= 0.5;
        Ok(back)
    }
}

impl Watch<'_> {
    fn stop_asked(&self) -> bool {
        let page = self.live.is_some_and(Live::stop_asked).then_some("the live page");
        let who = self.asked.and_then(Asked::stop).or(page);
        if let Some(who) = who {
            log::info!("stopping after this epoch, as {who} asks");
        }
        who.is_some()
    }
}

impl Snapshot {
    fn restore(&self, job: &mut Job) -> Result<()> {
        self.values.iter().try_for_each(|(v, values)| job.backend.write(*v, values))
    }
}
