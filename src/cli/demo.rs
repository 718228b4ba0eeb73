//! `ptycho-gpu demo`: the whole job on a scan that the program simulates, so that it can be judged.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ndarray::{Array2, Ix1, Ix2, s};
use num_complex::{Complex32, Complex64};
use serde_json::json;

use super::stdout::print;
use super::{infer, train};
use crate::config::PatchWeighting;
use crate::config::Schedule;
use crate::data::Position;
use crate::data::npz::Npz;
use crate::metrics::gauge::Gauge;
use crate::metrics::{Reconstruction, Report, TruthReport, against_truth};
use crate::report::bitmap::Bitmap;
use crate::report::{self, Colormap, Picture, Range, draw_image};
use crate::simulate::objects::ObjectKind;
use crate::simulate::probes::ProbeKind;
use crate::simulate::{ObjectSpec, ProbeSpec, Recipe, ScanSpec, SimulatedScan, simulate};
use crate::{Error, Result};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folder for the scan, the run, the reconstruction and the pictures
    #[arg(long, value_name = "FOLDER", default_value = "demo")]
    pub output_dir: PathBuf,
    /// Seed of the scan and of the training
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Passes over the scan
    #[arg(long, value_name = "EPOCHS", default_value_t = EPOCHS)]
    pub epochs: usize,
    /// Print one line of JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// As many as fit into two minutes on two cores; more sharpen the picture.
const EPOCHS: usize = 16;
/// A narrow network is several times as fast as the default, and a demonstration is short.
const FILTERS_SCALE: usize = 1;
const BATCH_SIZE: usize = 8;
const LEARNING_RATE: f64 = 2e-3;
/// Half maximum, object pixels.
const PROBE_DIAMETER: f64 = 16.0;
/// Curvature of the beam: phase at the edge of the detector, rad.
const DEFOCUS: f64 = 30.0;
/// The cosine schedule ends at this part of the learning rate.
const LAST_RATE: f64 = 0.02;

/// 400 overlapping patterns of lines that absorb and shift the phase. The beam is curved: under a
/// flat symmetric one, a patch and its conjugate turned by 180° would give the same pattern.
fn recipe(seed: u64) -> Recipe {
    Recipe {
        scan: ScanSpec { patterns: 400, step: 5.0, ..ScanSpec::default() },
        object: ObjectSpec { kind: ObjectKind::Lines, ..ObjectSpec::default() },
        probe: ProbeSpec {
            kind: ProbeKind::Gaussian,
            diameter: PROBE_DIAMETER,
            defocus: DEFOCUS,
            ..ProbeSpec::default()
        },
        seed,
        ..Recipe::default()
    }
}

/// Simulates, trains, reconstructs, measures, and says where everything is.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    let started = Instant::now();
    let folder = &args.output_dir;
    report::create_folder(folder)?;
    let file = folder.join("scan.npz");
    let truth = simulate(&recipe(args.seed))?;
    truth.write(&file)?;
    log::info!("simulated {} patterns: {}", truth.positions.len(), file.display());
    train::train(&training(&args, &file))?;
    let rebuilt = folder.join("reconstruction");
    let data = infer::infer(&infer::Args {
        model_path: folder.clone(),
        test_data: file,
        output_dir: rebuilt.clone(),
        batch_size: 16,
        coord_scale: 1.0,
        // After so short a training neighbours contradict each other: a plain mean of all of them
        // is better than trust in the middle of each (docs/defaults.md).
        patch_weighting: PatchWeighting::Uniform,
        quiet: args.quiet,
        ..infer::Args::default()
    })?;
    let compared = compare(&rebuilt.join("reconstruction.npz"), &truth)?;
    let picture = folder.join("comparison.png");
    compared.picture(&recipe(args.seed).object).write_png(&picture, "Truth and reconstruction")?;
    let seconds = started.elapsed().as_secs_f64();
    let report = Report { data: Some(data), truth: Some(compared.report) };
    if args.json {
        let mut line = json!(report);
        line["folder"] = json!(folder);
        line["picture"] = json!(picture);
        line["seconds"] = json!(seconds);
        return report::print_json(&line);
    }
    let mut text = format!("{report}\nTruth beside reconstruction  {}\n", picture.display());
    for name in ["amplitude.png", "phase.png", "reconstruction.npz"] {
        text += &format!("{name:<28} {}\n", rebuilt.join(name).display());
    }
    text += &format!("{:<28} {}\n", "checkpoints, history.csv", folder.display());
    print(text + &format!("{seconds:.0} s in all\n"))
}

fn training(args: &Args, scan: &Path) -> train::Args {
    train::Args {
        train_data_file: Some(vec![scan.to_path_buf()]),
        output_dir: Some(args.output_dir.clone()),
        max_epochs: Some(args.epochs),
        seed: Some(args.seed),
        n_filters_scale: Some(FILTERS_SCALE),
        batch_size: Some(BATCH_SIZE),
        learning_rate: Some(LEARNING_RATE),
        schedule: Some(Schedule::Cosine),
        lr_min_ratio: Some(LAST_RATE),
        quiet: Some(args.quiet),
        ..train::Args::default()
    }
}

/// Truth and reconstruction over the scanned area, the latter in the gauge of the former.
struct Compared {
    truth: Array2<Complex64>,
    rebuilt: Array2<Complex64>,
    report: TruthReport,
}

fn compare(path: &Path, scan: &SimulatedScan) -> Result<Compared> {
    let mut npz = Npz::open(path)?;
    let whole = |_| Error::input(path, "holds arrays of another number of axes");
    let object = npz.c64("object")?.into_dimensionality::<Ix2>().map_err(whole)?;
    let weights = npz.f32("weights")?.into_dimensionality::<Ix2>().map_err(whole)?;
    let origin = npz.f64("origin_yx")?.into_dimensionality::<Ix1>().map_err(whole)?;
    let positions: &[Position] = &scan.positions;
    let origin_yx = [origin[0], origin[1]];
    let placed =
        Reconstruction { object: object.view(), weights: weights.view(), origin_yx, positions };
    let truth = scan.object.mapv(|z| Complex32::new(z.re as f32, z.im as f32));
    let report = against_truth(&placed, truth.view())?;
    let [top, left, height, width] = report.area;
    // The canvas begins on whole object pixels.
    let [y, x] = [top - origin[0] as usize, left - origin[1] as usize];
    let rebuilt = object
        .slice(s![y..y + height, x..x + width])
        .mapv(|z| Complex64::new(z.re.into(), z.im.into()));
    let gauge = Gauge {
        factor: Complex64::from_polar(report.gauge_amplitude, report.gauge_phase),
        ramp_yx: report.gauge_ramp_yx,
    };
    Ok(Compared {
        truth: scan.object.slice(s![top..top + height, left..left + width]).to_owned(),
        rebuilt: gauge.apply(rebuilt.view()),
        report,
    })
}

/// How far the scales of the pictures reach beyond the range of the object, as a part of it.
const MARGIN: f64 = 0.1;

impl Compared {
    /// Amplitudes in the upper row, phases in the lower one, the truth on the left.
    fn picture(&self, object: &ObjectSpec) -> Bitmap {
        let margin = MARGIN * (object.amplitude_max - object.amplitude_min);
        let amplitudes = Range::Fixed(object.amplitude_min - margin, object.amplitude_max + margin);
        let reach = object.phase * (1.0 + 2.0 * MARGIN);
        let phases = Range::Fixed(-reach, reach);
        let amplitude = |title, image: &Array2<Complex64>| {
            let picture = Picture {
                title,
                colormap: Colormap::Sequential,
                range: amplitudes,
                ..Picture::default()
            };
            draw_image(&image.mapv(|z| z.norm() as f32), &picture)
        };
        let phase = |title, image: &Array2<Complex64>| {
            let (colormap, range, unit) = (Colormap::Cyclic, phases, "rad");
            let picture = Picture { title, colormap, range, unit, ..Picture::default() };
            draw_image(&image.mapv(|z| z.arg() as f32), &picture)
        };
        side_by_side(&[
            [amplitude("True amplitude", &self.truth), amplitude("Reconstructed", &self.rebuilt)],
            [phase("True phase", &self.truth), phase("Reconstructed", &self.rebuilt)],
        ])
    }
}

/// Pictures of one size as a table.
fn side_by_side(rows: &[[Bitmap; 2]; 2]) -> Bitmap {
    let (width, height) = (rows[0][0].width, rows[0][0].height);
    let mut whole = Bitmap::new(2 * width, 2 * height);
    for (row, pictures) in rows.iter().enumerate() {
        for (column, picture) in pictures.iter().enumerate() {
            for y in 0..height {
                for x in 0..width {
                    whole.set(column * width + x, row * height + y, picture.get(x, y));
                }
            }
        }
    }
    whole
}
