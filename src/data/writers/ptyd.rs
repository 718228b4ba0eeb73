//! Prepared data of ptypy: one chunk of patterns with positions (y, x) in metres and weights.

use std::path::Path;

use serde_json::Value;

use super::{intensities, is_binary, keep, metres, optics, pixel};
use crate::Result;
use crate::data::hdf5::Hdf5Writer;
use crate::data::scan::Scan;

/// The group of what the format has no place for.
pub(in crate::data) const KEPT: &str = "raw_data";

pub(super) fn write(path: &Path, scan: &Scan, provenance: &Value) -> Result<Vec<String>> {
    let (energy, distance, [dy, dx]) = optics(path, &scan.instrument)?;
    pixel(path, scan)?;
    let (mut notes, side) = (Vec::new(), scan.side());
    let mut file = Hdf5Writer::create(path)?;
    file.text("meta/version", "0.1")?;
    file.text("meta/label", "scan")?;
    file.text("meta/propagation", "farfield")?;
    file.array("meta/num_frames", &[], &[scan.len() as i64])?;
    file.array("meta/shape", &[2], &[side as i64; 2])?;
    file.array("meta/center", &[2], &[(side / 2) as f64; 2])?;
    file.number("meta/energy", energy / 1e3)?;
    file.number("meta/distance", distance)?;
    match dy == dx {
        true => file.number("meta/psize", dx)?,
        false => file.array("meta/psize", &[2], &[dy, dx])?,
    };
    intensities(&mut file, "chunks/0/data", scan, &mut notes)?;
    let indices: Vec<i64> = (0..scan.len() as i64).collect();
    file.array("chunks/0/indices", &[scan.len()], &indices)?;
    let places: Vec<f64> = metres(scan).concat();
    file.array("chunks/0/positions", &[scan.len(), 2], &places)?;
    if let Some(mask) = &scan.mask {
        let weights: Vec<f32> = mask.iter().copied().collect();
        file.array("meta/weight2d", mask.shape(), &weights)?;
    }
    file.text("provenance", &provenance.to_string())?;
    let standard: &[&str] = if is_binary(scan) { &["mask"] } else { &[] };
    keep(&mut file, KEPT, scan, standard, &mut notes)?;
    file.finish()?;
    Ok(notes)
}
