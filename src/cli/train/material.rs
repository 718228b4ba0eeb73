//! What a training learns from: scans, the simulation of some, and what a teacher says of one.

use crate::backend::Chosen;
use crate::config::TrainConfig;
use crate::data::{self, LoadOptions, RejectFrames, Room, Scan, check_network_side};
use crate::memory::{self, Budget};
use crate::reconstruction::Saved;
use crate::train::synthetic::{Supply, Synthetic};
use crate::train::teacher::Teacher;
use crate::train::{Material, plan};
use crate::{Error, Result};

/// Scans, or the simulation of some.
pub(super) fn material(config: &TrainConfig, device: &Chosen) -> Result<Material> {
    let TrainConfig { data, loss, run, .. } = config;
    let memory = Budget::new(run.memory_limit);
    let (train, test) = load(config, &memory, device)?;
    let plain = Material { train, test, supply: None, made_labels: false, made_probe: false };
    if let Some(path) = &data.teacher {
        // Patterns, and true patches of twice their size.
        let bytes = 3 * 4 * plain.train[0].pixels();
        let remedy = "a scan with a --teacher is held in memory: use a part of it, or raise \
                      --memory-limit";
        memory.check(&[("the program", memory::BASE), ("what the teacher says", bytes)], remedy)?;
        let saved = Saved::read(path)?.without_rejected(&plain.train[0])?;
        let train = vec![Teacher::new(path, &saved).teach(&plain.train[0])?];
        let made_labels = loss.mode.sees_labels();
        if !made_labels {
            log::info!("the probe and the positions of the teacher are used, not its patches");
        }
        return Ok(Material { train, made_labels, made_probe: true, ..plain });
    }
    let (Some(patterns), Some(like)) = (data.synthetic, &data.like) else { return Ok(plain) };
    let like = data::load(like, &options(config, memory.spare()))?;
    check_network_side(like.side()).map_err(|e| Error::input(&like.source.path, e.to_string()))?;
    let mut supply = Supply::new(Synthetic::new(like, patterns, run.seed)?);
    let train = supply.take(0)?;
    Ok(Material { train, supply: Some(supply), made_labels: true, ..plain })
}

/// How scans are loaded, of which each may take so many bytes.
fn options(TrainConfig { data, run, .. }: &TrainConfig, bytes: u64) -> LoadOptions {
    let scratch = run.scratch_dir.clone().unwrap_or_else(|| run.output_dir.clone());
    LoadOptions {
        room: Some(Room { bytes, scratch }),
        input_domain: data.input_domain,
        nphotons: data.nphotons,
        order: data.order,
        reading: data.reading.clone(),
        ..LoadOptions::default()
    }
}

fn load(
    config: &TrainConfig,
    memory: &Budget,
    device: &Chosen,
) -> Result<(Vec<Scan>, Option<Scan>)> {
    let data = &config.data;
    let scans = data.train_data_file.iter().chain(&data.test_data_file).chain(&data.like).count();
    if data.reading.positions.is_some() && scans > 1 {
        return Err(Error::Config(format!(
            "--positions are those of one scan, but {scans} are given: `convert` each with its own"
        )));
    }
    if matches!(&data.reading.reject_frames, Some(reject) if *reject != RejectFrames::Auto)
        && scans > 1
    {
        return Err(Error::Config(format!(
            "--reject-frames names frames of one scan, but {scans} are given: say auto, or `convert` each \
             with its own"
        )));
    }
    let options = options(config, plan::room(memory.spare(), device, scans));
    let train: Vec<Scan> = data
        .train_data_file
        .iter()
        .map(|path| data::load(path, &options))
        .collect::<Result<_>>()?;
    for scan in &train {
        check_network_side(scan.side())
            .map_err(|e| Error::input(&scan.source.path, e.to_string()))?;
    }
    let test = match &data.test_data_file {
        // A file that was just read need not be read again.
        Some(path) => match data.train_data_file.iter().position(|p| p == path) {
            Some(same) => Some(train[same].clone()),
            None => Some(data::load(path, &options)?),
        },
        None => None,
    };
    Ok((train, test))
}
