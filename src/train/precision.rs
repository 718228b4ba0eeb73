//! In which precision a training computes.

use super::pause::to_resume;
use crate::backend::Chosen;
use crate::config::{Origin, Precision, Resolved, RunConfig};
use crate::graph;
use crate::{Error, Result};

/// `resolved` with `auto` replaced: by the precision of the training that is gone on with, so that its
/// steps stay the same on another card, else by what `device` is good for.
///
/// # Errors
/// TF32 or bfloat16 on a device without tensor cores; a checkpoint to go on from that cannot be read.
pub fn decided(resolved: &Resolved, device: &Chosen) -> Result<Resolved> {
    let mut resolved = resolved.clone();
    let run = &mut resolved.config.run;
    if run.precision != Precision::Auto {
        device.precision(run.precision, graph::Precision::Fp32)?;
        return Ok(resolved);
    }
    let stored = stored(run)?;
    let asked = stored.unwrap_or_default();
    let decided = device.precision(asked, graph::Precision::Tf32).map_err(|_| {
        let begun = if asked == Precision::Bf16 { "bf16" } else { "tf32" };
        Error::Config(format!(
            "the training to be resumed was begun with --precision {begun}, which the CPU does not \
             have: resume it on a GPU, or go on with --precision fp32"
        ))
    })?;
    run.precision = decided.into();
    let origin = if stored.is_some() { Origin::Checkpoint } else { Origin::Device };
    resolved.origins.insert("precision".into(), origin);
    Ok(resolved)
}

/// The precision of the training to go on with, if there is one.
fn stored(run: &RunConfig) -> Result<Option<Precision>> {
    let Some(found) = to_resume(run)? else { return Ok(None) };
    let configuration = &found.checkpoint.metadata["configuration"];
    // Checkpoints without the entry were trained before there was a choice.
    let stored = serde_json::from_value(configuration["precision"]["value"].clone());
    Ok(Some(stored.unwrap_or(Precision::Fp32)))
}
