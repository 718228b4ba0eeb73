//! The plan of a training step, made to fit the device.

use super::pool::Pool;
use crate::backend::Chosen;
use crate::config::{Loss, TrainConfig};
use crate::graph::Precision;
use crate::models::plans::{self, Sizes, Training};
use crate::{Error, Result};

/// The plan of a step, and whether patterns are streamed: where the device cannot hold all.
pub fn plan(config: &TrainConfig, pool: &Pool, device: &Chosen) -> Result<(Training, bool)> {
    let precision = device.precision(config.run.precision, Precision::Tf32)?;
    let TrainConfig { model, loss, optimiser, .. } = config;
    let build = |sizes: &Sizes| plans::training_in(precision, model, loss, optimiser, sizes);
    let mut sizes = sizes(config, pool)?;
    let step = build(&sizes);
    let budget = device.budget(config.run.device_memory_limit)?;
    let Some(budget) = budget.filter(|&budget| budget < step.plan.bytes()) else {
        return Ok((step, false));
    };
    sizes.frames = 2 * config.run.batch_size * config.model.channels();
    let streaming = build(&sizes);
    let (all, few) = (step.plan.bytes() as f64 * 1e-6, streaming.plan.bytes() as f64 * 1e-6);
    if streaming.plan.bytes() > budget {
        return Err(Error::Device(format!(
            "the training needs {all:.0} MB of buffers, {few:.0} MB with patterns streamed, but may \
             take {:.0} MB: use a smaller --batch-size, a higher --device-memory-limit, or \
             --device cpu",
            budget as f64 * 1e-6
        )));
    }
    log::info!("{all:.0} MB do not fit: patterns are streamed, which takes {few:.0} MB");
    Ok((streaming, true))
}

/// What the plan has to hold.
fn sizes(config: &TrainConfig, pool: &Pool) -> Result<Sizes> {
    let frames = pool.members.iter().map(|m| m.first + m.positions.len()).max().unwrap_or(0);
    let typical = match config.loss.kind {
        _ if !config.loss.mode.sees_patterns() => 1.0,
        Loss::Poisson => pool.typical[0],
        Loss::Mae => pool.typical[1],
    };
    Ok(Sizes {
        batch: config.run.batch_size,
        frames,
        scans: pool.members.len(),
        modes: pool.modes,
        reach: pool.reach(&config.model, &config.data)?,
        typical,
    })
}
