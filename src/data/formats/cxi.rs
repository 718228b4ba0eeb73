//! CXI files (version 1.6), NeXus files that follow NXcxi_ptycho, and the master files of Eiger
//! detectors.
//!
//! Everything is in SI units unless an attribute says other. Translations are those of the sample, in
//! a frame with y upwards and x to the left as seen along the beam. Where columns and rows run to the
//! right and downwards, as they do unless `basis_vectors` say other, the two reversals of each axis
//! cancel: a pattern's patch lies at + translation / pixel.

use ndarray::ArrayD;

use super::mapped::Mapped;
use super::{ELECTRON_VOLT, KEPT};
use crate::Result;
use crate::data::hdf5::Hdf5;
use crate::data::instrument::{Cornered, HC, Instrument};
use crate::data::writers;

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
/// The group of arrays that an Eiger numbers: data_000001, …
const SERIES: &str = "entry/data";
const TRANSLATIONS: [&str; 5] = [
    "entry_1/sample_1/geometry_1/translation",
    "entry_1/sample_1/geometry/translation",
    "entry_1/data_1/translation",
    "entry_1/instrument_1/detector_1/translation",
    "entry/sample/geometry/translation",
];
const DISTANCES: [&str; 3] = [
    "entry_1/instrument_1/detector_1/distance",
    "entry/instrument/detector/distance",
    "entry/instrument/detector/detector_distance",
];
const PIXELS: [[&str; 2]; 2] = [
    ["entry_1/instrument_1/detector_1/x_pixel_size", "entry/instrument/detector/x_pixel_size"],
    ["entry_1/instrument_1/detector_1/y_pixel_size", "entry/instrument/detector/y_pixel_size"],
];
const BASES: [&str; 2] = [
    "entry_1/instrument_1/detector_1/basis_vectors",
    "entry_1/instrument_1/detector_1/geometry_1/basis_vectors",
];
const BEAMS: [&str; 2] = ["entry_1/instrument_1/beam_1", "entry/instrument/beam"];
const WAVELENGTHS: [&str; 3] = [
    "entry_1/instrument_1/source_1/wavelength",
    "entry_1/instrument_1/beam_1/incident_wavelength",
    "entry/instrument/beam/incident_wavelength",
];
const ENERGIES: [&str; 7] = [
    "entry_1/instrument_1/beam_1/incident_beam_energy",
    "entry_1/instrument_1/beam_1/incident_energy",
    "entry_1/instrument_1/beam_1/energy",
    "entry/instrument/beam/incident_beam_energy",
    "entry/instrument/beam/incident_energy",
    "entry/instrument/beam/energy",
    "entry/instrument/detector/detectorSpecific/photon_energy",
];

/// Of the photons in CXI; of the electrons in the ring where a NeXus file has a beam too.
const SOURCE_ENERGY: &str = "entry_1/instrument_1/source_1/energy";

/// Electron volts that photons, or electrons of a microscope, may have.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = 10.0..=1e6;
const MASKS: [&str; 5] = [
    "entry_1/instrument_1/detector_1/mask",
    "entry_1/instrument_1/detector_1/pixel_mask",
    "entry/instrument/detector/mask",
    "entry/instrument/detector/pixel_mask",
    "entry/instrument/detector/detectorSpecific/pixel_mask",
];
const IMAGE: &str = "entry_1/image_1/data";
const PROBES: [&str; 2] = [
    "entry_1/instrument_1/source_1/illumination",
    "entry_1/instrument_1/source_1/data_illumination",
];

/// With `placed`, positions come from elsewhere, and those of the file are not looked at.
pub(super) fn open(file: Hdf5, given: Instrument, placed: bool) -> Result<Mapped> {
    let patterns = patterns(&file)?;
    let at = patterns[0].as_str();
    let side = file.member("diffraction", at)?.shape.last().copied().unwrap_or(0);
    // The master file of a detector knows nothing of the sample.
    let Some(places) = file.first(&TRANSLATIONS).filter(|_| !placed) else {
        let mut scan = Mapped::new(vec![file], true);
        let silent = said_nowhere(scan.file(0));
        let instrument = match (silent, placed) {
            (true, _) => given,
            // It may not be needed.
            (false, true) => stated(scan.file(0), given).unwrap_or(given),
            (false, false) => stated(scan.file(0), given)?,
        };
        scan.set_instrument(instrument);
        return rest(scan, &patterns);
    };
    let mut instrument = stated(&file, given)?;
    let known = instrument.pixel_m(side);
    let Some(pixel) = known.filter(|pair| pair.iter().all(|p| p.is_finite() && *p > 0.0)) else {
        let problem = format!("makes no object pixel with {}", instrument.describe(side));
        return Err(file.problem(at, &problem));
    };
    let metres = self::places(&file, places, axes(&file)?)?;
    let Cornered { positions, origin_m } = Instrument::from_corner(&metres, pixel, side);
    instrument.origin_m = Some(origin_m);
    let described = instrument.describe(side);
    let mut scan = Mapped::new(vec![file], true);
    scan.set_instrument(instrument);
    scan.note(format!("positions are translations of the sample: {described}"));
    scan.positions([places, places], &positions);
    rest(scan, &patterns)
}

/// Whether the file says nothing at all of the instrument.
fn said_nowhere(file: &Hdf5) -> bool {
    let places = [&DISTANCES[..], &WAVELENGTHS, &ENERGIES, &PIXELS[0], &PIXELS[1]];
    places.iter().all(|places| file.first(places).is_none()) && !file.has(SOURCE_ENERGY)
}

/// What is given, and the rest of the instrument from the file.
fn stated(file: &Hdf5, given: Instrument) -> Result<Instrument> {
    if given.object_pixel_m.is_some() {
        // All else is of interest, but not needed.
        let free = Instrument { object_pixel_m: None, ..given };
        return Ok(given.or(stated(file, free).unwrap_or_default()));
    }
    let distance = match given.distance_m {
        Some(distance) => distance,
        None => length(file, need(file, "the distance of the detector (--distance)", &DISTANCES)?)?,
    };
    let energy = match given.energy_ev {
        Some(energy) => energy,
        None => energy(file)?,
    };
    let pixel = match given.detector_pixel_m {
        Some(pixel) => pixel,
        None => {
            // One pixel size may be left out.
            let [x, y] = PIXELS.map(|places| file.first(&places));
            let Some((x, y)) = x.or(y).zip(y.or(x)) else {
                let problem = "has no size of a detector pixel (x_pixel_size, y_pixel_size): give \
                     --detector-pixel";
                return Err(file.problem(entry(file), problem));
            };
            [length(file, y)?, length(file, x)?]
        }
    };
    Ok(Instrument {
        energy_ev: Some(energy),
        distance_m: Some(distance),
        detector_pixel_m: Some(pixel),
        ..given
    })
}

/// Where the patterns are: in one array, or in those that the master file of an Eiger numbers.
fn patterns(file: &Hdf5) -> Result<Vec<String>> {
    if let Some(at) = file.first(&PATTERNS) {
        return Ok(vec![at.to_owned()]);
    }
    let mut numbered: Vec<String> = file
        .names(SERIES)
        .unwrap_or_default()
        .into_iter()
        .filter(|name| {
            let number = name.strip_prefix("data_");
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(|name| format!("{SERIES}/{name}"))
        .collect();
    numbered.sort();
    match numbered.is_empty() {
        true => need(file, "patterns", &PATTERNS).map(|at| vec![at.to_owned()]),
        false => Ok(numbered),
    }
}

/// Patterns, probe and mask.
fn rest(mut scan: Mapped, patterns: &[String]) -> Result<Mapped> {
    scan.patterns(0, patterns, None)?;
    if let Some(at) = scan.file(0).first(&PROBES) {
        scan.stored("probeGuess", 0, at)?;
    }
    let program = scan.file(0).text("entry_1/program_name").ok();
    let ours = program.as_deref() == Some(env!("CARGO_PKG_NAME"));
    // Those of others lie anywhere.
    if ours && scan.file(0).has(IMAGE) {
        scan.stored("objectGuess", 0, IMAGE)?;
    }
    if let Some(at) = scan.file(0).first(&MASKS) {
        let bits = scan.file(0).f64(at)?;
        let bad = bits.iter().filter(|&&bits| weight(bits) == 0.0).count();
        scan.note(format!("`/{at}` ignores {bad} of {} pixels", bits.len()));
        let mask: ArrayD<f64> = bits.mapv(weight);
        scan.real("mask", at, mask);
    }
    if ours {
        scan.kept(0, writers::cxi::KEPT, &KEPT)?;
    }
    Ok(scan)
}

/// 0 where a bit says that the pixel is not to be trusted.
fn weight(bits: f64) -> f64 {
    // Of a signed type the highest bit is a sign.
    let bits = bits.is_finite().then_some(bits as i64 as u32);
    f64::from(u8::from(bits.is_some_and(|bits| bits & !HAS_SIGNAL == 0)))
}

fn entry(file: &Hdf5) -> &'static str {
    if file.has("entry_1") { "entry_1" } else { "entry" }
}

fn need<'a>(file: &Hdf5, what: &str, places: &[&'a str]) -> Result<&'a str> {
    if let Some(at) = file.first(places) {
        return Ok(at);
    }
    // Behind a link that cannot be followed: that is what is wrong.
    if file.first_link(places[0]).is_some() {
        file.member("", places[0])?;
    }
    let looked: Vec<String> = places.iter().map(|at| format!("`/{at}`")).collect();
    Err(file.problem(entry(file), &format!("lacks {what}: looked for {}", looked.join(", "))))
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
    let (at, energy) = match file.first(&WAVELENGTHS) {
        Some(at) => (at, HC / length(file, at)?),
        None => {
            let at = match file.first(&ENERGIES) {
                None if file.first(&BEAMS).is_none() && file.has(SOURCE_ENERGY) => SOURCE_ENERGY,
                _ => need(file, "energy or wavelength of the beam (--energy)", &ENERGIES)?,
            };
            (at, electron_volts(file, at)?)
        }
    };
    if !PLAUSIBLE.contains(&energy) {
        let problem = format!(
            "makes {energy:.4e} eV, expected {:e} to {:e} eV: check its unit",
            PLAUSIBLE.start(),
            PLAUSIBLE.end()
        );
        return Err(file.problem(at, &problem));
    }
    Ok(energy)
}

fn electron_volts(file: &Hdf5, at: &str) -> Result<f64> {
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

/// Directions of a pattern's columns and rows in space, of length 1; where the file does not say, to
/// the right as seen along the beam and downwards, which is −x and −y.
fn axes(file: &Hdf5) -> Result<[[f64; 3]; 2]> {
    let Some(at) = file.first(&BASES) else { return Ok([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]) };
    let values = file.f64(at)?;
    let flat: Vec<f64> = values.iter().copied().collect();
    // Slow (down the rows) before fast (along the columns), each a row or each a column.
    let [slow, fast] = match values.shape() {
        [2, 3] => [0, 1].map(|k| [flat[3 * k], flat[3 * k + 1], flat[3 * k + 2]]),
        [3, 2] => [0, 1].map(|k| [flat[k], flat[2 + k], flat[4 + k]]),
        shape => {
            let problem = format!("has shape {shape:?}, expected (2,3) or (3,2)");
            return Err(file.problem(at, &problem));
        }
    };
    let unit = |v: [f64; 3]| {
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.map(|x| x / length)
    };
    let axes = [unit(fast), unit(slow)];
    match axes.iter().flatten().all(|x| x.is_finite()) {
        true => Ok(axes),
        false => Err(file.problem(at, "has a vector without length")),
    }
}

/// (y, x) of every patch, metres. The probe moves against the sample, so that a translation t puts it at
/// −t, of which `axes` (columns, rows) take the parts.
fn places(file: &Hdf5, at: &str, axes: [[f64; 3]; 2]) -> Result<Vec<[f64; 2]>> {
    let (values, metres) = (file.f64(at)?, metres(file, at)?);
    let &[_, columns @ 2..=3] = values.shape() else {
        let problem = format!("has shape {:?}, expected (M,3)", values.shape());
        return Err(file.problem(at, &problem));
    };
    let flat: Vec<f64> = values.iter().map(|t| t * metres).collect();
    let along = |t: &[f64], k: usize| -t.iter().zip(axes[k]).map(|(t, axis)| t * axis).sum::<f64>();
    Ok(flat.chunks(columns).map(|t| [along(t, 1), along(t, 0)]).collect())
}
