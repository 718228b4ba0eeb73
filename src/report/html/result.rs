//! Sections on a reconstruction: object, probe, positions, patterns, residual, resolution.

use std::fmt::Write as _;

use ndarray::Array2;
use serde_json::Value;

use super::figures::{bar, binned, color_wheel, log_bar, range};
use super::object::{Object, amplitude_and_phase, angle, layer};
use super::plot::{Line, Plot};
use super::read::{Frame, ResultFile};
use super::viewer::{Arrays, Layer, Place, Viewer, bin};
use super::{Sections, escape};
use crate::data::BadFrame;
use crate::data::scan::Position;
use crate::reconstruct::maps;
use crate::report::complex::ComplexPicture;
use crate::report::picture::{ColorScale, Picture, Range, draw_pixels};
use crate::report::ticks;
use crate::stitch::Canvas;

/// Longest side of a map of plain numbers.
const MOST_OF_MAPS: usize = 512;
/// All sections on a result.
pub(super) fn sections(sections: &mut Sections, record: &Value, result: &ResultFile) {
    let object = Object::of(result);
    let html = object.html(result, &mut sections.arrays);
    sections.add("object", "Object", &html);
    if let Some(before) = &result.before {
        let html = object.compared(result, before, &mut sections.arrays);
        let title = match (before.name.as_str(), record["command"].as_str()) {
            ("before", Some("refine")) => "Before and after",
            _ => "Comparison",
        };
        sections.add("comparison", title, &html);
    }
    let html = probe(result, &mut sections.arrays);
    sections.add("probe", "Probe", &html);
    let html = object.positions(result, &mut sections.arrays);
    sections.add("positions", "Positions", &html);
    if !result.frames.is_empty() {
        let html = patterns(result, &mut sections.arrays);
        sections.add("patterns", "Patterns", &html);
    }
    if !result.frame_residual.is_empty() {
        let html = residual(result, &mut sections.arrays);
        sections.add("residual", "Residual over the scan", &(html + &bad_frames(record)));
    }
    if let Some(consistency) = &result.consistency {
        let html = consistency_of(result, consistency, &mut sections.arrays);
        sections.add("consistency", "Overlap consistency", &html);
    }
    if result.frc.len() > 2 {
        sections.add("resolution", "Resolution", &resolution(result));
    }
}

/// A map of plain numbers on the canvas.
fn map(
    arrays: &mut Arrays,
    values: &Array2<f32>,
    result: &ResultFile,
    title: &str,
    name: &str,
    note: &str,
) -> String {
    let small = bin(values, MOST_OF_MAPS);
    let picture = Picture::default();
    let scale = ColorScale::of(&small.values, &picture);
    let layers = [layer(arrays.add(&small.values), name, "")];
    let (origin_yx, pixel_m) = (result.saved.origin_yx, result.pixel_m);
    Viewer {
        title,
        alt: format!("{title}, {}.", range(&scale, "")),
        note: format!("{}{}", escape(note), binned(small.by)),
        picture: &draw_pixels(&small.values, &picture),
        before: None,
        overlay: String::new(),
        legend: bar(&scale, ""),
        layers: &layers,
        place: Place { bin: small.by, origin_yx, pixel_m },
    }
    .html(arrays)
}

fn consistency_of(result: &ResultFile, consistency: &Array2<f32>, arrays: &mut Arrays) -> String {
    let mut shown = consistency.clone();
    shown.zip_mut_with(&result.shown, |c, &shown| {
        if !shown {
            *c = f32::NAN;
        }
    });
    let note = "Standard deviation of the patches that cover a pixel, in units of the object: how \
                much they disagree.";
    let html = map(arrays, &shown, result, "Overlap consistency", "consistency", note);
    format!("<div class=\"grid two\">\n{html}</div>")
}

fn probe(result: &ResultFile, arrays: &mut Arrays) -> String {
    let powers = crate::reconstruct::modes::powers(result.saved.probe.view());
    let mut html = String::from("<div class=\"grid three\">\n");
    for (k, mode) in result.saved.probe.outer_iter().enumerate() {
        let mode = mode.to_owned();
        let (amplitude, phase) = (mode.mapv(|z| z.norm()), angle(&mode));
        let layers = amplitude_and_phase(arrays, &amplitude, &phase);
        let top = f64::from(amplitude.iter().copied().fold(f32::MIN_POSITIVE, f32::max));
        let picture = ComplexPicture { brightest: Some(top), ..ComplexPicture::default() };
        let share = powers.get(k).copied().unwrap_or(f64::NAN);
        let title = format!("Mode {}", k + 1);
        let viewer = Viewer {
            title: &title,
            alt: format!("Mode {} of the probe: hue is the phase, lightness the modulus.", k + 1),
            note: format!("{} % of the power.", ticks::short(100.0 * share)),
            picture: &picture.pixels(&mode),
            before: None,
            overlay: String::new(),
            legend: color_wheel(top, &format!("wheel-mode-{k}")),
            layers: &layers,
            place: Place { bin: 1, origin_yx: [0.0; 2], pixel_m: result.pixel_m },
        };
        html += &viewer.html(arrays);
    }
    html + "</div>"
}

/// Measured beside predicted, on one scale.
fn patterns(result: &ResultFile, arrays: &mut Arrays) -> String {
    let mut html = String::from(
        "<p>Photons on a logarithmic scale, zero frequency in the middle, the same colours for \
         measured and predicted. Masked pixels are gray.</p>\n<div class=\"grid four\">\n",
    );
    let names = match result.frames.len() {
        3 => ["explained best", "typical", "explained worst"].as_slice(),
        2 => &["explained best", "explained worst"],
        _ => &["the only pattern"],
    };
    for (Frame { index, measured, predicted }, name) in result.frames.iter().zip(names) {
        let log = |x: f32| if x.is_nan() { x } else { x.max(f32::MIN_POSITIVE).log10() };
        let images = [measured, predicted].map(|image| image.mapv(log));
        let brightest =
            images.iter().flatten().copied().filter(|x| !x.is_nan()).fold(0.0, f32::max);
        let (low, high) = maps::log_range(brightest.into());
        let at = result.saved.indices.iter().position(|&i| i as i64 == *index);
        let residual = at.and_then(|at| result.frame_residual.get(at));
        let residual =
            residual.map(|r| format!("residual {}", ticks::short(*r))).unwrap_or_default();
        for (kind, image) in ["measured", "predicted"].into_iter().zip(&images) {
            let title = format!("Pattern {index}, {name}: {kind}");
            let alt = format!("Pattern {index} as it was {kind}, logarithmic.");
            html += &pattern(&title, alt, &residual, (image, low, high), arrays);
        }
    }
    html + "</div>"
}

/// A pattern as log10 of its photons, in colours from `low` to `high`.
fn pattern(
    title: &str,
    alt: String,
    note: &str,
    (image, low, high): (&Array2<f32>, f64, f64),
    arrays: &mut Arrays,
) -> String {
    // A logarithm of no photons at all would take all the steps.
    let kept = image.mapv(|x| if x.is_nan() { x } else { x.max(low as f32 - 3.0) });
    let name = if title.ends_with("measured") { "measured" } else { "predicted" };
    let layers = [Layer { array: arrays.add(&kept), name, unit: "photons", log: true }];
    let picture = Picture { range: Range::Fixed(low, high), ..Picture::default() };
    let scale = ColorScale::of(image, &picture);
    let viewer = Viewer {
        title,
        alt,
        note: note.into(),
        picture: &draw_pixels(image, &picture),
        before: None,
        overlay: String::new(),
        legend: log_bar(&scale, "photons"),
        layers: &layers,
        place: Place { bin: 1, origin_yx: [0.0; 2], pixel_m: None },
    };
    viewer.html(arrays)
}

fn residual(result: &ResultFile, arrays: &mut Arrays) -> String {
    let (height, width) = result.saved.object.dim();
    let origin_yx = result.saved.origin_yx.map(|o| o.round() as i64);
    let canvas = Canvas { height, width, origin_yx };
    let positions: &[Position] = &result.saved.positions;
    let mut html = String::from("<div class=\"grid two\">\n");
    if positions.len() == result.frame_residual.len() {
        let values = maps::over_scan(positions, &result.frame_residual, &canvas);
        let note = "Every pixel has the residual Σ(√I − √Î)² / ΣI of the nearest pattern.";
        html += &map(arrays, &values, result, "Residual of each pattern", "residual", note);
    }
    html += &histogram(&result.frame_residual);
    html + "</div>"
}

/// A table of the frames that are left out, and of those that are bad but used; nothing without any.
fn bad_frames(record: &Value) -> String {
    let read = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
    let used: Vec<BadFrame> = read(&record["results"]["bad_frames"]);
    let left_out: Vec<BadFrame> = read(&record["inputs"][0]["rejected_frames"]);
    let mut all: Vec<(BadFrame, &str)> = used.into_iter().map(|bad| (bad, "yes")).collect();
    all.extend(left_out.into_iter().map(|bad| (bad, "no")));
    if all.is_empty() {
        return String::new();
    }
    all.sort_by_key(|(bad, _)| bad.frame);
    let row = |(bad, used): &(BadFrame, &str)| {
        let residual = bad.residual.map(ticks::short).unwrap_or_default();
        let (frame, fault) = (bad.frame, escape(&bad.fault.to_string()));
        format!("<tr><td>{frame}</td><td>{fault}</td><td>{residual}</td><td>{used}</td></tr>\n")
    };
    format!(
        "<table>\n<caption>Bad frames</caption>\n<thead><tr><th scope=\"col\">frame</th>\
         <th scope=\"col\">fault</th><th scope=\"col\">residual</th><th scope=\"col\">used</th></tr>\
         </thead>\n<tbody>\n{}</tbody>\n</table>",
        all.iter().map(row).collect::<String>()
    )
}

/// How many patterns have which residual.
fn histogram(residuals: &[f64]) -> String {
    const BARS: usize = 32;
    let finite: Vec<f64> = residuals.iter().copied().filter(|r| r.is_finite()).collect();
    let ends =
        finite.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &r| (l.min(r), h.max(r)));
    if finite.is_empty() {
        return String::new();
    }
    let width = ((ends.1 - ends.0) / BARS as f64).max(1e-12);
    let mut counts = [0usize; BARS];
    for residual in &finite {
        counts[(((residual - ends.0) / width) as usize).min(BARS - 1)] += 1;
    }
    let middle = |i: usize| ends.0 + (i as f64 + 0.5) * width;
    let points = counts.iter().enumerate().map(|(i, &n)| (middle(i), n as f64)).collect();
    let dark = residuals.len() - finite.len();
    let note = match dark {
        0 => String::new(),
        dark => format!("{dark} dark patterns have no residual."),
    };
    let plot = Plot {
        title: "How many patterns have which residual",
        x: "residual",
        y: "patterns",
        log: false,
        bars: true,
        level: None,
        note,
    };
    plot.html(&[Line { name: "patterns".into(), points }])
}

/// The correlation of the halves.
fn resolution(result: &ResultFile) -> String {
    let halves = &result.record["results"]["half_data_frc"];
    let rings = result.frc.len();
    let side = halves["side"].as_u64().map_or(2 * (rings - 1), |s| s as usize).max(2);
    let nyquist = (side / 2).min(rings - 1);
    let points = (0..=nyquist).map(|r| (r as f64 / side as f64, result.frc[r])).collect::<Vec<_>>();
    let mut note = String::from("Even against odd patterns, each solved for on its own.");
    if let Some(pixels) = halves["resolution_pixels"].as_f64() {
        let _ = write!(note, " They agree down to {} pixels", ticks::short(pixels));
        if let Some([_, x]) = result.pixel_m {
            let _ = write!(note, ", {} nm", ticks::short(pixels * x * 1e9));
        }
        note.push('.');
    }
    let plot = Plot {
        title: "Fourier ring correlation of the halves",
        x: "cycles per pixel",
        y: "correlation",
        log: false,
        bars: false,
        level: Some((crate::reconstruct::halves::THRESHOLD, "threshold 1/2")),
        note,
    };
    let lines = [Line { name: "even against odd".into(), points }];
    format!("<div class=\"grid two\">\n{}</div>", plot.html(&lines))
}
