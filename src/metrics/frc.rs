//! Fourier ring correlation: up to which frequency two images agree.

use std::f64::consts::SQRT_2;

use ndarray::{Array2, ArrayView2, s};
use num_complex::Complex64;

use crate::simulate::fourier::{Fft2, centre};

/// Correlation over rings of spatial frequency.
#[derive(Clone, Debug, PartialEq)]
pub struct Frc {
    /// Side of the square that was transformed, pixels: ring r is r / side cycles per pixel.
    pub side: usize,
    /// FRC(r) for r = 0 … round(√2 side / 2), the corners included.
    pub curve: Vec<f64>,
}

/// A ring with less than this part of the brighter image's power is rounding: it correlates with
/// nothing.
const EMPTY_RING: f64 = 1e-24;

impl Frc {
    /// FRC(r) = |⟨F₁ F₂*⟩| / √(⟨|F₁|²⟩⟨|F₂|²⟩), means over the ring round(|q|) = r (Saxton and
    /// Baumeister, 1982, taken over the central square that both have, without a window).
    pub fn new(a: ArrayView2<f64>, b: ArrayView2<f64>) -> Frc {
        Frc::complex(a.mapv(Complex64::from).view(), b.mapv(Complex64::from).view())
    }

    /// The same of complex images. No ring where one of them has no pixel.
    pub fn complex(a: ArrayView2<Complex64>, b: ArrayView2<Complex64>) -> Frc {
        let side = a.nrows().min(a.ncols()).min(b.nrows()).min(b.ncols());
        if side == 0 {
            return Frc { side, curve: Vec::new() };
        }
        let fft = Fft2::new(side, side);
        let spectrum = |image: ArrayView2<Complex64>| {
            let (y, x) = ((image.nrows() - side) / 2, (image.ncols() - side) / 2);
            let square = image.slice(s![y..y + side, x..x + side]);
            let mut wave: Array2<Complex64> = square.to_owned();
            fft.forward(&mut wave);
            centre(&wave)
        };
        // With an odd side the corners end before the nominal last ring, which would be empty.
        let corner = (side / 2) as f64 * SQRT_2;
        let rings = (SQRT_2 * side as f64 / 2.0).round().min(corner.round()) as usize + 1;
        let (mut cross, mut power) = (vec![Complex64::default(); rings], vec![[0.0; 2]; rings]);
        let middle = (side / 2) as f64;
        let mut total = [0.0; 2];
        for (((y, x), f), g) in spectrum(a).indexed_iter().zip(&spectrum(b)) {
            let ring = (y as f64 - middle).hypot(x as f64 - middle).round() as usize;
            if ring >= rings {
                continue;
            }
            cross[ring] += f * g.conj();
            for (k, p) in [f.norm_sqr(), g.norm_sqr()].into_iter().enumerate() {
                power[ring][k] += p;
                total[k] += p;
            }
        }
        let noise = EMPTY_RING * total[0].max(total[1]);
        let value = |(c, p): (&Complex64, &[f64; 2])| {
            if p[0].min(p[1]) <= noise { 0.0 } else { c.norm() / (p[0] * p[1]).sqrt() }
        };
        let mut curve: Vec<f64> = cross.iter().zip(&power).map(value).collect();
        // Ring 0 is one pixel: it agrees with itself, even when taking out a plane emptied it.
        curve[0] = if total[0].min(total[1]) > noise { 1.0 } else { 0.0 };
        Frc { side, curve }
    }

    /// The first ring below `threshold`, interpolated linearly from the one before; 0 when the
    /// first ring is below it, the number of rings when none is.
    pub fn crossing(&self, threshold: f64) -> f64 {
        match self.curve.iter().position(|&c| c < threshold) {
            None => self.curve.len() as f64,
            Some(0) => 0.0,
            Some(r) => {
                let (before, after) = (self.curve[r - 1], self.curve[r]);
                (r - 1) as f64 + (before - threshold) / (before - after)
            }
        }
    }
}
