//! Products of ptychodus, with their patterns in the file or beside it, and the pair of files that
//! PtychoViT reads.
//!
//! `/object` [L, H, W] with its centre and pixel in metres, `/probe` [C, I, N, N] or fewer axes,
//! `/probe_position_x_m` and `_y_m` [M], `/probe_position_indexes` [M]: the pattern of each position.
//! The patterns are in `/raw_data/diffraction` (amplitudes) or `/dp` (counts) of the file, or in `/dp`
//! of the file whose name has `_dp` in place of `_para` or at its end.

use ndarray::{ArrayD, Axis};
use num_complex::Complex32;

use super::beside;
use super::mapped::Mapped;
use crate::data::archive::Archive;
use crate::data::hdf5::Hdf5;
use crate::data::instrument::Instrument;
use crate::data::scan::Position;
use crate::data::writers::product::{KEPT, PLACEHOLDER};
use crate::{Error, Result};

const X: &str = "probe_position_x_m";
const Y: &str = "probe_position_y_m";

pub(super) fn open(file: Hdf5, given: Instrument) -> Result<Mapped> {
    if given.object_pixel_m.is_some() {
        let problem = "says itself how large a pixel of its object is: leave out --object-pixel";
        return Err(Error::input(file.path(), problem));
    }
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
    scan.set_own_pixels();
    let frames = scan.count(holder, &[at.to_owned()])?;
    let side = scan.file(holder).member("diffraction", at)?.shape.last().copied().unwrap_or(0);
    let (positions, pick) = positions(&mut scan, frames, side)?;
    let file = scan.file(0);
    // 0 stands for what is not known.
    let known = |name: &str| file.root_number(name).filter(|&number| number > 0.0);
    scan.set_instrument(Instrument {
        energy_ev: known("probe_energy_eV"),
        distance_m: known("detector_object_distance_m"),
        ..scan.instrument()
    });
    scan.patterns(holder, &[at.to_owned()], pick)?;
    scan.positions([X, Y], &positions);
    if scan.file(0).has("probe") {
        let probe = probe(&mut scan)?;
        scan.complex("probeGuess", "/probe", probe);
    }
    if scan.file(0).attribute("object", PLACEHOLDER).is_none() {
        let object = object(&mut scan)?;
        scan.complex("objectGuess", "/object", object);
    }
    scan.kept(0, KEPT, &["xcoords_start", "ycoords_start", "mask", "Y", "_metadata"])?;
    Ok(scan)
}

/// Positions in pixels of the object, in the order of the patterns, and the patterns that have one if
/// these are not all.
fn positions(
    scan: &mut Mapped,
    frames: usize,
    side: usize,
) -> Result<(Vec<Position>, Option<Vec<usize>>)> {
    let file = scan.file(0);
    if file.has("raw_data/xcoords") && file.has("raw_data/ycoords") {
        // In pixels already, one for each pattern.
        let (x, y) = (file.f64("raw_data/xcoords")?, file.f64("raw_data/ycoords")?);
        let instrument = placed(file).unwrap_or_default();
        scan.note("positions are those of `/raw_data`, in pixels");
        scan.set_instrument(instrument);
        return Ok((x.into_iter().zip(y).map(|(x, y)| Position { x, y }).collect(), None));
    }
    let shape = file.member("objectGuess", "object")?.shape;
    let &[.., height, width] = shape.as_slice() else {
        return Err(file.problem("object", &format!("has shape {shape:?}, expected (L,H,W)")));
    };
    let attribute = |name: &str| {
        let value = file.attribute("object", name);
        value.ok_or_else(|| file.problem("object", &format!("has no attribute `{name}`")))
    };
    let axis = |at: &str, centre: &str, pixel: &str| -> Result<Vec<f64>> {
        let (centre, pixel) = (attribute(centre)?, attribute(pixel)?);
        if !(pixel.is_finite() && pixel > 0.0) {
            return Err(file.problem("object", &format!("has pixels of {pixel} m")));
        }
        Ok(file.f64(at)?.iter().map(|x| (x - centre) / pixel).collect())
    };
    let x = axis(X, "center_x_m", "pixel_width_m")?;
    let y = axis(Y, "center_y_m", "pixel_height_m")?;
    let pixel = attribute("pixel_width_m")?;
    if x.len() != y.len() {
        let problem = format!("has {} values, `/{X}` has {}", y.len(), x.len());
        return Err(file.problem(Y, &problem));
    }
    let indices = match file.has("probe_position_indexes") {
        true => Some(indices(file)?),
        false => None,
    };
    // ptychodus has the centre of the object in the middle of its array; other programs write positions
    // from its corner. Where the patches lie in the object tells them apart.
    let (half_width, half_height) = (width as f64 / 2.0, height as f64 / 2.0);
    let half = side as f64 / 2.0;
    let inside = |at: f64, size: usize| (half..=size as f64 - half).contains(&at);
    let outside = |dx: f64, dy: f64| {
        x.iter()
            .zip(&y)
            .filter(|(x, y)| !inside(**x + dx, width) || !inside(**y + dy, height))
            .count()
    };
    let corner = outside(0.0, 0.0) < outside(half_width, half_height);
    let (dx, dy) = if corner { (0.0, 0.0) } else { (half_width, half_height) };
    let positions: Vec<Position> =
        x.iter().zip(&y).map(|(x, y)| Position { x: x + dx, y: y + dy }).collect();
    let from = if corner { "corner" } else { "middle" };
    let pixels = [attribute("pixel_height_m")?, pixel];
    let centre = [attribute("center_y_m")?, attribute("center_x_m")?];
    let instrument = at_centre(pixels, centre, [dy, dx]);
    scan.note(format!(
        "positions are in metres from the {from} of the object, of which 1 pixel is {pixel:.4e} m"
    ));
    scan.set_instrument(instrument);
    match indices {
        Some(indices) => pair(scan, positions, indices, frames),
        None => Ok((positions, None)),
    }
}

/// The instrument, from the size of pixels and the place of the object's centre, both (y, x) in metres,
/// and that in pixels.
fn at_centre(pixels: [f64; 2], centre: [f64; 2], middle: [f64; 2]) -> Instrument {
    let origin = [0, 1].map(|k| centre[k] - middle[k] * pixels[k]);
    Instrument { object_pixel_m: Some(pixels), origin_m: Some(origin), ..Instrument::default() }
}

/// The same from the attributes of the object, where it has all of them.
fn placed(file: &Hdf5) -> Option<Instrument> {
    let pair = |names: [&str; 2]| {
        let [y, x] = names.map(|name| file.attribute("object", name).filter(|x| x.is_finite()));
        Some([y?, x?])
    };
    let pixels = pair(["pixel_height_m", "pixel_width_m"])?;
    let centre = pair(["center_y_m", "center_x_m"])?;
    let shape = file.member("objectGuess", "object").ok()?.shape;
    let &[.., height, width] = shape.as_slice() else { return None };
    let middle = [height, width].map(|side| side as f64 / 2.0);
    pixels.iter().all(|&pixel| pixel > 0.0).then(|| at_centre(pixels, centre, middle))
}

/// Which pattern belongs to each position.
fn indices(file: &Hdf5) -> Result<Vec<usize>> {
    let whole =
        |&i: &f64| (i >= 0.0 && i.fract() == 0.0 && i < 2f64.powi(53)).then_some(i as usize);
    let values = file.f64("probe_position_indexes")?;
    let indices: Option<Vec<usize>> = values.iter().map(whole).collect();
    let problem = "holds values that are no numbers of patterns";
    indices.ok_or_else(|| file.problem("probe_position_indexes", problem))
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
    // Some programs write zeros: then the order is all there is.
    if sorted.iter().all(|&i| i == sorted[0]) && positions.len() == frames && frames > 1 {
        scan.note("`probe_position_indexes` is the same everywhere: positions are in the order of patterns");
        return Ok((positions, None));
    }
    let repeated = sorted.windows(2).any(|two| two[0] == two[1]);
    if repeated || indices.len() != positions.len() {
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
