//! CXI files (version 1.6) and NeXus files that follow NXcxi_ptycho.
//!
//! Everything is in SI units unless an attribute says other. Translations are those of the sample, in
//! a frame with y upwards and x to the left as seen along the beam, while columns and rows run to the
//! right and downwards: the two reversals of each axis cancel, so that a pattern's patch lies at
//! + translation / pixel.

use ndarray::ArrayD;

use super::mapped::Mapped;
use super::{ELECTRON_VOLT, HC, object_pixel};
use crate::Result;
use crate::data::hdf5::Hdf5;
use crate::data::scan::Position;

/// No photon carries so few joules, nor so many electron volts as this is in joules.
const JOULES: f64 = 1e-10;

/// A mask bit that is no error: the pixel has a signal.
const HAS_SIGNAL: u32 = 0x1000;

const PATTERNS: [&str; 5] = [
    "entry_1/data_1/data",
    "entry_1/instrument_1/detector_1/data",
    "entry_1/instrument_1/detector_1/data_1",
    "entry/data/data",
    "entry/instrument/detector/data",
];
const TRANSLATIONS: [&str; 5] = [
    "entry_1/sample_1/geometry_1/translation",
    "entry_1/sample_1/geometry/translation",
    "entry_1/data_1/translation",
    "entry_1/instrument_1/detector_1/translation",
    "entry/sample/geometry/translation",
];
const DISTANCES: [&str; 2] =
    ["entry_1/instrument_1/detector_1/distance", "entry/instrument/detector/distance"];
const PIXELS: [&str; 4] = [
    "entry_1/instrument_1/detector_1/x_pixel_size",
    "entry_1/instrument_1/detector_1/y_pixel_size",
    "entry/instrument/detector/x_pixel_size",
    "entry/instrument/detector/y_pixel_size",
];
const WAVELENGTHS: [&str; 3] = [
    "entry_1/instrument_1/source_1/wavelength",
    "entry_1/instrument_1/beam_1/incident_wavelength",
    "entry/instrument/beam/incident_wavelength",
];
const ENERGIES: [&str; 4] = [
    "entry_1/instrument_1/beam_1/incident_beam_energy",
    "entry_1/instrument_1/beam_1/energy",
    "entry_1/instrument_1/source_1/energy",
    "entry/instrument/beam/incident_beam_energy",
];
const MASKS: [&str; 2] = ["entry_1/instrument_1/detector_1/mask", "entry/instrument/detector/mask"];
const PROBES: [&str; 2] = [
    "entry_1/instrument_1/source_1/illumination",
    "entry_1/instrument_1/source_1/data_illumination",
];

pub(super) fn open(file: Hdf5) -> Result<Mapped> {
    let at = need(&file, "patterns", &PATTERNS)?;
    let shape = file.member("diffraction", at)?.shape;
    let side = shape.last().copied().unwrap_or(0);
    let distance = length(&file, need(&file, "the distance of the detector", &DISTANCES)?)?;
    let pixel = length(&file, need(&file, "the size of a detector pixel", &PIXELS)?)?;
    let energy = energy(&file)?;
    let object = object_pixel(energy, distance, side, pixel);
    if !(object.is_finite() && object > 0.0) {
        let problem = format!(
            "makes no object pixel with {energy} eV, a distance of {distance} m and {side} pixels of \
             {pixel} m"
        );
        return Err(file.problem(at, &problem));
    }
    let places = need(&file, "translations", &TRANSLATIONS)?;
    let positions = positions(&file, places, object, side)?;
    let mut scan = Mapped::new(vec![file], true);
    scan.note(format!(
        "positions are translations of the sample: 1 pixel of the object is {object:.4e} m ({energy:.1} eV, \
         {distance} m, {side} pixels of {pixel:.4e} m)"
    ));
    scan.patterns(0, &[at.to_owned()], None)?;
    scan.positions([places, places], &positions);
    if let Some(at) = scan.file(0).first(&PROBES) {
        scan.stored("probeGuess", 0, at)?;
    }
    if let Some(at) = scan.file(0).first(&MASKS) {
        let bits = scan.file(0).f64(at)?;
        let bad = bits.iter().filter(|&&bits| weight(bits) == 0.0).count();
        scan.note(format!("`/{at}` ignores {bad} of {} pixels", bits.len()));
        let mask: ArrayD<f64> = bits.mapv(weight);
        scan.real("mask", at, mask);
    }
    Ok(scan)
}

/// 0 where a bit says that the pixel is not to be trusted.
fn weight(bits: f64) -> f64 {
    f64::from(u8::from(bits as u32 & !HAS_SIGNAL == 0))
}

fn need<'a>(file: &Hdf5, what: &str, places: &[&'a str]) -> Result<&'a str> {
    file.first(places).ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|at| format!("`/{at}`")).collect();
        let entry = if file.has("entry_1") { "entry_1" } else { "entry" };
        file.problem(entry, &format!("lacks {what}: looked for {}", looked.join(", ")))
    })
}

/// Metres at `at`, in the unit that it says.
fn length(file: &Hdf5, at: &str) -> Result<f64> {
    Ok(file.number(at)? * metres(file, at)?)
}

/// Metres of the unit of what is at `at`.
fn metres(file: &Hdf5, at: &str) -> Result<f64> {
    let unit = file.units(at).unwrap_or_else(|| "m".to_owned());
    Ok(match unit.trim() {
        "m" | "meter" | "metre" | "meters" | "" => 1.0,
        "mm" => 1e-3,
        "um" | "µm" | "μm" | "micron" | "microns" | "micrometer" => 1e-6,
        "nm" => 1e-9,
        "A" | "Å" | "angstrom" | "Angstrom" => 1e-10,
        "pm" => 1e-12,
        other => {
            return Err(file.problem(at, &format!("has the unit `{other}`, expected a length")));
        }
    })
}

/// Energy of the photons, eV.
fn energy(file: &Hdf5) -> Result<f64> {
    if let Some(at) = file.first(&WAVELENGTHS) {
        return Ok(HC / length(file, at)?);
    }
    let at = need(file, "energy or wavelength", &ENERGIES)?;
    let value = file.number(at)?;
    let unit = file.units(at);
    Ok(match unit.as_deref().map(str::trim) {
        Some("eV") => value,
        Some("keV") => 1e3 * value,
        Some("J") => value / ELECTRON_VOLT,
        // CXI means joules, but electron volts are written too.
        None | Some("") if value > JOULES => value,
        None | Some("") => value / ELECTRON_VOLT,
        Some(other) => {
            return Err(file.problem(at, &format!("has the unit `{other}`, expected eV, keV or J")));
        }
    })
}

/// Pixels of the object, the first patch from the corner of its array.
fn positions(file: &Hdf5, at: &str, object: f64, side: usize) -> Result<Vec<Position>> {
    let (values, metres) = (file.f64(at)?, metres(file, at)?);
    let &[.., columns] = values.shape() else {
        return Err(file.problem(at, "is a single number, expected (M,3)"));
    };
    if !(2..=3).contains(&columns) || values.ndim() < 2 {
        let problem = format!("has shape {:?}, expected (M,3)", values.shape());
        return Err(file.problem(at, &problem));
    }
    let flat: Vec<f64> = values.iter().map(|t| t * metres / object).collect();
    let least = |axis: usize| {
        flat.iter().skip(axis).step_by(columns).copied().fold(f64::INFINITY, f64::min)
    };
    let half = (side / 2) as f64;
    let [x, y] = [0, 1].map(|axis| half - least(axis));
    Ok(flat.chunks(columns).map(|t| Position { x: t[0] + x, y: t[1] + y }).collect())
}
