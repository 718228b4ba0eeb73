//! The steps of an epoch.

use super::batch::{Batch, Share};
use super::pause::Within;
use super::pool::Epoch;
use super::{Trainer, nonfinite, schedule};
use crate::Result;
use crate::graph::{Group, Stage};
use crate::models::plans;
use crate::report::Progress as Bar;

/// A batch whose loss has not been looked at.
struct Unseen<'a> {
    batch: Batch<'a>,
    /// Groups of the step that it belongs to.
    in_step: usize,
    /// The step was done after it.
    updated: bool,
}

impl Trainer {
    /// All steps of an epoch after those that are done already.
    pub(super) fn learn(
        &mut self,
        groups: &Epoch,
        rate: f64,
        mut done: Within,
        bar: &mut Bar,
    ) -> Result<Within> {
        let size = self.config.run.batch_size;
        let every = self.config.optimiser.accumulate_grad_batches;
        self.backend.write(self.step.inputs.training, &[1.0])?;
        let (epoch, epochs) = (self.progress.epoch, self.config.run.max_epochs);
        let labels = schedule::label_share(&self.config.loss, epoch, epochs);
        (done.digest, done.size) = (groups.digest(), size);
        let batches = groups.len().div_ceil(size);
        let patience = self.backend.patience().min(plans::RING);
        let mut unseen = Vec::with_capacity(patience);
        for at in done.batches..batches {
            // The batches of one step share its weight, also when the last step has fewer groups.
            let window = at / every * every * size;
            let in_step = (groups.len() - window).min(every * size);
            let batch = Batch::new(groups, at * size, size, self.config.model.channels());
            self.write(&batch, Share { groups: in_step, labels })?;
            self.backend.write(self.step.slot, &[unseen.len() as f32])?;
            if let Some(keep) = self.step.controls.keep {
                self.backend.write(keep, &[if at % every == 0 { 0.0 } else { 1.0 }])?;
            }
            let updated = at % every == every - 1 || at == batches - 1;
            let last = if updated { Stage::Update } else { Stage::Backward };
            if updated {
                self.write_rates(rate)?;
            }
            self.backend.run_stages(Stage::Forward..=last)?;
            unseen.push(Unseen { batch, in_step, updated });
            // A gradient that is being summed up is in no checkpoint. After the last batch there is its
            // structure to be noted first.
            let due = (updated && at < batches - 1).then(|| self.interrupts.due()).flatten();
            if unseen.len() == patience || at == batches - 1 || due.is_some() {
                self.look(&unseen, &mut done, bar)?;
                unseen.clear();
                done.batches = at + 1;
                let seen = (done.batches * size).min(groups.len());
                let learned = seen.saturating_sub(done.skipped).max(1) as f64;
                self.show_step(&done, updated, batches, done.total / learned)?;
            }
            if let Some(due) = due {
                self.progress.within = Some(done.clone());
                self.pause(due)?;
            }
        }
        Ok(done)
    }

    /// Looks at the losses of the last batches, and at the norms of the gradients.
    fn look(&mut self, unseen: &[Unseen], done: &mut Within, bar: &mut Bar) -> Result<()> {
        let losses = self.backend.read(self.step.losses)?;
        let norms = self.backend.read(self.step.norms)?;
        for (Unseen { batch, in_step, updated }, (loss, n)) in
            unseen.iter().zip(losses.into_iter().zip(norms))
        {
            let loss = f64::from(loss) * *in_step as f64;
            let norm = if *updated { f64::from(n) } else { done.norm };
            if let Some(what) = nonfinite::found(loss, norm) {
                self.leave_out(&what, batch, *in_step, done)?;
                bar.step(batch.patterns(), None);
                continue;
            }
            (done.norm, done.in_a_row) = (norm, 0);
            // One after the other, so that the sum does not depend on how often it is looked at.
            done.total += loss;
            bar.step(batch.patterns(), Some(loss / batch.len() as f64));
        }
        Ok(())
    }

    /// Fills the input buffers with `batch`.
    pub(super) fn write(&mut self, batch: &Batch, share: Share) -> Result<()> {
        let (inputs, pool) = (&self.step.inputs, &self.pool);
        batch.write(self.backend.as_mut(), inputs, pool, share, self.streamed.as_mut())
    }

    /// Counts one more step of the optimiser, and writes its rates.
    fn write_rates(&mut self, rate: f64) -> Result<()> {
        self.progress.step += 1;
        let t = i32::try_from(self.progress.step).unwrap_or(i32::MAX);
        let config = &self.config.optimiser;
        let biases = [config.adam_beta1, config.adam_beta2].map(|beta| (1.0 - beta.powi(t)) as f32);
        for &(group, control) in &self.step.controls.rates {
            let rate = match group {
                Group::Network => rate,
                Group::Probe => {
                    let share = rate / config.learning_rate;
                    share * config.probe_learning_rate * self.pool.probe_rms()
                }
                other => unreachable!("no network has parameters of {other:?}"),
            };
            self.backend.write(control, &[rate as f32, biases[0], biases[1]])?;
        }
        Ok(())
    }
}
