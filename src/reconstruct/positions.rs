//! Refined positions: whether the data determine them, and how they differ from where they began.

use ndarray::Axis;
use num_complex::Complex32;
use serde::Serialize;

use crate::data::geometry;
use crate::data::scan::{Position, Scan};
use crate::{Error, Result};

/// Fewer patterns than this leave nothing beside a common shift.
const FEWEST: usize = 4;

/// Neighbouring probes that share less of their area do not tie their positions together.
const LEAST_OVERLAP: f64 = 0.2;

/// Patterns whose spread about their mean is less than this many times their shot noise are all the
/// same: the object has nothing that could move.
const LEAST_SPREAD: f64 = 1.1;

/// Counts below which √counts has another variance than 1/4.
const COUNTED: f64 = 4.0;

/// How positions were moved: x' = x + shift + A (x − mean) + rest, in object pixels.
#[derive(Clone, Debug, Serialize)]
pub struct Moves {
    /// Mean move (x, y).
    pub shift_xy: [f64; 2],
    /// A as relative stretch along x and y,
    pub scale_xy: [f64; 2],
    /// as a rotation, milliradians (x towards y),
    pub rotation_mrad: f64,
    /// and as a shear, milliradians.
    pub shear_mrad: f64,
    /// Move from the first to the last pattern that is linear in the time of the scan, (x, y).
    pub drift_xy: [f64; 2],
    /// Root mean square of the moves, and of what shift and A leave.
    pub rms: f64,
    pub rms_rest: f64,
    /// Of a single position.
    pub largest: f64,
    /// Positions that went as far as they may.
    pub at_limit: usize,
}

/// An error that says why, where positions cannot be told from the patterns at `indices`.
pub fn check(scan: &Scan, probe: &ndarray::Array3<Complex32>, indices: &[usize]) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::input(&scan.source.path, format!("positions cannot be refined: {why}")))
    };
    if indices.len() < FEWEST {
        return refuse(format!(
            "{} patterns do not tie each other down, at least {FEWEST} are needed",
            indices.len()
        ));
    }
    let positions: Vec<Position> = indices.iter().map(|&i| scan.positions[i]).collect();
    if let Some(overlap) = geometry::overlap(&positions, probe)
        && overlap.nearest < LEAST_OVERLAP
    {
        return refuse(format!(
            "neighbouring probes share {:.0} % of their area (a probe of {:.1} pixels, a step of \
             {:.1}), at least {:.0} % are needed; scan with a smaller step",
            100.0 * overlap.nearest,
            overlap.probe_diameter,
            overlap.step[1],
            100.0 * LEAST_OVERLAP
        ));
    }
    let spread = spread(scan, indices);
    if spread < LEAST_SPREAD {
        return refuse(format!(
            "the patterns are all the same within their noise (spread {spread:.2} times the shot \
             noise): the object has no structure that could move"
        ));
    }
    Ok(())
}

/// Spread of the patterns about their mean, in units of the shot noise of √counts, over pixels that
/// count enough photons; infinite where none does.
fn spread(scan: &Scan, indices: &[usize]) -> f64 {
    let chosen = scan.amplitude.held().select(Axis(0), indices);
    let count = indices.len() as f64;
    let (mut sum, mut pixels) = (0.0, 0usize);
    for lane in chosen.lanes(Axis(0)) {
        let counted = |a: f32| scan.dose.kappa * f64::from(a);
        let mean = lane.iter().map(|&a| counted(a)).sum::<f64>() / count;
        if mean * mean >= COUNTED {
            let squares: f64 = lane.iter().map(|&a| (counted(a) - mean).powi(2)).sum();
            sum += squares / (count - 1.0);
            pixels += 1;
        }
    }
    // The variance of √counts is 1/4.
    if pixels == 0 { f64::INFINITY } else { (4.0 * sum / pixels as f64).sqrt() }
}

/// What moved where, from `before` to `after`; `limit` is how far each may go along an axis.
pub fn moves(before: &[Position], after: &[Position], limit: f64) -> Moves {
    let count = before.len().max(1) as f64;
    let change: Vec<[f64; 2]> =
        before.iter().zip(after).map(|(b, a)| [a.x - b.x, a.y - b.y]).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count;
    let middle = [mean(&mut before.iter().map(|p| p.x)), mean(&mut before.iter().map(|p| p.y))];
    let shift_xy = [0, 1].map(|i| mean(&mut change.iter().map(|c| c[i])));
    let a = affine(before, &change, middle, shift_xy);
    let rest = before.iter().zip(&change).map(|(p, c)| {
        let [x, y] = [p.x - middle[0], p.y - middle[1]];
        [0, 1].map(|i| c[i] - shift_xy[i] - a[i][0] * x - a[i][1] * y)
    });
    let square = |c: [f64; 2]| c[0] * c[0] + c[1] * c[1];
    Moves {
        shift_xy,
        scale_xy: [a[0][0], a[1][1]],
        rotation_mrad: 500.0 * (a[1][0] - a[0][1]),
        shear_mrad: 500.0 * (a[1][0] + a[0][1]),
        drift_xy: drift(&change),
        rms: mean(&mut change.iter().map(|&c| square(c))).sqrt(),
        rms_rest: mean(&mut rest.map(square)).sqrt(),
        largest: change.iter().map(|&c| square(c).sqrt()).fold(0.0, f64::max),
        // Positions are kept in single precision.
        at_limit: change.iter().filter(|c| c[0].abs().max(c[1].abs()) > limit - 1e-3).count(),
    }
}

/// A of change − shift = A (x − middle), by least squares.
fn affine(
    before: &[Position],
    change: &[[f64; 2]],
    middle: [f64; 2],
    shift: [f64; 2],
) -> [[f64; 2]; 2] {
    let (mut normal, mut right) = ([0.0; 3], [[0.0; 2]; 2]);
    for (p, c) in before.iter().zip(change) {
        let [x, y] = [p.x - middle[0], p.y - middle[1]];
        normal = [normal[0] + x * x, normal[1] + x * y, normal[2] + y * y];
        for i in 0..2 {
            let c = c[i] - shift[i];
            right[i] = [right[i][0] + x * c, right[i][1] + y * c];
        }
    }
    let [xx, xy, yy] = normal;
    let determinant = xx * yy - xy * xy;
    // A scan along one line says nothing of the other direction.
    if determinant <= 1e-9 * (xx + yy).powi(2) {
        return [[0.0; 2]; 2];
    }
    right.map(|[rx, ry]| [(yy * rx - xy * ry) / determinant, (xx * ry - xy * rx) / determinant])
}

/// The part of the change that is linear in time, from the first to the last pattern.
fn drift(change: &[[f64; 2]]) -> [f64; 2] {
    let last = change.len().saturating_sub(1) as f64;
    let time = |k: usize| k as f64 - last / 2.0;
    let span: f64 = (0..change.len()).map(|k| time(k).powi(2)).sum();
    [0, 1].map(|i| {
        let along: f64 = change.iter().enumerate().map(|(k, c)| time(k) * c[i]).sum();
        if span > 0.0 { along / span * last } else { 0.0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affine_move_is_taken_apart() {
        let before: Vec<Position> = (0..40)
            .map(|i| Position { x: f64::from(i % 8) * 5.0, y: f64::from(i / 8) * 7.0 })
            .collect();
        let after: Vec<Position> = before
            .iter()
            .map(|p| Position {
                x: 0.5 + 1.01 * p.x - 0.002 * p.y,
                y: -0.25 + 0.004 * p.x + 0.98 * p.y,
            })
            .collect();
        let moves = moves(&before, &after, 1.0);
        assert!((moves.scale_xy[0] - 0.01).abs() < 1e-12, "{moves:?}");
        assert!((moves.scale_xy[1] + 0.02).abs() < 1e-12, "{moves:?}");
        assert!((moves.rotation_mrad - 3.0).abs() < 1e-9, "{moves:?}");
        assert!((moves.shear_mrad - 1.0).abs() < 1e-9, "{moves:?}");
        assert!(moves.rms_rest < 1e-12 && moves.rms > 0.1, "{moves:?}");
    }

    #[test]
    fn a_drift_in_time_is_measured_from_end_to_end() {
        let before: Vec<Position> =
            (0..9).map(|i| Position { x: f64::from(i % 3), y: f64::from(i / 3) }).collect();
        let after: Vec<Position> = (0..9)
            .zip(&before)
            .map(|(i, p)| Position { x: p.x + 0.1 * f64::from(i), y: p.y })
            .collect();
        let moves = moves(&before, &after, 0.75);
        assert!((moves.drift_xy[0] - 0.8).abs() < 1e-12 && moves.drift_xy[1].abs() < 1e-12);
        assert_eq!(moves.at_limit, 1);
    }
}
