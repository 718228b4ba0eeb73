//! How rates and memory go with the number of patterns.
//!
//! A scan of so many patterns is written, a few simulated ones over and over, as counts of 16 bits. Then it
//! is loaded as `train` and `infer` load it, with its hash and all checks; the network learns from some
//! patterns of it, is applied to some, and as many patches as there are patterns are stitched. All of the
//! patterns go through the loader and the stitching, so many as [`Options`] say through the network.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ndarray::{Array1, Array3, ArrayView3};
use num_complex::Complex32;
use serde::{Deserialize, Serialize};

use crate::backend::Chosen;
use crate::checkpoint::{self, Checkpoint, Which};
use crate::config::{PatchWeighting, Resolved, TrainConfig};
use crate::data::{LoadOptions, NpzWriter, Position, Room, Scan, load};
use crate::infer::{self, Network};
use crate::memory::{self, Budget};
use crate::simulate::{self, Patterns, Recipe, ScanSpec, scan};
use crate::stitch::{self, BandStitcher, Canvas, Orientation, Stitcher, Weights};
use crate::train::{Material, Trainer, plan};
use crate::{Error, Result};

/// Different patterns of a scan.
const DIFFERENT: usize = 64;

/// Distance of neighbouring positions, pixels.
const STEP: f64 = 4.0;

/// Epochs of the training: the first one warms up.
const EPOCHS: usize = 2;

/// Patches that are stitched at once.
const PATCHES: usize = 256;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Side of a pattern, pixels.
    pub n: usize,
    /// Patterns of a step.
    pub batch: usize,
    /// Steps of an epoch of the training, and batches of the inference.
    pub steps: usize,
    pub memory_limit: Option<memory::Limit>,
    /// Folder for the scan, which goes again.
    pub scratch: PathBuf,
}

/// One size of a scan.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Scale {
    pub patterns: usize,
    /// Of the file.
    pub scan_mb: f64,
    /// Whether the patterns are in memory or read from disk by batches.
    pub in_memory: bool,
    /// Height and width, pixels.
    pub canvas: [usize; 2],
    /// Whether it is stitched by bands.
    pub bands: bool,
    /// Patterns a second: hash, checks and units of all of them.
    pub load_per_s: f64,
    /// Patterns a second of the training, of `steps` steps an epoch.
    pub train_per_s: f64,
    /// Patterns a second of the inference, of `steps` batches.
    pub infer_per_s: f64,
    /// Patches a second, as many as there are patterns.
    pub stitch_per_s: f64,
    /// The most that the process had at once.
    pub peak_mb: Option<f64>,
}

/// A folder that goes again.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing more can be done about a folder that will not go.
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

/// Measures one size. The peak of memory is that of the process: one size a process.
///
/// # Errors
/// The disk is full, the memory too small even for batches.
pub fn measure(device: &Chosen, options: &Options, patterns: usize) -> Result<Scale> {
    let name = format!("ptycho-gpu-scale-{}-{patterns}", std::process::id());
    let folder = Folder(options.scratch.join(name));
    fs::create_dir_all(&folder.0).map_err(Error::io("create", &folder.0))?;
    let path = folder.0.join("scan.npz");
    write(&path, options.n, patterns)?;
    let bytes = fs::metadata(&path).map_err(Error::io("read", &path))?.len();

    let memory = Budget::new(options.memory_limit);
    let room = Room { bytes: plan::room(memory.spare(), device, 1), scratch: folder.0.clone() };
    let started = Instant::now();
    let scan = load(&path, &LoadOptions { room: Some(room), ..LoadOptions::default() })?;
    let load_per_s = patterns as f64 / started.elapsed().as_secs_f64();
    // It is open where it is still read; without a name nothing is left of it however this ends.
    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    let in_memory = !scan.amplitude.is_filed();

    let train_per_s = train(device, options, &scan, &folder.0)?;
    let infer_per_s = infer(device, options, &scan, &folder.0)?;
    let started = Instant::now();
    let (canvas, bands) = stitch(&scan, &memory, &folder.0)?;
    let stitch_per_s = patterns as f64 / started.elapsed().as_secs_f64();
    Ok(Scale {
        patterns,
        scan_mb: bytes as f64 * 1e-6,
        in_memory,
        canvas: [canvas.height, canvas.width],
        bands,
        load_per_s,
        train_per_s,
        infer_per_s,
        stitch_per_s,
        peak_mb: memory::peak().map(|bytes| bytes as f64 * 1e-6),
    })
}

/// The scan: a few patterns over and over, at the positions of a large one.
fn write(path: &Path, side: usize, patterns: usize) -> Result<()> {
    let few = ScanSpec { patterns: DIFFERENT.min(patterns), ..ScanSpec::default() };
    let small = simulate::simulate(&Recipe { side, scan: few, ..Recipe::default() })?;
    let Patterns::Counts(counts) = &small.patterns else { unreachable!("the recipe has noise") };
    let frames: Vec<Vec<u16>> = counts
        .outer_iter()
        .map(|frame| frame.iter().map(|&n| n.min(u16::MAX.into()) as u16).collect())
        .collect();
    let spec = ScanSpec { patterns, step: STEP, jitter: 1.0 };
    let (positions, _) = scan::positions(&spec, side, 1);
    let mut file = NpzWriter::create(path)?.plain();
    let mut next = (0..patterns).map(|m| frames[m % frames.len()].clone());
    file.u16_parts("diffraction", &[patterns, side, side], || Ok(next.next()))?;
    let probe = small.probe.mapv(|z| Complex32::new(z.re as f32, z.im as f32));
    file.c64("probeGuess", &probe)?;
    let axis = |of: fn(&Position) -> f64| positions.iter().map(of).collect::<Array1<f64>>();
    file.f64("xcoords", &axis(|p| p.x))?;
    file.f64("ycoords", &axis(|p| p.y))?;
    file.finish()
}

/// Patterns a second of a short training.
fn train(device: &Chosen, options: &Options, scan: &Scan, folder: &Path) -> Result<f64> {
    let mut config = TrainConfig::default();
    config.model.n = options.n;
    config.data.train_data_file = vec![scan.source.path.clone()];
    config.data.n_images = Some((options.steps * options.batch).min(scan.len()));
    config.run.batch_size = options.batch;
    config.run.max_epochs = EPOCHS;
    config.run.memory_limit = options.memory_limit;
    config.run.output_dir = folder.to_path_buf();
    let material = Material {
        train: vec![scan.clone()],
        test: None,
        supply: None,
        made_labels: false,
        made_probe: false,
    };
    let resolved = Resolved { config, origins: BTreeMap::new() };
    let mut trainer = Trainer::new(material, &resolved, device)?;
    Ok(trainer.run(&folder.join("history.csv"))?.patterns_per_second)
}

/// Patterns a second of a short inference by what was learned.
fn infer(device: &Chosen, options: &Options, scan: &Scan, folder: &Path) -> Result<f64> {
    let path = checkpoint::find(folder, Which::Last)?;
    let network = Network::new(&Checkpoint::load(&path)?, &path, options.batch, device)?;
    let used = (options.steps * options.batch).min(scan.len());
    let started = Instant::now();
    network.reconstruct(
        scan,
        &infer::Options {
            batch_size: options.batch,
            n_images: Some(used),
            recompute_normalisation: false,
            weighting: PatchWeighting::default(),
            crop: None,
            orientation: Orientation::default(),
        },
    )?;
    Ok(used as f64 / started.elapsed().as_secs_f64())
}

/// Takes patches and their centres.
type Add<'a> = &'a mut dyn FnMut(ArrayView3<Complex32>, &[Position]) -> Result<()>;

/// Stitches as many patches as there are patterns: the canvas, and whether it is in bands.
fn stitch(scan: &Scan, memory: &Budget, folder: &Path) -> Result<(Canvas, bool)> {
    let n = scan.side();
    let canvas = Canvas::of_any_size(&scan.positions, n / 2)?;
    let weighting = stitch::Options { crop: n / 2, weights: Weights::Uniform };
    let patches = Array3::from_shape_fn((PATCHES, n, n), |(m, y, x)| {
        Complex32::from_polar(1.0, 0.01 * ((m + y) % 50) as f32 + 0.02 * x as f32)
    });
    let each = |add: Add| {
        scan.positions.chunks(PATCHES).try_for_each(|centres| {
            add(patches.slice(ndarray::s![..centres.len(), .., ..]), centres)
        })
    };
    // The other half is for what is there already.
    let room = memory.spare() / 2;
    if stitch::BYTES_PER_PIXEL * canvas.pixels() <= room {
        let mut stitcher = Stitcher::new(&canvas, &weighting)?;
        each(&mut |patches, centres| stitcher.add(patches, centres))?;
        stitcher.finish()?;
        return Ok((canvas, false));
    }
    let mut stitcher = BandStitcher::new(&canvas, &weighting, scan.len(), room / 2, folder)?;
    each(&mut |patches, centres| stitcher.add(patches, centres))?;
    stitcher.finish()?;
    Ok((canvas, true))
}
