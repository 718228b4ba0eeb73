//! What the page of a running training is told, and what it may ask for.
//!
//! Everything here reads; the training takes the same steps with it and without it.

use std::time::Instant;

use super::Trainer;
use super::pause::Within;
use super::row::Row;
use crate::backend::Chosen;
use crate::config::PatchWeighting;
use crate::data::scan::Scan;
use crate::infer::{Network, Options};
use crate::report::live::{Epoch, Live};
use crate::stitch::Orientation;
use crate::{Error, Result};

/// Patterns that a picture on the page is made of.
const MOST_PATTERNS: usize = 400;

/// A page, and what its pictures are made of.
pub struct Watched {
    live: Live,
    scan: Scan,
    device: Chosen,
    /// A picture has failed: there will be no other.
    blind: bool,
}

impl Watched {
    /// Pictures show the middle of `scan`.
    ///
    /// # Errors
    /// The patterns are in a file that cannot be read.
    pub fn new(live: Live, scan: &Scan, device: &Chosen) -> Result<Watched> {
        let count = scan.len() as f64;
        let mean = |of: fn(&crate::data::Position) -> f64| {
            scan.positions.iter().map(of).sum::<f64>() / count
        };
        let (x, y) = (mean(|p| p.x), mean(|p| p.y));
        let distance = |&i: &usize| (scan.positions[i].x - x).hypot(scan.positions[i].y - y);
        let mut indices = scan.used();
        indices.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        indices.truncate(MOST_PATTERNS);
        indices.sort_unstable();
        let scan = Scan { labels: None, ..scan.subset(&indices)? };
        Ok(Watched { live, scan, device: device.clone(), blind: false })
    }
}

impl Trainer {
    /// Whether the page asks for the end of the run.
    pub(super) fn stop_asked(&self) -> bool {
        let stop = self.watched.as_ref().is_some_and(|w| w.live.stop_asked());
        if stop {
            let epoch = self.progress.epoch;
            log::info!("stopping after epoch {epoch}, as the live page asks; --resume goes on");
        }
        stop
    }

    /// Shows the epoch that has just ended, and now and then what the network makes of the scan.
    pub(super) fn show(&mut self, row: &Row, seconds: f64) -> Result<()> {
        let Some(watched) = &self.watched else { return Ok(()) };
        watched.live.epoch(Epoch {
            epoch: row.epoch,
            loss: row.train_loss,
            validation: row.val_loss,
            patterns_per_second: row.patterns as f64 / seconds.max(1e-9),
        });
        if watched.blind || !watched.live.wants_picture() {
            return Ok(());
        }
        if let Err(error) = self.picture() {
            log::warn!("no pictures on the live page: {error}");
            let watched = self.watched.as_mut().expect("it is there");
            watched.live.note(&format!("No pictures: {error}"));
            watched.blind = true;
        }
        Ok(())
    }

    /// The scan by the weights as they are now, in buffers of its own.
    fn picture(&mut self) -> Result<()> {
        let began = Instant::now();
        let checkpoint = self.checkpoint()?;
        let batch = self.config.run.batch_size;
        let watched = self.watched.as_ref().expect("it is asked for by a page");
        let network = Network::new(&checkpoint, &self.folder, batch, &watched.device)?;
        let result = network.reconstruct(
            &watched.scan,
            &Options {
                batch_size: batch,
                n_images: None,
                recompute_normalisation: false,
                weighting: PatchWeighting::default(),
                crop: None,
                orientation: Orientation::default(),
            },
        )?;
        watched.live.picture(&result.seen(&result.covered()), began);
        Ok(())
    }

    /// Says how far the epoch is, and writes a checkpoint where the page asks for one.
    /// After an update: the sum of gradients that comes before one is in no checkpoint.
    pub(super) fn show_step(
        &mut self,
        done: &Within,
        updated: bool,
        of: usize,
        loss: f64,
    ) -> Result<()> {
        let Some(watched) = &self.watched else { return Ok(()) };
        let epoch = self.progress.epoch + 1;
        watched.live.step(epoch, done.batches as f64 / of as f64, loss);
        if !updated || !watched.live.take_checkpoint() {
            return Ok(());
        }
        let structure = if done.batches == of { Some(self.structure()?) } else { None };
        self.progress.within = Some(Within { structure, ..done.clone() });
        let name = format!("asked-step-{:08}.safetensors", self.progress.step);
        std::fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        let saved = self.checkpoint()?.save(self.folder.join(&name));
        let text = match &saved {
            Ok(()) => format!("Written: checkpoints/{name}"),
            // Nobody's run should end because of a button.
            Err(error) => format!("No checkpoint: {error}"),
        };
        log::info!("{text}");
        if let Some(watched) = &self.watched {
            watched.live.note(&text);
        }
        Ok(())
    }
}
