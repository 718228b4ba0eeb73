//! Objects with structure on many scales, all inside the range that the network can give back:
//! amplitude above 0, phase within (−π, π).

use std::f64::consts::{PI, TAU};

use ndarray::{Array2, s};
use num_complex::Complex64;
use serde::Serialize;

use super::fourier::{Fft2, frequency};
use super::require;
use crate::Result;
use crate::metrics::filter::blur;
use crate::random::{Purpose, Stream};

/// What the sample looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// Random straight lines, sharp and blurred.
    Lines,
    /// Gaussian random fields, amplitude and phase independent.
    Grf,
    /// Discs that cover each other, each with an amplitude and a phase.
    DeadLeaves,
    /// Convex polygons that cover each other, each with an amplitude and a phase.
    Polygons,
    /// A Siemens star with rings: the resolution test.
    Siemens,
}

/// An object: its kind, and the ranges that its grey values are mapped to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectSpec {
    pub kind: ObjectKind,
    pub amplitude_min: f64,
    pub amplitude_max: f64,
    /// The phase covers [−phase, phase], in radians.
    pub phase: f64,
    /// Spokes of the Siemens star.
    pub spokes: usize,
}

impl Default for ObjectSpec {
    fn default() -> ObjectSpec {
        ObjectSpec {
            kind: ObjectKind::Lines,
            amplitude_min: 0.3,
            amplitude_max: 1.0,
            phase: 0.8,
            spokes: 18,
        }
    }
}

impl ObjectSpec {
    pub(super) fn check(&self) -> Result<()> {
        let (low, high) = (self.amplitude_min, self.amplitude_max);
        require(low > 0.0 && low <= high && high.is_finite(), || {
            format!("the amplitude needs 0 < minimum ≤ maximum, not {low} and {high}")
        })?;
        require((0.0..PI).contains(&self.phase), || {
            format!("the phase range must lie in [0, π), not {}", self.phase)
        })
    }
}

/// [size, size] object of `spec`; the same seed gives the same object.
pub fn make(spec: &ObjectSpec, size: usize, seed: u64) -> Array2<Complex64> {
    let mut stream = Stream::new(seed, Purpose::Object, 0);
    let Grey { amplitude, phase } = match spec.kind {
        ObjectKind::Lines => lines(size, &mut stream),
        ObjectKind::Grf => {
            Grey { amplitude: field(size, &mut stream), phase: field(size, &mut stream) }
        }
        ObjectKind::DeadLeaves => dead_leaves(size, &mut stream),
        ObjectKind::Polygons => polygons(size, &mut stream),
        ObjectKind::Siemens => siemens(size, spec.spokes as f64),
    };
    let range = spec.amplitude_max - spec.amplitude_min;
    ndarray::Zip::from(&amplitude).and(&phase).map_collect(|&a, &p| {
        Complex64::from_polar(spec.amplitude_min + range * a, spec.phase * (2.0 * p - 1.0))
    })
}

/// Two images with values in [0, 1].
struct Grey {
    amplitude: Array2<f64>,
    phase: Array2<f64>,
}

const LINES: usize = 400;

/// Segments between random points of a canvas of twice the size, cut from its middle, and blurred
/// with three widths so that structure exists on every scale.
fn lines(size: usize, stream: &mut Stream) -> Grey {
    let canvas = 2 * size;
    let mut ink = Array2::<f64>::zeros((canvas, canvas));
    for _ in 0..LINES {
        let [y0, x0, y1, x1] = std::array::from_fn(|_| stream.below(canvas) as f64);
        let steps = (y1 - y0).abs().max((x1 - x0).abs()).max(1.0);
        for k in 0..=steps as usize {
            let t = k as f64 / steps;
            ink[[(y0 + t * (y1 - y0)).round() as usize, (x0 + t * (x1 - x0)).round() as usize]] =
                1.0;
        }
    }
    let start = size / 2;
    let cut = ink.slice(s![start..start + size, start..start + size]).to_owned();
    let mixed = blur(&cut, 1.0) + blur(&cut, 5.0) * 2.0 + blur(&cut, 10.0) * 5.0;
    let grey = stretch(&mixed);
    Grey { amplitude: grey.clone(), phase: grey }
}

/// Exponent of the amplitude spectrum: between noise (0) and a smooth hill (2).
const FIELD_SLOPE: f64 = 1.2;
/// Standard deviations of a random field that fill the grey range; rarer values are clipped.
const FIELD_RANGE: f64 = 2.5;

fn field(size: usize, stream: &mut Stream) -> Array2<f64> {
    let mut wave =
        Array2::from_shape_simple_fn((size, size), || Complex64::new(stream.normal(), 0.0));
    let fft = Fft2::new(size, size);
    fft.forward(&mut wave);
    for ((y, x), z) in wave.indexed_iter_mut() {
        let q = frequency(y, size).hypot(frequency(x, size));
        *z = if q > 0.0 { *z * q.powf(-FIELD_SLOPE) } else { Complex64::default() };
    }
    fft.inverse(&mut wave);
    let deviation = (wave.iter().map(|z| z.re * z.re).sum::<f64>() / wave.len() as f64).sqrt();
    wave.mapv(|z| (0.5 + 0.5 * z.re / (FIELD_RANGE * deviation)).clamp(0.0, 1.0))
}

/// Leaves, or polygons, that fall on the canvas.
const LEAVES: usize = 600;
/// Their radii as parts of the object's size.
const LEAF_RADII: [f64; 2] = [0.02, 0.15];
/// Fewest and most corners of a polygon.
const CORNERS: [usize; 2] = [3, 7];

/// Discs that fall on each other: the occlusion model of natural images (Lee, Mumford and Huang,
/// "Occlusion models for natural images", 2001).
fn dead_leaves(size: usize, stream: &mut Stream) -> Grey {
    covered(size, stream, |radius, _| Box::new(move |y, x| radius - y.hypot(x)))
}

/// Convex polygons that fall on each other: straight edges and corners, as made things have them.
fn polygons(size: usize, stream: &mut Stream) -> Grey {
    covered(size, stream, |radius, stream| {
        let corners = CORNERS[0] + stream.below(CORNERS[1] - CORNERS[0] + 1);
        let mut angles: Vec<f64> = (0..corners).map(|_| TAU * stream.uniform()).collect();
        angles.sort_by(f64::total_cmp);
        let next = angles.iter().cycle().skip(1);
        // An edge from angle a to b of the circle around it: its normal, and its distance.
        let edges: Vec<[f64; 3]> = angles
            .iter()
            .zip(next)
            .map(|(&a, &b)| {
                let b = if b > a { b } else { b + TAU };
                let (middle, half) = ((a + b) / 2.0, (b - a) / 2.0);
                [middle.sin(), middle.cos(), radius * half.cos()]
            })
            .collect();
        Box::new(move |y, x| {
            let inside = |&[ny, nx, distance]: &[f64; 3]| distance - ny * y - nx * x;
            edges.iter().map(inside).fold(f64::INFINITY, f64::min)
        })
    })
}

/// How far a point (y, x), seen from the centre of a shape, lies inside of it, in pixels.
type Shape = Box<dyn Fn(f64, f64) -> f64>;

/// Shapes that cover each other, with radii of density ∝ r⁻³, which makes them equally frequent on
/// all scales.
fn covered(size: usize, stream: &mut Stream, shape: impl Fn(f64, &mut Stream) -> Shape) -> Grey {
    let mut amplitude = Array2::from_elem((size, size), 0.5);
    let mut phase = amplitude.clone();
    let [small, large] = LEAF_RADII.map(|r| (r * size as f64).powi(-2));
    for _ in 0..LEAVES {
        let radius = (small + stream.uniform() * (large - small)).powf(-0.5);
        let [cy, cx] = std::array::from_fn(|_| stream.uniform() * size as f64);
        let [a, p] = std::array::from_fn(|_| stream.uniform());
        let depth = shape(radius, stream);
        let clip = |v: f64| v.clamp(0.0, size as f64) as usize;
        for y in clip(cy - radius - 1.0)..clip(cy + radius + 2.0) {
            for x in clip(cx - radius - 1.0)..clip(cx + radius + 2.0) {
                // The edge is one pixel wide: a step would alias.
                let inside = (depth(y as f64 - cy, x as f64 - cx) + 0.5).clamp(0.0, 1.0);
                amplitude[[y, x]] += inside * (a - amplitude[[y, x]]);
                phase[[y, x]] += inside * (p - phase[[y, x]]);
            }
        }
    }
    Grey { amplitude, phase }
}

/// Sub-samples per pixel and axis: spokes narrower than a pixel become grey, not noise.
const SUPERSAMPLING: usize = 4;
/// The gaps between the rings, as parts of half the object's size.
const GAPS: [[f64; 2]; 4] = [[0.0, 0.05], [0.24, 0.28], [0.48, 0.52], [0.72, 0.76]];

/// Spokes of an absorbing, phase-shifting material, interrupted by rings.
fn siemens(size: usize, spokes: f64) -> Grey {
    let half = size as f64 / 2.0;
    let material = |y: f64, x: f64| {
        let r = y.hypot(x) / half;
        let gap = GAPS.iter().any(|&[from, to]| (from..to).contains(&r));
        f64::from(!gap && (spokes * y.atan2(x) / TAU).rem_euclid(1.0) < 0.5)
    };
    let sub = |i: usize, k: usize| i as f64 + (k as f64 + 0.5) / SUPERSAMPLING as f64 - half;
    let star = Array2::from_shape_fn((size, size), |(y, x)| {
        let samples = (0..SUPERSAMPLING * SUPERSAMPLING)
            .map(|k| material(sub(y, k / SUPERSAMPLING), sub(x, k % SUPERSAMPLING)));
        samples.sum::<f64>() / (SUPERSAMPLING * SUPERSAMPLING) as f64
    });
    Grey { amplitude: star.mapv(|g| 1.0 - g), phase: star }
}

/// Linearly to [0, 1]; a constant image becomes 1/2.
fn stretch(image: &Array2<f64>) -> Array2<f64> {
    let (low, high) =
        image.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    image.mapv(|v| if high > low { (v - low) / (high - low) } else { 0.5 })
}
