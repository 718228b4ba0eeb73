//! Prepared data of ptypy (`.ptyd`).
//!
//! `/meta/{energy (keV), distance (m), psize (m)}` and for each chunk `/chunks/K/{data [M, N, N],
//! positions [M, 2] (y, x) in metres, weights}`: positions are as seen in the object.

use ndarray::Array2;

use super::KEPT;
use super::mapped::Mapped;
use crate::Result;
use crate::data::hdf5::Hdf5;
use crate::data::instrument::{Cornered, Instrument};
use crate::data::writers;

pub(super) fn open(file: Hdf5, given: Instrument) -> Result<Mapped> {
    let chunks = chunks(&file)?;
    let data: Vec<String> = chunks.iter().map(|chunk| format!("{chunk}/data")).collect();
    let side = file.member("diffraction", &data[0])?.shape.last().copied().unwrap_or(0);
    // A size along each axis, the rows first, or one for both.
    let pair = |name: &str| {
        let at = format!("meta/{name}");
        let values: Vec<f64> = file.f64(&at)?.iter().copied().collect();
        match *values.as_slice() {
            [both] if both > 0.0 && both.is_finite() => Ok([both; 2]),
            [y, x] if y > 0.0 && x > 0.0 && (x + y).is_finite() => Ok([y, x]),
            _ => Err(file.problem(&at, "is no number above 0")),
        }
    };
    let number = |name: &str| match pair(name)? {
        [one, other] if one == other => Ok(one),
        _ => Err(file.problem(&format!("meta/{name}"), "has two different values")),
    };
    let known = |given: Option<f64>, factor: f64, name: &str| {
        given.map_or_else(|| Ok(factor * number(name)?), Ok)
    };
    let mut instrument = Instrument {
        energy_ev: Some(known(given.energy_ev, 1e3, "energy")?),
        distance_m: Some(known(given.distance_m, 1.0, "distance")?),
        detector_pixel_m: Some(match given.detector_pixel_m {
            Some(pixel) => pixel,
            None => pair("psize")?,
        }),
        ..given
    };
    let object = instrument.pixel_m(side).expect("energy, distance and pixel");
    let Cornered { positions, origin_m } =
        Instrument::from_corner(&places(&file, &chunks)?, object, side);
    instrument.origin_m = Some(origin_m);
    let mut scan = Mapped::new(vec![file], true);
    scan.set_instrument(instrument);
    scan.note(format!("positions are in metres: 1 pixel of the object is {:.4e} m", object[1]));
    let shown = format!("/{}/positions", chunks[0]);
    scan.patterns(0, &data, None)?;
    scan.positions([&shown, &shown], &positions);
    match mask(scan.file(0), &chunks, side)? {
        Some(mask) => scan.real("mask", "/chunks", mask.into_dyn()),
        None => scan.note("there is no mask (`weights`, `weight2d`)"),
    }
    if scan.file(0).has("provenance") {
        scan.kept(0, writers::ptyd::KEPT, &KEPT)?;
    }
    Ok(scan)
}

/// A pixel counts where it does in every pattern that says so: one mask for all is what there is here.
fn mask(file: &Hdf5, chunks: &[String], side: usize) -> Result<Option<Array2<f64>>> {
    let common = ["meta/weight2d", "info/weight2d"].map(str::to_owned);
    let mut mask: Option<Array2<f64>> = None;
    for at in chunks.iter().map(|chunk| format!("{chunk}/weights")).chain(common) {
        if !file.has(&at) {
            continue;
        }
        let weights = file.f64(&at)?;
        // ptypy writes empty ones where a mask for all is kept elsewhere.
        if weights.is_empty() || weights.ndim() < 2 {
            continue;
        }
        let [.., height, width] = *weights.shape() else { unreachable!("two axes at least") };
        if [height, width] != [side, side] {
            let problem =
                format!("has shape {:?}, the patterns are {side}×{side}", weights.shape());
            return Err(file.problem(&at, &problem));
        }
        let all = mask.get_or_insert_with(|| Array2::ones((side, side)));
        for (i, &weight) in weights.iter().enumerate() {
            let at = [i / side % side, i % side];
            if weight.is_nan() || weight <= 0.0 {
                all[at] = 0.0;
            }
        }
    }
    Ok(mask)
}

/// Paths of the chunks, by number.
fn chunks(file: &Hdf5) -> Result<Vec<String>> {
    let mut numbers: Vec<usize> =
        file.names("chunks")?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    match numbers.is_empty() {
        true => Err(file.problem("chunks", "holds no chunk of patterns")),
        false => Ok(numbers.iter().map(|n| format!("chunks/{n}")).collect()),
    }
}

/// (y, x) of every pattern, metres.
fn places(file: &Hdf5, chunks: &[String]) -> Result<Vec<[f64; 2]>> {
    let mut found = Vec::new();
    for chunk in chunks {
        let at = format!("{chunk}/positions");
        let values = file.f64(&at)?;
        if values.ndim() != 2 || values.shape()[1] != 2 {
            let problem = format!("has shape {:?}, expected (M,2)", values.shape());
            return Err(file.problem(&at, &problem));
        }
        let flat: Vec<f64> = values.iter().copied().collect();
        found.extend(flat.chunks(2).map(|yx| [yx[0], yx[1]]));
    }
    Ok(found)
}
