//! One file for each format, all seen as a [`Archive`].

mod cxi;
mod mapped;
mod product;
mod ptyd;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::archive::Archive;
use super::hdf5::Hdf5;
use super::npz::Npz;
use crate::{Error, Result};

/// The first bytes of an HDF5 file.
const HDF5: [u8; 8] = [0x89, b'H', b'D', b'F', b'\r', b'\n', 0x1a, b'\n'];

/// Joules of an electron volt.
const ELECTRON_VOLT: f64 = 1.602_176_634e-19;

/// Opens a scan file of any format, which its content tells.
pub fn open(path: &Path) -> Result<Box<dyn Archive>> {
    if !is_hdf5(path)? {
        return Ok(Box::new(Npz::open(path)?));
    }
    let file = Hdf5::open(path)?;
    if file.has("probe_position_x_m") || file.has("dp") {
        return Ok(Box::new(product::open(file)?));
    }
    if file.has("chunks") && file.has("meta") {
        return Ok(Box::new(ptyd::open(file)?));
    }
    if file.has("entry_1") || file.has("entry") {
        return Ok(Box::new(cxi::open(file)?));
    }
    let names = file.names("/")?;
    let problem = format!(
        "is an HDF5 file of no layout that is known here: it holds {}; expected a ptychodus product \
         (`probe_position_x_m`), CXI or NeXus (`entry_1`), or ptypy (`chunks`, `meta`)",
        names.iter().take(12).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    );
    Err(Error::input(path, problem))
}

/// Whether the file begins as HDF5 files do; one that cannot be opened is left to its reader.
fn is_hdf5(path: &Path) -> Result<bool> {
    let mut head = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    Ok(read.is_ok() && head == HDF5)
}
