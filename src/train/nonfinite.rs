//! Losses and gradients that are infinite or no number.
//!
//! The update of such a step does nothing, on the device itself ([`adam`](crate::ops::adam)). A GPU's losses
//! are looked at some steps later; those were then taken as if this one had not been.

use super::batch::{Batch, Share};
use super::pause::Within;
use super::{Trainer, schedule};
use crate::config::OnNonfinite;
use crate::graph::{Role, Stage};
use crate::text::first_few;
use crate::{Error, Result};

/// Batches in a row that are left out at most: more, and nothing is being learned.
const MOST_IN_A_ROW: usize = 20;

/// Layers that a message names.
const NAMED: usize = 3;

/// What is not finite, if anything is.
pub(super) fn found(loss: f64, norm: f64) -> Option<String> {
    let of =
        |what: &str, value: f64| (!value.is_finite()).then(|| format!("the {what} is {value}"));
    of("loss", loss).or_else(|| of("gradient's norm", norm))
}

impl Trainer {
    /// A batch of which something is not finite: an error that says where, or on with the next.
    pub(super) fn leave_out(
        &mut self,
        what: &str,
        batch: &Batch,
        in_step: usize,
        done: &mut Within,
    ) -> Result<()> {
        let epoch = self.progress.epoch + 1;
        let place = format!("{what} in epoch {epoch}{}", batch.named());
        (done.skipped, done.in_a_row) = (done.skipped + batch.len(), done.in_a_row + 1);
        if self.config.run.on_nonfinite == OnNonfinite::Stop {
            let layers = self.layers(batch, in_step)?;
            return Err(self.not_finite(&place, &layers));
        }
        if done.in_a_row > MOST_IN_A_ROW {
            let text = format!(", as in the {MOST_IN_A_ROW} batches before it");
            return Err(self.not_finite(&place, &text));
        }
        log::warn!("{place}: the step is left out (--on-nonfinite skip)");
        Ok(())
    }

    pub(super) fn not_finite(&self, place: &str, layers: &str) -> Error {
        Error::Run(format!(
            "{place}{layers}: nothing of this epoch was saved, the checkpoints of the epochs before are \
             whole; look at these patterns, try a lower \
             --learning-rate or --gradient-clip-val 1, or leave such batches out with --on-nonfinite \
             skip"
        ))
    }

    /// Layers whose gradients are not finite, in the batch once more, by the weights as they are now: on a
    /// GPU those may be of some steps later, and no layer need be found.
    fn layers(&mut self, batch: &Batch, groups: usize) -> Result<String> {
        let (epoch, epochs) = (self.progress.epoch, self.config.run.max_epochs);
        let labels = schedule::label_share(&self.config.loss, epoch, epochs);
        self.write(batch, Share { groups, labels })?;
        self.backend.run_stages(Stage::Forward..=Stage::Backward)?;
        let gradients = self.step.plan.of_role(Role::ParamGrad);
        let gradients: Vec<_> = gradients.iter().map(|(v, slot)| (*v, slot.of)).collect();
        let mut names = Vec::new();
        for (v, of) in gradients {
            if self.backend.read(v)?.iter().any(|x| !x.is_finite()) {
                names.extend(of.map(|of| self.step.plan.slots[of.0].name.clone()));
            }
        }
        Ok(match names.is_empty() {
            true => String::new(),
            false => format!(", with it the gradient of {}", first_few(names.into_iter(), NAMED)),
        })
    }
}
