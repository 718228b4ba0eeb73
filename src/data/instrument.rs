//! What the numbers of a scan are in metres: photon energy, distances and pixels.

use serde::{Deserialize, Serialize};

use super::scan::Position;

/// Planck's constant times the speed of light, eV m (exact in the SI of 2019).
pub(super) const HC: f64 = 1.239_841_984_332_002_6e-6;

/// The instrument, as far as the file says; pairs are (y, x), like the axes of an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instrument {
    /// Energy of a photon, eV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_ev: Option<f64>,
    /// From the sample to the detector, m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<f64>,
    /// Height and width of a pixel of the detector, m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detector_pixel_m: Option<[f64; 2]>,
    /// Height and width of a pixel of the object, m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_pixel_m: Option<[f64; 2]>,
    /// Where the position (0, 0) in object pixels is, m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_m: Option<[f64; 2]>,
}

/// Positions of which the first lie half a frame from the edges.
pub struct Cornered {
    pub positions: Vec<Position>,
    /// (y, x) of position (0, 0), m.
    pub origin_m: [f64; 2],
}

impl Instrument {
    pub fn is_unknown(&self) -> bool {
        *self == Instrument::default()
    }

    /// Each value of this one, or where it is unknown of `other`.
    pub fn or(self, other: Instrument) -> Instrument {
        Instrument {
            energy_ev: self.energy_ev.or(other.energy_ev),
            distance_m: self.distance_m.or(other.distance_m),
            detector_pixel_m: self.detector_pixel_m.or(other.detector_pixel_m),
            object_pixel_m: self.object_pixel_m.or(other.object_pixel_m),
            origin_m: self.origin_m.or(other.origin_m),
        }
    }

    /// λ = hc / E, m.
    pub fn wavelength_m(&self) -> Option<f64> {
        self.energy_ev.map(|energy| HC / energy)
    }

    /// [y, x] of an object pixel, m: as the file has it, else λ z / (N Δ).
    pub fn pixel_m(&self, side: usize) -> Option<[f64; 2]> {
        self.object_pixel_m.or_else(|| {
            let (wavelength, distance) = (self.wavelength_m()?, self.distance_m?);
            let size = |pixel: f64| wavelength * distance / (side as f64 * pixel);
            self.detector_pixel_m.map(|pixel| pixel.map(size))
        })
    }

    /// Where a position in pixels is, (y, x) in metres; without a known origin from pixel (0, 0).
    pub fn metres(&self, side: usize, position: Position) -> Option<[f64; 2]> {
        let ([height, width], [y, x]) = (self.pixel_m(side)?, self.origin_m.unwrap_or_default());
        Some([y + position.y * height, x + position.x * width])
    }

    /// Pixels of places (y, x) in metres, and the place of position (0, 0): the first patch of frames of
    /// `side` pixels lies in the corner of an object that nobody has placed. `pixel` is (y, x).
    pub fn from_corner(places: &[[f64; 2]], pixel: [f64; 2], side: usize) -> Cornered {
        let half = (side / 2) as f64;
        let shift = [0, 1].map(|k| {
            half - places.iter().map(|place| place[k] / pixel[k]).fold(f64::INFINITY, f64::min)
        });
        let at = |place: &[f64; 2], k: usize| place[k] / pixel[k] + shift[k];
        Cornered {
            positions: places.iter().map(|p| Position { x: at(p, 1), y: at(p, 0) }).collect(),
            origin_m: [0, 1].map(|k| -shift[k] * pixel[k]),
        }
    }

    /// What is known, for people.
    pub fn describe(&self, side: usize) -> String {
        // As many digits as anybody measures.
        let plain = |value: f64| (value * 1e6).round() / 1e6;
        let size = |[height, width]: [f64; 2]| format!("{height:.4e} × {width:.4e} m");
        let known = [
            self.energy_ev.map(|energy| format!("energy {} eV", plain(energy))),
            self.distance_m.map(|distance| format!("distance {} m", plain(distance))),
            self.detector_pixel_m.map(|pixel| format!("detector pixel {}", size(pixel))),
            self.pixel_m(side).map(|pixel| format!("object pixel {}", size(pixel))),
        ];
        let text: Vec<String> = known.into_iter().flatten().collect();
        text.join(", ")
    }
}
