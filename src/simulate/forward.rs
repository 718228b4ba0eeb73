//! The forward model in f64: object patch, probe modes, detector.

use ndarray::{Array2, Array3, ArrayView2, Axis};
use num_complex::Complex64;

use super::fourier::{Fft2, centre};
use crate::data::scan::Position;

/// Expected patterns of one probe.
pub struct Forward {
    probe: Array3<Complex64>,
    fft: Fft2,
}

impl Forward {
    /// `probe` is [P, N, N], its modes summed incoherently.
    pub fn new(probe: Array3<Complex64>) -> Forward {
        let (_, height, width) = probe.dim();
        Forward { probe, fft: Fft2::new(height, width) }
    }

    /// [N, N] intensity Σ_p |F(P_p O)|² at `position`, F unitary, zero frequency at (N/2, N/2).
    pub fn intensity(&self, object: ArrayView2<Complex64>, position: Position) -> Array2<f64> {
        self.intensity_of(&extract(object, position, self.probe.dim().1))
    }

    /// The same of a [N, N] patch.
    pub fn intensity_of(&self, patch: &Array2<Complex64>) -> Array2<f64> {
        let mut sum = Array2::zeros(patch.dim());
        for mode in self.probe.axis_iter(Axis(0)) {
            let mut wave = patch * &mode;
            self.fft.forward(&mut wave);
            sum.zip_mut_with(&wave, |s: &mut f64, w| *s += w.norm_sqr());
        }
        centre(&sum)
    }

    /// Sum of [`Forward::intensity`], taken in object space by Parseval's theorem.
    pub fn energy(&self, object: ArrayView2<Complex64>, position: Position) -> f64 {
        let patch = extract(object, position, self.probe.dim().1);
        self.probe.axis_iter(Axis(0)).map(|mode| (&patch * &mode).map(|w| w.norm_sqr()).sum()).sum()
    }
}

/// The [side, side] patch whose index (side/2, side/2) lies at `position`, interpolated
/// bilinearly; zero outside the object.
pub fn extract(
    object: ArrayView2<Complex64>,
    position: Position,
    side: usize,
) -> Array2<Complex64> {
    extract_from(object, [0, 0], position, side)
}

/// The same from a part of the object that begins at pixel `origin` (row, column).
pub fn extract_from(
    object: ArrayView2<Complex64>,
    origin: [i64; 2],
    position: Position,
    side: usize,
) -> Array2<Complex64> {
    let [row, column] = corner(position, side);
    let fy = position.y - (side / 2) as f64 - row as f64;
    let fx = position.x - (side / 2) as f64 - column as f64;
    let at = |y: i64, x: i64| match (usize::try_from(y), usize::try_from(x)) {
        (Ok(y), Ok(x)) => object.get([y, x]).copied().unwrap_or_default(),
        _ => Complex64::default(),
    };
    Array2::from_shape_fn((side, side), |(i, j)| {
        let (y, x) = (row + i as i64 - origin[0], column + j as i64 - origin[1]);
        let upper = at(y, x) * (1.0 - fx) + at(y, x + 1) * fx;
        let lower = at(y + 1, x) * (1.0 - fx) + at(y + 1, x + 1) * fx;
        upper * (1.0 - fy) + lower * fy
    })
}

/// Beyond this many pixels from the object a patch is empty anyway; keeps the indices in range.
const FAR: f64 = (1u64 << 40) as f64;

/// Object pixel (row, column) from which on a patch reaches; it takes one more pixel than its side.
pub fn corner(position: Position, side: usize) -> [i64; 2] {
    [position.y, position.x].map(|at| (at - (side / 2) as f64).clamp(-FAR, FAR).floor() as i64)
}
