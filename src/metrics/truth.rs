//! A reconstruction against the known object.

use std::fmt;

use ndarray::{Array2, ArrayView2, s};
use num_complex::{Complex32, Complex64};
use serde::Serialize;

use super::gauge::{Gauge, registration};
use super::image::{ImageReport, PhaseAlign, aligned, compare, pearson, ratio};
use super::row;
use crate::data::scan::Position;
use crate::simulate::forward::extract;
use crate::{Error, Result};

/// A stitched canvas and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Reconstruction<'a> {
    /// [H, W].
    pub object: ArrayView2<'a, Complex32>,
    /// [H, W], above 0 where a patch contributed.
    pub weights: ArrayView2<'a, f32>,
    /// Object pixel (row, column) of canvas pixel (0, 0).
    pub origin_yx: [f64; 2],
    /// Positions that were stitched, object pixels: their bounding box is the scanned area.
    pub positions: &'a [Position],
}

/// Figures over the scanned area, after factor and phase ramp have been taken out.
#[derive(Clone, Debug, Serialize)]
pub struct TruthReport {
    /// ‖reconstruction − truth‖ / ‖truth‖ of the complex images over the covered pixels.
    pub relative_l2: f64,
    /// What a constant image would score there: the figure to beat.
    pub constant_l2: f64,
    /// Mean | |reconstruction| − |truth| |.
    pub amplitude_mae: f64,
    /// Mean absolute phase difference, wrapped to (−π, π], radians.
    pub phase_mae: f64,
    /// Pearson's correlation of the amplitudes: zero-mean normalised cross-correlation.
    pub amplitude_ncc: f64,
    /// Pearson's correlation of the phases, each without its own plane.
    pub phase_ncc: f64,
    /// Modulus of the complex factor that was taken out.
    pub gauge_amplitude: f64,
    /// Its phase, radians.
    pub gauge_phase: f64,
    /// The ramp that was taken out, radians per pixel.
    pub gauge_ramp_yx: [f64; 2],
    /// Pixels (y, x) by which the reconstruction would have to be moved; measured, not applied.
    pub registration_yx: [f64; 2],
    /// First row and column, height and width of the evaluated area in object pixels.
    pub area: [usize; 4],
    /// Part of that area which a patch covers.
    pub covered: f64,
    /// The published metrics of the whole area, uncovered pixels included.
    #[serde(flatten)]
    pub image: ImageReport,
}

/// Whether `object` is constant: a starting guess, not a truth.
pub fn is_guess(object: ArrayView2<Complex32>) -> bool {
    let Some(&first) = object.first() else { return true };
    object.iter().all(|z| (z - first).norm() <= GUESS_SPREAD * first.norm())
}

/// Relative deviation up to which an object counts as constant.
const GUESS_SPREAD: f32 = 1e-5;

/// Compares the scanned area of `reconstruction` with the same pixels of `truth`, [H, W].
///
/// # Errors
/// [`Error::Run`] when the scanned area, the canvas and the truth share too few pixels, or no
/// pixel is covered.
pub fn against_truth(
    reconstruction: &Reconstruction,
    truth: ArrayView2<Complex32>,
) -> Result<TruthReport> {
    let Area { top, left, height, width } = area(reconstruction, truth.dim())?;
    let origin = reconstruction.origin_yx;
    let [y, x] = [top as f64 - origin[0], left as f64 - origin[1]];
    let exact = truth.slice(s![top..top + height, left..left + width]).mapv(widen);
    let recon = window(reconstruction.object, y, x, [height, width]);
    let weight = Array2::from_shape_fn((height, width), |(i, j)| {
        let nearest = [(y + i as f64).round() as usize, (x + j as f64).round() as usize];
        f64::from(reconstruction.weights.get(nearest).is_some_and(|&w| w > 0.0))
    });
    if weight.sum() == 0.0 {
        return Err(Error::Run("no pixel of the scanned area was reconstructed".into()));
    }
    let gauge = Gauge::fit(recon.view(), exact.view(), weight.view())?;
    let fitted = gauge.apply(recon.view());
    let image = compare(fitted.view(), exact.view(), PhaseAlign::Plane)?;
    let [relative_l2, amplitude_mae, phase_mae] = errors(&fitted, &exact, &weight);
    Ok(TruthReport {
        relative_l2,
        constant_l2: constant_l2(&exact, &weight)?,
        amplitude_mae,
        phase_mae,
        amplitude_ncc: correlation(&fitted, &exact, &weight, |image| image.mapv(|z| z.norm())),
        // Without planes, or a ramp fitted to a featureless image would correlate.
        phase_ncc: correlation(&fitted, &exact, &weight, |image| {
            aligned(&image.mapv(|z| z.arg()), PhaseAlign::Plane)
        }),
        gauge_amplitude: gauge.factor.norm(),
        gauge_phase: gauge.factor.arg(),
        gauge_ramp_yx: gauge.ramp_yx,
        registration_yx: registration(fitted.view(), exact.view())?,
        area: [top, left, height, width],
        covered: weight.sum() / weight.len() as f64,
        image,
    })
}

struct Area {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

/// Below this a side cannot be judged: the window of the structural similarity and its trim.
const SMALLEST_SIDE: usize = 11;

/// Whole object pixels inside the bounding box of the positions, the canvas and the truth.
fn area(reconstruction: &Reconstruction, truth: (usize, usize)) -> Result<Area> {
    let span = |coordinate: fn(&Position) -> f64, origin: f64, canvas: usize, truth: usize| {
        let (low, high) = reconstruction
            .positions
            .iter()
            .map(coordinate)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), c| (l.min(c), h.max(c)));
        let from = low.max(origin).max(0.0).ceil();
        let to = (high + 1.0).min(origin + canvas as f64).min(truth as f64).floor();
        (from as usize, (to - from).max(0.0) as usize)
    };
    let (rows, columns) = reconstruction.object.dim();
    let (top, height) = span(|p| p.y, reconstruction.origin_yx[0], rows, truth.0);
    let (left, width) = span(|p| p.x, reconstruction.origin_yx[1], columns, truth.1);
    if height.min(width) < SMALLEST_SIDE {
        return Err(Error::Run(format!(
            "the scanned area shares only {height}×{width} pixels with the truth; image metrics \
             need at least {SMALLEST_SIDE}×{SMALLEST_SIDE}"
        )));
    }
    Ok(Area { top, left, height, width })
}

/// [h, w] pixels of the canvas from (y, x) on, interpolated where the origin is not whole.
fn window(object: ArrayView2<Complex32>, y: f64, x: f64, [h, w]: [usize; 2]) -> Array2<Complex64> {
    let side = 2 * h.max(w).div_ceil(2);
    let middle = (side / 2) as f64;
    let square =
        extract(object.mapv(widen).view(), Position { x: x + middle, y: y + middle }, side);
    square.slice(s![..h, ..w]).to_owned()
}

fn widen(z: Complex32) -> Complex64 {
    Complex64::new(z.re.into(), z.im.into())
}

/// Relative L2, mean amplitude error and mean phase error over the covered pixels.
fn errors(fitted: &Array2<Complex64>, exact: &Array2<Complex64>, weight: &Array2<f64>) -> [f64; 3] {
    let (mut squares, mut size, mut amplitude, mut phase) = (0.0, 0.0, 0.0, 0.0);
    for ((r, t), w) in fitted.iter().zip(exact).zip(weight) {
        squares += w * (r - t).norm_sqr();
        size += w * t.norm_sqr();
        amplitude += w * (r.norm() - t.norm()).abs();
        // Zero has no phase: it earns what a random phase would.
        let product = t * r.conj();
        phase +=
            w * if product.norm_sqr() > 0.0 { product.arg().abs() } else { RANDOM_PHASE_ERROR };
    }
    let pixels = weight.sum();
    [ratio(squares, size).sqrt(), amplitude / pixels, phase / pixels]
}

/// The relative L2 error of a featureless image in its best gauge.
fn constant_l2(exact: &Array2<Complex64>, weight: &Array2<f64>) -> Result<f64> {
    let flat = Array2::ones(exact.dim());
    let gauge = Gauge::fit(flat.view(), exact.view(), weight.view())?;
    Ok(errors(&gauge.apply(flat.view()), exact, weight)[0])
}

const RANDOM_PHASE_ERROR: f64 = std::f64::consts::FRAC_PI_2;

fn correlation(
    fitted: &Array2<Complex64>,
    exact: &Array2<Complex64>,
    weight: &Array2<f64>,
    part: impl Fn(&Array2<Complex64>) -> Array2<f64>,
) -> f64 {
    let (fitted, exact) = (part(fitted), part(exact));
    let covered = fitted.iter().zip(&exact).zip(weight).filter(|(_, w)| **w > 0.0);
    pearson(&covered.map(|((&r, &t), _)| (r, t)).collect::<Vec<_>>())
}

impl fmt::Display for TruthReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [top, left, height, width] = self.area;
        let covered = 100.0 * self.covered;
        writeln!(
            f,
            "Against the truth ({height}×{width} pixels from row {top}, column {left}; {covered:.1} % covered)"
        )?;
        row(f, "complex relative L2", self.relative_l2)?;
        row(f, "  of a constant image", self.constant_l2)?;
        row(f, "amplitude MAE", self.amplitude_mae)?;
        row(f, "phase MAE (rad, wrapped)", self.phase_mae)?;
        row(f, "amplitude correlation", self.amplitude_ncc)?;
        row(f, "phase correlation", self.phase_ncc)?;
        row(f, "gauge: amplitude factor", self.gauge_amplitude)?;
        row(f, "gauge: phase (rad)", self.gauge_phase)?;
        row(f, "gauge: ramp y (rad/pixel)", self.gauge_ramp_yx[0])?;
        row(f, "gauge: ramp x (rad/pixel)", self.gauge_ramp_yx[1])?;
        row(f, "registration offset y (pixel)", self.registration_yx[0])?;
        row(f, "registration offset x (pixel)", self.registration_yx[1])?;
        writeln!(f, "As published {:>31}{:>12}", "amplitude", "phase")?;
        let image = &self.image;
        let published = [
            ("MAE", image.mae),
            ("MSE", image.mse),
            ("PSNR, peak 255 (dB)", image.psnr_255),
            ("PSNR, peak 1 (dB)", image.psnr_1),
            ("SSIM", image.ssim),
            ("MS-SSIM", image.ms_ssim),
            ("FRC 1/2 (ring)", image.frc50),
            ("FRC 1/7 (ring)", image.frc1over7),
        ];
        published
            .into_iter()
            .try_for_each(|(name, [a, p])| writeln!(f, "  {name:<32}{a:>12.6}{p:>12.6}"))
    }
}
