//! What stands beside a picture: colour bars and words.

use std::fmt::Write as _;

use super::{escape, png_address};
use crate::report::bitmap::Bitmap;
use crate::report::complex::wheel;
use crate::report::picture::{ColorScale, bar_color};
use crate::report::ticks::{self, Tick};

/// Width of a colour bar in its own units.
const BAR: f64 = 300.0;

/// A colour bar of a picture of numbers.
pub(super) fn bar(scale: &ColorScale, unit: &str) -> String {
    bar_with(scale, unit, scale.ticks(5))
}

/// A colour bar of log10 of numbers, labelled with the numbers.
pub(super) fn log_bar(scale: &ColorScale, unit: &str) -> String {
    let decades = scale.low.ceil() as i32..=scale.high.floor() as i32;
    let tick = |e: i32| Tick { value: e.into(), label: power_of_ten(e) };
    bar_with(scale, unit, decades.map(tick).collect())
}

fn power_of_ten(exponent: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    match exponent {
        0 => return "1".into(),
        1 => return "10".into(),
        _ => {}
    }
    let digits = exponent.unsigned_abs().to_string();
    let digits = digits.bytes().map(|digit| DIGITS[usize::from(digit - b'0')]);
    let sign = if exponent < 0 { "⁻" } else { "" };
    format!("10{sign}{}", digits.collect::<String>())
}

fn bar_with(scale: &ColorScale, unit: &str, ticks: Vec<Tick>) -> String {
    let mut strip = Bitmap::new(256, 1);
    for x in 0..256 {
        let share = (x as f64 + 0.5) / 256.0;
        strip.set(x, 0, bar_color(scale, scale.low + share * (scale.high - scale.low)));
    }
    let png = png_address(&strip.encode("Colours").expect("a picture in memory can be encoded"));
    let mut svg = format!(
        "<svg class=\"bar\" viewBox=\"-16 0 376 30\" aria-hidden=\"true\">\
         <image href=\"{png}\" x=\"0\" y=\"1\" width=\"{BAR}\" height=\"10\" preserveAspectRatio=\"none\"/>\
         <rect x=\"0\" y=\"1\" width=\"{BAR}\" height=\"10\"/>"
    );
    for tick in ticks {
        let at = BAR * (tick.value - scale.low) / (scale.high - scale.low);
        let _ = write!(
            svg,
            "<path d=\"M{at:.1} 11v3\"/><text x=\"{at:.1}\" y=\"26\" text-anchor=\"middle\">{}</text>",
            escape(&tick.label)
        );
    }
    let _ = writeln!(svg, "<text x=\"{}\" y=\"10\">{}</text></svg>", BAR + 6.0, escape(unit));
    svg
}

/// The wheel of the colours of complex numbers; its rim is the modulus `brightest`.
pub(super) fn color_wheel(brightest: f64, id: &str) -> String {
    let png = wheel(96).encode("Colours").expect("a picture in memory can be encoded");
    format!(
        "<svg class=\"wheel\" viewBox=\"16 0 300 76\" aria-hidden=\"true\"><clipPath id=\"{id}\">\
         <circle cx=\"62\" cy=\"38\" r=\"24\"/></clipPath><image href=\"{}\" x=\"38\" y=\"14\" width=\"48\" \
         height=\"48\" clip-path=\"url(#{id})\"/>\
         <text x=\"62\" y=\"10\" text-anchor=\"middle\">π/2</text>\
         <text x=\"62\" y=\"74\" text-anchor=\"middle\">−π/2</text>\
         <text x=\"32\" y=\"42\" text-anchor=\"end\">π</text><text x=\"91\" y=\"42\">0</text>\
         <text x=\"118\" y=\"26\">hue: phase</text>\
         <text x=\"118\" y=\"42\">lightness: modulus</text>\
         <text x=\"118\" y=\"58\">at the rim: {}</text></svg>\n",
        png_address(&png),
        escape(&ticks::short(brightest))
    )
}

/// The range of a picture in words.
pub(super) fn range(scale: &ColorScale, unit: &str) -> String {
    let [low, high] = [scale.low, scale.high].map(ticks::short);
    format!("from {low} to {high} {unit}").trim_end().to_string()
}

/// What was left out of a picture to keep the page small.
pub(super) fn binned(by: usize) -> String {
    match by {
        1 => String::new(),
        by => format!(
            " Shown as means over {by} × {by} pixels; the full array is in reconstruction.npz."
        ),
    }
}
