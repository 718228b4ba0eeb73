//! Pictures of a solved scan that are no object: the residual over the scan, the modes of the probe,
//! and what refinement changed.

use ndarray::{Array2, Array3, ArrayView2, Axis, concatenate, s};
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;

use crate::Result;
use crate::data::geometry::Neighbours;
use crate::data::scan::Position;
use crate::metrics::Shown;
use crate::metrics::gauge::Gauge;
use crate::reconstruction::{Reconstruction, Saved, lit, trusted};
use crate::stitch::Canvas;

/// Columns of empty pixels between two images that stand side by side.
const GAP: usize = 4;

/// Steps of the scan over which a pattern's number is painted: as far as holes between positions go.
const REACH: f64 = 1.5;

/// A number of each pattern, painted on the canvas: every pixel takes that of the nearest position,
/// NaN farther from it than 1.5 typical steps of the scan.
pub fn over_scan(positions: &[Position], values: &[f64], canvas: &Canvas) -> Array2<f32> {
    let reach = REACH * step(positions);
    let [top, left] = canvas.origin_yx;
    let mut map = Array2::from_elem((canvas.height, canvas.width), f32::NAN);
    let rows = map.as_slice_mut().expect("an array made from one element is contiguous");
    rows.par_chunks_mut(canvas.width).enumerate().for_each(|(y, row)| {
        let y = (y as i64 + top) as f64;
        let mut near: Vec<(usize, &Position)> =
            positions.iter().enumerate().filter(|(_, p)| (p.y - y).abs() <= reach).collect();
        near.sort_by(|(_, a), (_, b)| a.x.total_cmp(&b.x));
        for (x, cell) in row.iter_mut().enumerate() {
            let x = (x as i64 + left) as f64;
            let distance = |p: &Position| (p.x - x).hypot(p.y - y);
            let from = near.partition_point(|(_, p)| p.x < x - reach);
            let beside = near[from..].iter().take_while(|(_, p)| p.x <= x + reach);
            let closest =
                beside.min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)).then(a.0.cmp(&b.0)));
            if let Some((k, p)) = closest
                && distance(p) <= reach
            {
                *cell = values[*k] as f32;
            }
        }
    });
    map
}

/// Median distance to the nearest neighbour, at least a pixel.
fn step(positions: &[Position]) -> f64 {
    if positions.len() < 2 {
        return 1.0;
    }
    let neighbours = Neighbours::new(positions);
    let mut steps: Vec<f64> = (0..positions.len()).map(|i| neighbours.nearest(i, 1)[0].1).collect();
    steps.sort_by(f64::total_cmp);
    steps[steps.len() / 2].max(1.0)
}

/// The modes side by side, each relative to its own largest modulus; NaN between them.
pub fn modes(probe: &Array3<Complex32>) -> Array2<Complex32> {
    let relative = |mode: ArrayView2<Complex32>| {
        let largest = mode.iter().map(|z| z.norm()).fold(f32::MIN_POSITIVE, f32::max);
        mode.mapv(|z| z / largest)
    };
    let pictures: Vec<_> = probe.axis_iter(Axis(0)).map(relative).collect();
    in_a_row(&pictures.iter().collect::<Vec<_>>(), Complex32::new(f32::NAN, f32::NAN))
}

/// Measured patterns above predicted ones, as log10 of their photons, and the range of that which is
/// worth a colour.
pub fn patterns(frames: &[Shown]) -> (Array2<f32>, (f64, f64)) {
    let log = |image: &Array2<f32>| image.mapv(|x| x.max(f32::MIN_POSITIVE).log10());
    let measured: Vec<_> = frames.iter().map(|f| log_of_measured(&f.measured)).collect();
    let predicted: Vec<_> = frames.iter().map(|f| log(&f.predicted)).collect();
    let [measured, predicted] =
        [measured, predicted].map(|row| beside(&row.iter().collect::<Vec<_>>()));
    let gap = Array2::from_elem((GAP, measured.ncols()), f32::NAN);
    let all = concatenate![Axis(0), measured, gap, predicted];
    let brightest = all.iter().copied().filter(|x| !x.is_nan()).fold(0.0, f32::max);
    (all, log_range(brightest.into()))
}

/// Masked pixels stay NaN, which `max` would hide.
fn log_of_measured(image: &Array2<f32>) -> Array2<f32> {
    image.mapv(|x| if x.is_nan() { x } else { x.max(f32::MIN_POSITIVE).log10() })
}

/// From a third of a photon, or six decades below the brightest pixel, whichever is more.
pub fn log_range(brightest: f64) -> (f64, f64) {
    const DARKEST: f64 = -0.5;
    const DECADES: f64 = 6.0;
    let high = brightest.max(DARKEST + 1.0);
    ((high - DECADES).max(DARKEST), high)
}

/// Images of one height in a row, NaN between them.
pub fn beside(images: &[&Array2<f32>]) -> Array2<f32> {
    in_a_row(images, f32::NAN)
}

fn in_a_row<T: Copy>(images: &[&Array2<T>], between: T) -> Array2<T> {
    let height = images.first().map_or(0, |image| image.nrows());
    let width = images.iter().map(|image| image.ncols() + GAP).sum::<usize>();
    let mut row = Array2::from_elem((height, width.saturating_sub(GAP)), between);
    let mut left = 0;
    for image in images {
        row.slice_mut(s![.., left..left + image.ncols()]).assign(*image);
        left += image.ncols() + GAP;
    }
    row
}

/// What refinement did to an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// [H, W] the object before, in the gauge of the object after and on its canvas; 0 where it was
    /// not known.
    pub before: Array2<Complex32>,
    /// [H, W] |after − before|, NaN where one of them is not known.
    pub size: Array2<f32>,
    /// √(Σ|after − before|² / Σ|after|²) where both are known.
    pub relative: f64,
}

/// Compares a refined object with what it started from: a factor and a phase ramp between them mean
/// nothing and are taken out.
///
/// # Errors
/// As of [`compare`].
pub fn change(before: &Saved, after: &Reconstruction) -> Result<Change> {
    let origin_yx = after.canvas.origin_yx.map(|o| o as f64);
    compare(before, &after.stitched.object, &after.stitched.weights, origin_yx)
}

/// The same for the `object` of another result, [H, W], with its weights and the object coordinates
/// (row, column) of its pixel (0, 0).
///
/// # Errors
/// [`Error::Run`](crate::Error::Run) for an object without a pixel.
pub fn compare(
    before: &Saved,
    object: &Array2<Complex32>,
    weights: &Array2<f32>,
    origin_yx: [f64; 2],
) -> Result<Change> {
    let new = object;
    let offset = [0, 1].map(|i| (origin_yx[i] - before.origin_yx[i]).round() as i64);
    let index = |(y, x): (usize, usize)| {
        let at = [(y, offset[0]), (x, offset[1])].map(|(i, by)| (i as i64).saturating_add(by));
        let at = [usize::try_from(at[0]).ok()?, usize::try_from(at[1]).ok()?];
        let known = before.weights.get(at).is_some_and(|&w| w > 0.0);
        (known && before.object.get(at).is_some()).then_some(at)
    };
    let wide = |z: Complex32| Complex64::new(z.re.into(), z.im.into());
    let old = Array2::from_shape_fn(new.dim(), |at| {
        index(at).map_or(Complex64::default(), |at| wide(before.object[at]))
    });
    let (trusted, lit) = (trusted(weights), lit(weights));
    let both = Array2::from_shape_fn(new.dim(), |at| {
        f64::from(u8::from(index(at).is_some() && trusted.get(at) == Some(&true)))
    });
    let new = new.mapv(wide);
    let fitted = Gauge::fit(old.view(), new.view(), both.view())?.apply(old.view());
    let (mut off, mut all) = (0.0, 0.0);
    let mut size = Array2::from_elem(new.dim(), f32::NAN);
    for (at, z) in new.indexed_iter() {
        if index(at).is_some() && lit.get(at) == Some(&true) {
            size[at] = (z - fitted[at]).norm() as f32;
        }
        if both[at] > 0.0 {
            off += (z - fitted[at]).norm_sqr();
            all += z.norm_sqr();
        }
    }
    let relative = if all > 0.0 { f64::sqrt(off / all) } else { 0.0 };
    let before = fitted.mapv(|z| Complex32::new(z.re as f32, z.im as f32));
    Ok(Change { before, size, relative })
}
