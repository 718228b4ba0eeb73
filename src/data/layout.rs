//! Which axis is which: accepted layouts of patterns and probe, and names that mean the same.

use ndarray::{Array3, ArrayD, Axis, Ix3};
use num_complex::Complex32;
use serde::{Deserialize, Serialize};

use super::check::Problem;

/// The box of ±N/8 around the centre must hold this share of every pattern. In the wrong order one
/// axis runs over patterns, so that the box holds (2 ⌊N/8⌋ + 1)/N at most where patterns are equally
/// bright: 0.38 for N = 8, 0.27 for N = 64. Diffraction holds more.
const CENTRAL_SHARE: f64 = 0.4;

/// Which axis of the patterns counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameOrder {
    /// Decided from the side of the probe
    #[default]
    Auto,
    /// (M,N,N)
    First,
    /// (N,N,M), as older files have it
    Last,
}

/// Where the patterns run in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    First,
    Last,
    /// A cube: the shape does not tell.
    Unknown,
}

/// The order of axes of patterns of `shape`, for a probe of `side` pixels and a number of positions.
pub fn frames(
    key: &str,
    shape: &[usize],
    side: usize,
    coordinates: usize,
    order: FrameOrder,
) -> Result<Frames, Problem> {
    let &[a, b, c] = without_channel(shape) else {
        let expected = "(M,N,N)".to_owned();
        return Err(Problem::WrongShape { key: key.to_owned(), shape: shape.to_vec(), expected });
    };
    if [a, b, c].contains(&0) {
        return Err(Problem::Empty);
    }
    let frames = match (order, b == c && b == side, a == b && a == side) {
        (FrameOrder::Auto, true, true) => Frames::Unknown,
        (FrameOrder::First | FrameOrder::Auto, true, _) => Frames::First,
        (FrameOrder::Last | FrameOrder::Auto, _, true) => Frames::Last,
        (FrameOrder::Last, ..) if a != b => return Err(Problem::NotSquare { height: a, width: b }),
        (FrameOrder::Last, ..) => return Err(Problem::ProbeSide { side: a, probe: side }),
        (_, _, _) if b == c => return Err(Problem::ProbeSide { side: b, probe: side }),
        (FrameOrder::Auto, ..) if a == b => {
            return Err(Problem::ProbeSide { side: a, probe: side });
        }
        _ => return Err(Problem::NotSquare { height: b, width: c }),
    };
    let patterns = if frames == Frames::Last { c } else { a };
    if patterns != coordinates {
        let (key, shape) = (key.to_owned(), shape.to_vec());
        return Err(Problem::CountMismatch { key, shape, patterns, coordinates });
    }
    Ok(frames)
}

/// The same for frames that are yet to be cropped or turned: they need not be square, nor as large as
/// the probe, and run along the first axis unless `order` says other.
pub fn raw_frames(
    key: &str,
    shape: &[usize],
    coordinates: usize,
    order: FrameOrder,
) -> Result<Frames, Problem> {
    let &[a, b, c] = without_channel(shape) else {
        let expected = "(M,H,W)".to_owned();
        return Err(Problem::WrongShape { key: key.to_owned(), shape: shape.to_vec(), expected });
    };
    if [a, b, c].contains(&0) {
        return Err(Problem::Empty);
    }
    let by_count = order == FrameOrder::Auto && a != coordinates && c == coordinates;
    let frames = if by_count || order == FrameOrder::Last { Frames::Last } else { Frames::First };
    let patterns = if frames == Frames::Last { c } else { a };
    if patterns != coordinates {
        let (key, shape) = (key.to_owned(), shape.to_vec());
        return Err(Problem::CountMismatch { key, shape, patterns, coordinates });
    }
    Ok(frames)
}

/// Columns of a frame of patterns of `shape`.
pub fn frame_width(shape: &[usize], order: FrameOrder) -> usize {
    match (without_channel(shape), order) {
        (&[_, b, _], FrameOrder::Last) => b,
        (&[a, b, c], FrameOrder::Auto) if a == b && b != c => b,
        (all, _) => all.last().copied().unwrap_or(0),
    }
}

/// The side that two neighbouring axes of the patterns share, 0 for none.
pub fn shared_side(shape: &[usize]) -> usize {
    match *without_channel(shape) {
        [_, b, c] if b == c => c,
        [a, b, _] if a == b => a,
        _ => 0,
    }
}

/// (M,N,N,1) is (M,N,N).
fn without_channel(shape: &[usize]) -> &[usize] {
    match shape {
        [rest @ .., 1] if rest.len() == 3 => rest,
        all => all,
    }
}

/// An array with three axes, or four of which the last has length 1.
pub fn three_axes<T>(array: ArrayD<T>) -> Option<Array3<T>> {
    let array = match array.ndim() {
        4 if array.shape()[3] == 1 => array.index_axis_move(Axis(3), 0),
        _ => array,
    };
    array.into_dimensionality::<Ix3>().ok()
}

/// (N,N,M) → (M,N,N) where the patterns run last.
pub fn frames_first<T: Clone>(array: Array3<T>, frames: Frames) -> Array3<T> {
    match frames {
        Frames::Last => array.permuted_axes([2, 0, 1]).as_standard_layout().into_owned(),
        _ => array,
    }
}

/// The order of a cube from physics: diffraction is concentrated at (N/2, N/2) of each pattern. All
/// patterns that are not dark must agree, and the other order must fail.
pub fn by_energy(values: &Array3<f32>) -> Option<Frames> {
    match (concentrated(values, Axis(0)), concentrated(values, Axis(2))) {
        (true, false) => Some(Frames::First),
        (false, true) => Some(Frames::Last),
        _ => None,
    }
}

fn concentrated(values: &Array3<f32>, patterns: Axis) -> bool {
    values.axis_iter(patterns).all(|pattern| {
        let (height, width) = pattern.dim();
        let near = |i: usize, side: usize| i.abs_diff(side / 2) <= side / 8;
        let (mut centre, mut total) = (0.0, 0.0);
        for ((y, x), &value) in pattern.indexed_iter() {
            // Energy if these are amplitudes; if they are counts, the contrast is only higher.
            let weight = f64::from(value).powi(2);
            total += weight;
            centre += if near(y, height) && near(x, width) { weight } else { 0.0 };
        }
        total == 0.0 || centre > CENTRAL_SHARE * total
    })
}

/// [P, N, N] from (N,N), (N,N,1) or (P,N,N).
pub fn probe_modes(array: ArrayD<Complex32>) -> Option<Array3<Complex32>> {
    let array = match *array.shape() {
        [a, b] if a == b => array.insert_axis(Axis(0)),
        [a, b, 1] if a == b => array.index_axis_move(Axis(2), 0).insert_axis(Axis(0)),
        [_, b, c] if b == c => array,
        _ => return None,
    };
    array.into_dimensionality::<Ix3>().ok().filter(|probe| !probe.is_empty())
}

/// What other programs call our keys, for a hint where one is missing.
const ALIASES: [(&str, &[&str]); 4] = [
    ("diffraction", &["dp", "data", "diff", "diffraction_patterns", "intensities", "patterns"]),
    ("probeGuess", &["probe", "probe_guess", "reconstructed_probe", "probes"]),
    ("xcoords", &["x", "x_coords", "xcoord", "posx", "xcoords_start", "probe_position_x_m"]),
    ("ycoords", &["y", "y_coords", "ycoord", "posy", "ycoords_start", "probe_position_y_m"]),
];

/// "rename `probe` to `probeGuess`" for every missing key of which the file has a likely relative.
pub fn suggest(missing: &[String], found: &[String]) -> Option<String> {
    let mut hints = Vec::new();
    for key in missing {
        let aliases =
            ALIASES.iter().find(|(name, _)| name == key).map_or(&[][..], |(_, list)| list);
        let relative = found.iter().find(|name| {
            let lower = name.to_lowercase();
            lower == key.to_lowercase() || aliases.contains(&lower.as_str())
        });
        hints.extend(relative.map(|name| format!("rename `{name}` to `{key}`")));
    }
    (!hints.is_empty()).then(|| hints.join(", "))
}
