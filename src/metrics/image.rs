//! Metrics of real images, as published for this family of networks, so that the numbers can be
//! compared: the definitions of scikit-image and OpenCV with the choices stated at each function.

use std::f64::consts::PI;

use ndarray::{Array2, ArrayView2, s};
use num_complex::Complex64;
use serde::Serialize;

use super::filter::blur;
use super::frc::Frc;
use crate::{Error, Result};

/// How the arbitrary offset of the phase is removed before phases are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseAlign {
    /// Each image loses its own least-squares plane.
    Plane,
    /// Each image loses its own mean.
    Mean,
}

/// One figure for the amplitude and one for the phase, in this order.
pub type Pair = [f64; 2];

/// The published metrics of one reconstruction.
#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    /// Mean absolute error; phase in radians, differences not wrapped.
    pub mae: Pair,
    /// Mean squared error; phase in rad².
    pub mse: Pair,
    /// Peak signal-to-noise ratio in dB with the peak 255: what is published for images of size
    /// 1, 48.13 dB above the usual figure. Infinite for identical images.
    pub psnr_255: Pair,
    /// Peak signal-to-noise ratio in dB with the peak 1.
    pub psnr_1: Pair,
    /// Structural similarity. The phase's is taken in a range of 2π, as published, so a flat image
    /// still scores high on a weak phase object: judge that by the correlation of the phases.
    pub ssim: Pair,
    pub ms_ssim: Pair,
    /// First ring, interpolated, where the ring correlation falls below 1/2.
    pub frc50: Pair,
    /// First ring, interpolated, where the ring correlation falls below 1/7.
    pub frc1over7: Pair,
    /// Ring correlation of amplitude and phase, one value a ring.
    #[serde(skip)]
    pub frc: [Frc; 2],
}

/// Pixels cut from each side before anything is compared.
const TRIM: usize = 2;
/// Blur of the amplitude before its multi-scale similarity, pixels.
const MS_SSIM_BLUR: f64 = 1.0;

/// Compares a complex reconstruction with the truth, both [H, W].
///
/// Two pixels are cut from each side; the amplitude of the reconstruction is scaled to the mean of
/// the true one; phases are aligned by `align` and never unwrapped.
///
/// # Errors
/// [`Error::Run`] when the shapes differ or a side is shorter than 11 pixels.
pub fn compare(
    reconstruction: ArrayView2<Complex64>,
    truth: ArrayView2<Complex64>,
    align: PhaseAlign,
) -> Result<ImageReport> {
    let (height, width) = truth.dim();
    if reconstruction.dim() != truth.dim() {
        let (h, w) = reconstruction.dim();
        let problem = format!("the reconstruction is {h}×{w} pixels, the truth {height}×{width}");
        return Err(Error::Run(problem));
    }
    if height.min(width) < WINDOW + 2 * TRIM {
        let problem = format!("an area of {height}×{width} pixels is too small for image metrics");
        return Err(Error::Run(problem));
    }
    let trim = s![TRIM..height - TRIM, TRIM..width - TRIM];
    let (reconstruction, truth) = (reconstruction.slice(trim), truth.slice(trim));
    let (guess, exact) = (reconstruction.mapv(|z| z.norm()), truth.mapv(|z| z.norm()));
    let scale = ratio(exact.sum(), guess.sum());
    let amplitude = [guess * scale, exact];
    let phase = [reconstruction, truth].map(|image| aligned(&image.mapv(|z| z.arg()), align));
    Ok(report(&amplitude, &phase))
}

fn report(amplitude: &[Array2<f64>; 2], phase: &[Array2<f64>; 2]) -> ImageReport {
    let unit = phase.each_ref().map(|p| p.mapv(|v| (v + PI) / (2.0 * PI)));
    let blurred = amplitude.each_ref().map(|a| blur(a, MS_SSIM_BLUR));
    let pairs = [amplitude, phase];
    let mae = pairs.map(|[a, b]| mean_of(a, b, |d| d.abs()));
    let mse = pairs.map(|[a, b]| mean_of(a, b, |d| d * d));
    let frc = pairs.map(|[a, b]| Frc::new(a.view(), b.view()));
    let amplitude_ssim = ssim(&amplitude[0], &amplitude[1], range(&amplitude[1]));
    ImageReport {
        mae,
        mse,
        psnr_255: mse.map(|m| psnr(m, 255.0)),
        psnr_1: mse.map(|m| psnr(m, 1.0)),
        ssim: [amplitude_ssim, ssim(&unit[0], &unit[1], 1.0)],
        ms_ssim: [ms_ssim(&blurred[0], &blurred[1]), ms_ssim(&unit[0], &unit[1])],
        frc50: frc.each_ref().map(|f| f.crossing(0.5)),
        frc1over7: frc.each_ref().map(|f| f.crossing(1.0 / 7.0)),
        frc,
    }
}

fn mean_of(a: &Array2<f64>, b: &Array2<f64>, of: impl Fn(f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(a, b)| of(a - b)).sum::<f64>() / a.len() as f64
}

/// Peak signal-to-noise ratio in dB; infinite for an error of 0.
pub fn psnr(mse: f64, peak: f64) -> f64 {
    10.0 * (peak * peak / mse).log10()
}

fn range(image: &Array2<f64>) -> f64 {
    let (low, high) = image.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    high - low
}

/// `a / b`, and 0 where that means nothing: an empty image earns no credit.
pub(super) fn ratio(a: f64, b: f64) -> f64 {
    let r = a / b;
    if r.is_finite() { r } else { 0.0 }
}

/// A phase image without its own plane or mean.
pub fn aligned(phase: &Array2<f64>, align: PhaseAlign) -> Array2<f64> {
    let (height, width) = phase.dim();
    let mean = phase.sum() / phase.len() as f64;
    // About the middle of a full rectangle x, y and 1 are orthogonal: the plane needs no solver.
    let (middle_y, middle_x) = ((height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0);
    let slope = |along: &dyn Fn(usize, usize) -> f64| {
        let (mut product, mut square) = (0.0, 0.0);
        for ((y, x), &v) in phase.indexed_iter() {
            product += along(y, x) * v;
            square += along(y, x) * along(y, x);
        }
        ratio(product, square)
    };
    let (slope_y, slope_x) = match align {
        PhaseAlign::Mean => (0.0, 0.0),
        PhaseAlign::Plane => {
            (slope(&|y, _| y as f64 - middle_y), slope(&|_, x| x as f64 - middle_x))
        }
    };
    Array2::from_shape_fn((height, width), |(y, x)| {
        phase[[y, x]] - mean - slope_y * (y as f64 - middle_y) - slope_x * (x as f64 - middle_x)
    })
}

/// Side of the uniform window of the structural similarity.
const WINDOW: usize = 7;
const K1: f64 = 0.01;
const K2: f64 = 0.03;

/// Structural similarity of Wang et al. (2004) with a uniform 7×7 window and sample covariances,
/// averaged over the pixels whose window lies inside the image (scikit-image's defaults).
///
/// 0 when the shapes differ, `data_range` is 0 or a side is shorter than the window: nothing can be similar
/// then.
pub fn ssim(a: &Array2<f64>, b: &Array2<f64>, data_range: f64) -> f64 {
    let small = a.nrows().min(a.ncols()) < WINDOW || a.dim() != b.dim();
    if small || data_range.is_nan() || data_range <= 0.0 {
        return 0.0;
    }
    let samples = (WINDOW * WINDOW) as f64;
    let sample_covariance = samples / (samples - 1.0);
    let (c1, c2) = ((K1 * data_range).powi(2), (K2 * data_range).powi(2));
    let [ma, mb] = [a, b].map(window_means);
    let [maa, mbb, mab] = [&(a * a), &(b * b), &(a * b)].map(window_means);
    let similarity = (0..ma.len()).map(|i| {
        let at = |m: &Array2<f64>| m[[i / ma.ncols(), i % ma.ncols()]];
        let (ua, ub) = (at(&ma), at(&mb));
        let [vaa, vbb, vab] = [at(&maa) - ua * ua, at(&mbb) - ub * ub, at(&mab) - ua * ub]
            .map(|v| v * sample_covariance);
        (2.0 * ua * ub + c1) * (2.0 * vab + c2) / ((ua * ua + ub * ub + c1) * (vaa + vbb + c2))
    });
    similarity.sum::<f64>() / ma.len() as f64
}

/// Means over all windows that lie inside the image.
fn window_means(image: &Array2<f64>) -> Array2<f64> {
    let (height, width) = (image.nrows() + 1 - WINDOW, image.ncols() + 1 - WINDOW);
    let rows = Array2::from_shape_fn((image.nrows(), width), |(y, x)| {
        image.slice(s![y, x..x + WINDOW]).sum()
    });
    Array2::from_shape_fn((height, width), |(y, x)| {
        rows.slice(s![y..y + WINDOW, x]).sum() / (WINDOW * WINDOW) as f64
    })
}

/// Weights of the five scales (Wang, Simoncelli and Bovik, 2003).
const SCALE_WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];
/// What a scale counts for when its similarity is not positive.
const SIMILARITY_FLOOR: f64 = 1e-4;

/// Multi-scale structural similarity in the published variant: the full similarity, luminance
/// included, at each scale; every second pixel kept from one scale to the next without a filter;
/// one data range, the larger of the two images'. 0 when the shapes differ or both images are constant.
pub fn ms_ssim(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    let data_range = range(a).max(range(b));
    if data_range <= 0.0 || a.dim() != b.dim() {
        return 0.0;
    }
    let (mut a, mut b, mut product) = (a.clone(), b.clone(), 1.0);
    for weight in SCALE_WEIGHTS {
        if a.nrows().min(a.ncols()) < WINDOW {
            break;
        }
        let similarity = ssim(&a, &b, data_range);
        product *= (if similarity > 0.0 { similarity } else { SIMILARITY_FLOOR }).powf(weight);
        a = a.slice(s![..;2, ..;2]).to_owned();
        b = b.slice(s![..;2, ..;2]).to_owned();
    }
    product
}

/// Pearson's correlation of values in one unit; 0 when either side is constant, or so beside the
/// other.
pub fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let (ma, mb) = pairs.iter().fold((0.0, 0.0), |(a, b), p| (a + p.0 / n, b + p.1 / n));
    let mut sums = [0.0; 3];
    for (a, b) in pairs {
        sums[0] += (a - ma) * (a - ma);
        sums[1] += (b - mb) * (b - mb);
        sums[2] += (a - ma) * (b - mb);
    }
    // A constant image leaves a variance of rounding errors, which must not be normalised.
    let constant =
        |sum: f64, mean: f64, other: f64| sum <= (n * mean * mean).max(other) * CONSTANT.powi(2);
    if constant(sums[0], ma, sums[1]) || constant(sums[1], mb, sums[0]) {
        return 0.0;
    }
    ratio(sums[2], (sums[0] * sums[1]).sqrt())
}

/// A relative standard deviation below this is rounding.
const CONSTANT: f64 = 1e-7;
