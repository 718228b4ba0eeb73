//! Between a backend and a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::pause::Within;
use super::schedule;
use crate::backend::Backend;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::ModelConfig;
use crate::graph::{Group, Role, Slot};
use crate::{Error, Result};

/// What belongs in a checkpoint.
const SAVED: [Role; 4] = [Role::Param, Role::State, Role::Moment1, Role::Moment2];

/// What a network needs to be applied.
const APPLIED: [Role; 2] = [Role::Param, Role::State];

/// How far a training has come. Everything random depends on these numbers and the seed alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Finished epochs.
    pub epoch: usize,
    /// Steps of the optimiser so far.
    pub step: u64,
    pub best_loss: Option<f64>,
    pub best_epoch: usize,
    /// Epochs since the best loss.
    pub without_progress: usize,
    pub schedule: schedule::State,
    /// How much of the next epoch is done, where it was stopped in the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
}

/// What inference takes over from training.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Learned {
    pub model: ModelConfig,
    /// s in x = a·s.
    pub input_scale: f64,
    /// Object in the engine's gauge = this times what the network gives; 1 but for networks that were
    /// trained elsewhere.
    #[serde(default = "one")]
    pub object_factor: f64,
    /// K of the groups.
    pub neighbor_count: usize,
    /// Whether the checkpoint holds a learned probe.
    pub probe_trained: bool,
    pub scans: Vec<LearnedScan>,
}

fn one() -> f64 {
    1.0
}

impl Learned {
    /// Whether this is what a training leaves.
    ///
    /// # Errors
    /// [`Error::Input`] with what is wrong.
    pub fn check(&self, path: &Path) -> Result<()> {
        self.model.validate().map_err(|error| {
            Error::input(path, format!("its metadata names a network that cannot be: {error}"))
        })?;
        let scales = [("input_scale", self.input_scale), ("object_factor", self.object_factor)];
        match scales.into_iter().find(|(_, scale)| !(scale.is_finite() && *scale > 0.0)) {
            None => Ok(()),
            Some((name, scale)) => {
                let problem =
                    format!("`{name}` in its metadata is {scale}, expected a number above 0");
                Err(Error::input(path, problem))
            }
        }
    }

    /// Whether `probe` is one for the scans that were learned from, [S, P, N, N, 2].
    ///
    /// # Errors
    /// [`Error::Input`] with what is wrong.
    pub fn check_probe(&self, probe: &Tensor, path: &Path) -> Result<()> {
        let (n, scans) = (self.model.n, self.scans.len());
        let fits =
            matches!(probe.shape[..], [s, p, h, w, 2] if s >= scans && p > 0 && [h, w] == [n, n]);
        if fits && scans > 0 && probe.is_whole() {
            return Ok(());
        }
        let (shape, values) = (&probe.shape, probe.data.len());
        let problem = format!(
            "`probe` has shape {shape:?} and {values} values, expected those of {scans} scans with patterns \
             of {n} × {n} pixels"
        );
        Err(Error::input(path, problem))
    }
}

/// A scan that was learned from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LearnedScan {
    pub path: String,
    pub sha256: String,
    pub kappa: f64,
    /// The engine's probe is this times the file's.
    pub gauge: f64,
    /// Learned from; else it was validated on.
    pub trained: bool,
}

/// Reads all that is worth keeping.
pub fn tensors(backend: &mut dyn Backend) -> Result<BTreeMap<String, Tensor>> {
    let wanted: Vec<_> = SAVED
        .iter()
        .flat_map(|&role| backend.plan().of_role(role))
        .map(|(v, slot)| (v, slot.name.clone(), slot.shape.clone()))
        .collect();
    let mut tensors = BTreeMap::new();
    for (v, name, shape) in wanted {
        tensors.insert(name, Tensor { shape, data: backend.read(v)? });
    }
    Ok(tensors)
}

/// Writes everything back to resume a training from `path`.
pub fn restore(backend: &mut dyn Backend, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    write(backend, checkpoint, path, &SAVED, |_| true)
}

/// Writes the weights alone, as a start; a probe is the affair of the scan that is learned from.
pub fn start(backend: &mut dyn Backend, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    write(backend, checkpoint, path, &APPLIED, |slot| slot.group == Group::Network)
}

/// Writes the network alone.
pub fn apply(backend: &mut dyn Backend, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    write(backend, checkpoint, path, &APPLIED, |_| true)
}

fn write(
    backend: &mut dyn Backend,
    checkpoint: &Checkpoint,
    path: &Path,
    roles: &[Role],
    wanted: impl Fn(&Slot) -> bool,
) -> Result<()> {
    let wanted: Vec<_> = roles
        .iter()
        .flat_map(|&role| backend.plan().of_role(role))
        .filter(|(_, slot)| wanted(slot))
        .map(|(v, slot)| (v, slot.name.clone(), slot.shape.clone()))
        .collect();
    for (v, name, shape) in wanted {
        let tensor = checkpoint.tensors.get(&name).ok_or_else(|| {
            let problem = format!("has no tensor `{name}`: it was written by another network");
            Error::input(path, problem)
        })?;
        if tensor.shape != shape {
            let found = &tensor.shape;
            let problem = format!("`{name}` has shape {found:?}, the network needs {shape:?}");
            return Err(Error::input(path, problem));
        }
        if !tensor.is_whole() {
            let problem =
                format!("`{name}` has {} values for its shape {shape:?}", tensor.data.len());
            return Err(Error::input(path, problem));
        }
        backend.write(v, &tensor.data)?;
    }
    Ok(())
}

/// One part of a checkpoint's metadata.
pub fn part<T: for<'a> Deserialize<'a>>(
    checkpoint: &Checkpoint,
    name: &str,
    path: &Path,
) -> Result<T> {
    let part = checkpoint.metadata.get(name).cloned().unwrap_or(Json::Null);
    serde_json::from_value(part).map_err(|e| {
        let problem = format!("`{name}` in its metadata is not what this version writes ({e})");
        Error::input(path, problem)
    })
}

/// The metadata of a checkpoint.
pub fn metadata(learned: &Learned, progress: &Progress, configuration: &Json, seed: u64) -> Json {
    json!({
        "software": concat!("ptycho-gpu ", env!("CARGO_PKG_VERSION")),
        "seed": seed,
        "learned": learned,
        "progress": progress,
        "configuration": configuration,
    })
}
