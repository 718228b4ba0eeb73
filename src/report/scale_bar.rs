//! A length in a picture, in metres.

use super::bitmap::{Align, Bitmap};
use super::colormap::Rgb;
use super::font;
use super::picture::Layout;

const WHITE: Rgb = [255, 255, 255];

/// Part of a picture's width that the bar takes at most; the round length below it is at least a
/// third of that.
const WIDEST: f64 = 0.3;

/// A round length, and how many pixels of the array it spans.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleBar {
    pub pixels: f64,
    /// `500 nm`, `2 µm`.
    pub label: String,
}

impl ScaleBar {
    /// For an array of so many `columns`, each `pixel` metres wide: 1, 2 or 5 times a power of ten.
    /// None where that makes no sense.
    pub fn of(columns: usize, pixel: f64) -> Option<ScaleBar> {
        let most = WIDEST * columns as f64 * pixel;
        if !(pixel > 0.0 && most.is_finite() && most > 1e-14) {
            return None;
        }
        let mut exponent = most.log10().floor() as i32;
        // The logarithm of a power of ten may be rounded to the wrong side.
        if power(exponent) > most * (1.0 + 1e-9) {
            exponent -= 1;
        }
        let fits = |m: &f64| m * power(exponent) <= most * (1.0 + 1e-9);
        let digit = [5.0, 2.0, 1.0].into_iter().find(fits).unwrap_or(1.0);
        let pixels = digit * power(exponent) / pixel;
        Some(ScaleBar { pixels, label: label(digit, exponent) })
    }

    /// In the lower left corner of the array, white on a dark plate.
    pub(super) fn draw(&self, bitmap: &mut Bitmap, layout: &Layout) {
        let ((left, top), (width, height), t) = (layout.origin, layout.image, layout.text);
        let long = (self.pixels * layout.zoom as f64).round() as usize;
        let wide = long.max(font::width(&self.label) * t);
        let (plate_width, plate_height) = (wide + 8 * t, (font::HEIGHT + 12) * t);
        let room = width >= plate_width + 4 * t && height >= plate_height + 4 * t;
        if !room {
            return;
        }
        let (x, y) = (left + 3 * t, top + height - plate_height - 3 * t);
        bitmap.shade(x, y, plate_width, plate_height);
        let middle = x + plate_width / 2;
        bitmap.text_in(WHITE, (middle, y + 3 * t), &self.label, t, Align::Center);
        bitmap.fill(middle - long / 2, y + (font::HEIGHT + 7) * t, long, 2 * t, WHITE);
    }
}

fn power(exponent: i32) -> f64 {
    10f64.powi(exponent)
}

/// `digit`·10^`exponent` metres.
fn label(digit: f64, exponent: i32) -> String {
    const UNITS: [&str; 6] = ["m", "mm", "µm", "nm", "pm", "fm"];
    let step = (-exponent + 2).div_euclid(3).clamp(0, 5);
    let number = digit * power(exponent + 3 * step);
    format!("{} {}", number.round(), UNITS[step as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_round_and_take_a_tenth_to_a_third_of_the_width() {
        for (columns, pixel) in
            [(256, 7.3e-9), (512, 1e-8), (100, 2.2e-7), (64, 1e-10), (999, 3e-6)]
        {
            let bar = ScaleBar::of(columns, pixel).unwrap();
            let share = bar.pixels / columns as f64;
            assert!((0.099..=0.3001).contains(&share), "{columns} × {pixel}: {bar:?}");
            let number: f64 = bar.label.split(' ').next().unwrap().parse().unwrap();
            let digit = number / 10f64.powf(number.log10().floor());
            assert!([1.0, 2.0, 5.0].contains(&digit.round()), "{bar:?}");
        }
        assert_eq!(ScaleBar::of(256, 7.3e-9).unwrap().label, "500 nm");
        assert_eq!(ScaleBar::of(1000, 1e-8).unwrap().label, "2 µm");
        assert_eq!(ScaleBar::of(1000, 1e-9 / 0.3).unwrap().label, "1 µm");
        assert_eq!(ScaleBar::of(64, 1e-10).unwrap().label, "1 nm");
    }

    #[test]
    fn the_label_is_as_long_as_the_bar() {
        let bar = ScaleBar::of(300, 2.5e-8).unwrap();
        assert_eq!(bar.label, "2 µm");
        assert!((bar.pixels * 2.5e-8 - 2e-6).abs() < 1e-15);
    }

    #[test]
    fn a_size_that_is_none_gives_no_bar() {
        for pixel in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-20] {
            assert_eq!(ScaleBar::of(100, pixel), None);
        }
        assert_eq!(ScaleBar::of(0, 1e-8), None);
    }
}
