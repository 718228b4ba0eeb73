//! Complex numbers as a picture: hue for the phase, lightness for the modulus.

use std::path::Path;

use ndarray::Array2;
use num_complex::Complex32;

use super::bitmap::{Align, Bitmap};
use super::colormap::{UNCOVERED, hue_wheel};
use super::font;
use super::picture::{Layout, Range, draw_around, ends, is_covered};
use crate::Result;

/// How a complex array is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct ComplexPicture<'a> {
    pub title: &'a str,
    /// True where the number means something; the rest is gray, as is what is not finite.
    pub mask: Option<&'a Array2<bool>>,
    /// True where the number can be trusted: these decide the brightness. None = as `mask`.
    pub trusted: Option<&'a Array2<bool>>,
    /// Height and width of a pixel in metres, for a scale bar.
    pub pixel_m: Option<[f64; 2]>,
    /// Modulus of the brightest colour; none: the 99th percentile.
    pub brightest: Option<f64>,
}

impl ComplexPicture<'_> {
    fn shows(&self, (row, column): (usize, usize), z: &Complex32) -> bool {
        is_covered(self.mask, row, column) && z.is_finite()
    }

    /// The modulus of the brightest colour.
    pub(super) fn top(&self, values: &Array2<Complex32>) -> f64 {
        let trusted = values
            .indexed_iter()
            .filter(|(at, z)| self.shows(*at, z) && is_covered(self.trusted, at.0, at.1));
        let moduli = trusted.map(|(_, z)| f64::from(z.norm())).collect();
        let top = self.brightest.unwrap_or_else(|| ends(moduli, Range::Robust(0.0, 99.0)).1);
        top.max(f64::from(f32::MIN_POSITIVE))
    }

    /// The numbers alone, one pixel each.
    pub(crate) fn pixels(&self, values: &Array2<Complex32>) -> Bitmap {
        let (height, width) = values.dim();
        let top = self.top(values);
        let mut bitmap = Bitmap::new(width, height);
        for (at, z) in values.indexed_iter() {
            let color = match self.shows(at, z) {
                true => hue_wheel(z.arg().into(), f64::from(z.norm()) / top),
                false => UNCOVERED,
            };
            bitmap.set(at.1, at.0, color);
        }
        bitmap
    }
}

/// Writes `values` (first row on top) as a PNG.
pub fn write_complex(
    path: impl AsRef<Path>,
    values: &Array2<Complex32>,
    picture: &ComplexPicture<'_>,
) -> Result<()> {
    draw_complex(values, picture).write_png(path, picture.title)
}

/// Draws `values` as [`write_complex`] writes them.
pub fn draw_complex(values: &Array2<Complex32>, picture: &ComplexPicture<'_>) -> Bitmap {
    let layout = Layout::of(values.dim());
    let mut bitmap = Bitmap::new(layout.width, layout.height);
    let pixels = picture.pixels(values);
    for (row, column) in ndarray::indices(values.dim()) {
        let (x, y) = layout.pixel(row, column);
        bitmap.fill(x, y, layout.zoom, layout.zoom, pixels.get(column, row));
    }
    draw_around(&mut bitmap, &layout, values.dim(), picture.title, picture.pixel_m);
    draw_wheel(&mut bitmap, &layout, picture.top(values));
    bitmap
}

/// A disk of all colours: the angle is the phase, the distance from the middle the modulus.
pub(super) fn wheel(side: usize) -> Bitmap {
    let mut bitmap = Bitmap::new(side, side);
    paint_wheel(&mut bitmap, (0, 0), side);
    bitmap
}

fn paint_wheel(bitmap: &mut Bitmap, (left, top): (usize, usize), side: usize) {
    let radius = side as f64 / 2.0;
    for (row, column) in ndarray::indices((side, side)) {
        let x = (column as f64 + 0.5 - radius) / radius;
        // Up is +π/2, as in every drawing of the complex plane.
        let y = (radius - row as f64 - 0.5) / radius;
        if x.hypot(y) <= 1.0 {
            bitmap.set(left + column, top + row, hue_wheel(y.atan2(x), x.hypot(y)));
        }
    }
}

/// Right of the array, with the phases around it and the modulus of its rim below.
fn draw_wheel(bitmap: &mut Bitmap, layout: &Layout, brightest: f64) {
    let t = layout.text;
    let side = 40 * t;
    let (left, top) = (layout.origin.0 + layout.image.0 + 18 * t, layout.origin.1 + 12 * t);
    paint_wheel(bitmap, (left, top), side);
    let (middle, line) = (left + side / 2, top + side / 2 - font::HEIGHT * t / 2);
    bitmap.text(middle, top - 11 * t, "π/2", t, Align::Center);
    bitmap.text(middle, top + side + 4 * t, "−π/2", t, Align::Center);
    bitmap.text(left + side + 4 * t, line, "0", t, Align::Left);
    bitmap.text(left - 4 * t, line, "π", t, Align::Right);
    let rim = format!("rim {}", super::ticks::short(brightest));
    bitmap.text(middle, top + side + 17 * t, &rim, t, Align::Center);
}
