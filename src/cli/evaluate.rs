//! `ptycho-gpu evaluate`: a reconstruction against the truth and against the data.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Ix2};
use num_complex::Complex32;
use serde_json::{Value, json};

use crate::data::npz::Npz;
use crate::data::{LoadOptions, Scan, load};
use crate::metrics::{Report, TruthReport, against_truth, data_space, is_guess};
use crate::reconstruction::{Saved, shaped};
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A reconstruction.npz, or the folder that holds it
    #[arg(value_name = "RECONSTRUCTION")]
    pub reconstruction: PathBuf,
    /// The scan that was reconstructed
    #[arg(value_name = "SCAN", required_unless_present = "truth")]
    pub scan: Option<PathBuf>,
    /// An .npz file whose objectGuess is the truth, instead of the scan's
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
    let result = Saved::read(&args.reconstruction)?;
    let scan = args.scan.as_ref().map(|path| load(path, &args.load)).transpose()?;
    let (truth, note) = truth(args.truth.as_deref(), scan.as_ref())?;
    let data = scan.as_ref().map(|scan| data_space(&result.explained(scan))).transpose()?;
    let truth = truth.map(|truth| against_truth(&result.placed(), truth.view())).transpose()?;
    let report = Report { data, truth };
    print!("{report}");
    if let Some(note) = &note {
        println!("{note}");
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
        println!("{figures}");
    }
    Ok(())
}

/// The true object, or a sentence that says why there is none.
fn truth(
    file: Option<&Path>,
    scan: Option<&Scan>,
) -> Result<(Option<Array2<Complex32>>, Option<String>)> {
    let object = match file {
        Some(path) => Some(shaped::<_, Ix2>(&mut Npz::open(path)?, "objectGuess", Npz::c64)?),
        None => scan.and_then(|scan| scan.object.clone()),
    };
    let note = match &object {
        None => "The scan has no objectGuess: nothing to compare the image with.",
        Some(object) if is_guess(object.view()) => {
            "The objectGuess is constant, a starting guess and not a truth: the image is not compared with it."
        }
        Some(_) => return Ok((object, None)),
    };
    Ok((None, Some(note.to_owned())))
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
