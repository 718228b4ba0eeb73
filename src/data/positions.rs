//! Positions from a file of their own (`--positions`).

use std::fs;
use std::path::Path;

use super::formats;
use super::instrument::Instrument;
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
    let Some(text) = text else { return of_scan(path, reading) };
    let pairs = columns(path, &text)?;
    let unit = reading.position_unit.unwrap_or(PositionUnit::Px);
    let count = pairs.len();
    let Some(metres) = unit.metres() else {
        let positions = pairs.iter().map(|&[x, y]| Position { x, y }).collect();
        let note = format!("{count} positions in pixels from {}", path.display());
        return Ok(Found { positions, origin_m: None, note });
    };
    let half = (width / 2) as f64;
    let [height, width] = instrument.pixel_m(width).ok_or_else(|| {
        Error::input(
            path,
            "positions in metres need the size of a pixel of the object: give --object-pixel, or \
             --energy, --distance and --detector-pixel",
        )
    })?;
    let least = |k: usize| pairs.iter().map(|pair| pair[k]).fold(f64::INFINITY, f64::min);
    let shift = [half - least(0) * metres / width, half - least(1) * metres / height];
    let positions = pairs
        .iter()
        .map(|[x, y]| Position {
            x: x * metres / width + shift[0],
            y: y * metres / height + shift[1],
        })
        .collect();
    let note = format!(
        "{count} positions from {}: 1 pixel of the object is {width:.4e} m",
        path.display()
    );
    Ok(Found { positions, origin_m: Some([-shift[1] * height, -shift[0] * width]), note })
}

fn of_scan(path: &Path, reading: &Reading) -> Result<Found> {
    let plain = Reading { positions: None, format: None, ..reading.clone() };
    let mut archive = formats::open(path, &plain)?;
    if archive.find("xcoords").is_none() || archive.find("ycoords").is_none() {
        return Err(Error::input(path, "holds no positions (`xcoords`, `ycoords`)"));
    }
    let (x, y) = (archive.f64("xcoords")?, archive.f64("ycoords")?);
    if x.len() != y.len() || x.iter().chain(&y).any(|v| !v.is_finite()) {
        return Err(Error::input(path, "has positions that are no pairs of finite numbers"));
    }
    let note = format!("{} positions of the scan {}", x.len(), path.display());
    let origin_m = archive.instrument().origin_m;
    let positions = x.into_iter().zip(y).map(|(x, y)| Position { x, y }).collect();
    Ok(Found { positions, origin_m, note })
}

/// Two numbers a line, separated by blanks, commas or semicolons; lines of `#`, empty ones and one
/// heading are passed over.
fn columns(path: &Path, text: &str) -> Result<Vec<[f64; 2]>> {
    let mut pairs = Vec::new();
    let mut heading = false;
    for (number, line) in text.lines().enumerate() {
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
            None if pairs.is_empty() && !heading => heading = true,
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
