//! Half of the patterns against the other half: up to which frequency both see the same object.

use ndarray::{Array2, s};
use num_complex::{Complex32, Complex64};
use serde::Serialize;

use super::{Options, Solved, Start, reconstruct};
use crate::backend::Chosen;
use crate::data::scan::{Position, Scan};
use crate::metrics::frc::Frc;
use crate::metrics::gauge::{Gauge, registration, shift};
use crate::reconstruction::Reconstruction;
use crate::simulate::fourier::Fft2;
use crate::{Error, Result};

/// Correlation at which two halves no longer agree.
pub const THRESHOLD: f64 = 0.5;

/// Side of a square that is worth transforming.
const SMALLEST: usize = 16;

/// Part of the square's side over which its edge is faded out, so that the jump from one edge to
/// the other is not correlated.
const FADE: f64 = 0.125;

/// Fourier ring correlation of the halves.
#[derive(Clone, Debug, Serialize)]
pub struct Halves {
    /// FRC of each ring; ring r is r/side cycles per pixel.
    pub curve: Vec<f64>,
    /// Side of the square, pixels.
    pub side: usize,
    /// The ring where the curve falls below 1/2.
    pub ring: f64,
    /// Half a period of that ring, object pixels: the smallest thing that both halves show.
    pub resolution_pixels: f64,
    /// Residuals of the halves, each over its own patterns.
    pub residuals: [f64; 2],
}

/// Solves for the even and the odd patterns apart, from `start` and with the positions of `whole`,
/// and compares the objects. Both take as many steps as `whole` did.
///
/// # Errors
/// [`Error::Run`] where the halves share no area that could be compared; those of
/// [`reconstruct`].
pub fn halves(
    scan: &Scan,
    start: &Start,
    whole: &Solved,
    options: &Options,
    device: &Chosen,
) -> Result<Halves> {
    let positions = &whole.reconstruction.positions;
    let square = square(positions);
    if square.side < SMALLEST {
        return Err(Error::Run(format!(
            "--frc needs a scanned area of {SMALLEST}×{SMALLEST} pixels at least: positions span \
             {0}×{0}",
            square.side
        )));
    }
    // Half of the patterns need twice the epochs for the same number of steps.
    let options = Options {
        epochs: 2 * whole.outcome.epochs,
        refine_positions: false,
        patience: 2 * options.patience,
        ..options.clone()
    };
    let half = |parity: usize| -> Result<Solved> {
        let taken: Vec<usize> = (0..start.indices.len()).filter(|k| k % 2 == parity).collect();
        let half = Start {
            indices: taken.iter().map(|&k| start.indices[k]).collect(),
            positions: taken.iter().map(|&k| positions[k]).collect(),
            ..start.clone()
        };
        reconstruct(scan, &half, &options, device, None)
    };
    let [even, odd] = [half(0)?, half(1)?];
    let [first, second] = [&even, &odd].map(|half| square.of(&half.reconstruction));
    let frc = compare(&first, &second)?;
    let ring = frc.crossing(THRESHOLD).min(frc.side as f64 / 2.0);
    Ok(Halves {
        ring,
        resolution_pixels: frc.side as f64 / (2.0 * ring.max(1.0)),
        curve: frc.curve,
        side: frc.side,
        residuals: [even.figures.residual, odd.figures.residual],
    })
}

/// FRC of two images after a factor, a phase ramp and a shift between them have been taken out.
fn compare(first: &Array2<Complex64>, second: &Array2<Complex64>) -> Result<Frc> {
    let (side, _) = first.dim();
    let ones = Array2::ones(first.dim());
    let gauge = Gauge::fit(second.view(), first.view(), ones.view())?;
    let fitted = gauge.apply(second.view());
    let by = registration(fitted.view(), first.view())?;
    let moved = shift(&Fft2::new(side, side), fitted.view(), by);
    Ok(Frc::complex(faded(first).view(), faded(&moved).view()))
}

/// Without its mean, and 0 at its edge.
fn faded(image: &Array2<Complex64>) -> Array2<Complex64> {
    let side = image.nrows();
    let mean = image.sum() / image.len() as f64;
    let width = FADE * side as f64;
    let window = |i: usize| {
        let edge = (i.min(side - 1 - i) as f64 + 0.5) / width;
        if edge < 1.0 { (0.5 * std::f64::consts::PI * edge).sin().powi(2) } else { 1.0 }
    };
    Array2::from_shape_fn(image.dim(), |(y, x)| (image[[y, x]] - mean) * window(y) * window(x))
}

/// A square of object pixels.
struct Square {
    top: i64,
    left: i64,
    side: usize,
}

/// The largest square in the middle of the bounding box of the positions.
fn square(positions: &[Position]) -> Square {
    let (low, high) = crate::data::geometry::bounds(positions);
    let [height, width] = [high.y - low.y, high.x - low.x].map(|d| d.floor() as i64);
    let side = height.min(width);
    let top = low.y.ceil() as i64 + (height - side) / 2;
    let left = low.x.ceil() as i64 + (width - side) / 2;
    Square { top, left, side: usize::try_from(side).unwrap_or(0) }
}

impl Square {
    /// These pixels of a canvas that covers them.
    fn of(&self, result: &Reconstruction) -> Array2<Complex64> {
        let [y, x] = result.canvas.origin_yx;
        let at = |from: i64, origin: i64| (from - origin).max(0) as usize;
        let (top, left) = (at(self.top, y), at(self.left, x));
        let object = &result.stitched.object;
        object
            .slice(s![top..top + self.side, left..left + self.side])
            .mapv(|z: Complex32| Complex64::new(z.re.into(), z.im.into()))
    }
}
