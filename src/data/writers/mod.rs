//! Scans into files of other programs, one module for each format.
//!
//! What a format has no place for goes, under the keys of our own layout, into a group of its own that
//! other programs pass over and our readers look into first: so every file gives back the scan that it
//! was written from, bit for bit.

pub(super) mod cxi;
pub(super) mod fold_slice;
mod folder;
mod pair;
pub(crate) mod product;
pub(super) mod ptyd;

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array3};
use serde_json::Value;

use super::hdf5::{Hdf5Writer, Written};
use super::instrument::Instrument;
use super::save::{CountedPatterns, ScanFile, save_scan};
use super::scan::{Position, Scan};
use crate::{Error, Result};

pub use folder::{PART, write_folder};

/// Formats that scans are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Our own: arrays of NumPy in one .npz
    Npz,
    /// Product of ptychodus with its patterns in the same file
    Ptychodus,
    /// The pair NAME_para.hdf5 and NAME_dp.hdf5 of PtychoViT
    Ptychovit,
    /// CXI 1.6, which follows NXcxi_ptycho too
    Cxi,
    /// ptypy
    Ptyd,
    /// The pair NAME_para.hdf5 and NAME_dp.hdf5 of fold_slice and PtychoShelves
    FoldSlice,
    /// A folder of .npz, each with a part of the patterns
    Folder,
}

impl Target {
    /// The format that a name asks for.
    pub fn of(path: &Path) -> Result<Target> {
        if path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator) {
            return Ok(Target::Folder);
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let pair = stem.is_some_and(|stem| stem.ends_with("_para") || stem.ends_with("_dp"));
        match ending.as_deref() {
            Some("npz") => Ok(Target::Npz),
            Some("h5" | "hdf5" | "hdf") if pair => Ok(Target::Ptychovit),
            Some("h5" | "hdf5" | "hdf") => Ok(Target::Ptychodus),
            Some("cxi" | "nxs") => Ok(Target::Cxi),
            Some("ptyd") => Ok(Target::Ptyd),
            _ => Err(Error::Config(format!(
                "{}: its ending names no format: use .npz, .h5, .cxi, .nxs, .ptyd, or / for a \
                 folder, or say --to",
                path.display()
            ))),
        }
    }
}

/// Writes `scan`, atomically; gives back what other programs will not find in the file, one sentence
/// each. `provenance` is kept with it.
///
/// Error: a format with metres for a scan that does not know its pixels.
pub fn write(path: &Path, target: Target, scan: &Scan, provenance: &Value) -> Result<Vec<String>> {
    scan.amplitude.in_memory()?;
    match target {
        Target::Npz => save_scan(path, scan).map(|()| Vec::new()),
        Target::Ptychodus => product::write(path, scan, provenance),
        Target::Ptychovit => pair::write(path, scan, provenance),
        Target::Cxi => cxi::write(path, scan, provenance),
        Target::Ptyd => ptyd::write(path, scan, provenance),
        Target::FoldSlice => fold_slice::write(path, scan, provenance),
        Target::Folder => write_folder(path, scan, PART).map(|()| Vec::new()),
    }
}

/// The files, or the folder, that [`write`] makes.
pub fn files(path: &Path, target: Target) -> Result<Vec<PathBuf>> {
    match target {
        Target::Ptychovit | Target::FoldSlice => pair::names(path).map(Vec::from),
        _ => Ok(vec![path.to_path_buf()]),
    }
}

/// The first of what [`write`] makes that is there already; a folder without anything in it is not.
pub fn taken(path: &Path, target: Target) -> Result<Option<PathBuf>> {
    let free = |path: &Path| target == Target::Folder && folder::is_empty(path);
    Ok(files(path, target)?.into_iter().find(|path| path.exists() && !free(path)))
}

/// The side (y, x) of a pixel of the object, which a format with metres cannot do without.
fn pixel(path: &Path, scan: &Scan) -> Result<[f64; 2]> {
    scan.instrument.pixel_m(scan.side()).ok_or_else(|| {
        Error::input(
            path,
            "has positions in metres, and the scan does not say how large a pixel of its object is: \
             give --object-pixel, or --energy, --distance and --detector-pixel",
        )
    })
}

/// Energy, distance and detector pixel, which a format cannot do without.
fn optics(path: &Path, instrument: &Instrument) -> Result<(f64, f64, [f64; 2])> {
    let known =
        || Some((instrument.energy_ev?, instrument.distance_m?, instrument.detector_pixel_m?));
    known().ok_or_else(|| {
        let missing: Vec<&str> = [
            ("--energy", instrument.energy_ev.is_none()),
            ("--distance", instrument.distance_m.is_none()),
            ("--detector-pixel", instrument.detector_pixel_m.is_none()),
        ]
        .into_iter()
        .filter_map(|(flag, missing)| missing.then_some(flag))
        .collect();
        Error::input(path, format!("needs what the scan does not say: give {}", missing.join(", ")))
    })
}

/// Where positions are, (y, x) in metres, for a scan that knows its pixels.
fn metres(scan: &Scan) -> Vec<[f64; 2]> {
    let place = |p: &Position| scan.instrument.metres(scan.side(), *p);
    scan.positions.iter().filter_map(place).collect()
}

/// Intensities [M, N, N]: counts where there are some, else the squares of the amplitudes, whose roots
/// have the very same bits. Says so in the second case.
fn intensities<'a>(
    file: &'a mut Hdf5Writer,
    at: &str,
    scan: &Scan,
    notes: &mut Vec<String>,
) -> Result<Written<'a>> {
    let (count, side, _) = scan.amplitude.dim();
    let shape = [count, side, side];
    match CountedPatterns::of(scan) {
        Some(CountedPatterns::Short(counts)) => file.frames(at, &shape, &flat(&counts)),
        Some(CountedPatterns::Long(counts)) => file.frames(at, &shape, &flat(&counts)),
        None => {
            notes.push(format!(
                "the patterns are no counts: `/{at}` has intensities in the unit of the file, of which 1 \
                 is {:.6e} photons",
                scan.dose.kappa.powi(2)
            ));
            file.frames(at, &shape, &flat(&scan.amplitude.held().mapv(|a| a * a)))
        }
    }
}

fn flat<T: Clone>(array: &Array3<T>) -> Vec<T> {
    array.iter().cloned().collect()
}

/// What is kept in the group `at` under our own keys: positions in pixels, and all that `standard`,
/// keys with a place of their own in the format, does not have. Names what other programs miss.
fn keep(
    file: &mut Hdf5Writer,
    at: &str,
    scan: &Scan,
    standard: &[&str],
    notes: &mut Vec<String>,
) -> Result<()> {
    let columns = |all: &[Position]| -> [Array1<f64>; 2] {
        [all.iter().map(|p| p.x).collect(), all.iter().map(|p| p.y).collect()]
    };
    let mut positions = |names: [&str; 2], all: &[Position]| -> Result<()> {
        for (name, values) in names.into_iter().zip(columns(all)) {
            file.array(&format!("{at}/{name}"), &[values.len()], &values.to_vec())?;
        }
        Ok(())
    };
    positions(["xcoords", "ycoords"], &scan.positions)?;
    let mut missed = Vec::new();
    if let Some(nominal) = &scan.nominal {
        positions(["xcoords_start", "ycoords_start"], nominal)?;
        missed.push("commanded positions");
    }
    let place = |key: &str| format!("{at}/{key}");
    if let Some(mask) = scan.mask.as_ref().filter(|_| !standard.contains(&"mask")) {
        let values: Vec<f32> = mask.iter().copied().collect();
        file.array(&place("mask"), mask.shape(), &values)?;
        missed.push("mask");
    }
    if let Some(object) = scan.object.as_ref().filter(|_| !standard.contains(&"objectGuess")) {
        file.complex(&place("objectGuess"), object.shape(), object)?;
        missed.push("object");
    }
    if !scan.probe.is_empty() && !standard.contains(&"probeGuess") {
        file.complex(&place("probeGuess"), scan.probe.shape(), &scan.probe)?;
        missed.push("probe");
    }
    if let Some(labels) = &scan.labels {
        file.complex(&place("Y"), labels.shape(), labels)?;
        missed.push("true patches");
    }
    if let Some(metadata) = ScanFile::new(scan).metadata {
        file.text(&place("_metadata"), &metadata.to_string())?;
    }
    if !missed.is_empty() {
        let (what, at) = (missed.join(", "), at.trim_matches('/'));
        notes
            .push(format!("the format has no place for: {what}; kept in `/{at}` for this program"));
    }
    Ok(())
}

/// Whether a mask is no more than good and bad pixels, as bits say.
fn is_binary(scan: &Scan) -> bool {
    scan.mask.as_ref().is_none_or(|mask| mask.iter().all(|&w| w == 0.0 || w == 1.0))
}
