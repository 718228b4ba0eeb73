//! Stopping and saving between two steps, and finding the way back in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::collapse::Structure;
use super::state::{self, Progress};
use super::{Part, Trainer};
use crate::checkpoint::{self, Checkpoint, Which};
use crate::config::{Resume, RunConfig};
use crate::signals::Asked;
use crate::{Error, Result};

/// A checkpoint is written at least so often, also within an epoch.
const EVERY: Duration = Duration::from_secs(600);

/// The checkpoint before the last.
const PREVIOUS: &str = "previous.safetensors";

/// Where a training stands within an epoch, at the end of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Within {
    /// [Of the groups](super::pool::Epoch::digest) of the epoch, and groups of a batch: what the next number
    /// counts.
    #[serde(default)]
    pub digest: String,
    pub size: usize,
    /// Batches that are done.
    pub batches: usize,
    /// Sum of the losses over the groups of these batches.
    pub total: f64,
    /// Norm of the last gradient.
    pub norm: f64,
    /// Groups that were left out, because their loss or gradient was not finite; and batches in a row.
    pub skipped: usize,
    pub in_a_row: usize,
    /// Where all batches are done: what the last of them looked like. Validation is left.
    pub structure: Option<Structure>,
}

/// Who may interrupt a training, and when it was saved last.
pub(super) struct Interrupts {
    asked: Asked,
    saved: Instant,
    /// What `last` holds, where it is known to be whole.
    last: Option<Progress>,
}

impl Default for Interrupts {
    fn default() -> Interrupts {
        Interrupts { asked: Asked::default(), saved: Instant::now(), last: None }
    }
}

impl Interrupts {
    /// Whether `pause` would do anything. A checkpoint that was asked for is no longer asked for then.
    pub(super) fn due(&self) -> Option<Due> {
        if self.asked.stop().is_some() {
            return Some(Due::Stop);
        }
        let save = self.asked.take_checkpoint() || self.saved.elapsed() >= EVERY;
        save.then_some(Due::Save)
    }
}

/// What is to be done between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Save,
    Stop,
}

impl Trainer {
    /// Ends at the next step, with a checkpoint, once `asked` says so.
    pub fn heed(&mut self, asked: Asked) {
        self.interrupts.asked = asked;
    }

    /// Saves; an error that says where to go on from, if it is to stop.
    pub(super) fn pause(&mut self, due: Due) -> Result<()> {
        // What is there already need not be written again, and not be the one before the last too.
        if self.interrupts.last.as_ref() == Some(&self.progress) {
            self.interrupts.saved = Instant::now();
        } else {
            self.save(false)?;
        }
        let Progress { epoch, step, within, .. } = &self.progress;
        let batches = within.as_ref().map_or(0, |w| w.batches);
        let place = match batches {
            0 => format!("after epoch {epoch}, step {step}"),
            done => format!("in epoch {}, after {done} of its batches, step {step}", epoch + 1),
        };
        if due == Due::Save {
            log::info!("checkpoint written {place}");
            return Ok(());
        }
        let who = self.interrupts.asked.stop().unwrap_or("request");
        let folder = self.config.run.output_dir.display();
        Err(Error::Stopped(format!(
            "{who} came {place}, and everything is saved: the same command with --resume auto goes \
             on from there ({folder})"
        )))
    }

    /// As [`pause`](Trainer::pause), if anything is due.
    pub(super) fn pause_if_due(&mut self) -> Result<()> {
        match self.interrupts.due() {
            Some(due) => self.pause(due),
            None => Ok(()),
        }
    }

    /// Writes `last`, and keeps what it was as `previous`, unless that is damaged: then `previous` is the
    /// better one.
    pub(super) fn save_last(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let last = self.folder.join(Which::Last.file_name());
        if self.interrupts.last.is_some() {
            keep_previous(&self.folder, &last)?;
        }
        checkpoint.save(last)?;
        self.last_is_whole();
        Ok(())
    }

    /// Notes that `last` holds what has been done so far.
    pub(super) fn last_is_whole(&mut self) {
        self.interrupts.saved = Instant::now();
        self.interrupts.last = Some(self.progress.clone());
    }

    /// A place within an epoch means nothing where the epoch has other batches now.
    pub(super) fn check_place(&mut self) -> Result<()> {
        let Some(within) = &self.progress.within else { return Ok(()) };
        let size = self.config.run.batch_size;
        let digest = self.epoch_groups(Part::Training, self.progress.epoch)?.digest();
        if (&within.digest, within.size) != (&digest, size) {
            log::warn!(
                "epoch {} is begun again: it has other batches than it had before",
                self.progress.epoch + 1
            );
            self.progress.within = None;
        }
        Ok(())
    }
}

/// Before `last` is replaced: what it is now stays as the checkpoint before the last.
fn keep_previous(folder: &Path, last: &Path) -> Result<()> {
    let (previous, link) = (folder.join(PREVIOUS), folder.join(".previous.link"));
    // What a killed program left.
    let _ = std::fs::remove_file(&link);
    // A second name, so that there is a last one at every moment. Some file systems have no such thing;
    // then there is no previous one.
    if std::fs::hard_link(last, &link).is_ok() {
        std::fs::rename(&link, &previous).map_err(Error::io("write", &previous))?;
    }
    Ok(())
}

/// A checkpoint to go on from.
pub(super) struct Found {
    pub path: PathBuf,
    pub checkpoint: Checkpoint,
    /// Newer ones, and what is wrong with them.
    pub damaged: Vec<Error>,
}

/// The checkpoint that `run` is to go on from, if it is to: the one that is named, or the newest whole one
/// of its folder.
///
/// Errors: there is none at the place that is named, it cannot be read, or none of the folder can.
pub(super) fn to_resume(run: &RunConfig) -> Result<Option<Found>> {
    match &run.resume {
        None => Ok(None),
        Some(Resume::Auto) => newest(&run.output_dir.join("checkpoints")),
        Some(Resume::Path(path)) => {
            let path = checkpoint::find(path, Which::Last)?;
            let checkpoint = Checkpoint::load(&path)?;
            Ok(Some(Found { path, checkpoint, damaged: Vec::new() }))
        }
    }
}

fn newest(folder: &Path) -> Result<Option<Found>> {
    let (mut damaged, mut found) = (Vec::new(), None::<(u64, PathBuf, Checkpoint)>);
    for name in [Which::Last.file_name(), PREVIOUS, Which::Best.file_name()] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let loaded =
            Checkpoint::load(&path).and_then(|c| Ok((state::progress(&c, &path)?.step, c)));
        match loaded {
            // Two of the same step are the same, or the first is the one that is finished.
            Ok((step, c)) if found.as_ref().is_none_or(|(newest, ..)| step > *newest) => {
                found = Some((step, path, c));
            }
            Ok(_) => {}
            Err(error) => damaged.push(error),
        }
        if found.is_some() && name == Which::Last.file_name() {
            break;
        }
    }
    match found {
        Some((_, path, checkpoint)) => Ok(Some(Found { path, checkpoint, damaged })),
        None if damaged.is_empty() => Ok(None),
        None => Err(damaged.swap_remove(0)),
    }
}
