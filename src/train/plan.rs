//! The plan of a training step, made to fit the device.

use super::pool::Pool;
use crate::backend::Chosen;
use crate::config::{Loss, TrainConfig};
use crate::graph::{Precision, Role};
use crate::memory::{self, Budget};
use crate::models::plans::{self, Sizes, Training};
use crate::plan::Plan;
use crate::{Error, Result};

/// Copies of the parameters and of what Adam remembers of them while a checkpoint is written.
const CHECKPOINT: u64 = 2;

/// Patterns that the buffers hold too are there twice more for a moment: as they were loaded, and on
/// their way to the buffers.
pub const WHOLE: u64 = 2;

/// Bytes that the patterns of each of so many `scans` may take where `spare` are left by the program: they are
/// there twice for a moment, as they are loaded and on their way to the buffers, and on the CPU those are in
/// the same memory, with the network. More is left in a file.
pub fn room(spare: u64, device: &Chosen, scans: usize) -> u64 {
    let part = if matches!(device, Chosen::Cpu) { 6 } else { 3 };
    spare / (part * scans.max(1) as u64)
}

/// Bytes that a run remembers of a pattern beside its pixels: positions, groups, their order.
const PER_PATTERN: u64 = 200;

/// The plan of a step, and whether patterns are streamed: where the device cannot hold all, or memory.
/// `held` are the bytes of patterns and true patches in memory; `filed`: there are patterns in a file.
///
/// # Errors
/// The device, or the machine, has too little memory for the step.
pub fn plan(
    config: &TrainConfig,
    pool: &Pool,
    device: &Chosen,
    held: u64,
    filed: bool,
) -> Result<(Training, bool)> {
    let precision = device.precision(config.run.precision, Precision::Tf32)?;
    let TrainConfig { model, loss, optimiser, .. } = config;
    let build = |sizes: &Sizes| plans::training_in(precision, model, loss, optimiser, sizes);
    let mut sizes = sizes(config, pool)?;
    let most = plans::most_groups(model, sizes.modes, sizes.reach);
    if sizes.batch > most {
        return Err(Error::Config(format!(
            "--batch-size is {}, but at most {most} groups of this network can be computed at once: for larger \
             steps there is --accumulate-grad-batches",
            sizes.batch
        )));
    }
    let (patterns, memory) = (sizes.frames as u64, Budget::new(config.run.memory_limit));
    let step = build(&sizes);
    let budget = device.budget(config.run.device_memory_limit)?;
    let fits = |step: &Training, copies: u64, remedy: &str| {
        let buffers = if matches!(device, Chosen::Cpu) { step.plan.bytes() as u64 } else { 0 };
        memory.check(&needs(&step.plan, buffers, patterns, copies * held), remedy)
    };
    let roomy = !filed && budget.is_none_or(|budget| budget >= step.plan.bytes());
    if roomy && fits(&step, WHOLE, "").is_ok() {
        return Ok((step, false));
    }
    sizes.frames = 2 * config.run.batch_size * config.model.channels();
    let streaming = build(&sizes);
    let (all, few) = (step.plan.bytes() as f64 * 1e-6, streaming.plan.bytes() as f64 * 1e-6);
    if let Some(budget) = budget.filter(|&budget| streaming.plan.bytes() > budget) {
        return Err(Error::Device(format!(
            "the training needs {all:.0} MB of buffers, {few:.0} MB with patterns streamed, but may \
             take {:.0} MB: use a smaller --batch-size, a higher --device-memory-limit, or \
             --device cpu",
            budget as f64 * 1e-6
        )));
    }
    fits(
        &streaming,
        1,
        "use a smaller --batch-size, a smaller network, or a higher --memory-limit",
    )?;
    log::info!("{all:.0} MB do not fit: patterns are streamed, which takes {few:.0} MB");
    Ok((streaming, true))
}

/// Bytes of the machine that a training takes: with `buffers` of the plan in its memory (none where a GPU
/// computes), so many `patterns`, and `held` bytes of them.
pub fn needs(plan: &Plan, buffers: u64, patterns: u64, held: u64) -> [(&'static str, u64); 5] {
    let learned = [Role::Param, Role::Moment1, Role::Moment2, Role::State];
    let learned: usize = learned.iter().map(|&role| plan.elements(role)).sum();
    [
        ("the program", memory::BASE),
        ("patterns", held),
        ("their positions", PER_PATTERN * patterns),
        ("buffers", buffers),
        ("checkpoints", CHECKPOINT * 4 * learned as u64),
    ]
}

/// Farthest that a pattern may lie from the middle of its group, pixels: a canvas holds all of a group.
const FARTHEST: f64 = 4096.0;

/// What the plan has to hold.
fn sizes(config: &TrainConfig, pool: &Pool) -> Result<Sizes> {
    let frames = pool.members.iter().map(|m| m.first + m.positions.len()).max().unwrap_or(0);
    let reach = pool.reach(&config.model, &config.data)?;
    if reach > FARTHEST {
        return Err(Error::Config(format!(
            "a pattern may lie {reach:.0} pixels from the middle of its group, at most {FARTHEST} can be \
             computed: are the positions in object pixels, and is there a stray one? A smaller --gridsize, or \
             fewer --neighbor-count, helps too"
        )));
    }
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
        reach,
        typical,
    })
}
