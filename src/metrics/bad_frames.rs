//! Frames that do not follow from the object that all others make, and why.

use ndarray::{Array2, Zip};
use num_complex::Complex64;
use rayon::prelude::*;

use super::data_space::{Comparison, DataSpace, Explained, FrameFigures};
use crate::Result;
use crate::data::bad_frames::{self, BadFrame, Fault, median};
use crate::data::scan::{Position, Scan};
use crate::simulate::fourier::Fft2;

/// Residuals are compared by their logarithms. A frame is looked at if its own is so many standard
/// deviations, and so many times, above the median ...
const SUSPECT: (f64, f64) = (2.5, 2.0);
/// ... and is bad without a known reason if it is these.
const UNEXPLAINED: (f64, f64) = (6.0, 4.0);

/// Spread of the logarithms that any scan has.
const LEAST_SPREAD: f64 = 0.05;

/// Residual beyond shot noise that is worth a look: this, and as much as shot noise itself.
const NOTABLE: f64 = 1e-3;

/// A beam reaches as far as this many times the root mean square distance of its light from its middle.
const BEAM: f64 = 2.0;

/// Frames that are looked at, the worst first.
const MOST: usize = 256;

/// Light, of what was expected, below which a frame is empty, and above which it is saturated.
const EMPTY: f64 = 0.2;
const SATURATED: f64 = 5.0;

/// Part of the residual that a right explanation leaves at most.
const LEFT: f64 = 0.5;

/// Farthest place that a frame is looked for at, and steps of the search, object pixels.
const REACH: i64 = 8;
const STEP: i64 = 2;

/// The frames of `scan`, among those that `scene` explains, that give themselves away or that do not
/// follow from the object, in order. A bad frame spoils the object about it, and frames that overlap a worse one
/// are not judged: they may be found when that one is left out. `figures` are those of [`data_space`](super::data_space) of `scene`.
///
/// # Errors
/// The patterns, or a canvas in files, cannot be read.
pub fn bad_frames(scan: &Scan, scene: &Explained, figures: &DataSpace) -> Result<Vec<BadFrame>> {
    scan.check()?;
    let mut bad = bad_frames::find(scan)?;
    // A duplicate of a frame that is not used may well be right.
    bad.retain_mut(|bad| {
        let at = scene.indices.iter().position(|&index| index == bad.frame);
        bad.residual = at.map(|k| figures.per_frame[k].residual);
        at.is_some()
    });
    let limits = Limits::of(figures);
    let mut suspects: Vec<usize> = (0..figures.per_frame.len())
        .filter(|&k| limits.exceeds(&figures.per_frame[k], SUSPECT))
        .filter(|&k| bad.iter().all(|bad| bad.frame != scene.indices[k]))
        .collect();
    let residual = |k: usize| figures.per_frame[k].residual;
    suspects.sort_by(|&a, &b| residual(b).total_cmp(&residual(a)).then(a.cmp(&b)));
    let evident = bad.iter().map(|bad| scan.positions[bad.frame]);
    let mut spoiled: Vec<Position> = evident.collect();
    suspects.retain(|&k| {
        let (at, reach) = (scan.positions[scene.indices[k]], 2.0 * beam(scene));
        let near = spoiled.iter().any(|p| (p.x - at.x).hypot(p.y - at.y) < reach);
        spoiled.push(at);
        !near
    });
    suspects.truncate(MOST);
    let comparison = Comparison::new(scene);
    let looked_at = suspects.par_iter().map(|&k| {
        let figures = &figures.per_frame[k];
        let unexplained = limits.exceeds(figures, UNEXPLAINED).then_some(Fault::Unexplained);
        let fault = Suspect::new(&comparison, k)?.fault(figures.floor)?.or(unexplained);
        let (frame, residual) = (figures.index, Some(figures.residual));
        Ok(fault.map(|fault| BadFrame { frame, fault, residual }))
    });
    let looked_at: Vec<Option<BadFrame>> = looked_at.collect::<Result<_>>()?;
    bad.extend(looked_at.into_iter().flatten());
    bad.sort_by_key(|bad| bad.frame);
    Ok(bad)
}

/// Where the residuals of most frames are.
struct Limits {
    /// Of the logarithms.
    median: f64,
    spread: f64,
}

impl Limits {
    fn of(figures: &DataSpace) -> Limits {
        let logarithms: Vec<f64> = figures.per_frame.iter().map(logarithm).collect();
        let middle = median(logarithms.iter().copied());
        // As the standard deviation of a normal distribution follows from its median deviation.
        let deviation = median(logarithms.iter().map(|l| (l - middle).abs()));
        Limits { median: middle, spread: (1.4826 * deviation).max(LEAST_SPREAD) }
    }

    fn exceeds(&self, figures: &FrameFigures, (deviations, factor): (f64, f64)) -> bool {
        let beyond = (deviations * self.spread).max(factor.ln());
        let notable = figures.residual - figures.floor > figures.floor.max(NOTABLE);
        notable && logarithm(figures) > self.median + beyond
    }
}

/// How far the beam reaches from its middle, pixels.
fn beam(scene: &Explained) -> f64 {
    let (mut light, mut first, mut second) = (0.0, [0.0; 2], 0.0);
    for ((_, y, x), z) in scene.probe.indexed_iter() {
        let (y, x, w) = (y as f64, x as f64, f64::from(z.norm_sqr()));
        light += w;
        first = [first[0] + w * y, first[1] + w * x];
        second += w * (y * y + x * x);
    }
    let middle = first.map(|f| f / light);
    BEAM * (second / light - middle[0].powi(2) - middle[1].powi(2)).max(0.0).sqrt()
}

fn logarithm(figures: &FrameFigures) -> f64 {
    figures.residual.max(f64::MIN_POSITIVE).ln()
}

/// A frame that is looked at.
struct Suspect<'s, 'a> {
    comparison: &'s Comparison<'a>,
    k: usize,
    /// [N, N] √I and √Î, 0 where the detector is masked.
    measured: Array2<f64>,
    expected: Array2<f64>,
}

impl<'s, 'a> Suspect<'s, 'a> {
    fn new(comparison: &'s Comparison<'a>, k: usize) -> Result<Suspect<'s, 'a>> {
        let scene = &comparison.scene;
        let measured = scene.amplitude.pattern(scene.indices[k])?.mapv(f64::from);
        let (measured, expected) =
            (comparison.valid(measured), comparison.expected(k, scene.positions[k])?);
        Ok(Suspect { comparison, k, measured, expected })
    }

    /// What explains it; `floor` is what shot noise leaves of its residual.
    fn fault(&self, floor: f64) -> Result<Option<Fault>> {
        let brightness = squares(&self.measured) / squares(&self.expected).max(f64::MIN_POSITIVE);
        if brightness < EMPTY {
            return Ok(Some(Fault::Empty { brightness }));
        }
        if brightness > SATURATED {
            return Ok(Some(Fault::Saturated { pixels: 0, brightness }));
        }
        let enough = floor + LEFT * (self.residual(&self.expected) - floor);
        let (lag, shifted) = self.shift();
        let (offset, moved) = self.place()?;
        if shifted.min(moved) > enough {
            return Ok(None);
        }
        Ok(Some(if shifted <= moved {
            Fault::Shifted { rows: lag[0], columns: lag[1] }
        } else {
            Fault::Misplaced { x: offset[0] as f64, y: offset[1] as f64 }
        }))
    }

    /// Σ(√I − √Î)² / ΣI.
    fn residual(&self, expected: &Array2<f64>) -> f64 {
        let sum = |sum, a: &f64, e: &f64| sum + (a - e).powi(2);
        let difference = Zip::from(&self.measured).and(expected).fold(0.0, sum);
        difference / squares(&self.measured).max(f64::MIN_POSITIVE)
    }

    /// How far (rows, columns) the pattern lies from where it is expected, by their cross-correlation, and
    /// the residual that is then left; infinite if it lies there.
    fn shift(&self) -> ([i64; 2], f64) {
        let (rows, columns) = self.measured.dim();
        let fft = Fft2::new(rows, columns);
        let transform = |image: &Array2<f64>| {
            let mut wave = image.mapv(|x| Complex64::new(x, 0.0));
            fft.forward(&mut wave);
            wave
        };
        let (measured, expected) = (transform(&self.measured), transform(&self.expected));
        let mut product = measured * expected.mapv(|z| z.conj());
        fft.inverse(&mut product);
        let best = product.indexed_iter().max_by(|a, b| a.1.re.total_cmp(&b.1.re));
        let (down, right) = best.map_or((0, 0), |(at, _)| at);
        let signed = |lag: usize, side: usize| {
            let lag = lag as i64;
            if lag > side as i64 / 2 { lag - side as i64 } else { lag }
        };
        let lag = [signed(down, rows), signed(right, columns)];
        if lag == [0, 0] {
            return (lag, f64::INFINITY);
        }
        let moved = Array2::from_shape_fn((rows, columns), |(y, x)| {
            self.expected[[(y + rows - down) % rows, (x + columns - right) % columns]]
        });
        (lag, self.residual(&self.comparison.valid(moved)))
    }

    /// How far (x, y) from its position the frame fits best, object pixels, and the residual there.
    fn place(&self) -> Result<([i64; 2], f64)> {
        let mut best = ([0, 0], f64::INFINITY);
        for (reach, step) in [(REACH, STEP), (STEP - 1, 1)] {
            let [x, y] = best.0;
            for (dx, dy) in offsets(reach, step).filter(|&offset| offset != (0, 0)) {
                let offset = [x + dx, y + dy];
                let residual = self.residual(&self.comparison.expected(self.k, self.at(offset))?);
                if residual < best.1 && offset != [0, 0] {
                    best = (offset, residual);
                }
            }
        }
        Ok(best)
    }

    fn at(&self, [x, y]: [i64; 2]) -> Position {
        let at = self.comparison.scene.positions[self.k];
        Position { x: at.x + x as f64, y: at.y + y as f64 }
    }
}

fn offsets(reach: i64, step: i64) -> impl Iterator<Item = (i64, i64)> {
    let line = move || (-reach..=reach).step_by(step as usize);
    line().flat_map(move |y| line().map(move |x| (x, y)))
}

fn squares(image: &Array2<f64>) -> f64 {
    image.iter().map(|x| x * x).sum()
}
