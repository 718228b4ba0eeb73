//! A reconstruction whose object does not fit in memory: what is said and shown of it is taken from its
//! files, band by band.

use std::ops::Range;
use std::path::Path;

use ndarray::Array2;
use num_complex::{Complex32, Complex64};

use crate::Result;
use crate::data::NpzWriter;
use crate::data::scan::{Position, Scan};
use crate::metrics::Explained;
use crate::metrics::data_space;
use crate::reconstruction::{RIM, Reconstruction, TRUSTED};
use crate::stitch::{Banded, Canvas, Stitched};

/// An object in files.
#[derive(Debug)]
pub struct Large {
    pub bands: Banded,
    /// Everything else; its own object is empty.
    pub rest: Reconstruction,
}

/// A small picture of it.
#[derive(Debug)]
pub struct Preview {
    /// Squares of `by` pixels averaged where patches reach them, its canvas at (0, 0), its positions on
    /// that.
    pub result: Reconstruction,
    pub by: usize,
}

impl Large {
    /// What the data say about it.
    pub fn explained<'a>(&'a self, scan: &'a Scan) -> Explained<'a> {
        let object = data_space::Canvas::Banded(&self.bands);
        Explained { object, ..self.rest.explained(scan) }
    }

    /// As [`Reconstruction::spread`], to the bit.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn spread(&self) -> Result<f64> {
        let weights = |least: f32| {
            move |see: &mut dyn FnMut(f32)| {
                self.walk(|_, band| {
                    band.weights.iter().filter(|w| **w > least).for_each(|&w| see(w));
                    Ok(())
                })
            }
        };
        let typical = quantile(weights(0.0), 0.9)?;
        let median = quantile(weights(RIM * typical), 0.5)?;
        let relative = |see: &mut dyn FnMut(f32)| {
            self.walk(|_, Stitched { object, weights, consistency }| {
                for ((z, c), w) in object.iter().zip(&consistency).zip(&weights) {
                    if *w > TRUSTED * median {
                        see(c / z.norm().max(f32::MIN_POSITIVE));
                    }
                }
                Ok(())
            })
        };
        Ok(quantile(relative, 0.5)?.into())
    }

    /// A picture with no side longer than `most` pixels.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn preview(&self, most: usize) -> Result<Preview> {
        let Canvas { height, width, origin_yx } = self.bands.canvas;
        let by = height.max(width).div_ceil(most.max(1)).max(1);
        let shape = (height.div_ceil(by), width.div_ceil(by));
        let mut sums = Array2::<(Complex64, f64, f64, u32)>::default(shape);
        self.walk(|rows, Stitched { object, weights, consistency }| {
            let pixels = object.indexed_iter().zip(&weights).zip(&consistency);
            for (((at, z), &weight), &deviation) in pixels.filter(|((_, w), _)| **w > 0.0) {
                let sum = &mut sums[[(rows.start + at.0) / by, at.1 / by]];
                sum.0 += Complex64::new(z.re.into(), z.im.into());
                sum.1 += f64::from(weight);
                sum.2 += f64::from(deviation);
                sum.3 += 1;
            }
            Ok(())
        })?;
        let mean = |sum: f64, count: u32| (sum / f64::from(count.max(1))) as f32;
        let object = sums.map(|(z, .., n)| Complex32::new(mean(z.re, *n), mean(z.im, *n)));
        let stitched = Stitched {
            object,
            weights: sums.map(|(_, weight, _, n)| mean(*weight, *n)),
            consistency: sums.map(|(_, _, deviation, n)| mean(*deviation, *n)),
        };
        // The middle of a square is where its pixels have their mean.
        let place = |at: f64, origin: i64| (at - origin as f64 - (by - 1) as f64 / 2.0) / by as f64;
        let [top, left] = origin_yx;
        let positions = self.rest.positions.iter();
        let positions =
            positions.map(|p| Position { x: place(p.x, left), y: place(p.y, top) }).collect();
        let canvas = Canvas { height: shape.0, width: shape.1, origin_yx: [0, 0] };
        let result = Reconstruction { stitched, canvas, positions, ..self.rest.clone() };
        Ok(Preview { result, by })
    }

    /// As [`Reconstruction::write_with`]: the same arrays.
    ///
    /// # Errors
    /// The files cannot be read, the disk is full.
    pub fn write_with(
        &self,
        path: &Path,
        scan: &Scan,
        metadata: &serde_json::Value,
        more: impl FnOnce(&mut NpzWriter) -> Result<()>,
    ) -> Result<()> {
        let Canvas { height, width, .. } = self.bands.canvas;
        let shape = [height, width];
        let mut file = NpzWriter::create(path)?;
        let complex = |band: Stitched| band.object.into_raw_vec_and_offset().0;
        file.c64_parts("object", &shape, self.parts(complex))?;
        let mut real = |name: &str, values: fn(Stitched) -> Array2<f32>| {
            let numbers = self.parts(move |band| values(band).into_raw_vec_and_offset().0);
            file.f32_parts(name, &shape, numbers)
        };
        real("weights", |band| band.weights)?;
        real("consistency", |band| band.consistency)?;
        real("amplitude", |band| band.object.mapv(|z| z.norm()))?;
        real("phase", |band| band.object.mapv(|z| z.arg()))?;
        self.rest.write_rest(file, scan, metadata, more)
    }

    /// Something of each band, one after the other.
    fn parts<T>(&self, of: impl Fn(Stitched) -> T) -> impl FnMut() -> Result<Option<T>> {
        let mut bands = self.bands.bands();
        move || bands.next().map(|rows| Ok(of(self.bands.band(rows)?))).transpose()
    }

    fn walk(&self, mut see: impl FnMut(Range<usize>, Stitched) -> Result<()>) -> Result<()> {
        self.bands.bands().try_for_each(|rows| see(rows.clone(), self.bands.band(rows)?))
    }
}

/// The number below which a `share` of the positive ones lies, 0 for none, of numbers that `walk` shows
/// as often as it is asked to. Positive numbers have the order of their bits: the first look finds the
/// upper half of them, the second the lower.
fn quantile(mut walk: impl FnMut(&mut dyn FnMut(f32)) -> Result<()>, share: f64) -> Result<f32> {
    let half = 1usize << 16;
    let (mut count, mut upper) = (0usize, vec![0usize; half]);
    walk(&mut |value| {
        if value > 0.0 {
            count += 1;
            upper[(value.to_bits() >> 16) as usize] += 1;
        }
    })?;
    let mut left = (share * count as f64) as usize;
    if left >= count {
        return Ok(0.0);
    }
    let find = |counts: &[usize], left: &mut usize| {
        let at = counts.iter().position(|&n| match left.checked_sub(n) {
            Some(rest) => {
                *left = rest;
                false
            }
            None => true,
        });
        at.expect("as many were counted")
    };
    let high = find(&upper, &mut left);
    let mut lower = vec![0usize; half];
    walk(&mut |value| {
        let bits = value.to_bits() as usize;
        if value > 0.0 && bits >> 16 == high {
            lower[bits & (half - 1)] += 1;
        }
    })?;
    let low = find(&lower, &mut left);
    Ok(f32::from_bits((high << 16 | low) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    #[test]
    fn a_quantile_of_numbers_that_pass_by_is_that_of_the_sorted_ones() {
        let mut stream = Stream::new(5, Purpose::Noise, 0);
        for count in [0, 1, 2, 7, 1000] {
            let values: Vec<f32> =
                (0..count).map(|_| (10.0 * stream.uniform().powi(3) - 1.0) as f32).collect();
            let mut sorted: Vec<f32> = values.iter().copied().filter(|&v| v > 0.0).collect();
            sorted.sort_by(f32::total_cmp);
            for share in [0.0, 0.5, 0.9, 1.0] {
                let walk = |see: &mut dyn FnMut(f32)| {
                    values.iter().for_each(|&v| see(v));
                    Ok(())
                };
                let at = (share * sorted.len() as f64) as usize;
                let want = sorted.get(at).copied().unwrap_or(0.0);
                assert_eq!(quantile(walk, share).unwrap(), want, "{share} of {count}");
            }
        }
    }
}
