//! Where the patterns of a scan are, on the object.

use std::path::Path;

use ndarray::Array2;

use super::bitmap::Bitmap;
use super::colormap::{Colormap, Rgb};
use super::picture::{Layout, Picture, draw_image};
use crate::Result;

const DARK: Rgb = [20, 20, 24];
const USED: Rgb = [255, 150, 40];
const COMMANDED: Rgb = [90, 190, 255];

/// (x, y) of patterns in pixels of an array, (0, 0) being the middle of its first pixel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// Where they are.
    pub used: &'a [(f64, f64)],
    /// Where they were said to be, in the same order; may be empty.
    pub commanded: &'a [(f64, f64)],
}

impl Places<'_> {
    /// Whether any pattern is where it was not said to be, by more than a hundredth of a pixel.
    pub fn moved(&self) -> bool {
        let apart = |(a, b): (&(f64, f64), &(f64, f64))| (a.0 - b.0).hypot(a.1 - b.1) > 0.01;
        self.used.iter().zip(self.commanded).any(apart)
    }
}

/// Writes `values` in gray with the positions on them as a PNG.
pub fn write_positions(
    path: impl AsRef<Path>,
    values: &Array2<f32>,
    places: &Places<'_>,
    picture: &Picture<'_>,
) -> Result<()> {
    draw_positions(values, places, picture).write_png(path, picture.title)
}

/// Draws what [`write_positions`] writes: a dot for each pattern, and a line to it from where it was
/// said to be.
pub fn draw_positions(values: &Array2<f32>, places: &Places<'_>, picture: &Picture<'_>) -> Bitmap {
    let gray = Picture { colormap: Colormap::Gray, ..*picture };
    let mut bitmap = draw_image(values, &gray);
    let layout = Layout::of(values.dim());
    let size = layout.text as f64;
    let at = |&(x, y): &(f64, f64)| {
        let zoom = layout.zoom as f64;
        (layout.origin.0 as f64 + (x + 0.5) * zoom, layout.origin.1 as f64 + (y + 0.5) * zoom)
    };
    let inside = |(x, y): (f64, f64)| {
        let within =
            |v: f64, first: usize, len: usize| v >= first as f64 && v <= (first + len) as f64;
        within(x, layout.origin.0, layout.image.0) && within(y, layout.origin.1, layout.image.1)
    };
    if places.moved() {
        for (from, to) in places.commanded.iter().zip(places.used) {
            if inside(at(from)) && inside(at(to)) {
                bitmap.line(at(from), at(to), 0.75 * size, COMMANDED);
            }
        }
    }
    for place in places.used.iter().map(at).filter(|p| inside(*p)) {
        bitmap.line(place, place, 2.5 * size, DARK);
        bitmap.line(place, place, 1.5 * size, USED);
    }
    bitmap
}
