//! Line plots, such as the loss over the epochs.

use std::path::Path;

use super::bitmap::{Align, Bitmap, INK};
use super::colormap::Rgb;
use super::font;
use super::ticks::{self, Tick};
use crate::Result;

/// One line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub label: String,
    /// (x, y), in the order in which they are joined; numbers that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Curve<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    /// Logarithmic where all numbers allow it, else linear all the same.
    pub log_y: bool,
}

const WIDTH: usize = 960;
const HEIGHT: usize = 600;
/// Left, top, right, bottom of the plot area.
const AREA: (usize, usize, usize, usize) = (116, 56, 932, 532);
const TEXT: usize = 2;
const GRID: Rgb = [226, 226, 232];
const MARKER: f64 = 7.0;
/// More points than this need no markers.
const MOST_MARKED: usize = 40;
/// Blue, orange, green, purple, gray: told apart with every common colour blindness.
const COLORS: [Rgb; 5] =
    [[0, 98, 177], [222, 110, 0], [0, 140, 100], [170, 80, 160], [110, 110, 120]];

/// Writes `series` as a PNG.
pub fn write_curve(path: impl AsRef<Path>, series: &[Series], curve: &Curve<'_>) -> Result<()> {
    draw_curve(series, curve).write_png(path, curve.title)
}

/// Draws `series` as [`write_curve`] writes them.
pub fn draw_curve(series: &[Series], curve: &Curve<'_>) -> Bitmap {
    let points: Vec<(f64, f64)> =
        series.iter().flat_map(|s| s.points.iter().copied()).filter(finite).collect();
    let log = curve.log_y && points.iter().all(|(_, y)| *y > 0.0);
    let x = Axis::over(points.iter().map(|p| p.0), false);
    let y = Axis::over(points.iter().map(|p| p.1), log);
    let (left, top, right, bottom) = AREA;
    let mut bitmap = Bitmap::new(WIDTH, HEIGHT);
    bitmap.text((left + right) / 2, 18, curve.title, TEXT, Align::Center);
    bitmap.text((left + right) / 2, bottom + 38, curve.x_label, TEXT, Align::Center);
    bitmap.text(8, top - 22, curve.y_label, TEXT, Align::Left);
    draw_grid(&mut bitmap, &x, &y);
    for (index, series) in series.iter().enumerate() {
        draw_series(&mut bitmap, series, COLORS[index % COLORS.len()], &x, &y);
    }
    bitmap.frame(left, top, right - left, bottom - top, 1);
    draw_legend(&mut bitmap, series);
    bitmap
}

fn finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

/// From numbers to a share of the axis.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Axis {
        let ends = |(low, high): (f64, f64), v: f64| (low.min(v), high.max(v));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        let (low, high) = if low <= high { (low, high) } else { (1.0, 2.0) };
        let axis = Axis { low, high, log };
        if low < high {
            axis
        } else {
            Axis { low: low - 0.5 * low.abs().max(1e-9), ..axis }.above()
        }
    }

    fn above(self) -> Axis {
        Axis { high: self.high + 0.5 * self.high.abs().max(1e-9), ..self }
    }

    /// 0 to 1, with a margin on both sides.
    fn share(&self, value: f64) -> f64 {
        const MARGIN: f64 = 0.03;
        let f = |v: f64| if self.log { v.ln() } else { v };
        MARGIN + (1.0 - 2.0 * MARGIN) * (f(value) - f(self.low)) / (f(self.high) - f(self.low))
    }

    fn ticks(&self, count: usize) -> Vec<Tick> {
        match self.log {
            true => ticks::logarithmic(self.low, self.high, count),
            false => ticks::linear(self.low, self.high, count),
        }
    }
}

fn column(x: &Axis, value: f64) -> f64 {
    AREA.0 as f64 + x.share(value) * (AREA.2 - AREA.0) as f64
}

fn row(y: &Axis, value: f64) -> f64 {
    AREA.3 as f64 - y.share(value) * (AREA.3 - AREA.1) as f64
}

fn draw_grid(bitmap: &mut Bitmap, x: &Axis, y: &Axis) {
    let (left, top, right, bottom) = AREA;
    for tick in x.ticks(8) {
        let at = column(x, tick.value).round() as usize;
        bitmap.fill(at, top, 1, bottom - top, GRID);
        bitmap.fill(at, bottom, 1, 6, INK);
        bitmap.text(at, bottom + 12, &tick.label, TEXT, Align::Center);
    }
    for tick in y.ticks(6) {
        let at = row(y, tick.value).round() as usize;
        bitmap.fill(left, at, right - left, 1, GRID);
        bitmap.fill(left - 6, at, 6, 1, INK);
        let text_top = at - font::HEIGHT * TEXT / 2;
        bitmap.text(left - 12, text_top, &tick.label, TEXT, Align::Right);
    }
}

fn draw_series(bitmap: &mut Bitmap, series: &Series, color: Rgb, x: &Axis, y: &Axis) {
    let points = series.points.iter().copied().filter(finite);
    let points: Vec<_> = points.map(|p| (column(x, p.0), row(y, p.1))).collect();
    for pair in points.windows(2) {
        bitmap.line(pair[0], pair[1], 2.5, color);
    }
    if points.len() <= MOST_MARKED {
        points.iter().for_each(|point| bitmap.line(*point, *point, MARKER, color));
    }
}

/// In the top right corner, where falling curves are not; a single line needs none.
fn draw_legend(bitmap: &mut Bitmap, series: &[Series]) {
    if series.len() < 2 {
        return;
    }
    let widest = series.iter().map(|s| font::width(&s.label)).max().unwrap_or(0) * TEXT;
    let left = (AREA.2 - 24).saturating_sub(widest + 44);
    for (index, series) in series.iter().enumerate() {
        let top = AREA.1 + 18 + index * 24;
        let middle = (top + font::HEIGHT * TEXT / 2) as f64;
        let (from, to) = ((left as f64, middle), (left as f64 + 32.0, middle));
        bitmap.line(from, to, 3.0, COLORS[index % COLORS.len()]);
        bitmap.text(left + 44, top, &series.label, TEXT, Align::Left);
    }
}
