//! One file for each format, all seen as a [`Archive`].

mod cxi;
mod fold_slice;
mod folder;
mod mapped;
mod product;
mod ptyd;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::hdf5::Hdf5;
use super::npz::Npz;
use super::reading::{Format, Reading};
use crate::{Error, Result};

/// The first bytes of an HDF5 file.
const HDF5: [u8; 8] = [0x89, b'H', b'D', b'F', b'\r', b'\n', 0x1a, b'\n'];

/// What our own writers keep of a scan where a format has no place for it.
const KEPT: [&str; 9] = [
    "xcoords",
    "ycoords",
    "xcoords_start",
    "ycoords_start",
    "mask",
    "objectGuess",
    "probeGuess",
    "Y",
    "_metadata",
];

/// Joules of an electron volt.
const ELECTRON_VOLT: f64 = 1.602_176_634e-19;

/// Opens a scan of the format that `reading` names, else of the one that its content tells.
pub fn open(path: &Path, reading: &Reading) -> Result<Box<dyn Archive>> {
    let format = match reading.format {
        Some(format) => format,
        None => detect(path)?,
    };
    let hdf5 = || match is_hdf5(path) {
        // What cannot even be opened says so itself.
        false if path.is_file() && File::open(path).is_ok() => {
            Err(Error::input(path, "is no HDF5 file: --format says it is one"))
        }
        _ => Hdf5::open(path),
    };
    let given = reading.instrument()?;
    Ok(match format {
        Format::Npz => Box::new(Npz::open(path)?),
        Format::Folder => Box::new(folder::open(path)?),
        Format::Ptychodus => Box::new(product::open(hdf5()?, given)?),
        Format::FoldSlice => Box::new(fold_slice::open(hdf5()?, given)?),
        Format::Cxi | Format::Nexus => {
            Box::new(cxi::open(hdf5()?, given, reading.positions.is_some())?)
        }
        Format::Ptyd => Box::new(ptyd::open(hdf5()?, given)?),
    })
}

/// The format of a file by its content.
fn detect(path: &Path) -> Result<Format> {
    if path.is_dir() {
        return Ok(Format::Folder);
    }
    if !is_hdf5(path) {
        return Ok(Format::Npz);
    }
    let file = Hdf5::open(path)?;
    if file.has(fold_slice::X) || file.has("dp") && fold_slice::is_beside(path) {
        return Ok(Format::FoldSlice);
    }
    if file.has("probe_position_x_m") || file.has("dp") {
        return Ok(Format::Ptychodus);
    }
    if file.has("chunks") && file.has("meta") {
        return Ok(Format::Ptyd);
    }
    if file.has("entry_1") || file.has("entry") {
        return Ok(Format::Cxi);
    }
    let names = file.names("/")?;
    let problem = format!(
        "is an HDF5 file of no layout that is known here: it holds {}; expected a ptychodus product \
         (`probe_position_x_m`), fold_slice (`ppX`), CXI or NeXus (`entry_1`, `entry`), or ptypy \
         (`chunks`, `meta`)",
        names.iter().take(12).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    );
    Err(Error::input(path, problem))
}

/// Whether the file begins as HDF5 files do, perhaps behind a block for the user, as those of Matlab have
/// it; one that cannot be opened is left to its reader.
fn is_hdf5(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(2056).read_to_end(&mut head));
    read.is_ok() && [0, 512, 1024, 2048].iter().any(|&at| head.get(at..at + 8) == Some(&HDF5))
}

/// The file beside `path` whose name has `to` in place of `from` at the end of its stem.
fn beside(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?.strip_suffix(from)?;
    let name = |ending: &&str| path.with_file_name(format!("{stem}{to}.{ending}"));
    ["hdf5", "h5", "hdf"].iter().map(name).find(|path| path.exists())
}
