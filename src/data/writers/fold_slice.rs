//! The pair of files that fold_slice and PtychoShelves read: positions in metres, and the patterns.
//!
//! Their programs take (−ppY, −ppX) for the row and the column of a patch. The pixel of the object is in
//! `/dx`, and the wavelength, where it is known, in `/lambda`, both in metres.

use std::path::Path;

use serde_json::Value;

use super::pair::{names, patterns};
use super::{keep, metres, pixel};
use crate::Result;
use crate::data::hdf5::Hdf5Writer;
use crate::data::scan::Scan;

/// The group of what the format has no place for, in the file of the positions.
pub(in crate::data) const KEPT: &str = "raw_data";

pub(super) fn write(path: &Path, scan: &Scan, provenance: &Value) -> Result<Vec<String>> {
    let [para, dp] = names(path)?;
    let [height, width] = pixel(path, scan)?;
    let mut notes = Vec::new();
    if height != width {
        notes.push(format!(
            "pixels of the object are {height:.4e} × {width:.4e} m: `/dx` is their width, the format has \
             no place for their height"
        ));
    }
    let patterns = patterns(&dp, scan, &mut notes)?;
    let mut file = Hdf5Writer::create(&para)?;
    let places = metres(scan);
    for (name, axis) in [("ppX", 1), ("ppY", 0)] {
        let turned: Vec<f64> = places.iter().map(|place| -place[axis]).collect();
        file.array(name, &[turned.len()], &turned)?.with_text("units", "m")?;
    }
    file.number("dx", width)?.with_text("units", "m")?;
    if let Some(wavelength) = scan.instrument.wavelength_m() {
        file.number("lambda", wavelength)?.with_text("units", "m")?;
    }
    file.text("provenance", &provenance.to_string())?;
    keep(&mut file, KEPT, scan, &[], &mut notes)?;
    patterns.finish()?;
    file.finish()?;
    Ok(notes)
}
