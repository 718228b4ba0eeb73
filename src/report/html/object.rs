//! The object of a result: complex, amplitude, phase, against another one, and with the positions.

use std::fmt::Write as _;

use ndarray::Array2;
use num_complex::Complex32;

use super::figures::{bar, binned, color_wheel, range};
use super::read::{Before, ResultFile};
use super::viewer::{Arrays, Layer, Place, Viewer, bin, bin_complex};
use crate::report::bitmap::Bitmap;
use crate::report::complex::ComplexPicture;
use crate::report::picture::{ColorScale, Picture, Range, draw_pixels};
use crate::report::{Colormap, ticks};

/// Longest side of the object on the page, pixels.
const MOST: usize = 1024;
/// More dots than this are thinned.
const MOST_POSITIONS: usize = 4000;

/// Pixels that a position must be off to count as moved.
const LEAST_SHIFT: f64 = 0.01;

/// The object as the page has it.
pub(super) struct Object {
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
    pub fn of(result: &ResultFile) -> Object {
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

    pub fn html(&self, result: &ResultFile, arrays: &mut Arrays) -> String {
        let (amplitude, phase) = (self.values.mapv(|z| z.norm()), angle(&self.values));
        let layers = amplitude_and_phase(arrays, &amplitude, &phase);
        let (height, width) = result.saved.object.dim();
        let size = size(height, width, result.pixel_m);
        let mut html = format!(
            "<p>{size}. Numbers under the pointer or the cross are kept in 16 bits, to 1/131068 of the \
             range of their picture. A picture that was clicked is zoomed by the wheel.</p>\n\
             <div class=\"grid two\">\n"
        );
        html += &self.both(result, &size, &layers, arrays);
        let place = self.place(result);
        let amplitude = ("Amplitude", &amplitude, Colormap::Sequential);
        html += &self.part(amplitude, &layers[..1], place, arrays);
        html += &self.part(("Phase", &phase, Colormap::Cyclic), &layers[1..], place, arrays);
        html + "</div>"
    }

    /// Amplitude and phase in one picture.
    fn both(
        &self,
        result: &ResultFile,
        size: &str,
        layers: &[Layer],
        arrays: &mut Arrays,
    ) -> String {
        let complex = self.complex();
        let viewer = Viewer {
            title: "Complex object",
            alt: format!("The object, {size}: hue is the phase, lightness the amplitude."),
            note: format!("Gray: no light reached it.{}", binned(self.bin)),
            picture: &complex.pixels(&self.values),
            before: None,
            overlay: String::new(),
            legend: color_wheel(complex.top(&self.values), "wheel-object"),
            layers,
            place: self.place(result),
        };
        viewer.html(arrays)
    }

    /// One of them.
    fn part(
        &self,
        (title, values, colormap): (&str, &Array2<f32>, Colormap),
        layers: &[Layer],
        place: Place,
        arrays: &mut Arrays,
    ) -> String {
        let (picture, unit) = (self.picture(colormap), layers[0].unit);
        let scale = ColorScale::of(values, &picture);
        let note = "Colours from the 1st to the 99th percentile of the scanned area.";
        let viewer = Viewer {
            title,
            alt: format!("{title} of the object, {}.", range(&scale, unit)),
            note: format!("{note}{}", binned(self.bin)),
            picture: &draw_pixels(values, &picture),
            before: None,
            overlay: String::new(),
            legend: bar(&scale, unit),
            layers,
            place,
        };
        viewer.html(arrays)
    }

    /// The object under another one, with a border to move.
    pub fn compared(&self, result: &ResultFile, before: &Before, arrays: &mut Arrays) -> String {
        let known = before.object.mapv(|z| z.norm_sqr() > 0.0);
        let mut old = hide(&before.object, &known);
        old = bin_complex(&hide(&old, &result.shown), MOST).values;
        let now = &self.values;
        let relative = relative_change(&old, now, &self.trusted);
        let mut html = format!("{}<div class=\"grid two\">\n", about_comparison(relative));
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

    pub fn positions(&self, result: &ResultFile, arrays: &mut Arrays) -> String {
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
        let moved = shifts.iter().any(|&s| s > LEAST_SHIFT);
        let every = used.len().div_ceil(MOST_POSITIONS).max(1);
        let (height, width) = self.values.dim();
        let overlay = marks(&used, &commanded, moved, every, height.max(width) as f64);
        let note = positions_note(&shifts, every);
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
}

/// How many positions there are, and how far they are from where they were commanded to be.
fn positions_note(shifts: &[f64], every: usize) -> String {
    let mut note = format!("{} patterns, an orange dot each.", shifts.len());
    if every > 1 {
        let _ = write!(note, " One of {every} is drawn.");
    }
    let most = shifts.iter().copied().fold(0.0, f64::max);
    if most > LEAST_SHIFT {
        let rms = (shifts.iter().map(|s| s * s).sum::<f64>() / shifts.len() as f64).sqrt();
        let _ = write!(
            note,
            " Blue lines lead to them from where they were commanded: {} pixels rms, {} at most.",
            ticks::short(rms),
            ticks::short(most)
        );
    }
    note
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

pub(super) fn layer<'a>(array: usize, name: &'a str, unit: &'a str) -> Layer<'a> {
    Layer { array, name, unit, log: false }
}

pub(super) fn amplitude_and_phase(
    arrays: &mut Arrays,
    amplitude: &Array2<f32>,
    phase: &Array2<f32>,
) -> [Layer<'static>; 2] {
    [layer(arrays.add(amplitude), "amplitude", ""), layer(arrays.add(phase), "phase", "rad")]
}

/// NaN for what is not finite.
pub(super) fn angle(values: &Array2<Complex32>) -> Array2<f32> {
    values.mapv(|z| if z.is_finite() { z.arg() } else { f32::NAN })
}

fn about_comparison(relative: f64) -> String {
    format!(
        "<p>Both in one gauge: a factor and a phase ramp between them mean nothing and are taken \
         out. In the scanned area the object differs by {} % (relative L2). Move the border with \
         the slider or its arrow keys.</p>\n",
        ticks::short(100.0 * relative)
    )
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
