//! Pictures that can be zoomed and asked for their numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ndarray::Array2;
use num_complex::Complex32;
use serde_json::{Value, json};

use super::{escape, png_address};
use crate::report::bitmap::Bitmap;

/// The code of a pixel without a number.
const NONE: u16 = u16::MAX;
/// The code of the largest number.
const LARGEST: f64 = 65534.0;

/// What the script gets: numbers of pictures, in 16 bits each.
#[derive(Default)]
pub(crate) struct Arrays {
    arrays: Vec<Value>,
    figures: Vec<Value>,
}

/// Numbers behind a picture, as the script is told of them.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    /// Index of the array.
    pub array: usize,
    pub name: &'a str,
    pub unit: &'a str,
    /// The array holds log10 of the number.
    pub log: bool,
}

/// Where a picture is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Pixels of the original along each side of one here.
    pub bin: usize,
    /// Row and column of the first original pixel.
    pub origin_yx: [f64; 2],
    /// Height and width of an original pixel, m.
    pub pixel_m: Option<[f64; 2]>,
}

impl Arrays {
    /// Takes in an array: between its least and its largest number in 65535 steps.
    pub fn add(&mut self, values: &Array2<f32>) -> usize {
        let finite = values.iter().copied().filter(|x| x.is_finite()).map(f64::from);
        let ends =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let (low, high) = if ends.0 <= ends.1 { ends } else { (0.0, 0.0) };
        let width = if high > low { high - low } else { 1.0 };
        let code = |x: &f32| match x.is_finite() {
            true => ((f64::from(*x) - low) / width * LARGEST).round() as u16,
            false => NONE,
        };
        let bytes: Vec<u8> = values.iter().flat_map(|x| code(x).to_le_bytes()).collect();
        let (height, columns) = values.dim();
        let array = json!({
            "width": columns, "height": height, "low": low, "high": low + width,
            "u16": STANDARD.encode(bytes),
        });
        // Several pictures may show the same numbers.
        let known = self.arrays.iter().position(|other| *other == array);
        known.unwrap_or_else(|| {
            self.arrays.push(array);
            self.arrays.len() - 1
        })
    }

    fn figure(&mut self, layers: &[Layer], place: &Place) -> usize {
        let layers: Vec<Value> = layers
            .iter()
            .map(|l| json!({"array": l.array, "name": l.name, "unit": l.unit, "log": l.log}))
            .collect();
        self.figures.push(json!({
            "layers": layers, "bin": place.bin, "origin": place.origin_yx, "pixel": place.pixel_m,
        }));
        self.figures.len() - 1
    }

    pub fn into_json(self) -> Value {
        json!({"arrays": self.arrays, "figures": self.figures})
    }
}

/// A picture with everything around it.
pub(super) struct Viewer<'a> {
    pub title: &'a str,
    /// What is seen, for those who do not see it.
    pub alt: String,
    /// What stands below, markup.
    pub note: String,
    pub picture: &'a Bitmap,
    /// Drawn over the left part, up to a slider, with the names of both.
    pub before: Option<(&'a Bitmap, &'a str, &'a str)>,
    /// Drawn over all: the content of an SVG in pixels of the picture.
    pub overlay: String,
    /// Colour bar, markup.
    pub legend: String,
    pub layers: &'a [Layer<'a>],
    pub place: Place,
}

impl Viewer<'_> {
    /// As markup; the numbers go to `arrays`.
    pub fn html(&self, arrays: &mut Arrays) -> String {
        let figure = arrays.figure(self.layers, &self.place);
        let (title, alt) = (escape(self.title), escape(&self.alt));
        let picture = self.layer("layer", self.picture, &alt, &self.overlay);
        let (before, slider) = match &self.before {
            None => (String::new(), String::new()),
            Some((before, left, right)) => {
                let alt = escape(&format!("{}: {left}", self.title));
                let layer = self.layer("layer over", before, &alt, "");
                (format!("{layer}<div class=\"seam\"></div>"), slider(figure, left, right, &title))
            }
        };
        format!(
            "<figure class=\"viewer\" data-figure=\"{figure}\">\n<figcaption>{title}</figcaption>\n\
             <div class=\"stage\" tabindex=\"0\" role=\"group\" aria-label=\"{title}: plus and minus \
             zoom, arrow keys move the cross, 0 shows all\">\n{picture}{before}\
             <div class=\"cross\" hidden></div><div class=\"scale\" hidden><span></span><i></i></div>\n\
             </div>\n{slider}{legend}\
             <div class=\"tools\"><button type=\"button\" data-do=\"in\" aria-label=\"Zoom in, {title}\">+</button>\
             <button type=\"button\" data-do=\"out\" aria-label=\"Zoom out, {title}\">−</button>\
             <button type=\"button\" data-do=\"all\" aria-label=\"Show all, {title}\">⤢</button>\
             <output class=\"readout\" aria-live=\"off\">&nbsp;</output></div>\n\
             <p class=\"note\">{note}</p>\n</figure>\n",
            legend = self.legend,
            note = self.note,
        )
    }

    fn layer(&self, class: &str, picture: &Bitmap, alt: &str, overlay: &str) -> String {
        let png = picture.encode(self.title).expect("a picture in memory can be encoded");
        let (width, height) = (picture.width, picture.height);
        let overlay = match overlay {
            "" => String::new(),
            content => format!(
                "<svg class=\"marks\" viewBox=\"0 0 {width} {height}\" aria-hidden=\"true\">{content}</svg>"
            ),
        };
        format!(
            "<div class=\"{class}\"><div class=\"pan\"><img src=\"{}\" alt=\"{alt}\" \
             width=\"{width}\" height=\"{height}\">{overlay}</div></div>\n",
            png_address(&png)
        )
    }
}

/// What moves the border between two pictures.
fn slider(figure: usize, left: &str, right: &str, title: &str) -> String {
    let (left, right) = (escape(left), escape(right));
    format!(
        "<div class=\"slider\"><span>{left}</span><input type=\"range\" min=\"0\" max=\"100\" \
         value=\"50\" id=\"slider-{figure}\" aria-label=\"{title}: border between {left} and {right}, \
         percent\"><span>{right}</span></div>\n"
    )
}

/// An array with fewer pixels.
pub(super) struct Binned<T> {
    pub values: Array2<T>,
    pub by: usize,
}

/// Means over squares of pixels so that no side is longer than `most`; what is not finite is left out,
/// and a square of nothing else is NaN.
pub(super) fn bin(values: &Array2<f32>, most: usize) -> Binned<f32> {
    let complex = values.mapv(|x| Complex32::new(x, 0.0));
    let Binned { values, by } = bin_complex(&complex, most);
    Binned { values: values.mapv(|z| z.re), by }
}

/// The same for complex numbers.
pub(super) fn bin_complex(values: &Array2<Complex32>, most: usize) -> Binned<Complex32> {
    let (height, width) = values.dim();
    let by = height.max(width).div_ceil(most).max(1);
    if by == 1 {
        return Binned { values: values.clone(), by };
    }
    let mean = |(row, column): (usize, usize)| {
        let rows = row * by..((row + 1) * by).min(height);
        let columns = column * by..((column + 1) * by).min(width);
        let square = values.slice(ndarray::s![rows, columns]);
        let known: Vec<&Complex32> = square.iter().filter(|z| z.is_finite()).collect();
        match known.len() {
            0 => Complex32::new(f32::NAN, f32::NAN),
            n => known.into_iter().sum::<Complex32>() / n as f32,
        }
    };
    let shape = (height.div_ceil(by), width.div_ceil(by));
    Binned { values: Array2::from_shape_fn(shape, mean), by }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_give_the_number_back_to_a_step() {
        let values =
            Array2::from_shape_fn((7, 5), |(r, c)| (r as f32 - 2.0).powi(3) * 0.1 + c as f32);
        let mut with_hole = values.clone();
        with_hole[[3, 3]] = f32::NAN;
        let mut arrays = Arrays::default();
        arrays.add(&with_hole);
        let array = &arrays.into_json()["arrays"][0];
        let (low, high) = (array["low"].as_f64().unwrap(), array["high"].as_f64().unwrap());
        let bytes = STANDARD.decode(array["u16"].as_str().unwrap()).unwrap();
        for (i, (pair, value)) in bytes.chunks_exact(2).zip(&values).enumerate() {
            let code = u16::from_le_bytes([pair[0], pair[1]]);
            if i == 3 * 5 + 3 {
                assert_eq!(code, NONE);
                continue;
            }
            let got = low + f64::from(code) / LARGEST * (high - low);
            assert!((got - f64::from(*value)).abs() <= 0.51 * (high - low) / LARGEST);
        }
    }

    #[test]
    fn large_arrays_become_means_of_squares() {
        let mut values = Array2::from_shape_fn((5, 9), |(r, c)| (r + c) as f32);
        values[[0, 0]] = f32::NAN;
        let small = bin(&values, 5);
        assert_eq!((small.by, small.values.dim()), (2, (3, 5)));
        assert_eq!(small.values[[0, 0]], (1.0 + 1.0 + 2.0) / 3.0);
        assert_eq!(small.values[[1, 1]], (4.0 + 5.0 + 5.0 + 6.0) / 4.0);
        assert_eq!(small.values[[2, 4]], 12.0);
        assert_eq!(bin(&values, 9).by, 1);
    }
}
