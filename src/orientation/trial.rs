//! The part of a scan that orientations are tried on: few patterns that overlap, of few pixels.

use std::f64::consts::TAU;

use ndarray::{Array2, Array3, ArrayView2, Axis, Zip, s};
use num_complex::{Complex32, Complex64};

use super::turn::Turn;
use crate::data::geometry::{self, Overlap};
use crate::data::scan::{Position, Scan};
use crate::metrics::verdict::shot_noise;
use crate::reconstruct::modes;
use crate::simulate::fourier::{Fft2, centre};
use crate::{Error, Result};

/// Fewer patterns than this contradict each other too seldom.
const FEWEST: usize = 16;

/// Neighbouring probes that share less of their area than this hardly contradict each other.
const LEAST_OVERLAP: f64 = 0.2;

/// Patterns whose variance about their mean is less than this many times that of their shot noise, or
/// not more than chance may make it, are all the same.
const LEAST_VARIANCE: f64 = 1.01;
/// Standard deviations that chance may make.
const CHANCE: f64 = 4.0;

/// Positions whose spread across is less than this part of that along are on a line.
const LINE: f64 = 0.02;

/// Part of the light that the middle of a pattern must hold for the rest to be left out.
const ENOUGH_LIGHT: f64 = 0.97;

/// Modes of the probe that are used: the strongest.
const MOST_MODES: usize = 3;

/// A small scan to try orientations on.
pub(super) struct Trial {
    /// Patterns, probe and positions, in the pixels of the cropped patterns; nothing else.
    pub scan: Scan,
    pub overlap: Overlap,
}

impl Trial {
    /// The `frames` patterns of `scan` nearest to the middle, cropped to `side` pixels where that
    /// leaves nearly all light in.
    ///
    /// # Errors
    /// [`Error::Input`] where the scan cannot tell its orientation: too few patterns, all on a line, too
    /// little overlap, or all the same.
    pub fn of(scan: &Scan, frames: usize, side: usize) -> Result<Trial> {
        let refuse = |why: String| {
            let text = format!("the patterns cannot tell their orientation: {why}");
            Error::input(&scan.source.path, text)
        };
        check_whole(scan).map_err(refuse)?;
        let part = scan.subset(&middle(scan, frames))?;
        let overlap = check_part(&part).map_err(refuse)?;
        Ok(Trial { scan: cropped(&part, cropped_side(&part, side)), overlap })
    }

    /// The scan with its frames turned, and the probe with them if `with_probe`. The probe is steered so
    /// that its far field has the centre of mass of the frames: a shift of all frames is a ramp of
    /// the object, which says nothing about orientation but takes many steps to solve for.
    pub fn turned(&self, turn: Turn, with_probe: bool) -> Scan {
        let mut scan = self.scan.clone();
        for mut frame in scan.amplitude.held_mut().axis_iter_mut(Axis(0)) {
            let turned = turn.frame(frame.view());
            frame.assign(&turned);
        }
        scan.mask = scan.mask.map(|mask| turn.frame(mask.view()));
        if with_probe {
            for mut mode in scan.probe.axis_iter_mut(Axis(0)) {
                let turned = turn.about_pixel(mode.view());
                mode.assign(&turned);
            }
        }
        steer(&mut scan);
        scan
    }
}

/// Why `scan` is no use whatever part of it is taken.
fn check_whole(scan: &Scan) -> Result<(), String> {
    let (patterns, n) = (scan.len(), scan.side());
    if patterns < FEWEST {
        return Err(format!("there are {patterns}, at least {FEWEST} are needed"));
    }
    if !n.is_multiple_of(2) {
        return Err(format!("they are {n}×{n}, but an even side is needed: crop or pad them"));
    }
    if on_a_line(&scan.positions) {
        let why = "their positions lie on a line, and nothing overlaps across it";
        return Err(format!("{why}: use a scan of an area"));
    }
    Ok(())
}

/// How patterns in the part that is taken overlap, or why that is not enough.
fn check_part(part: &Scan) -> Result<Overlap, String> {
    let overlap = geometry::overlap(&part.positions, &part.probe).expect("many positions");
    if overlap.nearest < LEAST_OVERLAP {
        return Err(format!(
            "neighbouring probes share {:.0} % of their area (a probe of {:.1} pixels, a step of \
             {:.1}), at least {:.0} % are needed: use a scan with a smaller step, and check the \
             probe and the unit of the positions",
            100.0 * overlap.nearest,
            overlap.probe_diameter,
            overlap.step[1],
            100.0 * LEAST_OVERLAP
        ));
    }
    let (variance, deviation) = variance(part);
    if variance < LEAST_VARIANCE.max(1.0 + CHANCE * deviation) {
        return Err(format!(
            "the {} in the middle are all the same within their noise (a variance of {variance:.3} \
             times that of the shot noise), so the object has no structure there: use a part of the \
             sample that has some, or more light",
            part.len()
        ));
    }
    Ok(overlap)
}

/// Variance of √counts about the root of each pixel's mean count, in units of what shot noise makes of
/// it, and the standard deviation of that for patterns that are all the same. Infinite where no noise
/// is expected.
fn variance(part: &Scan) -> (f64, f64) {
    let (count, kappa) = (part.len() as f64, part.dose.kappa);
    let (mut found, mut expected, mut squares) = (0.0, 0.0, 0.0);
    for lane in part.amplitude.held().lanes(Axis(0)) {
        let counts = |a: &f32| (kappa * f64::from(*a)).powi(2);
        let mean = lane.iter().map(counts).sum::<f64>() / count;
        let root = mean.sqrt();
        found += lane.iter().map(|&a| (kappa * f64::from(a) - root).powi(2)).sum::<f64>();
        let noise = shot_noise(mean);
        expected += (count - 1.0) * noise;
        squares += (count - 1.0) * noise * noise;
    }
    if expected <= 0.0 {
        return (f64::INFINITY, 0.0);
    }
    // As of normal numbers, whose squares have twice the square of their variance as variance.
    (found / expected, (2.0 * squares).sqrt() / expected)
}

/// Whether the positions spread along one direction alone.
fn on_a_line(positions: &[Position]) -> bool {
    let count = positions.len() as f64;
    let mean = mean(positions);
    let [xx, xy, yy] = positions.iter().fold([0.0; 3], |[xx, xy, yy], p| {
        let (x, y) = (p.x - mean.x, p.y - mean.y);
        [xx + x * x / count, xy + x * y / count, yy + y * y / count]
    });
    // The variances along the principal axes.
    let half = ((xx - yy) / 2.0).hypot(xy);
    let (most, least) = ((xx + yy) / 2.0 + half, (xx + yy) / 2.0 - half);
    least.max(0.0).sqrt() <= LINE * most.sqrt()
}

fn mean(positions: &[Position]) -> Position {
    let count = positions.len() as f64;
    let sum = |of: fn(&Position) -> f64| positions.iter().map(of).sum::<f64>() / count;
    Position { x: sum(|p| p.x), y: sum(|p| p.y) }
}

/// The `count` patterns nearest to the mean position, in their order in the scan.
fn middle(scan: &Scan, count: usize) -> Vec<usize> {
    let mean = mean(&scan.positions);
    let mut order = scan.used();
    let far = |&i: &usize| geometry::distance(scan.positions[i], mean);
    order.sort_by(|a, b| far(a).total_cmp(&far(b)).then(a.cmp(b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Halves the side while it is above `most` and the middle of the patterns holds nearly all light.
fn cropped_side(scan: &Scan, most: usize) -> usize {
    let mut mean = Array2::<f64>::zeros((scan.side(), scan.side()));
    for pattern in scan.amplitude.held().axis_iter(Axis(0)) {
        Zip::from(&mut mean).and(&pattern).for_each(|m, &a| *m += f64::from(a).powi(2));
    }
    let mut side = scan.side();
    while side > most && side.is_multiple_of(4) {
        if inner(mean.view(), side / 2).sum() < ENOUGH_LIGHT * mean.sum() {
            break;
        }
        side /= 2;
    }
    side
}

/// The middle `side` × `side` pixels about pixel (N/2, N/2).
fn inner<T>(image: ArrayView2<T>, side: usize) -> ArrayView2<T> {
    let first = image.nrows() / 2 - side / 2;
    image.slice_move(s![first..first + side, first..first + side])
}

/// Patterns without their outer pixels: the same field of view in larger pixels.
fn cropped(scan: &Scan, side: usize) -> Scan {
    let shrink = side as f64 / scan.side() as f64;
    let mut amplitude = Array3::zeros((scan.len(), side, side));
    for (mut out, frame) in amplitude.outer_iter_mut().zip(scan.amplitude.held().outer_iter()) {
        out.assign(&inner(frame, side));
    }
    let positions = scan.positions.iter().map(|p| Position { x: shrink * p.x, y: shrink * p.y });
    Scan {
        amplitude: amplitude.into(),
        probe: coarse(&strongest(&scan.probe), side),
        positions: positions.collect(),
        nominal: None,
        mask: scan.mask.as_ref().map(|mask| inner(mask.view(), side).to_owned()),
        object: None,
        labels: None,
        ..scan.clone()
    }
}

/// The strongest modes of a probe [P, N, N].
fn strongest(probe: &Array3<Complex32>) -> Array3<Complex32> {
    let powers = modes::powers(probe.view());
    let mut order: Vec<usize> = (0..powers.len()).collect();
    order.sort_by(|&a, &b| powers[b].total_cmp(&powers[a]).then(a.cmp(&b)));
    order.truncate(MOST_MODES);
    probe.select(Axis(0), &order)
}

/// A probe [P, N, N] without the frequencies beyond a pattern of `side` pixels, in larger pixels.
fn coarse(probe: &Array3<Complex32>, side: usize) -> Array3<Complex32> {
    let (count, full, _) = probe.dim();
    if side == full {
        return probe.clone();
    }
    let (forward, back) = (Fft2::new(full, full), Fft2::new(side, side));
    let mut out = Array3::zeros((count, side, side));
    for (mut out, mode) in out.outer_iter_mut().zip(probe.outer_iter()) {
        let mut wave = centre(&mode.mapv(widen));
        forward.forward(&mut wave);
        let mut wave = centre(&inner(centre(&wave).view(), side).to_owned());
        back.inverse(&mut wave);
        out.assign(&centre(&wave).mapv(narrow));
    }
    out
}

/// Multiplies the probe with the ramp that gives its far field the frames' centre of mass.
fn steer(scan: &mut Scan) {
    let side = scan.side();
    let fft = Fft2::new(side, side);
    let mut beam = Array2::<f64>::zeros((side, side));
    for mode in scan.probe.outer_iter() {
        let mut wave = centre(&mode.mapv(widen));
        fft.forward(&mut wave);
        beam += &centre(&wave.mapv(|z| z.norm_sqr()));
    }
    let mut light = Array2::<f64>::zeros((side, side));
    for frame in scan.amplitude.held().outer_iter() {
        Zip::from(&mut light).and(&frame).for_each(|l, &a| *l += f64::from(a).powi(2));
    }
    // What the mask hides is missing on both sides.
    if let Some(mask) = &scan.mask {
        Zip::from(&mut beam).and(mask).for_each(|b, &m| *b *= f64::from(u8::from(m > 0.0)));
    }
    let ([x0, y0], [x1, y1]) = (centroid(&beam), centroid(&light));
    let middle = (side / 2) as f64;
    for ((_, y, x), z) in scan.probe.indexed_iter_mut() {
        let turns =
            ((x1 - x0) * (x as f64 - middle) + (y1 - y0) * (y as f64 - middle)) / side as f64;
        *z *= narrow(Complex64::from_polar(1.0, TAU * turns));
    }
}

/// (x, y) of the centre of mass; the middle of a dark image.
fn centroid(image: &Array2<f64>) -> [f64; 2] {
    let [total, x, y] = image.indexed_iter().fold([0.0; 3], |[total, sx, sy], ((y, x), &w)| {
        [total + w, sx + w * x as f64, sy + w * y as f64]
    });
    let middle = (image.nrows() / 2) as f64;
    if total > 0.0 { [x / total, y / total] } else { [middle, middle] }
}

fn widen(z: Complex32) -> Complex64 {
    Complex64::new(z.re.into(), z.im.into())
}

fn narrow(z: Complex64) -> Complex32 {
    Complex32::new(z.re as f32, z.im as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tilted, curved beam, narrow enough that half the side holds its far field.
    fn beam(side: usize, tilt: f64) -> Array3<Complex32> {
        let middle = (side / 2) as f64;
        Array3::from_shape_fn((1, side, side), |(_, y, x)| {
            let (x, y) = (x as f64 - middle, y as f64 - middle);
            let size = (-(x * x + y * y) / (0.02 * (side * side) as f64)).exp();
            narrow(Complex64::from_polar(size, TAU * tilt * x / side as f64))
        })
    }

    #[test]
    fn a_coarse_probe_has_the_same_shape_in_fewer_pixels() {
        let coarse = coarse(&beam(64, 2.0), 32);
        let scale = 2.0;
        for ((_, y, x), z) in coarse.indexed_iter() {
            let fine = beam(64, 2.0)[[0, 2 * y, 2 * x]];
            assert!((z / scale - fine).norm() < 1e-3, "({x}, {y}): {z} for {fine}");
        }
    }

    #[test]
    fn positions_on_a_line_are_seen_in_any_direction() {
        let line = |dx: f64, dy: f64, off: f64| {
            let at = |i: i32| Position {
                x: dx * f64::from(i) + off * f64::from(i % 3),
                y: dy * f64::from(i),
            };
            on_a_line(&(0..30).map(at).collect::<Vec<_>>())
        };
        assert!(line(1.0, 0.0, 0.0) && line(0.0, 1.0, 0.0) && line(2.0, -1.0, 0.0));
        assert!(line(0.0, 1.0, 0.1));
        assert!(!line(0.0, 1.0, 5.0));
    }
}
