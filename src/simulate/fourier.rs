//! The unitary two-dimensional Fourier transform in f64, for simulation and metrics.

use std::sync::Arc;

use ndarray::Array2;
use num_complex::Complex64;
use rustfft::{Fft, FftPlanner};

type Plan = Arc<dyn Fft<f64>>;

/// Planned transforms of one shape; any sizes. Plans are shared between threads.
pub struct Fft2 {
    shape: [usize; 2],
    forward: [Plan; 2],
    inverse: [Plan; 2],
}

impl Fft2 {
    /// Plans for arrays of `height` × `width`.
    pub fn new(height: usize, width: usize) -> Fft2 {
        let mut planner = FftPlanner::new();
        let forward = [planner.plan_fft_forward(height), planner.plan_fft_forward(width)];
        let inverse = [planner.plan_fft_inverse(height), planner.plan_fft_inverse(width)];
        Fft2 { shape: [height, width], forward, inverse }
    }

    /// In place; zero frequency at (0, 0).
    ///
    /// # Panics
    /// For another shape than the planned one.
    pub fn forward(&self, image: &mut Array2<Complex64>) {
        self.transform(image, &self.forward);
    }

    /// In place; the inverse of [`Fft2::forward`].
    ///
    /// # Panics
    /// For another shape than the planned one.
    pub fn inverse(&self, image: &mut Array2<Complex64>) {
        self.transform(image, &self.inverse);
    }

    fn transform(&self, image: &mut Array2<Complex64>, plans: &[Plan; 2]) {
        assert_eq!(image.shape(), self.shape, "the array has the shape that was planned");
        rows(image, &plans[1]);
        let mut columns = image.t().as_standard_layout().into_owned();
        rows(&mut columns, &plans[0]);
        let unitary = 1.0 / ((self.shape[0] * self.shape[1]) as f64).sqrt();
        image.zip_mut_with(&columns.t(), |z, &c| *z = c * unitary);
    }
}

fn rows(image: &mut Array2<Complex64>, plan: &Plan) {
    let mut row = Vec::with_capacity(image.ncols());
    for mut line in image.rows_mut() {
        row.clear();
        row.extend(line.iter().copied());
        plan.process(&mut row);
        line.iter_mut().zip(&row).for_each(|(z, &r)| *z = r);
    }
}

/// Frequency of index `i` of `n` in cycles per pixel, in [−1/2, 1/2).
pub fn frequency(i: usize, n: usize) -> f64 {
    let signed = if i < n.div_ceil(2) { i as f64 } else { i as f64 - n as f64 };
    signed / n as f64
}

/// Moves index 0 to n/2 along both axes.
pub fn centre<T: Copy>(image: &Array2<T>) -> Array2<T> {
    let (height, width) = image.dim();
    Array2::from_shape_fn((height, width), |(y, x)| {
        image[[(y + height - height / 2) % height, (x + width - width / 2) % width]]
    })
}
