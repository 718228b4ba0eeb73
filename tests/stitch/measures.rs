//! Numbers that say how far two pictures differ.

use ndarray::{Array2, ArrayView2};
use num_complex::{Complex32, Complex64};

/// |a − b| / |b|.
pub fn relative_l2<'a>(
    a: impl Iterator<Item = &'a Complex32>,
    b: impl Iterator<Item = &'a Complex32>,
) -> f64 {
    let wide = |z: &Complex32| Complex64::new(z.re.into(), z.im.into());
    let (difference, size) = a.zip(b).fold((0.0, 0.0), |(difference, size), (a, b)| {
        (difference + (wide(a) - wide(b)).norm_sqr(), size + b.norm_sqr() as f64)
    });
    (difference / size).sqrt()
}

/// |⟨a, b⟩| / (|a| |b|) of what is left after taking the mean away, where `weights` > 0.
pub fn correlation(
    a: ArrayView2<Complex32>,
    b: ArrayView2<Complex32>,
    weights: &Array2<f32>,
) -> f64 {
    let covered = || a.iter().zip(b).zip(weights).filter(|(_, w)| **w > 0.0).map(|(pair, _)| pair);
    let wide = |z: &Complex32| Complex64::new(z.re.into(), z.im.into());
    let count = covered().count() as f64;
    let mean_a = covered().map(|(a, _)| wide(a)).sum::<Complex64>() / count;
    let mean_b = covered().map(|(_, b)| wide(b)).sum::<Complex64>() / count;
    let (mut cross, mut aa, mut bb) = (Complex64::default(), 0.0, 0.0);
    for (a, b) in covered() {
        let (a, b) = (wide(a) - mean_a, wide(b) - mean_b);
        cross += a * b.conj();
        aa += a.norm_sqr();
        bb += b.norm_sqr();
    }
    cross.norm() / (aa * bb).sqrt()
}

/// How far (rows, columns) the content of `moved` lies from that of `still`, by least squares on
/// the gradient of `still`: good to a few per cent for shifts below a pixel.
pub fn offset(
    moved: ArrayView2<Complex32>,
    still: ArrayView2<Complex32>,
    weights: &Array2<f32>,
) -> [f64; 2] {
    let (mut yy, mut yx, mut xx, mut yd, mut xd) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for y in 1..still.nrows() - 1 {
        for x in 1..still.ncols() - 1 {
            if weights[[y, x]] == 0.0 {
                continue;
            }
            let gy = (still[[y + 1, x]] - still[[y - 1, x]]) / 2.0;
            let gx = (still[[y, x + 1]] - still[[y, x - 1]]) / 2.0;
            let d = still[[y, x]] - moved[[y, x]];
            let dot = |a: Complex32, b: Complex32| f64::from(a.re * b.re + a.im * b.im);
            (yy, yx, xx) = (yy + dot(gy, gy), yx + dot(gy, gx), xx + dot(gx, gx));
            (yd, xd) = (yd + dot(gy, d), xd + dot(gx, d));
        }
    }
    let determinant = yy * xx - yx * yx;
    [(xx * yd - yx * xd) / determinant, (yy * xd - yx * yd) / determinant]
}
