//! The patterns of all scans of a training, and the batches that an epoch makes of them.

use ndarray::{Array2, Array3};
use num_complex::Complex32;
use sha2::{Digest, Sha256};

use crate::checkpoint::hex;
use crate::config::{DataConfig, Grouping, ModelConfig};
use crate::data::grouping::{self, Groups};
use crate::data::scan::{Position, Scan, Source};
use crate::models::physics::checkerboard;
use crate::random::{Purpose, Stream};
use crate::{Error, Result};

/// What is kept of a scan once its patterns are on the device.
#[derive(Debug)]
pub struct Member {
    pub source: Source,
    pub positions: Vec<Position>,
    /// Frames that are left out.
    pub rejected: Vec<usize>,
    /// First pattern of this scan among all patterns.
    pub first: usize,
    /// κ in counts = (κ a)².
    pub kappa: f64,
    /// The engine's probe is this times the file's.
    pub gauge: f64,
    /// [P, N, N] probe in the engine's gauge, with the checkerboard.
    pub probe: Array3<Complex32>,
    /// [N, N] weight of each detector pixel.
    pub mask: Array2<f32>,
    /// Patterns to learn from, and patterns to validate on; indices into this scan.
    pub kept: [Vec<usize>; 2],
}

/// All scans of one training.
#[derive(Debug)]
pub struct Pool {
    pub members: Vec<Member>,
    /// N.
    pub side: usize,
    /// P, the largest number of probe modes.
    pub modes: usize,
    /// s in x = a·s, over all patterns to learn from.
    pub input_scale: f64,
    /// Mean photons, and mean √photons, per valid pixel of the patterns to learn from.
    pub typical: [f64; 2],
    /// [N, N] weight of each pixel of a true patch, 1 on average.
    pub label_pixels: Vec<f32>,
}

/// Which patterns an epoch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Training = 0,
    Validation = 1,
}

/// Groups of one epoch, in the order in which they are seen.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    /// [G] scan of each group.
    pub scan: Vec<usize>,
    /// [G·C] patterns, counted over all scans.
    pub index: Vec<usize>,
    /// [G·C] displacement (x, y) from the centre of the group, pixels.
    pub offsets: Vec<[f32; 2]>,
}

impl Epoch {
    /// G.
    pub fn len(&self) -> usize {
        self.scan.len()
    }

    pub fn is_empty(&self) -> bool {
        self.scan.is_empty()
    }

    /// SHA-256 of which patterns are seen, in which order and in which groups.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for number in self.scan.iter().chain(&self.index) {
            hasher.update((*number as u64).to_le_bytes());
        }
        hex(hasher)
    }
}

impl Pool {
    /// Takes in the scans to learn from and the one to validate on. A test file that is one of the
    /// training files is held once.
    pub fn new(
        train: &[Scan],
        test: Option<&Scan>,
        config: &DataConfig,
        seed: u64,
    ) -> Result<Pool> {
        let side = check_sides(train, test)?;
        let mut members = Vec::new();
        let mut first = 0;
        for scan in train {
            members.push(Member::new(scan, first, side));
            first += scan.len();
        }
        match test {
            Some(test) => {
                let same = train.iter().position(|s| s.source.sha256 == test.source.sha256);
                let at = same.unwrap_or_else(|| {
                    members.push(Member::new(test, first, side));
                    let last = members.len() - 1;
                    members[last].kept[Part::Training as usize].clear();
                    last
                });
                members[at].kept[Part::Validation as usize] = test.used();
            }
            None => hold_out(&mut members, config.validation_split, seed),
        }
        let modes = members.iter().map(|m| m.probe.dim().0).max().unwrap_or(1);
        let (energy, typical) = averages(train)?;
        let input_scale = side as f64 / 2.0 / energy.sqrt();
        let label_pixels = vec![1.0; side * side];
        Ok(Pool { members, side, modes, input_scale, typical, label_pixels })
    }

    /// True patches count where the probe lights them: a pattern says nothing of the rest.
    pub fn weigh_labels_by_light(&mut self) {
        let lit = self.illumination();
        let mean = lit.iter().sum::<f32>() / lit.len() as f32;
        self.label_pixels = lit.into_iter().map(|l| l / mean).collect();
    }

    /// Largest displacement of a pattern from the centre of any group, pixels.
    pub fn reach(&self, model: &ModelConfig, config: &DataConfig) -> Result<f64> {
        let mut reach = 0.0f64;
        for member in &self.members {
            let positions = &member.positions;
            let own = grouping::reach(positions, model.gridsize, config.neighbor_count);
            reach = reach.max(own.map_err(|e| member.named(e, ""))?);
        }
        Ok(reach)
    }

    /// The groups of `part` in `epoch`, shuffled when they are learned from. With gridsize 1 the
    /// same `n_images` patterns are used in every epoch; larger groups are drawn anew.
    pub fn epoch(
        &self,
        part: Part,
        model: &ModelConfig,
        config: &DataConfig,
        seed: u64,
        epoch: u32,
    ) -> Result<Epoch> {
        let draw = if model.gridsize == 1 || part == Part::Validation { 0 } else { epoch };
        let mut all = Epoch::default();
        let total: usize = self.members.iter().map(|m| m.kept[part as usize].len()).sum();
        for (i, member) in self.members.iter().enumerate() {
            let kept = &member.kept[part as usize];
            if kept.is_empty() {
                continue;
            }
            let share = config.n_images.map(|n| n.saturating_mul(kept.len()).div_ceil(total));
            let share =
                if part == Part::Validation { share.map(|n| n.min(kept.len())) } else { share };
            let positions: Vec<Position> = kept.iter().map(|&k| member.positions[k]).collect();
            let seed = seed.wrapping_add(i as u64);
            let k = config.neighbor_count;
            // Validation is the same in every epoch, and small: each pattern in turn.
            let rule = if part == Part::Validation { Grouping::Neighbors } else { config.grouping };
            let groups = match rule {
                Grouping::Cover if model.gridsize > 1 => Groups::sharing,
                _ => Groups::build,
            };
            let groups = groups(&positions, model.gridsize, k, share, seed, draw);
            let of = match part {
                Part::Training => "",
                Part::Validation => "of the patterns to validate on: ",
            };
            let groups = groups.map_err(|e| member.named(e, of))?;
            for group in 0..groups.len() {
                all.scan.push(i);
                all.index.extend(groups.group(group).iter().map(|&p| member.first + kept[p]));
                all.offsets.extend(groups.offsets(group, &positions));
            }
        }
        Ok(if part == Part::Training { shuffled(all, model.channels(), seed, epoch) } else { all })
    }
}

impl Member {
    fn new(scan: &Scan, first: usize, side: usize) -> Member {
        let gauge = scan.probe_gauge();
        Member {
            source: scan.source.clone(),
            positions: scan.positions.clone(),
            rejected: scan.rejected.frames().iter().map(|bad| bad.frame).collect(),
            first,
            kappa: scan.dose.kappa,
            gauge,
            probe: checkerboard(scan.probe.view(), gauge),
            mask: scan.mask.clone().unwrap_or_else(|| Array2::ones((side, side))),
            kept: [scan.used(), Vec::new()],
        }
    }
}

impl Member {
    /// An error about the positions, with the name of the file.
    fn named(&self, error: Error, of: &str) -> Error {
        match error {
            Error::Config(problem) => Error::input(&self.source.path, format!("{of}{problem}")),
            other => other,
        }
    }
}

/// N of all scans, which must be one.
fn check_sides(train: &[Scan], test: Option<&Scan>) -> Result<usize> {
    let side = train.first().map(Scan::side).ok_or_else(|| {
        Error::Config("there is no scan to learn from: give --train-data-file".into())
    })?;
    for scan in train.iter().chain(test) {
        scan.check()?;
        if scan.probe.is_empty() {
            let problem = "has no probe, which the physics needs: add `probeGuess`";
            return Err(Error::input(&scan.source.path, problem));
        }
        if scan.side() != side {
            let problem = format!(
                "patterns are {0}×{0}, but those of {1} are {side}×{side}: scans that are learned \
                 together need one size",
                scan.side(),
                train[0].source.path.display()
            );
            return Err(Error::input(&scan.source.path, problem));
        }
    }
    Ok(side)
}

/// Moves a share of each scan's patterns from training to validation.
fn hold_out(members: &mut [Member], share: f64, seed: u64) {
    for (i, member) in members.iter_mut().enumerate() {
        let all = std::mem::take(&mut member.kept[Part::Training as usize]);
        let count = (share * all.len() as f64) as usize;
        let order = Stream::new(seed, Purpose::Split, i as u32).permutation(all.len());
        if share > 0.0 && count == 0 {
            log::warn!(
                "{}: --validation-split {share} of {} patterns is none: nothing is validated on",
                member.source.path.display(),
                all.len()
            );
        }
        let (held, kept) = order.split_at(count);
        member.kept = [kept, held].map(|part| {
            let mut part: Vec<usize> = part.iter().map(|&i| all[i]).collect();
            part.sort_unstable();
            part
        });
    }
}

/// Mean Σ a² per pattern, and the mean of (κ a)² and κ a per valid pixel.
fn averages(train: &[Scan]) -> Result<(f64, [f64; 2])> {
    let mut energy = (0.0, 0usize);
    let (mut counts, mut roots, mut pixels) = (0.0, 0.0, 0.0);
    for scan in train {
        let used = scan.used().len();
        energy = (energy.0 + scan.mean_energy() * used as f64, energy.1 + used);
        scan.walk_used(|pattern| {
            for (at, &a) in pattern.indexed_iter() {
                let weight = scan.mask.as_ref().map_or(1.0, |m| f64::from(m[at]));
                let root = scan.dose.kappa * f64::from(a);
                counts += weight * root * root;
                roots += weight * root;
                pixels += weight;
            }
        })?;
    }
    Ok((energy.0 / energy.1 as f64, [counts / pixels, roots / pixels]))
}

fn shuffled(all: Epoch, channels: usize, seed: u64, epoch: u32) -> Epoch {
    let order = Stream::new(seed, Purpose::Shuffle, epoch).permutation(all.len());
    let mut mixed = Epoch::default();
    for i in order {
        mixed.scan.push(all.scan[i]);
        mixed.index.extend(&all.index[i * channels..(i + 1) * channels]);
        mixed.offsets.extend(&all.offsets[i * channels..(i + 1) * channels]);
    }
    mixed
}
