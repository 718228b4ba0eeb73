//! The smallest jobs that are worth doing.

use std::path::Path;

use ptycho_gpu::cli::train;
use ptycho_gpu::config::{Device, PatchWeighting};
use ptycho_gpu::data::Scan;
use ptycho_gpu::infer::Options;
use ptycho_gpu::simulate::{DoseSpec, ProbeSpec, Recipe, ScanSpec, simulate};
use ptycho_gpu::stitch::Orientation;

/// A scan of so many patterns of 64 × 64 pixels that overlap.
pub fn small_scan(patterns: usize) -> Scan {
    let recipe = Recipe {
        scan: ScanSpec { patterns, ..ScanSpec::default() },
        probe: ProbeSpec { diameter: 20.0, ..ProbeSpec::default() },
        dose: DoseSpec::Photons(1e5),
        ..Recipe::default()
    };
    simulate(&recipe).unwrap().to_scan()
}

/// The least training there is, on `scan.npz` in a folder.
pub fn small_training(folder: &Path, run: &Path) -> train::Args {
    train::Args {
        train_data_file: Some(vec![folder.join("scan.npz")]),
        output_dir: Some(run.to_path_buf()),
        max_epochs: Some(1),
        n_images: Some(2),
        batch_size: Some(2),
        n_filters_scale: Some(1),
        device: Some(Device::Cpu),
        quiet: Some(true),
        no_report: true,
        ..train::Args::default()
    }
}

/// All patterns of a scan by the usual rules.
pub fn usual() -> Options {
    Options {
        batch_size: 2,
        n_images: None,
        recompute_normalisation: false,
        weighting: PatchWeighting::Tapered,
        crop: None,
        orientation: Orientation::default(),
    }
}
