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
use crate::plan::Plan;
use crate::{Error, Result};

/// What belongs in a checkpoint.
const SAVED: [Role; 4] = [Role::Param, Role::State, Role::Moment1, Role::Moment2];

/// More than any training has; epochs are counted with 32 bits where numbers are drawn.
const MOST_EPOCHS: u64 = 1 << 31;
const MOST_STEPS_AN_EPOCH: u64 = 1 << 31;

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
    /// Frames that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<usize>,
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
    let plan = backend.plan();
    let slots = roles.iter().flat_map(|&role| plan.of_role(role)).filter(|(_, slot)| wanted(slot));
    let found = slots.map(|(v, slot)| Ok((v, tensor(slot, checkpoint, path)?)));
    for (v, tensor) in found.collect::<Result<Vec<_>>>()? {
        backend.write(v, &tensor.data)?;
    }
    Ok(())
}

/// Whether a checkpoint has the weights of `plan`: asked before there is memory for it, of which a file
/// may ask for any amount.
pub fn fits(plan: &Plan, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    let mut slots = APPLIED.iter().flat_map(|&role| plan.of_role(role));
    slots.try_for_each(|(_, slot)| tensor(slot, checkpoint, path).map(drop))
}

/// What belongs in `slot`.
fn tensor<'a>(slot: &Slot, checkpoint: &'a Checkpoint, path: &Path) -> Result<&'a Tensor> {
    let Slot { name, shape, .. } = slot;
    let tensor = checkpoint.tensors.get(name).ok_or_else(|| {
        let problem = format!("has no tensor `{name}`: it was written by another network");
        Error::input(path, problem)
    })?;
    if tensor.shape != *shape {
        let found = &tensor.shape;
        let problem = format!("`{name}` has shape {found:?}, the network needs {shape:?}");
        return Err(Error::input(path, problem));
    }
    if !tensor.is_whole() {
        let problem = format!("`{name}` has {} values for its shape {shape:?}", tensor.data.len());
        return Err(Error::input(path, problem));
    }
    Ok(tensor)
}

/// What a checkpoint says of its network. The file may say anything: it is held against the ranges, and
/// against the probe that comes with it.
pub fn learned(checkpoint: &Checkpoint, path: &Path) -> Result<Learned> {
    let learned: Learned = part(checkpoint, "learned", path)?;
    let refuse = |problem: String| {
        Error::input(path, format!("`learned` in its metadata is of no network: {problem}"))
    };
    learned.model.validate_stored().map_err(refuse)?;
    let size = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(refuse(format!("{name} is {value}, expected a number above 0"))),
    };
    size("input_scale", learned.input_scale)?;
    size("object_factor", learned.object_factor)?;
    learned.scans.iter().try_for_each(|scan| size("gauge", scan.gauge))?;
    if learned.probe_trained {
        let probe = checkpoint.tensors.get("probe").filter(|probe| probe.is_whole());
        let probe = probe.map(|probe| probe.shape.as_slice());
        let n = learned.model.n;
        let last = learned.scans.iter().rposition(|scan| scan.trained).map(|last| last + 1);
        let whole = matches!(probe, Some(&[scans, modes, height, width, 2])
            if last.is_some_and(|last| last <= scans) && modes > 0 && [height, width] == [n, n]);
        if !whole {
            let scans = learned.scans.len();
            let problem = format!("its probe has shape {probe:?}, for {scans} scans of side {n}");
            return Err(refuse(problem));
        }
    }
    Ok(learned)
}

/// How far a checkpoint has come, with numbers that can be counted on from.
pub fn progress(checkpoint: &Checkpoint, path: &Path) -> Result<Progress> {
    let progress: Progress = part(checkpoint, "progress", path)?;
    let Progress { epoch, best_epoch, without_progress, step, .. } = progress;
    let epochs = epoch.max(best_epoch).max(without_progress) as u64;
    match epochs.max(step / MOST_STEPS_AN_EPOCH) < MOST_EPOCHS {
        true => Ok(progress),
        false => Err(Error::input(
            path,
            "`progress` in its metadata is of no training: too many epochs or steps",
        )),
    }
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
