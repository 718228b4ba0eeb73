//! `ptycho-gpu evaluate`: a reconstruction against the truth and against the data.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, Ix1, Ix2, Ix3};
use num_complex::Complex32;
use serde_json::{Value, json};

use crate::data::npz::Npz;
use crate::data::{LoadOptions, Position, Scan, load};
use crate::metrics::{Explained, Reconstruction, Report, TruthReport};
use crate::metrics::{against_truth, data_space, is_guess};
use crate::train::teacher::Teacher;
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
    let result = Stitched::read(&args.reconstruction)?;
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

/// What a reconstruction file holds; shapes as in [`Reconstruction`] and [`Explained`].
pub(super) struct Stitched {
    object: Array2<Complex32>,
    weights: Array2<f32>,
    origin_yx: [f64; 2],
    probe: Array3<Complex32>,
    positions: Vec<Position>,
    indices: Vec<usize>,
}

impl Stitched {
    pub fn read(path: &Path) -> Result<Stitched> {
        let path = if path.is_dir() { path.join("reconstruction.npz") } else { path.to_path_buf() };
        let npz = &mut Npz::open(&path)?;
        let object = shaped::<_, Ix2>(npz, "object", Npz::c64)?;
        let weights = shaped::<_, Ix2>(npz, "weights", Npz::f32)?;
        let origin = shaped::<_, Ix1>(npz, "origin_yx", Npz::f64)?;
        let probe = shaped::<_, Ix3>(npz, "probe", Npz::c64)?;
        let positions = shaped::<_, Ix2>(npz, "positions", Npz::f64)?;
        let indices = shaped::<_, Ix1>(npz, "indices", Npz::i64)?;
        let consistent = weights.dim() == object.dim()
            && origin.len() == 2
            && positions.dim() == (indices.len(), 2)
            && origin.iter().chain(&positions).all(|v| v.is_finite())
            && object.iter().all(|z| z.is_finite());
        if !consistent {
            return Err(Error::input(
                &path,
                describe(&object, &weights, positions.dim(), indices.len()),
            ));
        }
        let index = |&i: &i64| {
            usize::try_from(i).map_err(|_| Error::input(&path, format!("`indices` holds {i}")))
        };
        Ok(Stitched {
            weights,
            origin_yx: [origin[0], origin[1]],
            positions: positions
                .rows()
                .into_iter()
                .map(|p| Position { x: p[0], y: p[1] })
                .collect(),
            indices: indices.iter().map(index).collect::<Result<_>>()?,
            object,
            probe,
        })
    }

    /// As the teacher of a network; `path` is where it was read from.
    pub fn teacher<'a>(&'a self, path: &'a Path) -> Teacher<'a> {
        Teacher {
            path,
            object: self.object.view(),
            weights: self.weights.view(),
            origin_yx: self.origin_yx,
            probe: self.probe.view(),
            positions: &self.positions,
            indices: &self.indices,
        }
    }

    fn placed(&self) -> Reconstruction<'_> {
        Reconstruction {
            object: self.object.view(),
            weights: self.weights.view(),
            origin_yx: self.origin_yx,
            positions: &self.positions,
        }
    }

    fn explained<'a>(&'a self, scan: &'a Scan) -> Explained<'a> {
        Explained {
            amplitude: scan.amplitude.view(),
            kappa: scan.dose.kappa,
            mask: scan.mask.as_ref().map(|mask| mask.view()),
            probe: self.probe.view(),
            object: self.object.view(),
            origin_yx: self.origin_yx,
            positions: &self.positions,
            indices: &self.indices,
        }
    }
}

fn describe(
    object: &Array2<Complex32>,
    weights: &Array2<f32>,
    positions: (usize, usize),
    indices: usize,
) -> String {
    format!(
        "object {:?} (finite), weights {:?}, origin_yx (2), positions {positions:?} and {indices} \
         indices do not belong together: expected (H, W), (H, W), (2), (M, 2) and M",
        object.dim(),
        weights.dim()
    )
}

/// The array `key` with the number of axes of `D`.
fn shaped<T, D: ndarray::Dimension>(
    npz: &mut Npz,
    key: &str,
    read: impl Fn(&mut Npz, &str) -> Result<ndarray::ArrayD<T>>,
) -> Result<ndarray::Array<T, D>> {
    let array = read(npz, key)?;
    let problem =
        format!("`{key}` has shape {:?}, expected {} axes", array.shape(), D::NDIM.unwrap_or(0));
    array.into_dimensionality::<D>().map_err(|_| Error::input(npz.path(), problem))
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
