//! CXI 1.6, with the classes and attributes by which NeXus viewers find the patterns and the object.
//!
//! SI units throughout. The columns of a pattern run along −x and its rows along −y, as `basis_vectors`
//! says, and translations are those of the sample: a patch lies at + translation / pixel.

use std::path::Path;

use serde_json::Value;

use super::{intensities, is_binary, keep, metres, optics, pixel};
use crate::Result;
use crate::data::hdf5::Hdf5Writer;
use crate::data::scan::Scan;

/// Joules of an electron volt.
const ELECTRON_VOLT: f64 = 1.602_176_634e-19;

/// The mask bit of a pixel that is not to be trusted.
const BAD: u32 = 0x80;

const DETECTOR: &str = "entry_1/instrument_1/detector_1";
const SOURCE: &str = "entry_1/instrument_1/source_1";
const TRANSLATION: &str = "entry_1/sample_1/geometry_1/translation";

/// The group of what the format has no place for.
pub(in crate::data) const KEPT: &str = "entry_1/raw_data";

pub(super) fn write(path: &Path, scan: &Scan, provenance: &Value) -> Result<Vec<String>> {
    let (energy, distance, [dy, dx]) = optics(path, &scan.instrument)?;
    pixel(path, scan)?;
    let mut notes = Vec::new();
    let mut file = Hdf5Writer::create(path)?;
    classes(&mut file, scan.object.is_some())?;
    file.array("cxi_version", &[], &[160i64])?;
    file.text("entry_1/program_name", env!("CARGO_PKG_NAME"))?;
    file.text("entry_1/provenance", &provenance.to_string())?;
    let unit = |written: crate::data::hdf5::Written<'_>, unit: &str| {
        written.with_text("units", unit).map(drop)
    };
    unit(file.number(&format!("{SOURCE}/energy"), energy * ELECTRON_VOLT)?, "J")?;
    // What our own readers prefer: electron volts do not survive the way to joules and back.
    unit(file.number("entry_1/instrument_1/beam_1/incident_beam_energy", energy)?, "eV")?;
    if !scan.probe.is_empty() {
        file.complex(&format!("{SOURCE}/illumination"), scan.probe.shape(), &scan.probe)?;
    }
    unit(file.number(&format!("{DETECTOR}/distance"), distance)?, "m")?;
    unit(file.number(&format!("{DETECTOR}/x_pixel_size"), dx)?, "m")?;
    unit(file.number(&format!("{DETECTOR}/y_pixel_size"), dy)?, "m")?;
    let basis = [0.0, -dy, 0.0, -dx, 0.0, 0.0];
    unit(file.array(&format!("{DETECTOR}/basis_vectors"), &[2, 3], &basis)?, "m")?;
    intensities(&mut file, &format!("{DETECTOR}/data"), scan, &mut notes)?
        .with_text("axes", "translation:y:x")?
        .with_text("interpretation", "image")?;
    let binary = is_binary(scan);
    if let Some(mask) = &scan.mask {
        let bits: Vec<u32> = mask.iter().map(|&w| if w > 0.0 { 0 } else { BAD }).collect();
        file.array(&format!("{DETECTOR}/mask"), mask.shape(), &bits)?;
    }
    let places: Vec<f64> = metres(scan).iter().flat_map(|[y, x]| [*x, *y, 0.0]).collect();
    unit(file.array(TRANSLATION, &[scan.len(), 3], &places)?, "m")?;
    file.link("entry_1/data_1/data", &format!("{DETECTOR}/data"))?;
    file.link("entry_1/data_1/translation", TRANSLATION)?;
    file.link(&format!("{DETECTOR}/translation"), TRANSLATION)?;
    if let Some(object) = &scan.object {
        file.complex("entry_1/image_1/data", object.shape(), object)?;
    }
    let standard: &[&str] = match binary {
        true => &["probeGuess", "objectGuess", "mask"],
        false => &["probeGuess", "objectGuess"],
    };
    keep(&mut file, KEPT, scan, standard, &mut notes)?;
    file.finish()?;
    Ok(notes)
}

/// What NeXus calls the groups, and which of them a viewer shows first.
fn classes(file: &mut Hdf5Writer, image: bool) -> Result<()> {
    file.group_text("", "default", "entry_1")?;
    let classes = [
        ("entry_1", "NXentry"),
        ("entry_1/instrument_1", "NXinstrument"),
        ("entry_1/instrument_1/source_1", "NXsource"),
        ("entry_1/instrument_1/beam_1", "NXbeam"),
        ("entry_1/instrument_1/detector_1", "NXdetector"),
        ("entry_1/sample_1", "NXsample"),
        ("entry_1/sample_1/geometry_1", "NXgeometry"),
        ("entry_1/data_1", "NXdata"),
        (KEPT, "NXcollection"),
    ];
    for (at, class) in classes {
        file.group_text(at, "NX_class", class)?;
    }
    file.group_text("entry_1", "default", "data_1")?;
    file.text("entry_1/definition", "NXptycho")?;
    file.group_text("entry_1/data_1", "signal", "data")?;
    if image {
        file.group_text("entry_1/image_1", "NX_class", "NXdata")?;
        file.group_text("entry_1/image_1", "signal", "data")?;
    }
    Ok(())
}
