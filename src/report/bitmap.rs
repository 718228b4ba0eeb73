//! A picture in memory: rectangles, text, smooth lines, and PNG.

use std::path::Path;

use super::atomic_write;
use super::colormap::Rgb;
use super::font;
use crate::{Error, Result};

/// Of every text and frame.
pub const INK: Rgb = [38, 38, 44];
/// Behind everything.
pub const PAPER: Rgb = [255, 255, 255];

/// Where a line of text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Center,
    Right,
}

/// Rows of RGB pixels, from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    pub width: usize,
    pub height: usize,
    pixels: Vec<Rgb>,
}

impl Bitmap {
    /// White paper.
    pub fn new(width: usize, height: usize) -> Bitmap {
        Bitmap { width, height, pixels: vec![PAPER; width * height] }
    }

    /// # Panics
    /// Outside of the picture.
    pub fn get(&self, x: usize, y: usize) -> Rgb {
        self.pixels[y * self.width + x]
    }

    /// Outside of the picture nothing happens.
    pub fn set(&mut self, x: usize, y: usize, color: Rgb) {
        if x < self.width && y < self.height {
            self.pixels[y * self.width + x] = color;
        }
    }

    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: Rgb) {
        for row in y..y + height {
            for column in x..x + width {
                self.set(column, row, color);
            }
        }
    }

    /// A line of `thickness` around the rectangle, outside of it.
    pub fn frame(&mut self, x: usize, y: usize, width: usize, height: usize, thickness: usize) {
        let (outer_width, t) = (width + 2 * thickness, thickness);
        self.fill(x - t, y - t, outer_width, t, INK);
        self.fill(x - t, y + height, outer_width, t, INK);
        self.fill(x - t, y, t, height, INK);
        self.fill(x + width, y, t, height, INK);
    }

    /// Writes `text` with its top at `y`, each point of the font `scale` pixels wide.
    pub fn text(&mut self, x: usize, y: usize, text: &str, scale: usize, align: Align) {
        self.text_in(INK, (x, y), text, scale, align);
    }

    /// The same at (x, y) in another colour.
    pub fn text_in(
        &mut self,
        color: Rgb,
        (x, y): (usize, usize),
        text: &str,
        scale: usize,
        align: Align,
    ) {
        let width = font::width(text) * scale;
        let left = match align {
            Align::Left => x,
            Align::Center => x.saturating_sub(width / 2),
            Align::Right => x.saturating_sub(width),
        };
        for (i, character) in text.chars().enumerate() {
            let left = left + i * font::ADVANCE * scale;
            let y = y + font::descent(character) * scale;
            for (row, bits) in font::glyph(character).into_iter().enumerate() {
                for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    self.fill(left + column * scale, y + row * scale, scale, scale, color);
                }
            }
        }
    }

    /// A smooth line of `width` pixels with round ends.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), width: f64, color: Rgb) {
        let reach = 0.5 * width + 1.0;
        let span = |a: f64, b: f64, end: usize| {
            let low = (a.min(b) - reach).floor().max(0.0) as usize;
            let high = (a.max(b) + reach).ceil().max(0.0) as usize;
            low..high.min(end)
        };
        for y in span(from.1, to.1, self.height) {
            for x in span(from.0, to.0, self.width) {
                let distance = distance((x as f64 + 0.5, y as f64 + 0.5), from, to);
                self.blend(x, y, color, (0.5 * width + 0.5 - distance).clamp(0.0, 1.0));
            }
        }
    }

    /// Darkens a rectangle, so that white stands out on it whatever was there.
    pub fn shade(&mut self, x: usize, y: usize, width: usize, height: usize) {
        for row in y..(y + height).min(self.height) {
            for column in x..(x + width).min(self.width) {
                self.blend(column, row, [16, 16, 20], 0.68);
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, color: Rgb, opacity: f64) {
        let below = self.get(x, y);
        let mix = |i: usize| {
            let (below, above) = (f64::from(below[i]), f64::from(color[i]));
            (below + (above - below) * opacity).round() as u8
        };
        self.set(x, y, [mix(0), mix(1), mix(2)]);
    }

    /// Writes a PNG that names the program and the title; the same picture gives the same bytes.
    pub fn write_png(&self, path: impl AsRef<Path>, title: &str) -> Result<()> {
        let path = path.as_ref();
        let bytes = self
            .encode(title)
            .map_err(|error| Error::Run(format!("{}: no picture: {error}", path.display())))?;
        atomic_write(path, &bytes)
    }

    /// The same as bytes.
    pub fn encode(&self, title: &str) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // A PNG text chunk is Latin-1; international ones would be needed only for titles in
        // other alphabets.
        let latin: String = title.chars().map(|c| if c <= '\u{ff}' { c } else { '?' }).collect();
        encoder.add_text_chunk("Title".into(), latin)?;
        let software = concat!("ptycho-gpu ", env!("CARGO_PKG_VERSION"));
        encoder.add_text_chunk("Software".into(), software.into())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// From `point` to the straight piece between `from` and `to`.
fn distance(point: (f64, f64), from: (f64, f64), to: (f64, f64)) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length2 = dx * dx + dy * dy;
    let along = match length2 > 0.0 {
        true => ((point.0 - from.0) * dx + (point.1 - from.1) * dy) / length2,
        false => 0.0,
    };
    let along = along.clamp(0.0, 1.0);
    (point.0 - from.0 - along * dx).hypot(point.1 - from.1 - along * dy)
}
