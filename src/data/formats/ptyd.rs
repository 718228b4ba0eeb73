//! Prepared data of ptypy (`.ptyd`).
//!
//! `/meta/{energy (keV), distance (m), psize (m)}` and for each chunk `/chunks/K/{data [M, N, N],
//! positions [M, 2] (y, x) in metres, weights}`: positions are as seen in the object.

use super::mapped::Mapped;
use super::object_pixel;
use crate::Result;
use crate::data::hdf5::Hdf5;
use crate::data::scan::Position;

pub(super) fn open(file: Hdf5) -> Result<Mapped> {
    let chunks = chunks(&file)?;
    let data: Vec<String> = chunks.iter().map(|chunk| format!("{chunk}/data")).collect();
    let side = file.member("diffraction", &data[0])?.shape.last().copied().unwrap_or(0);
    let number = |name: &str| {
        let values = file.f64(&format!("meta/{name}"))?;
        let first = values.iter().copied().next().filter(|x| x.is_finite() && *x > 0.0);
        first.ok_or_else(|| file.problem(&format!("meta/{name}"), "is no number above 0"))
    };
    let object = object_pixel(1e3 * number("energy")?, number("distance")?, side, number("psize")?);
    let positions = positions(&file, &chunks, object, side)?;
    let weights = format!("{}/weights", chunks[0]);
    let mut scan = Mapped::new(vec![file], true);
    scan.note(format!("positions are in metres: 1 pixel of the object is {object:.4e} m"));
    let shown = format!("/{}/positions", chunks[0]);
    scan.patterns(0, &data, None)?;
    scan.positions([&shown, &shown], &positions);
    if scan.file(0).has(&weights) {
        let values = scan.file(0).f64(&weights)?;
        match values.ndim() {
            2 => scan.real("mask", &weights, values),
            3 if !values.is_empty() => {
                // One mask for all is what this program has: a pixel must be good in every pattern.
                let mask = values.fold_axis(ndarray::Axis(0), f64::INFINITY, |a, b| a.min(*b));
                scan.note(format!("`/{weights}` has a mask for each pattern: their least is used"));
                scan.real("mask", &weights, mask);
            }
            _ => {}
        }
    }
    Ok(scan)
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

fn positions(file: &Hdf5, chunks: &[String], object: f64, side: usize) -> Result<Vec<Position>> {
    let mut found = Vec::new();
    for chunk in chunks {
        let at = format!("{chunk}/positions");
        let values = file.f64(&at)?;
        if values.ndim() != 2 || values.shape()[1] != 2 {
            let problem = format!("has shape {:?}, expected (M,2)", values.shape());
            return Err(file.problem(&at, &problem));
        }
        let flat: Vec<f64> = values.iter().map(|m| m / object).collect();
        found.extend(flat.chunks(2).map(|yx| Position { x: yx[1], y: yx[0] }));
    }
    let least = |f: fn(&Position) -> f64| found.iter().map(f).fold(f64::INFINITY, f64::min);
    let half = (side / 2) as f64;
    let (x, y) = (half - least(|p| p.x), half - least(|p| p.y));
    Ok(found.iter().map(|p| Position { x: p.x + x, y: p.y + y }).collect())
}
