//! What a training leaves, and what it goes on from.

use std::path::Path;

use super::pause::{self, Found};
use super::pool::Part;
use super::state::{self, Learned, LearnedScan};
use super::{Trainer, resume};
use crate::checkpoint::{Checkpoint, Tensor, Which};
use crate::graph::Group;
use crate::{Error, Result};

impl Trainer {
    /// Takes over weights, moments and progress where `--resume` asks for it.
    pub(super) fn resume(&mut self) -> Result<()> {
        let Some(Found { path, checkpoint, damaged }) = pause::to_resume(&self.config.run)? else {
            if self.config.run.resume.is_some() {
                log::info!("nothing to resume in {}: starting anew", self.folder.display());
            }
            return Ok(());
        };
        damaged.iter().for_each(|error| log::warn!("{error}; going on from an older one"));
        let learned = state::learned(&checkpoint, &path)?;
        self.same_network(&learned, &path)?;
        let scans = self.learned().scans;
        resume::check_scans(&scans, &learned.scans, &path)?;
        resume::compare_frames(&scans, &learned.scans);
        resume::check_options(&self.record, &checkpoint.metadata["configuration"], &path)?;
        state::restore(self.backend.as_mut(), &checkpoint, &path)?;
        self.progress = state::progress(&checkpoint, &path)?;
        let (epoch, within) = (self.progress.epoch, &self.progress.within);
        match within {
            Some(w) => log::info!(
                "resuming {} in epoch {}, after {} of its batches",
                path.display(),
                epoch + 1,
                w.batches
            ),
            None => log::info!("resuming {} after epoch {epoch}", path.display()),
        }
        if path == self.folder.join(Which::Last.file_name()) {
            self.last_is_whole();
        }
        self.check_place()?;
        self.resumed_from = Some(path);
        Ok(())
    }

    /// Takes over the weights alone where `--init-from` asks for it.
    pub(super) fn init(&mut self) -> Result<()> {
        let Some(path) = &self.config.run.init_from else { return Ok(()) };
        let path = crate::checkpoint::find(path, crate::checkpoint::Which::Best)?;
        let checkpoint = Checkpoint::load(&path)?;
        let learned = state::learned(&checkpoint, &path)?;
        self.same_network(&learned, &path)?;
        state::start(self.backend.as_mut(), &checkpoint, &path)?;
        log::info!("starting with the weights of {}", path.display());
        Ok(())
    }

    /// An error if a checkpoint is of another network.
    fn same_network(&self, learned: &Learned, path: &Path) -> Result<()> {
        let differences = self.config.model.differences(&learned.model);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::input(path, format!("is of another network: {}", differences.join("; "))))
    }

    /// Writes the checkpoint of an epoch, which is the best so far or not.
    pub(super) fn save(&mut self, better: bool) -> Result<()> {
        let checkpoint = self.checkpoint()?;
        std::fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        // The last one last: if the program is killed in between, the epoch is done again.
        if better {
            checkpoint.save(self.folder.join("best.safetensors"))?;
        }
        self.save_last(&checkpoint)
    }

    /// Everything as it is now.
    pub(super) fn checkpoint(&mut self) -> Result<Checkpoint> {
        let mut tensors = state::tensors(self.backend.as_mut())?;
        if self.made_probe {
            let shape = self.step.plan.slots[self.step.inputs.probe.0].shape.clone();
            let probe = || Tensor { shape, data: self.pool.probes() };
            tensors.entry("probe".into()).or_insert_with(probe);
        }
        let (learned, seed) = (self.learned(), self.config.run.seed);
        let metadata = state::metadata(&learned, &self.progress, &self.record, seed);
        Ok(Checkpoint { tensors, metadata })
    }

    /// What a network must know that is no weight.
    fn learned(&self) -> Learned {
        let scans = self.pool.members.iter().map(|m| LearnedScan {
            path: m.source.path.to_string_lossy().into_owned(),
            sha256: m.source.sha256.clone(),
            kappa: m.kappa,
            gauge: m.gauge,
            trained: !m.kept[Part::Training as usize].is_empty(),
            rejected: m.rejected.clone(),
        });
        let mut scans: Vec<LearnedScan> = scans.collect();
        if self.supply.is_some() {
            // All objects have the probe and the name of one scan.
            scans.dedup_by(|a, b| a.sha256 == b.sha256);
        }
        Learned {
            model: self.config.model.clone(),
            input_scale: self.pool.input_scale,
            object_factor: 1.0,
            neighbor_count: self.config.data.neighbor_count,
            probe_trained: self.made_probe
                || self.step.controls.rates.iter().any(|(g, _)| *g == Group::Probe),
            scans,
        }
    }
}
