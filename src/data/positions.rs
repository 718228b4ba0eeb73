//! Positions from a file of their own (`--positions`).

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::archive::Archive;
use super::formats;
use super::instrument::{Cornered, Instrument};
use super::reading::{PositionUnit, Reading};
use super::scan::Position;
use crate::{Error, Result};

/// A file of positions is small: what is larger is something else.
const MOST: u64 = 1 << 30;

pub(super) struct Found {
    /// Object pixels.
    pub positions: Vec<Position>,
    /// (y, x) of position (0, 0) in metres, where the file has metres.
    pub origin_m: Option<[f64; 2]>,
    pub note: String,
}

/// Reads two columns of text, x (column) and y (row), or the positions of a scan of any format. Metres
/// become pixels of the object, for frames of `width` pixels; the first of them then lies half a frame
/// from the corner.
///
/// Errors: what is neither, numbers that are not finite, and a unit without a known pixel size.
pub(super) fn read(
    path: &Path,
    reading: &Reading,
    instrument: Instrument,
    width: usize,
) -> Result<Found> {
    let size = fs::metadata(path).map_err(Error::io("open", path))?.len();
    let text = match size > MOST || path.is_dir() {
        true => None,
        false => String::from_utf8(fs::read(path).map_err(Error::io("read", path))?).ok(),
    };
    let Some(text) = text else { return of_scan(path, reading, instrument, width) };
    let pairs = columns(path, &text)?;
    let unit = reading.position_unit.unwrap_or(PositionUnit::Px);
    let count = pairs.len();
    let Some(metres) = unit.metres() else {
        let positions = pairs.iter().map(|&[x, y]| Position { x, y }).collect();
        let note = format!("{count} positions in pixels from {}", path.display());
        return Ok(Found { positions, origin_m: None, note });
    };
    let sound = |pixel: &[f64; 2]| pixel.iter().all(|side| side.is_finite() && *side > 0.0);
    let [height, pixel] = instrument.pixel_m(width).filter(sound).ok_or_else(|| {
        Error::input(
            path,
            "positions in metres need the size of a pixel of the object: give --object-pixel, or \
             --energy, --distance and --detector-pixel",
        )
    })?;
    let places: Vec<[f64; 2]> = pairs.iter().map(|[x, y]| [y * metres, x * metres]).collect();
    let Cornered { positions, origin_m } = Instrument::from_corner(&places, [height, pixel], width);
    let note = format!(
        "{count} positions from {}: 1 pixel of the object is {pixel:.4e} m",
        path.display()
    );
    Ok(Found { positions, origin_m: Some(origin_m), note })
}

/// Positions of a scan: where both know their pixels, those of the other become those of this one.
fn of_scan(path: &Path, reading: &Reading, here: Instrument, width: usize) -> Result<Found> {
    let plain = Reading { positions: None, format: None, ..reading.clone() };
    let mut archive = formats::open(path, &plain)?;
    if archive.find("xcoords").is_none() || archive.find("ycoords").is_none() {
        return Err(Error::input(path, "holds no positions (`xcoords`, `ycoords`)"));
    }
    let (x, y) = (archive.f64("xcoords")?, archive.f64("ycoords")?);
    if x.len() != y.len() || x.iter().chain(&y).any(|v| !v.is_finite()) {
        return Err(Error::input(path, "has positions that are no pairs of finite numbers"));
    }
    let there = stated(archive.as_mut());
    let patterns = archive.find("diffraction").or(archive.find("diff3d"));
    let side = patterns.and_then(|member| member.shape.last().copied()).unwrap_or(width);
    let pixels = there.pixel_m(side).zip(here.pixel_m(width));
    let factor = match pixels {
        Some((there, here)) => [there[0] / here[0], there[1] / here[1]],
        None => [1.0; 2],
    };
    if factor.iter().any(|factor| !(factor.is_finite() && *factor > 0.0)) {
        return Err(Error::input(path, "and the scan have pixels of which one is no size"));
    }
    let scaled = match pixels {
        Some(_) if factor == [1.0; 2] => "in pixels of the same size".to_owned(),
        Some(_) => format!("1 pixel of it is {:.4} of this scan", factor[1]),
        None => "taken for pixels of whole frames, as the size of either is not known".to_owned(),
    };
    let note = format!("{} positions of the scan {}: {scaled}", x.len(), path.display());
    let place = |(x, y)| Position { x: x * factor[1], y: y * factor[0] };
    let positions = x.into_iter().zip(y).map(place).collect();
    Ok(Found { positions, origin_m: there.origin_m, note })
}

/// What a scan says of its instrument, in its format or in its metadata.
fn stated(archive: &mut dyn Archive) -> Instrument {
    let known = archive.instrument();
    let text = match archive.find("_metadata") {
        Some(_) if known.is_unknown() => archive.text("_metadata").ok().flatten(),
        _ => None,
    };
    let metadata: Option<serde_json::Value> =
        text.and_then(|text| serde_json::from_str(&text).ok());
    let more = metadata.as_ref().and_then(|metadata| metadata.get("instrument"));
    more.and_then(|more| Instrument::deserialize(more).ok()).unwrap_or(known)
}

/// Two numbers a line, separated by blanks, commas or semicolons; lines of `#`, empty ones and one
/// heading are passed over.
fn columns(path: &Path, text: &str) -> Result<Vec<[f64; 2]>> {
    let mut pairs = Vec::new();
    let mut heading = false;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = line
            .split(|c: char| c.is_whitespace() || c == ',' || c == ';')
            .filter(|part| !part.is_empty())
            .collect();
        let numbers: Option<Vec<f64>> =
            parts.iter().map(|part| part.parse().ok().filter(|x: &f64| x.is_finite())).collect();
        match numbers.as_deref() {
            Some(&[x, y]) => pairs.push([x, y]),
            None if pairs.is_empty() && !heading && !parts.iter().any(|part| is_number(part)) => {
                heading = true;
            }
            _ => {
                let problem = format!(
                    "line {}: `{}` is not two numbers, x (column) and y (row)",
                    number + 1,
                    line.chars().take(40).collect::<String>()
                );
                return Err(Error::input(path, problem));
            }
        }
    }
    match pairs.is_empty() {
        true => Err(Error::input(path, "holds no positions: expected two numbers a line")),
        false => Ok(pairs),
    }
}

/// What looks like a number, NaN too.
fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}
