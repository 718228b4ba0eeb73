//! Colours for numbers, constructed at run time in OKLCh (lightness, chroma, hue of Björn
//! Ottosson's OKLab), where equal steps look equal.

use std::f64::consts::{PI, TAU};
use std::sync::LazyLock;

/// Red, green, blue, as sRGB bytes.
pub type Rgb = [u8; 3];

/// Pixels that nothing covers. Neutral: neither map comes near it.
pub const UNCOVERED: Rgb = [128, 128, 128];

const STEPS: usize = 1024;

/// How a number becomes a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colormap {
    /// From dark violet over green to light yellow, lightness rising evenly.
    #[default]
    Sequential,
    /// From black to white.
    Gray,
    /// Once around the hues, for angles: −π and +π are one colour. The lightness rises and falls once,
    /// because the eye sees fine detail by lightness alone: on the half turn from −π/2 to π/2,
    /// where most objects lie, it rises evenly.
    Cyclic,
}

impl Colormap {
    /// The colour at `t`: 0 to 1 for the open maps, clamped; turns for the cyclic one, 0 being −π.
    pub fn at(self, t: f64) -> Rgb {
        static SEQUENTIAL: LazyLock<Vec<Rgb>> = LazyLock::new(|| table(STEPS, sequential));
        static CYCLIC: LazyLock<Vec<Rgb>> = LazyLock::new(|| table(STEPS + 1, cyclic));
        let nearest = |t: f64, last: usize| (t * last as f64).round() as usize;
        match self {
            Colormap::Sequential => SEQUENTIAL[nearest(t.clamp(0.0, 1.0), STEPS - 1)],
            Colormap::Gray => [(t.clamp(0.0, 1.0) * 255.0).round() as u8; 3],
            Colormap::Cyclic => CYCLIC[nearest(t - t.floor(), STEPS) % STEPS],
        }
    }
}

/// The colour of a complex number: hue for the argument, lightness for `value`, its modulus from 0
/// (black) to 1. All hues are equally light, so that the phase does not look like absorption.
pub fn hue_wheel(argument: f64, value: f64) -> Rgb {
    static FULL: LazyLock<Vec<[f64; 3]>> = LazyLock::new(|| (0..STEPS).map(full_hue).collect());
    let turns = argument / TAU;
    let nearest = ((turns - turns.floor()) * STEPS as f64).round() as usize % STEPS;
    // A factor on all three coordinates of OKLab is its cube on linear light: hue and gamut stay.
    let light = value.clamp(0.0, 1.0).powi(3);
    FULL[nearest].map(|x| (gamma(x * light) * 255.0).round() as u8)
}

/// The linear light of the brightest colour of a hue.
fn full_hue(step: usize) -> [f64; 3] {
    // Rotated as the cyclic map is: blue for −π/2, yellow for π/2.
    let hue = step as f64 / STEPS as f64 * TAU + 10f64.to_radians();
    in_gamut(0.78, 0.14, hue).map(|byte| linear_of(f64::from(byte) / 255.0))
}

fn table(len: usize, color: impl Fn(f64) -> Rgb) -> Vec<Rgb> {
    (0..len).map(|i| color(i as f64 / (len - 1) as f64)).collect()
}

fn sequential(t: f64) -> Rgb {
    let lightness = 0.16 + 0.79 * t;
    let hue = (300.0 - 195.0 * t).to_radians();
    // More colour only where screens have it: a clipped chroma shows as a false edge.
    let chroma = 0.085 + 0.085 * t * t;
    in_gamut(lightness, chroma, hue)
}

fn cyclic(t: f64) -> Rgb {
    let angle = TAU * t - PI;
    // Yellow at π/2 and blue at −π/2, opposite hues that are by nature light and dark.
    let hue = angle + 10f64.to_radians();
    // Nearly straight ramps with rounded turns.
    const ROUND: f64 = 0.97;
    let ramp = (ROUND * angle.sin()).asin() / ROUND.asin();
    in_gamut(0.64 + 0.20 * ramp, 0.12, hue)
}

/// The colour of this lightness and hue, with as much of the chroma as a screen can show.
fn in_gamut(lightness: f64, chroma: f64, hue: f64) -> Rgb {
    let linear = |chroma: f64| linear_rgb(lightness, chroma * hue.cos(), chroma * hue.sin());
    let shows = |chroma: f64| linear(chroma).iter().all(|x| (-1e-6..=1.0 + 1e-6).contains(x));
    let (mut inside, mut outside) = (0.0, chroma);
    if shows(chroma) {
        inside = chroma;
    } else {
        for _ in 0..24 {
            let middle = 0.5 * (inside + outside);
            if shows(middle) { inside = middle } else { outside = middle }
        }
    }
    linear(inside).map(|x| (gamma(x.clamp(0.0, 1.0)) * 255.0).round() as u8)
}

/// OKLab to linear sRGB, by the two published matrices.
fn linear_rgb(lightness: f64, a: f64, b: f64) -> [f64; 3] {
    let l = (lightness + 0.3963377774 * a + 0.2158037573 * b).powi(3);
    let m = (lightness - 0.1055613458 * a - 0.0638541728 * b).powi(3);
    let s = (lightness - 0.0894841775 * a - 1.2914855480 * b).powi(3);
    [
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
    ]
}

/// The inverse of [`gamma`].
fn linear_of(x: f64) -> f64 {
    if x <= 0.040_45 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
}

/// The transfer curve of sRGB.
fn gamma(x: f64) -> f64 {
    if x <= 0.0031308 { 12.92 * x } else { 1.055 * x.powf(1.0 / 2.4) - 0.055 }
}
