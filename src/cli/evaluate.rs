//! `ptycho-gpu evaluate`: a reconstruction against the truth and against the data.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Ix2};
use num_complex::Complex32;
use serde_json::{Value, json};

use super::stdout::print;
use crate::data::npz::Npz;
use crate::data::{LoadOptions, Scan, load};
use crate::metrics::{Report, TruthReport, against_truth, data_space, is_guess};
use crate::reconstruction::{Saved, shaped};
use crate::{Error, Result, report as output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A reconstruction.npz, or the folder that holds it
    #[arg(value_name = "RECONSTRUCTION")]
    pub reconstruction: PathBuf,
    /// The scan that was reconstructed
    #[arg(value_name = "SCAN", required_unless_present = "truth")]
    pub scan: Option<PathBuf>,
    /// What is taken for the truth instead of the scan's: the objectGuess of another .npz file, or
    /// another reconstruction
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Print all figures as one JSON line after the table
    #[arg(long)]
    pub json: bool,
    /// Write the Fourier ring correlation of amplitude and phase as CSV
    #[arg(long, value_name = "FILE")]
    pub frc: Option<PathBuf>,
    /// Write all figures, those of each pattern too, as JSON
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Measures, prints a table, and writes what was asked for.
pub fn run(args: Args) -> Result<()> {
    let mut result = Saved::read(&args.reconstruction)?;
    let scan = args.scan.as_ref().map(|path| load(path, &args.load)).transpose()?;
    if let Some(scan) = &scan {
        result = result.without_rejected(scan)?;
    }
    let (truth, note) = truth(args.truth.as_deref(), scan.as_ref())?;
    let data = scan.as_ref().map(|scan| data_space(&result.explained(scan))).transpose()?;
    let truth = truth.map(|Truth { object, origin_yx }| {
        against_truth(&result.clone().seen_from(origin_yx).placed(), object.view())
    });
    let truth = truth.transpose()?;
    let report = Report { data, truth };
    print(report.to_string())?;
    if let Some(note) = &note {
        print(format!("{note}\n"))?;
    }
    if let Some(path) = &args.frc {
        write_frc(path, report.truth.as_ref())?;
    }
    let mut figures = json!(report);
    if let Some(note) = note {
        figures["note"] = note.into();
    }
    if let Some(path) = &args.output {
        write_figures(path, &report, figures.clone())?;
    }
    if args.json {
        output::print_json(&figures)?;
    }
    Ok(())
}

/// What a reconstruction is held against.
struct Truth {
    /// [H, W].
    object: Array2<Complex32>,
    /// Object coordinates (row, column) of its pixel (0, 0).
    origin_yx: [f64; 2],
}

/// The true object, or a sentence that says why there is none.
fn truth(file: Option<&Path>, scan: Option<&Scan>) -> Result<(Option<Truth>, Option<String>)> {
    let truth = match file {
        Some(path) => Some(read_truth(path)?),
        None => scan
            .and_then(|scan| scan.object.clone())
            .map(|object| Truth { object, origin_yx: [0.0; 2] }),
    };
    let note = match &truth {
        None => "The scan has no objectGuess: nothing to compare the image with.",
        Some(truth) if is_guess(truth.object.view()) => {
            "The objectGuess is constant, a starting guess and not a truth: the image is not compared with it."
        }
        Some(_) => return Ok((truth, None)),
    };
    Ok((None, Some(note.to_owned())))
}

/// The `objectGuess` of a scan, or the object of another reconstruction.
fn read_truth(path: &Path) -> Result<Truth> {
    if path.is_dir() || Npz::open(path)?.find("origin_yx").is_some() {
        let Saved { object, origin_yx, .. } = Saved::read(path)?;
        return Ok(Truth { object, origin_yx });
    }
    let object = shaped::<_, Ix2>(&mut Npz::open(path)?, "objectGuess", Npz::c64)?;
    Ok(Truth { object, origin_yx: [0.0; 2] })
}

fn write_frc(path: &Path, truth: Option<&TruthReport>) -> Result<()> {
    let Some(truth) = truth else {
        return Err(Error::Config(
            "--frc needs a truth: give a scan that has one, or --truth".into(),
        ));
    };
    let [amplitude, phase] = &truth.image.frc;
    let mut text = String::from("ring,cycles_per_pixel,amplitude,phase\n");
    for (ring, (a, p)) in amplitude.curve.iter().zip(&phase.curve).enumerate() {
        let frequency = ring as f64 / amplitude.side as f64;
        writeln!(text, "{ring},{frequency},{a},{p}").expect("a string grows as needed");
    }
    fs::write(path, text).map_err(Error::io("write", path))
}

fn write_figures(path: &Path, report: &Report, mut figures: Value) -> Result<()> {
    if let Some(data) = &report.data {
        figures["per_frame"] = json!(data.per_frame);
    }
    fs::write(path, format!("{figures:#}\n")).map_err(Error::io("write", path))
}
