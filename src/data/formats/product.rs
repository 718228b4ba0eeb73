//! Products of ptychodus, with their patterns in the file or beside it, and the pair of files that
//! PtychoViT reads.
//!
//! `/object` [L, H, W] with its centre and pixel in metres, `/probe` [C, I, N, N] or fewer axes,
//! `/probe_position_x_m` and `_y_m` [M], `/probe_position_indexes` [M]: the pattern of each position.
//! The patterns are in `/raw_data/diffraction` (amplitudes) or `/dp` (counts) of the file, or in `/dp`
//! of the file whose name has `_dp` in place of `_para` or at its end.

use std::path::{Path, PathBuf};

use ndarray::{ArrayD, Axis};
use num_complex::Complex32;

use super::mapped::Mapped;
use crate::Result;
use crate::data::hdf5::Hdf5;
use crate::data::scan::Position;

const X: &str = "probe_position_x_m";
const Y: &str = "probe_position_y_m";

pub(super) fn open(file: Hdf5) -> Result<Mapped> {
    // Of a pair either file may be named.
    let file = match file.has(X) {
        true => file,
        false => match beside(file.path(), "_dp", "_para") {
            Some(path) => Hdf5::open(path)?,
            None => {
                let problem = "are patterns alone: their positions were looked for in the file whose \
                               name has `_para` in place of `_dp`, which is not there";
                return Err(file.problem("dp", problem));
            }
        },
    };
    let (patterns, amplitudes) = match file.first(&["raw_data/diffraction", "dp"]) {
        Some(at) => (None, at.starts_with("raw")),
        None => {
            match beside(file.path(), "_para", "_dp").or_else(|| beside(file.path(), "", "_dp")) {
                Some(path) => (Some(Hdf5::open(path)?), false),
                None => {
                    let problem = "is the position of patterns that were not found: neither `/dp` nor \
                               `/raw_data/diffraction` is in the file, and no file beside it has its \
                               name with `_dp`";
                    return Err(file.problem(X, problem));
                }
            }
        }
    };
    let at = if amplitudes { "raw_data/diffraction" } else { "dp" };
    let mut files = vec![file];
    files.extend(patterns);
    let holder = files.len() - 1;
    let mut scan = Mapped::new(files, !amplitudes);
    let frames = scan.file(holder).member("diffraction", at)?.shape.first().copied().unwrap_or(0);
    let (positions, pick) = positions(&mut scan, frames)?;
    scan.patterns(holder, &[at.to_owned()], pick)?;
    scan.positions([X, Y], &positions);
    if scan.file(0).has("probe") {
        let probe = probe(&mut scan)?;
        scan.complex("probeGuess", "/probe", probe);
    }
    let object = object(&mut scan)?;
    scan.complex("objectGuess", "/object", object);
    Ok(scan)
}

/// The file beside `path` whose name has `to` in place of `from` at the end of its stem.
fn beside(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?.strip_suffix(from)?;
    let name = |ending: &&str| path.with_file_name(format!("{stem}{to}.{ending}"));
    ["hdf5", "h5", "hdf"].iter().map(name).find(|path| path.exists())
}

/// Positions in pixels of the object, in the order of the patterns, and the patterns that have one if
/// these are not all.
fn positions(scan: &mut Mapped, frames: usize) -> Result<(Vec<Position>, Option<Vec<usize>>)> {
    let file = scan.file(0);
    let shape = file.member("objectGuess", "object")?.shape;
    let &[.., height, width] = shape.as_slice() else {
        return Err(file.problem("object", &format!("has shape {shape:?}, expected (L,H,W)")));
    };
    let attribute = |name: &str| {
        let value = file.attribute("object", name);
        value.ok_or_else(|| file.problem("object", &format!("has no attribute `{name}`")))
    };
    // As ptychodus places them: the centre of the object is in the middle of its array.
    let axis = |at: &str, centre: &str, pixel: &str, side: usize| -> Result<Vec<f64>> {
        let (centre, pixel) = (attribute(centre)?, attribute(pixel)?);
        if !(pixel.is_finite() && pixel > 0.0) {
            return Err(file.problem("object", &format!("has pixels of {pixel} m")));
        }
        let pixels = |x: &f64| (x - centre) / pixel + side as f64 / 2.0;
        Ok(file.f64(at)?.iter().map(pixels).collect())
    };
    let x = axis(X, "center_x_m", "pixel_width_m", width)?;
    let y = axis(Y, "center_y_m", "pixel_height_m", height)?;
    let pixel = attribute("pixel_width_m")?;
    if x.len() != y.len() {
        let problem = format!("has {} values, `/{X}` has {}", y.len(), x.len());
        return Err(file.problem(Y, &problem));
    }
    let positions: Vec<Position> = x.into_iter().zip(y).map(|(x, y)| Position { x, y }).collect();
    let indices = match file.has("probe_position_indexes") {
        true => file.f64("probe_position_indexes")?.iter().map(|&i| i as usize).collect(),
        false => (0..positions.len()).collect(),
    };
    scan.note(format!("positions are in metres: 1 pixel of the object is {pixel:.4e} m"));
    pair(scan, positions, indices, frames)
}

/// Positions in the order of their patterns.
fn pair(
    scan: &mut Mapped,
    positions: Vec<Position>,
    indices: Vec<usize>,
    frames: usize,
) -> Result<(Vec<Position>, Option<Vec<usize>>)> {
    let mut order: Vec<usize> = (0..indices.len()).collect();
    order.sort_by_key(|&k| indices[k]);
    let sorted: Vec<usize> = order.iter().map(|&k| indices[k]).collect();
    if sorted.windows(2).any(|two| two[0] == two[1]) || indices.len() != positions.len() {
        // Some programs write zeros: then the order is all there is.
        if positions.len() == frames {
            scan.note(
                "`probe_position_indexes` names no pattern for each position: their order counts",
            );
            return Ok((positions, None));
        }
        let problem = format!(
            "does not say which of {frames} patterns belongs to each of {} positions",
            positions.len()
        );
        return Err(scan.file(0).problem("probe_position_indexes", &problem));
    }
    if let Some(&last) = sorted.last().filter(|&&last| last >= frames) {
        let problem = format!("names pattern {last}, but there are {frames}");
        return Err(scan.file(0).problem("probe_position_indexes", &problem));
    }
    let positions = order.iter().map(|&k| positions[k]).collect();
    if sorted.len() == frames {
        return Ok((positions, None));
    }
    scan.note(format!(
        "{} of {frames} patterns have a position, the others are not used",
        sorted.len()
    ));
    Ok((positions, Some(sorted)))
}

/// [I, N, N] incoherent modes.
fn probe(scan: &mut Mapped) -> Result<ArrayD<Complex32>> {
    let probe = scan.file(0).c64("probe")?;
    if probe.ndim() == 4 && !probe.is_empty() {
        let coherent = probe.shape()[0];
        if coherent > 1 {
            scan.note(format!("of {coherent} coherent probe modes the first is used"));
        }
        return Ok(probe.index_axis_move(Axis(0), 0));
    }
    Ok(probe)
}

/// [H, W]: the first layer.
fn object(scan: &mut Mapped) -> Result<ArrayD<Complex32>> {
    let object = scan.file(0).c64("object")?;
    if object.ndim() == 3 && !object.is_empty() {
        let layers = object.shape()[0];
        if layers > 1 {
            scan.note(format!("of {layers} layers of the object the first is used"));
        }
        return Ok(object.index_axis_move(Axis(0), 0));
    }
    Ok(object)
}
