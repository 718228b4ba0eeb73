//! Filters shared by metrics and simulated objects.

use ndarray::{Array1, Array2, ArrayView1, Axis};

/// A Gaussian is cut off at this many standard deviations, as scipy does.
const TRUNCATE: f64 = 4.0;

/// No image is so large.
const WIDEST: f64 = 1e6;

/// Gaussian blur of standard deviation `sigma` pixels; the image is mirrored at its edges
/// (d c b a | a b c d), like `scipy.ndimage.gaussian_filter`.
pub fn blur(image: &Array2<f64>, sigma: f64) -> Array2<f64> {
    let radius = (TRUNCATE * sigma + 0.5).min(WIDEST) as i64;
    let kernel: Vec<f64> =
        (-radius..=radius).map(|k| (-0.5 * (k as f64 / sigma).powi(2)).exp()).collect();
    let total: f64 = kernel.iter().sum();
    let kernel: Vec<f64> = kernel.into_iter().map(|k| k / total).collect();
    let mut out = image.clone();
    for axis in [Axis(0), Axis(1)] {
        for mut lane in out.lanes_mut(axis) {
            let blurred = blur_line(lane.view(), &kernel);
            lane.assign(&blurred);
        }
    }
    out
}

fn blur_line(line: ArrayView1<f64>, kernel: &[f64]) -> Array1<f64> {
    let n = line.len() as i64;
    let radius = (kernel.len() / 2) as i64;
    let mirrored = |i: i64| {
        let i = i.rem_euclid(2 * n);
        line[if i < n { i } else { 2 * n - 1 - i } as usize]
    };
    (0..n).map(|i| (-radius..).zip(kernel).map(|(k, w)| w * mirrored(i + k)).sum()).collect()
}
