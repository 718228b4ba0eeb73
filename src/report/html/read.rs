//! What the folder of a run holds.

use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, ArrayD, ArrayView2, Ix1, Ix2, Ix3};
use num_complex::Complex32;
use serde_json::Value;

use crate::data::npz::Npz;
use crate::reconstruction::{Saved, lit, shaped, trusted};
use crate::report::history::{self, Table};
use crate::{Error, Result};

/// The folder of a run, read.
pub struct Folder {
    pub path: PathBuf,
    /// run.json.
    pub record: Value,
    /// history.csv, where there is one.
    pub history: Option<Table>,
    pub result: Option<ResultFile>,
}

/// Another reconstruction, on the canvas and in the gauge of the one that is shown.
pub struct Before {
    /// [H, W], 0 where it is not known.
    pub object: Array2<Complex32>,
    /// What it is called beside the slider.
    pub name: String,
}

/// A pattern, as photons in [N, N] pixels.
pub struct Frame {
    /// In the scan.
    pub index: i64,
    pub measured: Array2<f32>,
    pub predicted: Array2<f32>,
}

/// A reconstruction.npz.
pub struct ResultFile {
    pub saved: Saved,
    /// The record of the run that made it.
    pub record: Value,
    /// [H, W] where the object is shown, and where it decides the colours.
    pub shown: Array2<bool>,
    pub trusted: Array2<bool>,
    /// [H, W]; none where it is 0 everywhere.
    pub consistency: Option<Array2<f32>>,
    /// [M] x and y that were commanded, where the result may differ from them.
    pub commanded: Vec<(f64, f64)>,
    pub frame_residual: Vec<f64>,
    pub mode_powers: Vec<f64>,
    pub frc: Vec<f64>,
    /// Some patterns.
    pub frames: Vec<Frame>,
    pub before: Option<Before>,
    /// Height and width of a pixel of the object, m.
    pub pixel_m: Option<[f64; 2]>,
}

/// Commands whose folders have a page.
const COMMANDS: [&str; 4] = ["train", "infer", "reconstruct", "refine"];

impl Folder {
    /// Reads the folder of a run. `before` replaces what a refinement started from.
    pub fn read(path: &Path, before: Option<Before>) -> Result<Folder> {
        let record = record(path)?;
        let command = record["command"].as_str().unwrap_or_default().to_string();
        if !COMMANDS.contains(&command.as_str()) {
            return Err(Error::input(
                path.join("run.json"),
                format!(
                    "is the record of `{command}`; there are pages for the folders of {}",
                    COMMANDS.join(", ")
                ),
            ));
        }
        let log = path.join("history.csv");
        let history = if log.exists() { Some(history::read(&log)?) } else { None };
        if command == "train" && history.is_none() {
            return Err(Error::input(&log, "is missing: no training has run in this folder"));
        }
        let file = path.join("reconstruction.npz");
        // A network may be applied in the folder of its training.
        let result = match command != "train" || file.exists() {
            true => Some(ResultFile::read(&file, &record, before)?),
            false if before.is_some() => {
                let text = "is missing: only a reconstruction can be compared with another";
                return Err(Error::input(&file, text));
            }
            false => None,
        };
        Ok(Folder { path: path.to_path_buf(), record, history, result })
    }

    /// `train`, `infer`, …
    pub fn command(&self) -> &str {
        self.record["command"].as_str().unwrap_or_default()
    }

    /// The scan that the run is about, without its folder.
    pub fn name(&self) -> String {
        let inputs = self.record["inputs"].as_array();
        let first = inputs.and_then(|inputs| inputs.first()).and_then(|i| i["path"].as_str());
        let name = first.and_then(|path| Path::new(path).file_name());
        name.map_or_else(|| "scan".into(), |name| name.to_string_lossy().into_owned())
    }
}

fn record(folder: &Path) -> Result<Value> {
    let path = folder.join("run.json");
    if !folder.is_dir() || !path.exists() {
        return Err(Error::input(
            folder,
            "holds no run.json: expected the output folder of train, infer, reconstruct or refine",
        ));
    }
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let record: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::input(&path, format!("is no JSON: {error}")))?;
    match record.is_object() {
        true => Ok(record),
        false => Err(Error::input(&path, "is no record of a run: expected a JSON object")),
    }
}

impl ResultFile {
    fn read(path: &Path, record: &Value, before: Option<Before>) -> Result<ResultFile> {
        if !path.exists() {
            return Err(Error::input(path, "is missing: the run did not come to its end"));
        }
        let saved = Saved::read(path)?;
        let npz = &mut Npz::open(path)?;
        let record = if record["command"] == "train" { metadata(npz)? } else { record.clone() };
        let shape = saved.object.dim();
        let consistency = optional::<_, Ix2>(npz, "consistency", Npz::f32)?;
        let consistency = consistency.filter(|c| c.iter().any(|&x| x > 0.0));
        let before = match before {
            Some(before) => Some(before),
            None => optional::<_, Ix2>(npz, "object_before", Npz::c64)?
                .map(|object| Before { object, name: "before".into() }),
        };
        let stitched = record["command"] == "infer";
        let weights = &saved.weights;
        let result = ResultFile {
            shown: if stitched { weights.mapv(|w| w > 0.0) } else { lit(weights) },
            trusted: trusted(weights),
            commanded: if stitched { Vec::new() } else { commanded(npz)? },
            frame_residual: list(npz, "frame_residual")?,
            mode_powers: list(npz, "mode_powers")?,
            frc: list(npz, "frc")?,
            frames: frames(npz)?,
            pixel_m: pixel(&record),
            consistency,
            before,
            record,
            saved,
        };
        let images = [
            result.consistency.as_ref().map(|c| c.dim()),
            result.before.as_ref().map(|b| b.object.dim()),
        ];
        if images.into_iter().flatten().any(|dim| dim != shape) {
            let text = format!("holds images that do not have the {shape:?} pixels of the object");
            return Err(Error::input(path, text));
        }
        Ok(result)
    }
}

/// The record inside a reconstruction.npz.
fn metadata(npz: &mut Npz) -> Result<Value> {
    let text = npz.text("metadata")?.unwrap_or_default();
    serde_json::from_str(&text)
        .map_err(|error| Error::input(npz.path(), format!("`metadata` is no JSON: {error}")))
}

fn pixel(record: &Value) -> Option<[f64; 2]> {
    let pixel = &record["inputs"][0]["object_pixel_m"];
    let pixel = [pixel[0].as_f64()?, pixel[1].as_f64()?];
    pixel.iter().all(|p| p.is_finite() && *p > 0.0).then_some(pixel)
}

fn optional<T, D: ndarray::Dimension>(
    npz: &mut Npz,
    key: &str,
    read: impl Fn(&mut Npz, &str) -> Result<ArrayD<T>>,
) -> Result<Option<ndarray::Array<T, D>>> {
    match npz.find(key) {
        Some(_) => shaped(npz, key, read).map(Some),
        None => Ok(None),
    }
}

fn list(npz: &mut Npz, key: &str) -> Result<Vec<f64>> {
    Ok(optional::<_, Ix1>(npz, key, Npz::f64)?.map_or_else(Vec::new, |list| list.to_vec()))
}

fn commanded(npz: &mut Npz) -> Result<Vec<(f64, f64)>> {
    let nominal = optional::<_, Ix2>(npz, "coords_nominal", Npz::f64)?;
    let nominal = nominal.filter(|n| n.ncols() == 2);
    Ok(nominal.map_or_else(Vec::new, |n| n.rows().into_iter().map(|p| (p[0], p[1])).collect()))
}

fn frames(npz: &mut Npz) -> Result<Vec<Frame>> {
    let Some(indices) = optional::<_, Ix1>(npz, "shown_indices", Npz::i64)? else {
        return Ok(Vec::new());
    };
    let measured: Array3<f32> = shaped::<_, Ix3>(npz, "shown_measured", Npz::f32)?;
    let predicted: Array3<f32> = shaped::<_, Ix3>(npz, "shown_predicted", Npz::f32)?;
    if measured.dim() != predicted.dim() || measured.dim().0 != indices.len() {
        let text = "`shown_indices`, `shown_measured` and `shown_predicted` do not belong together";
        return Err(Error::input(npz.path(), text));
    }
    if measured.is_empty() && !indices.is_empty() {
        return Err(Error::input(npz.path(), "`shown_measured` has patterns without pixels"));
    }
    let images = measured.outer_iter().zip(predicted.outer_iter());
    let frame = |(&index, (measured, predicted)): (&i64, (ArrayView2<f32>, ArrayView2<f32>))| {
        Frame { index, measured: measured.to_owned(), predicted: predicted.to_owned() }
    };
    Ok(indices.iter().zip(images).map(frame).collect())
}
