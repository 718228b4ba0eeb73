//! What a resumed training is held against, and what it takes along from another folder.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::COLUMNS;
use super::collapse::Structure;
use super::state::LearnedScan;
use crate::data::bad_frames::NAMED;
use crate::text::first_few;
use crate::{Error, Result};

/// Options that may differ without changing a single step, or that are checked by other means.
const FREE: [&str; 18] = [
    "train_data_file",
    "test_data_file",
    "like",
    "teacher",
    "init_from",
    "output_dir",
    "max_epochs",
    "device",
    "device_memory_limit",
    "memory_limit",
    "scratch_dir",
    "early_stop_patience",
    "on_nonfinite",
    "resume",
    "logger",
    "strict",
    "json",
    "quiet",
];

/// Options without which the saved moments and the saved probe mean nothing.
const FIXED: [&str; 2] = ["optimizer", "probe_trainable"];

/// Options that checkpoints of older versions lack, with what was done all the same.
const ASSUMED: [(&str, &str); 1] = [("precision", "fp32")];

/// Whether the same scans are learned from.
pub fn check_scans(given: &[LearnedScan], stored: &[LearnedScan], path: &Path) -> Result<()> {
    let hashes = |scans: &[LearnedScan]| -> Vec<(String, bool)> {
        scans.iter().map(|s| (s.sha256.clone(), s.trained)).collect()
    };
    if hashes(given) == hashes(stored) {
        return Ok(());
    }
    let list = |scans: &[LearnedScan]| {
        let name = |s: &LearnedScan| {
            let digits: String = s.sha256.chars().take(8).collect();
            format!("{} ({digits}…{})", s.path, if s.trained { "" } else { ", validation" })
        };
        scans.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let problem = format!(
        "was trained on {}, but {} was given: resume with the same scans in the same order, or \
         leave out --resume",
        list(stored),
        list(given)
    );
    Err(Error::input(path, problem))
}

/// Says where other frames are left out than before: they change the steps to come, and the option that names
/// them can be a file, which can have changed.
pub fn compare_frames(given: &[LearnedScan], stored: &[LearnedScan]) {
    for (now, before) in given.iter().zip(stored).filter(|(a, b)| a.rejected != b.rejected) {
        let [all, so_far] = [now, before].map(|scan| match scan.rejected.is_empty() {
            true => "all frames".to_owned(),
            false => {
                let frames = scan.rejected.iter().map(usize::to_string);
                format!("all frames but {}", first_few(frames, NAMED))
            }
        });
        log::warn!("resuming with {all} of {}, where it was {so_far} so far", now.path);
    }
}

/// Whether the options are those of the checkpoint; both as `{name: {value, origin}}`. What makes
/// the saved state meaningless is refused, what changes the steps to come is said.
pub fn check_options(given: &Json, stored: &Json, path: &Path) -> Result<()> {
    let (Some(given), Some(stored)) = (given.as_object(), stored.as_object()) else {
        return Ok(());
    };
    for (name, entry) in given.iter().filter(|(name, _)| !FREE.contains(&name.as_str())) {
        let (now, before) = (&entry["value"], &stored.get(name).unwrap_or(&Json::Null)["value"]);
        if now == before || (before.is_null() && ASSUMED.iter().any(|(n, v)| n == name && now == v))
        {
            continue;
        }
        let flag = name.replace('_', "-");
        if FIXED.contains(&name.as_str()) {
            let problem = format!(
                "was trained with --{flag} {before}, but {now} was asked for: resume with the \
                 same, or leave out --resume"
            );
            return Err(Error::input(path, problem));
        }
        log::warn!("resuming with --{flag} {now}, where it was {before} so far");
    }
    Ok(())
}

/// Brings best checkpoint and history of the run that `checkpoint` belongs to into this run, where
/// it is another one. True when this run has no best checkpoint even so.
pub fn carry_over(checkpoint: &Path, folder: &Path, history: &Path) -> Result<bool> {
    let best = folder.join("best.safetensors");
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let source = checkpoint.parent().unwrap_or(Path::new(""));
    copy(&source.join("best.safetensors"), &best)?;
    if let Some(run) = source.parent() {
        copy(&run.join("history.csv"), history)?;
    }
    Ok(!best.exists())
}

/// Copies a file that is there to where none is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() || !from.is_file() {
        return Ok(());
    }
    let bytes = fs::read(from).map_err(Error::io("read", from))?;
    crate::report::atomic_write(to, &bytes)
}

/// The monitored loss and the structure of an epoch, from its row in history.csv.
pub fn structure(row: &[f64]) -> (f64, Structure) {
    let cell = |name: &str| {
        let at = COLUMNS.iter().position(|column| *column == name);
        at.and_then(|at| row.get(at)).copied().unwrap_or(f64::NAN)
    };
    let validation = cell("val_loss");
    let loss = if validation.is_nan() { cell("train_loss") } else { validation };
    let structure = Structure {
        amplitude_mean: cell("amplitude_mean"),
        amplitude_std: cell("amplitude_std"),
        phase_std: cell("phase_std"),
    };
    (loss, structure)
}
