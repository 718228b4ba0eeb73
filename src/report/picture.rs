//! An array as a picture with title and colour bar.

use std::f64::consts::{FRAC_PI_2, PI, TAU};
use std::path::Path;

use ndarray::Array2;

use super::bitmap::{Align, Bitmap, INK};
use super::colormap::{Colormap, Rgb, UNCOVERED};
use super::font;
use super::scale_bar::ScaleBar;
use super::ticks::{self, Tick};
use crate::Result;

/// Small arrays are enlarged until their longer side has this many pixels.
const SMALLEST_SIDE: usize = 512;

/// Which numbers the ends of the colour bar stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// These percentiles of the covered pixels.
    Robust(f64, f64),
    /// These numbers.
    Fixed(f64, f64),
}

impl Default for Range {
    /// Without the lowest and the highest percent.
    fn default() -> Self {
        Range::Robust(1.0, 99.0)
    }
}

/// How an array is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Picture<'a> {
    pub title: &'a str,
    pub colormap: Colormap,
    pub range: Range,
    /// True where the number means something; the rest is gray.
    pub mask: Option<&'a Array2<bool>>,
    /// True where the number can be trusted: these decide the range. None = as `mask`.
    pub trusted: Option<&'a Array2<bool>>,
    /// Of the numbers, written above the colour bar; may be empty.
    pub unit: &'a str,
    /// Height and width of a pixel in metres, for a scale bar.
    pub pixel_m: Option<[f64; 2]>,
}

/// Writes `values` (first row on top) as a PNG.
pub fn write_image(
    path: impl AsRef<Path>,
    values: &Array2<f32>,
    picture: &Picture<'_>,
) -> Result<()> {
    draw_image(values, picture).write_png(path, picture.title)
}

/// Draws `values` as [`write_image`] writes them.
pub fn draw_image(values: &Array2<f32>, picture: &Picture<'_>) -> Bitmap {
    let layout = Layout::of(values.dim());
    let scale = ColorScale::of(values, picture);
    let mut bitmap = Bitmap::new(layout.width, layout.height);
    for ((row, column), value) in values.indexed_iter() {
        let covered = is_covered(picture.mask, row, column) && value.is_finite();
        let color = if covered { scale.color(f64::from(*value)) } else { UNCOVERED };
        let (x, y) = layout.pixel(row, column);
        bitmap.fill(x, y, layout.zoom, layout.zoom, color);
    }
    draw_around(&mut bitmap, &layout, values.dim(), picture.title, picture.pixel_m);
    draw_color_bar(&mut bitmap, &layout, &scale, picture.unit);
    bitmap
}

/// The numbers alone, one pixel each, without title and colour bar.
pub(super) fn draw_pixels(values: &Array2<f32>, picture: &Picture<'_>) -> Bitmap {
    let scale = ColorScale::of(values, picture);
    let (height, width) = values.dim();
    let mut bitmap = Bitmap::new(width, height);
    for ((row, column), value) in values.indexed_iter() {
        let covered = is_covered(picture.mask, row, column) && value.is_finite();
        let color = if covered { scale.color(f64::from(*value)) } else { UNCOVERED };
        bitmap.set(column, row, color);
    }
    bitmap
}

/// Frame, title, size and scale bar of an array of (rows, columns).
pub(super) fn draw_around(
    bitmap: &mut Bitmap,
    layout: &Layout,
    (rows, columns): (usize, usize),
    title: &str,
    pixel_m: Option<[f64; 2]>,
) {
    let ((left, top), (width, height), t) = (layout.origin, layout.image, layout.text);
    if let Some(bar) = pixel_m.and_then(|[_, pixel]| ScaleBar::of(columns, pixel)) {
        bar.draw(bitmap, layout);
    }
    bitmap.frame(left, top, width, height, 1);
    // A long title is written smaller, so as not to run into what is written above the colour bar.
    let s = (1..=t).rev().find(|s| font::width(title) * s <= width).unwrap_or(1);
    bitmap.text(left, (top - font::HEIGHT * s) / 2, title, s, Align::Left);
    let size = format!("{columns} × {rows} px");
    bitmap.text(left, top + height + 5 * t, &size, (t / 2).max(1), Align::Left);
}

/// Where the parts of a picture are, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the whole picture.
    pub width: usize,
    pub height: usize,
    /// Side of the square that shows one number.
    pub zoom: usize,
    /// x and y of the array's top left corner.
    pub origin: (usize, usize),
    /// Width and height of the enlarged array.
    pub image: (usize, usize),
    /// Pixels per point of the font.
    pub(super) text: usize,
}

impl Layout {
    /// For an array of (rows, columns).
    pub fn of((rows, columns): (usize, usize)) -> Layout {
        let zoom = SMALLEST_SIDE.div_ceil(rows.max(columns).max(1));
        let image = (columns * zoom, rows * zoom);
        let text = 2 + rows.max(columns) / 1024;
        let origin = (8 * text, 16 * text);
        // Right of the array: gap, colour bar, gap, labels of up to 8 characters.
        let right = (8 + 12 + 5 + 8 * font::ADVANCE + 4) * text;
        let width = origin.0 + image.0 + right;
        // A wide, flat array still needs room for its colour bar.
        let height = (origin.1 + image.1).max(80 * text) + 14 * text;
        Layout { width, height, zoom, origin, image, text }
    }

    /// Top left corner of the square that shows the number at (row, column).
    pub fn pixel(&self, row: usize, column: usize) -> (usize, usize) {
        (self.origin.0 + column * self.zoom, self.origin.1 + row * self.zoom)
    }
}

pub(super) fn is_covered(mask: Option<&Array2<bool>>, row: usize, column: usize) -> bool {
    mask.is_none_or(|mask| mask.get((row, column)).copied().unwrap_or(false))
}

/// From numbers to colours.
pub(super) struct ColorScale {
    colormap: Colormap,
    pub low: f64,
    pub high: f64,
    /// Angles are taken to the turn around this one; none for plain numbers.
    center: Option<f64>,
    /// Share of the colour map that `low` to `high` spans: (start, length).
    share: (f64, f64),
}

impl ColorScale {
    pub fn of(values: &Array2<f32>, picture: &Picture<'_>) -> ColorScale {
        let covered = values.indexed_iter().filter(|((row, column), value)| {
            let decides = is_covered(picture.trusted, *row, *column);
            decides && is_covered(picture.mask, *row, *column) && value.is_finite()
        });
        let covered: Vec<f64> = covered.map(|(_, value)| f64::from(*value)).collect();
        match picture.colormap {
            Colormap::Cyclic => ColorScale::of_angles(covered, picture.range),
            colormap => {
                let (low, high) = ends(covered, picture.range);
                ColorScale { colormap, low, high, center: None, share: (0.0, 1.0) }
            }
        }
    }

    /// Angles that vary by less than half a turn are spread over the half of the wheel on which
    /// the lightness rises: contrast for weak phase objects, and still no jump at ±π.
    fn of_angles(mut angles: Vec<f64>, range: Range) -> ColorScale {
        let (sin, cos) = angles.iter().fold((0.0, 0.0), |(s, c), a| (s + a.sin(), c + a.cos()));
        let center = f64::atan2(sin, cos);
        angles.iter_mut().for_each(|angle| *angle = center + wrap(*angle - center));
        let whole = |low: f64| ColorScale {
            colormap: Colormap::Cyclic,
            low,
            high: low + TAU,
            center: Some(low + PI),
            share: (wrap(low) / TAU + 0.5, 1.0),
        };
        match (range, ends(angles, range)) {
            (Range::Robust(..), (low, high)) if high - low < PI => ColorScale {
                low,
                high,
                center: Some(0.5 * (low + high)),
                share: (0.25, 0.5),
                ..whole(0.0)
            },
            (Range::Robust(..), _) => whole(-PI),
            (Range::Fixed(..), (low, high)) if high - low > TAU - 1e-3 => whole(low),
            (Range::Fixed(..), (low, high)) => {
                let share = (low / TAU + 0.5, (high - low) / TAU);
                ColorScale { low, high, center: Some(0.5 * (low + high)), share, ..whole(0.0) }
            }
        }
    }

    fn color(&self, value: f64) -> Rgb {
        let value = self.center.map_or(value, |center| center + wrap(value - center));
        let t = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.colormap.at(self.share.0 + t * self.share.1)
    }

    pub fn ticks(&self, count: usize) -> Vec<Tick> {
        if self.center.is_some() && self.high - self.low > 0.99 * TAU && self.low == -PI {
            let labels = ["−π", "−π/2", "0", "π/2", "π"];
            let tick = |(i, label): (usize, &str)| Tick {
                value: i as f64 * FRAC_PI_2 - PI,
                label: label.to_string(),
            };
            return labels.into_iter().enumerate().map(tick).collect();
        }
        ticks::linear(self.low, self.high, count)
    }
}

/// To [−π, π).
fn wrap(angle: f64) -> f64 {
    angle - TAU * ((angle + PI) / TAU).floor()
}

/// The numbers at the ends of the colour bar, never equal.
pub(super) fn ends(mut values: Vec<f64>, range: Range) -> (f64, f64) {
    let (low, high) = match range {
        Range::Fixed(low, high) => (low, high),
        Range::Robust(..) if values.is_empty() => (0.0, 1.0),
        Range::Robust(low, high) => {
            values.sort_by(f64::total_cmp);
            let at = |percent: f64| {
                let index = (percent.clamp(0.0, 100.0) / 100.0 * (values.len() - 1) as f64).round();
                values[index as usize]
            };
            (at(low), at(high))
        }
    };
    // An even picture gets a bar around its one value instead of none.
    let least = 1e-5 * low.abs().max(high.abs()).max(1e-30);
    if high - low > least { (low, high) } else { (low - 50.0 * least, low + 50.0 * least) }
}

fn draw_color_bar(bitmap: &mut Bitmap, layout: &Layout, scale: &ColorScale, unit: &str) {
    let t = layout.text;
    let x = layout.origin.0 + layout.image.0 + 8 * t;
    let (width, height) = (12 * t, layout.image.1.max(60 * t));
    let top = layout.origin.1;
    let value_at = |share: f64| scale.low + (scale.high - scale.low) * share;
    for row in 0..height {
        let share = 1.0 - (row as f64 + 0.5) / height as f64;
        bitmap.fill(x, top + row, width, 1, bar_color(scale, value_at(share)));
    }
    bitmap.frame(x, top, width, height, 1);
    bitmap.text(x, (top - font::HEIGHT * t) / 2, unit, t, Align::Left);
    for tick in scale.ticks((height / (30 * t)).clamp(2, 6)) {
        let share = (tick.value - scale.low) / (scale.high - scale.low);
        let y = top + ((1.0 - share) * (height - 1) as f64).round() as usize;
        bitmap.fill(x + width, y, 2 * t, 1, INK);
        let text_top = y.saturating_sub(font::HEIGHT * t / 2);
        bitmap.text(x + width + 4 * t, text_top, &tick.label, t, Align::Left);
    }
}

/// Without wrapping: the bar runs through its range even where that ends at the seam.
pub(super) fn bar_color(scale: &ColorScale, value: f64) -> Rgb {
    let t = (value - scale.low) / (scale.high - scale.low);
    scale.colormap.at(scale.share.0 + t * scale.share.1)
}
