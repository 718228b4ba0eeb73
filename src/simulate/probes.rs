//! Illuminations: what a pinhole, a Fresnel zone plate or a Gaussian beam puts on the sample.

use ndarray::{Array2, Array3, Axis};
use num_complex::Complex64;
use serde::Serialize;

use super::fourier::{Fft2, centre, frequency};
use super::require;
use crate::Result;
use crate::random::{Purpose, Stream};

/// Shape of the first mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// A pinhole with a soft edge.
    Disk,
    /// The defocused beam of a Fresnel zone plate with a central stop.
    Fzp,
    /// A Gaussian beam.
    Gaussian,
}

/// A probe of one or more incoherent modes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeSpec {
    pub kind: ProbeKind,
    /// Object pixels: diameter of the disk, width of the zone plate's cone at the sample, or full
    /// width at half maximum of the Gaussian's intensity.
    pub diameter: f64,
    /// Phase curvature applied in the far field, in radians at the edge of the detector. A zone
    /// plate adds it to the defocus that its diameter implies.
    pub defocus: f64,
    /// Diameter of the central stop as a part of the zone plate's.
    pub central_stop: f64,
    /// Standard deviation of random astigmatism, coma and spherical aberration, radians at the
    /// edge of the detector.
    pub aberration: f64,
    /// [P] power of each mode, up to a common factor.
    pub powers: Vec<f64>,
}

impl Default for ProbeSpec {
    fn default() -> ProbeSpec {
        ProbeSpec {
            kind: ProbeKind::Disk,
            diameter: 24.0,
            defocus: 12.0,
            central_stop: 0.3,
            aberration: 0.0,
            powers: vec![1.0],
        }
    }
}

/// Modes beyond this one would need polynomials that a 64-pixel probe cannot hold apart.
const MOST_MODES: usize = 10;
/// Width of the soft edge of a pinhole in pixels.
const EDGE: f64 = 1.5;
/// Radius of a zone plate's image on the detector, as a part of the pattern's side.
const PUPIL: f64 = 0.25;

impl ProbeSpec {
    pub(crate) fn check(&self, side: usize) -> Result<()> {
        let fits = self.diameter > 0.0 && self.diameter < side as f64;
        require(fits, || {
            format!(
                "the probe's diameter must lie between 0 and {side} pixels, not {}",
                self.diameter
            )
        })?;
        require((0.0..1.0).contains(&self.central_stop), || {
            format!("the central stop must be in [0, 1), not {}", self.central_stop)
        })?;
        require(self.defocus.is_finite() && self.aberration.is_finite(), || {
            "defocus and aberration must be finite".into()
        })?;
        let modes = self.powers.len();
        require((1..=MOST_MODES).contains(&modes), || {
            format!("a probe has 1 to {MOST_MODES} modes, not {modes}")
        })?;
        let positive = self.powers.iter().all(|&p| p.is_finite() && p > 0.0);
        require(positive, || format!("the powers of the modes must be positive: {:?}", self.powers))
    }
}

/// [P, N, N] orthogonal modes with the stated ratios of power and Σ|P|² = 1.
///
/// The first mode is the named beam; the others are it times x, y, x², x y, …, made orthogonal
/// by Gram and Schmidt: the pattern of a source of finite size.
pub fn make(spec: &ProbeSpec, side: usize, seed: u64) -> Array3<Complex64> {
    let first = match spec.kind {
        ProbeKind::Disk => aberrate(radial(side, |r| disk(r, spec.diameter / 2.0)), spec, seed),
        ProbeKind::Fzp => aberrate(zone_plate(spec, side), spec, seed),
        ProbeKind::Gaussian => {
            // |exp(−r²/4σ²)|² has the standard deviation σ = FWHM / √(8 ln 2).
            let sigma = spec.diameter / (8.0 * 2f64.ln()).sqrt();
            aberrate(radial(side, |r| (-r * r / (4.0 * sigma * sigma)).exp()), spec, seed)
        }
    };
    let mut modes = orthogonal_modes(&first, spec.powers.len(), spec.diameter / 2.0);
    let total: f64 = spec.powers.iter().sum();
    for (mut mode, power) in modes.axis_iter_mut(Axis(0)).zip(&spec.powers) {
        let scale = (power / total).sqrt();
        mode.mapv_inplace(|z| z * scale);
    }
    modes
}

/// A real image of the distance from pixel (N/2, N/2).
fn radial(side: usize, value: impl Fn(f64) -> f64) -> Array2<Complex64> {
    let middle = (side / 2) as f64;
    Array2::from_shape_fn((side, side), |(y, x)| {
        value((y as f64 - middle).hypot(x as f64 - middle)).into()
    })
}

fn disk(r: f64, radius: f64) -> f64 {
    0.5 * (1.0 - ((r - radius) / EDGE).tanh())
}

/// An annular pupil whose quadratic phase spreads the focus to a cone of the wanted diameter.
///
/// A phase φ(q) moves the rays of frequency q by ∇φ / 2π; with φ = c (q/q₁)² the pupil's edge q₁
/// lands c / (π q₁) pixels from the axis.
fn zone_plate(spec: &ProbeSpec, side: usize) -> Array2<Complex64> {
    let curvature = std::f64::consts::PI * PUPIL * spec.diameter / 2.0;
    let edge = PUPIL * side as f64;
    let pupil = radial(side, |r| disk(r, edge) - disk(r, spec.central_stop * edge));
    // The same move by N/2 takes an even-sized image from centred to cornered and back.
    let mut wave = centre(&pupil);
    for ((y, x), z) in wave.indexed_iter_mut() {
        let q = frequency(y, side).hypot(frequency(x, side)) / PUPIL;
        *z *= Complex64::from_polar(1.0, curvature * q * q);
    }
    Fft2::new(side, side).inverse(&mut wave);
    centre(&wave)
}

/// Defocus and the random aberrations as a phase in the far field.
fn aberrate(beam: Array2<Complex64>, spec: &ProbeSpec, seed: u64) -> Array2<Complex64> {
    let side = beam.nrows();
    let mut stream = Stream::new(seed, Purpose::Probe, 0);
    let [astigmatism, oblique, coma_x, coma_y, spherical] =
        std::array::from_fn(|_| spec.aberration * stream.normal());
    let fft = Fft2::new(side, side);
    let mut wave = centre(&beam);
    fft.forward(&mut wave);
    for ((i, j), z) in wave.indexed_iter_mut() {
        let (y, x) = (2.0 * frequency(i, side), 2.0 * frequency(j, side));
        let r2 = x * x + y * y;
        let phase = spec.defocus * r2
            + astigmatism * (x * x - y * y)
            + oblique * 2.0 * x * y
            + (coma_x * x + coma_y * y) * (3.0 * r2 - 2.0)
            + spherical * (6.0 * r2 * r2 - 6.0 * r2 + 1.0);
        *z *= Complex64::from_polar(1.0, phase);
    }
    fft.inverse(&mut wave);
    centre(&wave)
}

/// [P, N, N] modes of power 1: `first` times 1, x, y, x², x y, y², … over `radius`, made orthogonal.
pub(crate) fn orthogonal_modes(
    first: &Array2<Complex64>,
    modes: usize,
    radius: f64,
) -> Array3<Complex64> {
    let side = first.nrows();
    let middle = (side / 2) as f64;
    // Powers of y and x by rising total degree: 1, x, y, x², x y, y², …
    let degrees = (0..).flat_map(|degree: i32| (0..=degree).map(move |y| (y, degree - y)));
    let mut out = Array3::<Complex64>::zeros((modes, side, side));
    for (index, (dy, dx)) in degrees.take(modes).enumerate() {
        let mut mode = Array2::from_shape_fn((side, side), |(y, x)| {
            let (y1, x1) = ((y as f64 - middle) / radius, (x as f64 - middle) / radius);
            first[[y, x]] * y1.powi(dy) * x1.powi(dx)
        });
        // Twice: one pass leaves a remainder of the size of the rounding errors it removes.
        for _ in 0..2 {
            for earlier in 0..index {
                let other = out.index_axis(Axis(0), earlier);
                let overlap: Complex64 = other.iter().zip(&mode).map(|(o, m)| o.conj() * m).sum();
                mode.zip_mut_with(&other, |m, o| *m -= overlap * o);
            }
        }
        let norm = mode.iter().map(|m| m.norm_sqr()).sum::<f64>().sqrt();
        out.index_axis_mut(Axis(0), index).assign(&mode.mapv(|m| m / norm));
    }
    out
}
