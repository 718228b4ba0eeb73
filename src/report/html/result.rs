//! Sections on a reconstruction: object, probe, positions, patterns, residual, resolution.

use std::fmt::Write as _;

use ndarray::Array2;
use num_complex::Complex32;
use serde_json::Value;

use super::figures::{bar, binned, color_wheel, log_bar, range};
use super::plot::{Line, Plot};
use super::read::{Before, ResultFile};
use super::viewer::{Arrays, Layer, Place, Viewer, bin, bin_complex};
use super::{Sections, escape};
use crate::data::scan::Position;
use crate::reconstruct::maps;
use crate::report::bitmap::Bitmap;
use crate::report::complex::ComplexPicture;
use crate::report::picture::{ColorScale, Picture, Range, draw_pixels};
use crate::report::{Colormap, ticks};
use crate::stitch::Canvas;

/// Longest side of the object on the page, pixels.
const MOST: usize = 1024;
/// Longest side of a map of plain numbers.
const MOST_OF_MAPS: usize = 512;
/// More dots than this are thinned.
const MOST_POSITIONS: usize = 4000;

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
        sections.add("residual", "Residual over the scan", &html);
    }
    if let Some(consistency) = &result.consistency {
        let html = object.consistency(result, consistency, &mut sections.arrays);
        sections.add("consistency", "Overlap consistency", &html);
    }
    if result.frc.len() > 2 {
        sections.add("resolution", "Resolution", &resolution(result));
    }
}

/// The object as the page has it.
struct Object {
    /// NaN where it is not shown.
    values: Array2<Complex32>,
    trusted: Array2<bool>,
    bin: usize,
}

/// Sets NaN where `shown` is false.
fn hide(object: &Array2<Complex32>, shown: &Array2<bool>) -> Array2<Complex32> {
    let mut hidden = object.clone();
    hidden.zip_mut_with(shown, |z, &shown| {
        if !shown {
            *z = Complex32::new(f32::NAN, f32::NAN);
        }
    });
    hidden
}

impl Object {
    fn of(result: &ResultFile) -> Object {
        let shown = bin_complex(&hide(&result.saved.object, &result.shown), MOST);
        let trusted = bin(&result.trusted.mapv(|t| f32::from(u8::from(t))), MOST);
        Object { values: shown.values, bin: shown.by, trusted: trusted.values.mapv(|t| t >= 0.5) }
    }

    fn place(&self, result: &ResultFile) -> Place {
        Place { bin: self.bin, origin_yx: result.saved.origin_yx, pixel_m: result.pixel_m }
    }

    fn complex(&self) -> ComplexPicture<'_> {
        ComplexPicture { trusted: Some(&self.trusted), ..ComplexPicture::default() }
    }

    fn picture(&self, colormap: Colormap) -> Picture<'_> {
        Picture { colormap, trusted: Some(&self.trusted), ..Picture::default() }
    }

    fn html(&self, result: &ResultFile, arrays: &mut Arrays) -> String {
        let (amplitude, phase) = (self.values.mapv(|z| z.norm()), angle(&self.values));
        let layers = amplitude_and_phase(arrays, &amplitude, &phase);
        let (height, width) = result.saved.object.dim();
        let size = size(height, width, result.pixel_m);
        let complex = self.complex();
        let (top, place) = (complex.top(&self.values), self.place(result));
        let plain = |note: &str| format!("{note}{}", binned(self.bin));
        let both = Viewer {
            title: "Complex object",
            alt: format!("The object, {size}: hue is the phase, lightness the amplitude."),
            note: plain("Gray: no light reached it."),
            picture: &complex.pixels(&self.values),
            before: None,
            overlay: String::new(),
            legend: color_wheel(top, "wheel-object"),
            layers: &layers,
            place,
        };
        let mut html = format!(
            "<p>{size}. Numbers under the pointer or the cross are kept in 16 bits, to 1/131068 of the \
             range of their picture. A picture that was clicked is zoomed by the wheel.</p>\n\
             <div class=\"grid two\">\n"
        );
        html += &both.html(arrays);
        for (title, values, colormap, unit, layer) in [
            ("Amplitude", &amplitude, Colormap::Sequential, "", &layers[..1]),
            ("Phase", &phase, Colormap::Cyclic, "rad", &layers[1..]),
        ] {
            let picture = self.picture(colormap);
            let scale = ColorScale::of(values, &picture);
            let viewer = Viewer {
                title,
                alt: format!("{title} of the object, {}.", range(&scale, unit)),
                note: plain("Colours from the 1st to the 99th percentile of the scanned area."),
                picture: &draw_pixels(values, &picture),
                before: None,
                overlay: String::new(),
                legend: bar(&scale, unit),
                layers: layer,
                place,
            };
            html += &viewer.html(arrays);
        }
        html + "</div>"
    }

    /// The object under another one, with a border to move.
    fn compared(&self, result: &ResultFile, before: &Before, arrays: &mut Arrays) -> String {
        let known = before.object.mapv(|z| z.norm_sqr() > 0.0);
        let mut old = hide(&before.object, &known);
        old = bin_complex(&hide(&old, &result.shown), MOST).values;
        let now = &self.values;
        let relative = relative_change(&old, now, &self.trusted);
        let mut html = format!(
            "<p>Both in one gauge: a factor and a phase ramp between them mean nothing and are taken \
             out. In the scanned area the object differs by {} % (relative L2). Move the border with \
             the slider or its arrow keys.</p>\n<div class=\"grid two\">\n",
            ticks::short(100.0 * relative)
        );
        let names =
            (before.name.as_str(), if before.name == "before" { "after" } else { "this run" });
        let parts = |z: &Array2<Complex32>| [z.mapv(|z| z.norm()), angle(z)];
        let ([old_a, old_p], [now_a, now_p]) = (parts(&old), parts(now));
        let complex = ComplexPicture { brightest: Some(self.complex().top(now)), ..self.complex() };
        let place = self.place(result);
        let index = [&old_a, &old_p, &now_a, &now_p].map(|values| arrays.add(values));
        let layer = |array: usize, name, unit| Layer { array, name, unit, log: false };
        let [before_a, after_a] = [names.0, names.1].map(|name| format!("amplitude {name}"));
        let [before_p, after_p] = [names.0, names.1].map(|name| format!("phase {name}"));
        let amplitudes = [layer(index[0], &before_a, ""), layer(index[2], &after_a, "")];
        let phases = [layer(index[1], &before_p, "rad"), layer(index[3], &after_p, "rad")];
        let both = [amplitudes, phases].concat();
        let mut add = |title: &str,
                       old: &Bitmap,
                       new: &Bitmap,
                       legend: String,
                       layers: &[Layer]| {
            let viewer = Viewer {
                title,
                alt: format!("{title}: {}", names.1),
                note: format!("The colours of both are those of the second.{}", binned(self.bin)),
                picture: new,
                before: Some((old, names.0, names.1)),
                overlay: String::new(),
                legend,
                layers,
                place,
            };
            html += &viewer.html(arrays);
        };
        let legend = color_wheel(complex.top(now), "wheel-comparison");
        add("Complex object, compared", &complex.pixels(&old), &complex.pixels(now), legend, &both);
        for (title, colormap, unit, [old, now], layers) in [
            ("Amplitude, compared", Colormap::Sequential, "", [&old_a, &now_a], &amplitudes),
            ("Phase, compared", Colormap::Cyclic, "rad", [&old_p, &now_p], &phases),
        ] {
            let picture = self.picture(colormap);
            let scale = ColorScale::of(now, &picture);
            let fixed = Picture { range: Range::Fixed(scale.low, scale.high), ..picture };
            let (old, now) = (draw_pixels(old, &fixed), draw_pixels(now, &fixed));
            add(title, &old, &now, bar(&scale, unit), layers);
        }
        html + "</div>"
    }

    fn positions(&self, result: &ResultFile, arrays: &mut Arrays) -> String {
        let amplitude = self.values.mapv(|z| z.norm());
        let layers = [layer(arrays.add(&amplitude), "amplitude", "")];
        let picture = self.picture(Colormap::Gray);
        let [top, left] = result.saved.origin_yx;
        let by = self.bin as f64;
        let place = |x: f64, y: f64| ((x - left + 0.5) / by, (y - top + 0.5) / by);
        let used: Vec<_> = result.saved.positions.iter().map(|p| place(p.x, p.y)).collect();
        let commanded: Vec<_> = match result.commanded.len() == used.len() {
            true => result.commanded.iter().map(|&(x, y)| place(x, y)).collect(),
            false => used.clone(),
        };
        let shifts: Vec<f64> =
            used.iter().zip(&commanded).map(|(a, b)| by * (a.0 - b.0).hypot(a.1 - b.1)).collect();
        let moved = shifts.iter().any(|&s| s > 0.01);
        let every = used.len().div_ceil(MOST_POSITIONS).max(1);
        let (height, width) = self.values.dim();
        let overlay = marks(&used, &commanded, moved, every, height.max(width) as f64);
        let mut note = format!("{} patterns, an orange dot each.", used.len());
        if every > 1 {
            let _ = write!(note, " One of {every} is drawn.");
        }
        if moved {
            let rms = (shifts.iter().map(|s| s * s).sum::<f64>() / shifts.len() as f64).sqrt();
            let most = shifts.iter().copied().fold(0.0, f64::max);
            let _ = write!(
                note,
                " Blue lines lead to them from where they were commanded: {} pixels rms, {} at most.",
                ticks::short(rms),
                ticks::short(most)
            );
        }
        let viewer = Viewer {
            title: "Positions on the amplitude",
            alt: format!("{} positions of patterns as dots on the object.", used.len()),
            note,
            picture: &draw_pixels(&amplitude, &picture),
            before: None,
            overlay,
            legend: bar(&ColorScale::of(&amplitude, &picture), ""),
            layers: &layers,
            place: self.place(result),
        };
        format!("<div class=\"grid two\">\n{}</div>", viewer.html(arrays))
    }

    fn consistency(
        &self,
        result: &ResultFile,
        consistency: &Array2<f32>,
        arrays: &mut Arrays,
    ) -> String {
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
}

/// Dots, and lines from where the patterns were commanded to be.
fn marks(
    used: &[(f64, f64)],
    commanded: &[(f64, f64)],
    moved: bool,
    every: usize,
    longest: f64,
) -> String {
    let (mut dots, mut lines) = (String::new(), String::new());
    for (a, b) in used.iter().zip(commanded).step_by(every) {
        let _ = write!(dots, "M{:.2} {:.2}h0", a.0, a.1);
        if moved {
            let _ = write!(lines, "M{:.2} {:.2}L{:.2} {:.2}", b.0, b.1, a.0, a.1);
        }
    }
    let width = longest / 130.0;
    format!(
        "<path class=\"moved\" stroke-width=\"{:.3}\" d=\"{lines}\"/>\
         <path class=\"rim\" stroke-width=\"{:.3}\" d=\"{dots}\"/>\
         <path class=\"dot\" stroke-width=\"{:.3}\" d=\"{dots}\"/>",
        0.35 * width,
        1.5 * width,
        width
    )
}

fn layer<'a>(array: usize, name: &'a str, unit: &'a str) -> Layer<'a> {
    Layer { array, name, unit, log: false }
}

fn amplitude_and_phase(
    arrays: &mut Arrays,
    amplitude: &Array2<f32>,
    phase: &Array2<f32>,
) -> [Layer<'static>; 2] {
    [layer(arrays.add(amplitude), "amplitude", ""), layer(arrays.add(phase), "phase", "rad")]
}

/// NaN for what is not finite.
fn angle(values: &Array2<Complex32>) -> Array2<f32> {
    values.mapv(|z| if z.is_finite() { z.arg() } else { f32::NAN })
}

fn relative_change(
    old: &Array2<Complex32>,
    new: &Array2<Complex32>,
    trusted: &Array2<bool>,
) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for ((a, b), &trusted) in old.iter().zip(new).zip(trusted) {
        if trusted && a.is_finite() && b.is_finite() {
            off += f64::from((b - a).norm_sqr());
            all += f64::from(b.norm_sqr());
        }
    }
    if all > 0.0 { f64::sqrt(off / all) } else { 0.0 }
}

/// `512 × 256 pixels`, with lengths where they are known.
fn size(height: usize, width: usize, pixel_m: Option<[f64; 2]>) -> String {
    let mut text = format!("{width} × {height} pixels");
    if let Some([y, x]) = pixel_m {
        let [w, h] = [width as f64 * x, height as f64 * y].map(|m| ticks::short(m * 1e6));
        let _ = write!(text, ", {w} × {h} µm, ");
        let _ = match (x - y).abs() < 1e-6 * x {
            true => write!(text, "{} nm a pixel", ticks::short(x * 1e9)),
            false => {
                write!(text, "{} × {} nm a pixel", ticks::short(x * 1e9), ticks::short(y * 1e9))
            }
        };
    }
    text
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
    for ((index, measured, predicted), name) in result.frames.iter().zip(names) {
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
            // A logarithm of no photons at all would take all the steps.
            let kept = image.mapv(|x| if x.is_nan() { x } else { x.max(low as f32 - 3.0) });
            let layers =
                [Layer { array: arrays.add(&kept), name: kind, unit: "photons", log: true }];
            let picture = Picture { range: Range::Fixed(low, high), ..Picture::default() };
            let scale = ColorScale::of(image, &picture);
            let title = format!("Pattern {index}, {name}: {kind}");
            let viewer = Viewer {
                title: &title,
                alt: format!("Pattern {index} as it was {kind}, logarithmic."),
                note: residual.clone(),
                picture: &draw_pixels(image, &picture),
                before: None,
                overlay: String::new(),
                legend: log_bar(&scale, "photons"),
                layers: &layers,
                place: Place { bin: 1, origin_yx: [0.0; 2], pixel_m: None },
            };
            html += &viewer.html(arrays);
        }
    }
    html + "</div>"
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
