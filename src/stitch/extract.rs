//! One object → its patches: what stitching undoes.

use ndarray::{Array3, ArrayView2};
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;

use super::MOST_SIDE;
use crate::data::scan::Position;
use crate::{Error, Result};

/// Beyond this many pixels from the object a patch is empty anyway; keeps the indices in range.
const FAR: f64 = (1u64 << 40) as f64;

/// Cuts the patch around every position out of an object, [M, n, n].
///
/// `origin_yx` is the object pixel (row, column) of `object[0, 0]`; positions are in object pixels
/// and name the place of patch index (n/2, n/2). Between pixels the object is interpolated
/// bilinearly; outside of the array it is 0. At whole positions the patches are exact copies.
///
/// # Errors
/// [`Error::Run`] when `n` is odd or larger than any patch, or a position is not finite.
pub fn extract(
    object: ArrayView2<Complex32>,
    origin_yx: [i64; 2],
    positions: &[Position],
    n: usize,
) -> Result<Array3<Complex32>> {
    if !n.is_multiple_of(2) || n > MOST_SIDE {
        return Err(Error::Run(format!(
            "patches of {n} × {n} pixels cannot be cut out: their side must be even and at most {MOST_SIDE}"
        )));
    }
    if let Some(Position { x, y }) = positions.iter().find(|p| !p.is_finite()) {
        return Err(Error::Run(format!("no patch can be cut out at (x {x}, y {y}): not finite")));
    }
    let mut patches = Array3::zeros((positions.len(), n, n));
    if patches.is_empty() {
        return Ok(patches);
    }
    let pixels = patches.as_slice_mut().expect("an array made by zeros is contiguous");
    pixels.par_chunks_mut(n * n).zip(positions).for_each(|(patch, position)| {
        let (top, fy) = corner(position.y, origin_yx[0], n);
        let (left, fx) = corner(position.x, origin_yx[1], n);
        for (j, row) in (top..).zip(patch.chunks_mut(n)) {
            for (k, pixel) in (left..).zip(row) {
                let upper = between(at(object, j, k), at(object, j, k + 1), fx);
                let lower = between(at(object, j + 1, k), at(object, j + 1, k + 1), fx);
                let value = between(upper, lower, fy);
                *pixel = Complex32::new(value.re as f32, value.im as f32);
            }
        }
    });
    Ok(patches)
}

/// Array index of patch pixel 0 along one axis, and how far beyond it that pixel lies, in [0, 1).
fn corner(centre: f64, origin: i64, n: usize) -> (i64, f64) {
    let start = (centre - origin as f64 - (n / 2) as f64).clamp(-FAR, FAR);
    (start.floor() as i64, start - start.floor())
}

fn at(object: ArrayView2<Complex32>, row: i64, column: i64) -> Complex64 {
    let index = usize::try_from(row).ok().zip(usize::try_from(column).ok());
    let pixel = index.and_then(|index| object.get(index)).copied().unwrap_or_default();
    Complex64::new(pixel.re.into(), pixel.im.into())
}

fn between(a: Complex64, b: Complex64, fraction: f64) -> Complex64 {
    a * (1.0 - fraction) + b * fraction
}
