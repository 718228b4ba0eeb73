//! Pairs of files, NAME_para with positions and NAME_dp with patterns, and the one that PtychoViT reads: a
//! product without patterns, and the patterns.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{intensities, keep, pixel, product};
use crate::data::hdf5::Hdf5Writer;
use crate::data::scan::Scan;
use crate::{Error, Result};

pub(super) fn write(path: &Path, scan: &Scan, provenance: &Value) -> Result<Vec<String>> {
    let [para, dp] = names(path)?;
    let pixel = pixel(path, scan)?;
    let mut notes = Vec::new();
    let patterns = patterns(&dp, scan, &mut notes)?;
    let mut file = Hdf5Writer::create(&para)?;
    product::header(&mut file, scan, pixel, provenance, &mut notes)?;
    keep(&mut file, "raw_data", scan, &["objectGuess", "probeGuess"], &mut notes)?;
    patterns.finish()?;
    file.finish()?;
    Ok(notes)
}

/// The file of the patterns, yet to be finished: not before the other one can be.
pub(super) fn patterns(dp: &Path, scan: &Scan, notes: &mut Vec<String>) -> Result<Hdf5Writer> {
    let mut file = Hdf5Writer::create(dp)?;
    intensities(&mut file, "dp", scan, notes)?;
    Ok(file)
}

/// NAME_para and NAME_dp for either of them, or for NAME.
pub(super) fn names(path: &Path) -> Result<[PathBuf; 2]> {
    let parts = path.file_stem().and_then(|stem| stem.to_str()).zip(path.extension());
    let Some((stem, ending)) = parts else {
        return Err(Error::Config(format!("{} names no file to write", path.display())));
    };
    let name = stem.strip_suffix("_para").or_else(|| stem.strip_suffix("_dp")).unwrap_or(stem);
    let ending = ending.to_string_lossy();
    Ok(["_para", "_dp"].map(|part| path.with_file_name(format!("{name}{part}.{ending}"))))
}
