//! What ptychography cannot know is taken out before anything is compared: a complex factor and a
//! linear phase ramp. And what it should know is checked: that the image is not shifted.

use std::f64::consts::{PI, TAU};

use ndarray::{Array2, ArrayView2};
use num_complex::Complex64;

use super::image::ratio;
use crate::simulate::fourier::{Fft2, frequency};
use crate::{Error, Result};

/// truth ≈ factor · exp(i (ramp · (y, x))) · reconstruction, y and x from the image's middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gauge {
    pub factor: Complex64,
    /// Radians per pixel along rows (y) and columns (x).
    pub ramp_yx: [f64; 2],
}

impl Gauge {
    /// The ramp maximises |Σ w · truth · conj(reconstruction · ramp)|, the factor is the
    /// least-squares one. All three images are [H, W]; pixels of weight 0 do not count.
    ///
    /// # Errors
    /// [`Error::Run`] when the shapes differ, or there is no pixel.
    pub fn fit(
        reconstruction: ArrayView2<Complex64>,
        truth: ArrayView2<Complex64>,
        weight: ArrayView2<f64>,
    ) -> Result<Gauge> {
        one_shape(reconstruction.dim(), truth.dim())?;
        one_shape(reconstruction.dim(), weight.dim())?;
        let product = ndarray::Zip::from(reconstruction)
            .and(truth)
            .and(weight)
            .map_collect(|r, t, &w| t * r.conj() * w);
        let ramp_yx = strongest_frequency(&product);
        let power: f64 = reconstruction.iter().zip(weight).map(|(r, w)| r.norm_sqr() * w).sum();
        let overlap = Sums::new(&product, ramp_yx).value;
        let factor = Complex64::new(ratio(overlap.re, power), ratio(overlap.im, power));
        Ok(Gauge { factor, ramp_yx })
    }

    /// `reconstruction` in the gauge of the truth.
    pub fn apply(&self, reconstruction: ArrayView2<Complex64>) -> Array2<Complex64> {
        let middle = middle(reconstruction.dim());
        Array2::from_shape_fn(reconstruction.dim(), |(y, x)| {
            let phase =
                self.ramp_yx[0] * (y as f64 - middle[0]) + self.ramp_yx[1] * (x as f64 - middle[1]);
            reconstruction[[y, x]] * self.factor * Complex64::from_polar(1.0, phase)
        })
    }
}

fn middle((height, width): (usize, usize)) -> [f64; 2] {
    [(height / 2) as f64, (width / 2) as f64]
}

/// Finer than this in radians per pixel no image can tell.
const CONVERGED: f64 = 1e-12;
const NEWTON_STEPS: usize = 60;

/// The k that maximises |Σ z exp(−i k·r)|, in radians per pixel (y, x), |k| ≤ π: the peak of a
/// transform with twofold zero padding, then Newton's method on the squared modulus.
fn strongest_frequency(z: &Array2<Complex64>) -> [f64; 2] {
    let (height, width) = z.dim();
    let padded = (2 * height, 2 * width);
    let mut spectrum = Array2::<Complex64>::zeros(padded);
    spectrum.slice_mut(ndarray::s![..height, ..width]).assign(z);
    Fft2::new(padded.0, padded.1).forward(&mut spectrum);
    let mut best = (0.0, [0, 0]);
    for ((y, x), v) in spectrum.indexed_iter() {
        if v.norm_sqr() > best.0 {
            best = (v.norm_sqr(), [y, x]);
        }
    }
    let [y, x] = best.1;
    climb(z, [TAU * frequency(y, padded.0), TAU * frequency(x, padded.1)])
}

/// Newton's method with halved steps where a full one would lead downhill.
fn climb(z: &Array2<Complex64>, start: [f64; 2]) -> [f64; 2] {
    let mut k = start;
    let mut here = Sums::new(z, k);
    for _ in 0..NEWTON_STEPS {
        let mut step = here.step(z.dim());
        loop {
            let length = step[0].hypot(step[1]);
            // An image with NaN in it has no step that leads anywhere.
            if length < CONVERGED || length.is_nan() {
                return k;
            }
            let next = [k[0] + step[0], k[1] + step[1]];
            let there = Sums::new(z, next);
            if there.value.norm_sqr() >= here.value.norm_sqr() {
                (k, here) = (next, there);
                break;
            }
            step = step.map(|s| s / 2.0);
        }
    }
    k
}

/// S(k) = Σ z exp(−i k·r) with its first and second derivatives by k, r from the image's middle.
struct Sums {
    value: Complex64,
    first: [Complex64; 2],
    /// yy, yx, xx.
    second: [Complex64; 3],
}

impl Sums {
    fn new(z: &Array2<Complex64>, k: [f64; 2]) -> Sums {
        let middle = middle(z.dim());
        let wave_x: Vec<Complex64> = (0..z.ncols())
            .map(|x| Complex64::from_polar(1.0, -k[1] * (x as f64 - middle[1])))
            .collect();
        let (mut value, mut first) = (Complex64::default(), [Complex64::default(); 2]);
        let mut second = [Complex64::default(); 3];
        for (i, row) in z.rows().into_iter().enumerate() {
            let mut along = [Complex64::default(); 3];
            for (j, (v, w)) in row.iter().zip(&wave_x).enumerate() {
                let (x, term) = (j as f64 - middle[1], v * w);
                along[0] += term;
                along[1] += term * x;
                along[2] += term * (x * x);
            }
            let y = i as f64 - middle[0];
            let wave_y = Complex64::from_polar(1.0, -k[0] * y);
            let [one, x, xx] = along.map(|a| a * wave_y);
            value += one;
            first[0] -= Complex64::i() * one * y;
            first[1] -= Complex64::i() * x;
            second[0] -= one * (y * y);
            second[1] -= x * y;
            second[2] -= xx;
        }
        Sums { value, first, second }
    }

    /// Newton's step for |S|², or a step uphill where |S|² is not concave.
    fn step(&self, (height, width): (usize, usize)) -> [f64; 2] {
        let real = |a: Complex64, b: Complex64| 2.0 * (a.conj() * b).re;
        let [gy, gx] = self.first.map(|f| real(self.value, f));
        let [yy, yx, xx] =
            [(0, 0), (0, 1), (1, 1)].map(|(a, b)| real(self.first[a], self.first[b]));
        let [syy, syx, sxx] = self.second.map(|s| real(self.value, s));
        let (hyy, hyx, hxx) = (yy + syy, yx + syx, xx + sxx);
        let determinant = hyy * hxx - hyx * hyx;
        if hyy < 0.0 && determinant > 0.0 {
            return [(hyx * gx - hxx * gy) / determinant, (hyx * gy - hyy * gx) / determinant];
        }
        let steepness = gy.hypot(gx);
        let length = 1.0 / height.max(width) as f64;
        [ratio(gy * length, steepness), ratio(gx * length, steepness)]
    }
}

/// Rounds of shift and remeasure: the taper pulls a first estimate towards 0.
const REGISTRATION_ROUNDS: usize = 4;

/// By how many pixels (y, x) the content of `image` must be moved to lie on `reference`, found by
/// the peak of their cross-correlation. Both are [H, W]; their means are taken out and their edges
/// tapered. [0, 0] when one of them is constant.
///
/// # Errors
/// [`Error::Run`] when the shapes differ, or there is no pixel.
pub fn registration(
    image: ArrayView2<Complex64>,
    reference: ArrayView2<Complex64>,
) -> Result<[f64; 2]> {
    one_shape(image.dim(), reference.dim())?;
    let (height, width) = image.dim();
    let fft = Fft2::new(height, width);
    let mut fixed = tapered(reference);
    fft.forward(&mut fixed);
    let mut total = [0.0; 2];
    for _ in 0..REGISTRATION_ROUNDS {
        let mut moved = tapered(shift(&fft, image, total).view());
        fft.forward(&mut moved);
        // Along q, F(reference)·conj(F(image)) turns by −2π q·t for a move by t: the cross-spectrum
        // centred on q = 0 is an image whose strongest frequency is −2π t / size.
        let cross = ndarray::Zip::from(&fixed).and(&moved).map_collect(|f, m| f * m.conj());
        let k = strongest_frequency(&crate::simulate::fourier::centre(&cross));
        total[0] -= k[0] * height as f64 / TAU;
        total[1] -= k[1] * width as f64 / TAU;
    }
    Ok(total)
}

/// An error if two images do not have the same pixels, or none.
fn one_shape(first: (usize, usize), second: (usize, usize)) -> Result<()> {
    let ((height, width), (h, w)) = (first, second);
    match first == second && height > 0 && width > 0 {
        true => Ok(()),
        false => Err(Error::Run(format!(
            "images of {height} × {width} and {h} × {w} pixels cannot be compared: crop them to one size"
        ))),
    }
}

/// Content moved by (y, x) pixels, periodically, by a phase in Fourier space.
///
/// # Panics
/// When `fft` was planned for another shape.
pub fn shift(fft: &Fft2, image: ArrayView2<Complex64>, [y, x]: [f64; 2]) -> Array2<Complex64> {
    let (height, width) = image.dim();
    let mut wave = image.to_owned();
    fft.forward(&mut wave);
    for ((i, j), z) in wave.indexed_iter_mut() {
        let phase = -TAU * (frequency(i, height) * y + frequency(j, width) * x);
        *z *= Complex64::from_polar(1.0, phase);
    }
    fft.inverse(&mut wave);
    wave
}

/// Without its mean, under a Hann window.
fn tapered(image: ArrayView2<Complex64>) -> Array2<Complex64> {
    let (height, width) = image.dim();
    let mean = image.sum() / image.len() as f64;
    let hann = |i: usize, n: usize| (PI * (i as f64 + 0.5) / n as f64).sin().powi(2);
    Array2::from_shape_fn((height, width), |(y, x)| {
        (image[[y, x]] - mean) * hann(y, height) * hann(x, width)
    })
}
