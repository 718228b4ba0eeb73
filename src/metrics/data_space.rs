//! How well a reconstruction explains what was measured: needs no truth.

use ndarray::{Array2, ArrayView2, ArrayView3};
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;
use serde::Serialize;

use super::verdict::{Evidence, shot_noise};
use crate::data::Stack;
use crate::data::scan::Position;
use crate::simulate::{Forward, forward};
use crate::stitch::Banded;
use crate::{Error, Result};

/// A reconstruction beside the patterns that it must explain.
#[derive(Clone, Copy, Debug)]
pub struct Explained<'a> {
    /// [M, N, N] measured amplitudes, zero frequency at (N/2, N/2).
    pub amplitude: &'a Stack,
    /// κ in counts = (κ a)².
    pub kappa: f64,
    /// [N, N]; detector pixels of weight 0 do not count.
    pub mask: Option<ArrayView2<'a, f32>>,
    /// [P, N, N] modes in the gauge of the amplitudes: a² = Σ_p |F(P_p O)|².
    pub probe: ArrayView3<'a, Complex32>,
    /// [H, W] canvas.
    pub object: Canvas<'a>,
    /// Object pixel (row, column) of canvas pixel (0, 0).
    pub origin_yx: [f64; 2],
    /// [K] positions of the patterns that are compared, object pixels.
    pub positions: &'a [Position],
    /// [K] which measured pattern belongs to each position.
    pub indices: &'a [usize],
    /// [K] factor on the intensity of each pattern; none: 1.
    pub gains: Option<&'a [f64]>,
    /// [N, N] light that no object shapes, in the unit of a²; none: 0.
    pub background: Option<ArrayView2<'a, f32>>,
}

/// An object, in memory or in files.
#[derive(Clone, Copy, Debug)]
pub enum Canvas<'a> {
    Held(ArrayView2<'a, Complex32>),
    Banded(&'a Banded),
}

impl<'a> From<ArrayView2<'a, Complex32>> for Canvas<'a> {
    fn from(object: ArrayView2<'a, Complex32>) -> Canvas<'a> {
        Canvas::Held(object)
    }
}

/// The same in double precision.
enum Wide<'a> {
    Held(Array2<Complex64>),
    Banded(&'a Banded),
}

impl<'a> Wide<'a> {
    fn of(canvas: Canvas<'a>) -> Wide<'a> {
        match canvas {
            Canvas::Held(object) => Wide::Held(object.mapv(widen)),
            Canvas::Banded(bands) => Wide::Banded(bands),
        }
    }

    /// [N, N] intensity at a position on the canvas.
    fn intensity(&self, forward: &Forward, position: Position, side: usize) -> Result<Array2<f64>> {
        match self {
            Wide::Held(object) => Ok(forward.intensity(object.view(), position)),
            Wide::Banded(bands) => {
                let corner = forward::corner(position, side);
                let window = bands.window(corner, (side + 1, side + 1))?.mapv(widen);
                let patch = forward::extract_from(window.view(), corner, position, side);
                Ok(forward.intensity_of(&patch))
            }
        }
    }
}

/// Agreement in the space of the data; I is measured, Î expected from the reconstruction.
#[derive(Clone, Debug, Serialize)]
pub struct DataSpace {
    /// Σ(√I − √Î)² / ΣI over all valid pixels of all frames: 0 perfect, 1 for darkness.
    pub residual: f64,
    /// Σ|√I − √Î| / Σ√I.
    pub r_factor: f64,
    /// Mean Poisson deviance 2(n ln(n/λ) − n + λ) a valid pixel: near 1 where only the shot noise
    /// of bright pixels is left, less where pixels expect no photon.
    pub deviance: f64,
    /// Σ√I√Î / ΣÎ: the factor on √Î that would fit best; 1 when the brightness is right.
    pub scale: f64,
    /// What shot noise alone would leave of the residual, if the expected counts are right.
    pub floor: f64,
    /// Patterns that were compared.
    pub frames: usize,
    #[serde(skip)]
    pub per_frame: Vec<FrameFigures>,
}

/// The same for one pattern.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FrameFigures {
    /// Index of the pattern in the scan.
    pub index: usize,
    pub residual: f64,
    pub floor: f64,
    pub r_factor: f64,
    pub deviance: f64,
}

impl DataSpace {
    /// What the data say to a verdict.
    pub fn evidence(&self) -> Evidence<'static> {
        Evidence { residual: self.residual, floor: self.floor, ..Evidence::default() }
    }
}

/// Expected photons are at least this in the deviance: a photon where none can be is a finite
/// surprise.
const DARKEST: f64 = 1e-6;

#[derive(Clone, Copy, Default)]
struct Totals {
    difference_squared: f64,
    difference: f64,
    measured_squared: f64,
    measured: f64,
    expected_squared: f64,
    product: f64,
    deviance: f64,
    noise: f64,
    pixels: f64,
}

/// Compares every pattern of `scene` with what object and probe predict, frames in parallel.
///
/// # Errors
/// [`Error::Run`] when the arrays do not belong together or the valid pixels hold no light.
pub fn data_space(scene: &Explained) -> Result<DataSpace> {
    check(scene)?;
    let comparison = Comparison::new(scene);
    let frames = (0..scene.indices.len()).into_par_iter().map(|k| comparison.totals(k));
    let frames: Vec<Totals> = frames.collect::<Result<_>>()?;
    // In the order of the frames: the same bits on any number of threads.
    let all = frames.iter().fold(Totals::default(), Totals::plus);
    if all.measured_squared <= 0.0 {
        return Err(Error::Run("the valid pixels of the patterns hold no light at all".into()));
    }
    let per_frame = scene.indices.iter().zip(&frames).map(|(&i, t)| t.figures(i)).collect();
    let FrameFigures { residual, r_factor, deviance, .. } = all.figures(0);
    let scale = super::image::ratio(all.product, all.expected_squared);
    let (frames, floor) = (frames.len(), all.noise / all.measured_squared);
    Ok(DataSpace { residual, r_factor, deviance, scale, floor, frames, per_frame })
}

fn widen(z: Complex32) -> Complex64 {
    Complex64::new(z.re.into(), z.im.into())
}

fn check(scene: &Explained) -> Result<()> {
    let (patterns, side, width) = scene.amplitude.dim();
    let (_, probe_side, probe_width) = scene.probe.dim();
    let problem = if side != width || side == 0 {
        format!("the patterns are {side}×{width} pixels, not square")
    } else if (side, width) != (probe_side, probe_width) {
        format!("the patterns are {side}×{width} pixels, the probe {probe_side}×{probe_width}")
    } else if scene.mask.is_some_and(|m| m.dim() != (side, width)) {
        format!("the mask does not have the {side}×{width} pixels of the patterns")
    } else if scene.positions.len() != scene.indices.len() {
        format!("{} positions for {} patterns", scene.positions.len(), scene.indices.len())
    } else if scene.gains.is_some_and(|gains| gains.len() != scene.indices.len()) {
        format!("{} patterns need one gain each", scene.indices.len())
    } else if scene.background.is_some_and(|b| b.dim() != (side, width)) {
        format!("the background does not have the {side}×{width} pixels of the patterns")
    } else if let Some(index) = scene.indices.iter().find(|&&i| i >= patterns) {
        format!("pattern {index} was reconstructed, the scan has only {patterns}: another scan?")
    } else {
        return Ok(());
    };
    Err(Error::Run(problem))
}

/// A pattern as it was measured, and as the reconstruction has it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Index of the pattern in the scan.
    pub index: usize,
    pub residual: f64,
    /// [N, N] photons, NaN where the detector is masked.
    pub measured: Array2<f32>,
    /// [N, N] photons.
    pub predicted: Array2<f32>,
}

/// The patterns that are explained best, as most are, and worst, in this order; fewer where the scan
/// has fewer. `figures` are those of [`data_space`].
///
/// # Errors
/// [`Error::Run`] when the arrays do not belong together, or the figures are of others; the patterns are in a
/// file that cannot be read.
pub fn typical_frames(scene: &Explained, figures: &DataSpace) -> Result<Vec<Shown>> {
    check(scene)?;
    if figures.per_frame.len() != scene.indices.len() {
        return Err(Error::Run(format!(
            "figures of {} patterns for {} patterns: they are of another reconstruction",
            figures.per_frame.len(),
            scene.indices.len()
        )));
    }
    let mut order: Vec<usize> = (0..figures.per_frame.len()).collect();
    order.sort_by(|&a, &b| figures.per_frame[a].residual.total_cmp(&figures.per_frame[b].residual));
    let mut chosen: Vec<usize> = match order.len() {
        0 => Vec::new(),
        n => vec![order[0], order[n / 2], order[n - 1]],
    };
    chosen.dedup();
    let comparison = Comparison::new(scene);
    chosen.into_iter().map(|k| comparison.shown(k, figures.per_frame[k])).collect()
}

/// A scene with all that its patterns are computed from.
pub(super) struct Comparison<'a> {
    pub scene: Explained<'a>,
    forward: Forward,
    object: Wide<'a>,
}

impl<'a> Comparison<'a> {
    pub fn new(scene: &Explained<'a>) -> Comparison<'a> {
        let forward = Forward::new(scene.probe.mapv(widen));
        Comparison { scene: *scene, forward, object: Wide::of(scene.object) }
    }

    /// [N, N] Î of pattern `k`, had it been taken at `position`.
    fn intensity(&self, k: usize, position: Position) -> Result<Array2<f64>> {
        let scene = &self.scene;
        let on_canvas =
            Position { x: position.x - scene.origin_yx[1], y: position.y - scene.origin_yx[0] };
        let side = scene.probe.dim().1;
        let mut intensity = self.object.intensity(&self.forward, on_canvas, side)?;
        let gain = scene.gains.map_or(1.0, |gains| gains[k]);
        intensity.mapv_inplace(|i| gain * i);
        if let Some(background) = scene.background {
            intensity.zip_mut_with(&background, |i, b| *i += f64::from(*b));
        }
        Ok(intensity)
    }

    /// [N, N] √Î of pattern `k`, had it been taken at `position`; 0 where the detector is masked.
    pub fn expected(&self, k: usize, position: Position) -> Result<Array2<f64>> {
        Ok(self.valid(self.intensity(k, position)?.mapv_into(f64::sqrt)))
    }

    /// An image [N, N], 0 where the detector is masked.
    pub fn valid(&self, mut image: Array2<f64>) -> Array2<f64> {
        if let Some(mask) = self.scene.mask {
            image.zip_mut_with(&mask, |x, &m| *x = if m > 0.0 { *x } else { 0.0 });
        }
        image
    }

    fn totals(&self, k: usize) -> Result<Totals> {
        let scene = &self.scene;
        let expected = self.intensity(k, scene.positions[k])?;
        let measured = scene.amplitude.pattern(scene.indices[k])?;
        let mut sums = Totals::default();
        for ((at, &a), &intensity) in measured.indexed_iter().zip(&expected) {
            if scene.mask.is_none_or(|m| m[at] > 0.0) {
                sums.add(f64::from(a), intensity, scene.kappa);
            }
        }
        Ok(sums)
    }

    fn shown(&self, k: usize, figures: FrameFigures) -> Result<Shown> {
        let (scene, photons) = (&self.scene, self.scene.kappa.powi(2));
        let index = scene.indices[k];
        let predicted = self.intensity(k, scene.positions[k])?;
        let mut measured = scene.amplitude.pattern(index)?.into_owned();
        measured.mapv_inplace(|a| (photons * f64::from(a).powi(2)) as f32);
        if let Some(mask) = scene.mask {
            let hide = |i: &mut f32, m: &f32| *i = if *m > 0.0 { *i } else { f32::NAN };
            measured.zip_mut_with(&mask, hide);
        }
        let predicted = predicted.mapv(|i| (photons * i) as f32);
        Ok(Shown { index, residual: figures.residual, measured, predicted })
    }
}

impl Totals {
    fn add(&mut self, measured: f64, intensity: f64, kappa: f64) {
        let expected = intensity.sqrt();
        self.difference_squared += (measured - expected).powi(2);
        self.difference += (measured - expected).abs();
        self.measured_squared += measured * measured;
        self.measured += measured;
        self.expected_squared += intensity;
        self.product += measured * expected;
        let (n, mean) = ((kappa * measured).powi(2), (kappa * kappa * intensity).max(DARKEST));
        let surprise = if n > 0.0 { n * (n / mean).ln() } else { 0.0 };
        self.deviance += 2.0 * (surprise - n + mean);
        // In counts, (κ√I − κ√Î)².
        self.noise += shot_noise(mean) / (kappa * kappa);
        self.pixels += 1.0;
    }

    fn plus(self, other: &Totals) -> Totals {
        Totals {
            difference_squared: self.difference_squared + other.difference_squared,
            difference: self.difference + other.difference,
            measured_squared: self.measured_squared + other.measured_squared,
            measured: self.measured + other.measured,
            expected_squared: self.expected_squared + other.expected_squared,
            product: self.product + other.product,
            deviance: self.deviance + other.deviance,
            noise: self.noise + other.noise,
            pixels: self.pixels + other.pixels,
        }
    }

    /// A dark frame has no relative error: it is infinite unless darkness was expected.
    fn figures(&self, index: usize) -> FrameFigures {
        let relative = |error: f64, size: f64| if error == 0.0 { 0.0 } else { error / size };
        FrameFigures {
            index,
            residual: relative(self.difference_squared, self.measured_squared),
            floor: relative(self.noise, self.measured_squared),
            r_factor: relative(self.difference, self.measured),
            deviance: relative(self.deviance, self.pixels),
        }
    }
}
