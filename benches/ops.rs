//! Every op at production sizes: `cargo bench --bench ops [NAME]`, which is
//! `ptycho-gpu bench ops NAME`; then the convolution on the CPU beside the same product as im2col
//! and a general matrix multiplication.

use std::time::Instant;

use clap::Parser;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use ptycho_gpu::cli::Cli;

const REPEATS: usize = 7;

fn main() -> ptycho_gpu::Result<()> {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    Cli::parse_from(["ptycho-gpu", "bench", "ops", &filter]).run()?;
    if !"conv2d".contains(&filter) {
        return Ok(());
    }
    println!("\n{:34} {:>16} {:>12}", "im2col + matrixmultiply, forward", "shape", "µs");
    for (batch, channels, side) in [(16, 64, 32), (16, 64, 64), (16, 128, 32), (16, 256, 16)] {
        let flop = 2.0 * 9.0 * (batch * channels * channels * side * side) as f64;
        let ms = median(|| im2col_gemm(batch, channels, side));
        let (shape, rate) = (format!("{batch}x{channels}x{side}x{side}"), flop / ms / 1e6);
        println!("{:34} {shape:>16} {:>12.1} {rate:>8.1} GFLOP/s", "", 1e3 * ms);
    }
    Ok(())
}

/// Median milliseconds of `f`.
fn median(mut f: impl FnMut()) -> f64 {
    f();
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2]
}

/// The same product by the usual detour, one sample per task.
fn im2col_gemm(batch: usize, channels: usize, side: usize) {
    use rayon::prelude::*;
    let n = side * side;
    let x = vec![0.5f32; batch * channels * n];
    let w = Array2::from_elem((channels, channels * 9), 0.25f32);
    let mut y = vec![0f32; batch * channels * n];
    y.par_chunks_mut(channels * n).zip(x.par_chunks(channels * n)).for_each(|(y, x)| {
        let mut columns = vec![0f32; channels * 9 * n];
        for (k, column) in columns.chunks_exact_mut(n).enumerate() {
            let (c, u, v) = (k / 9, k / 3 % 3, k % 3);
            for r in 0..side {
                for p in 0..side {
                    let (r0, c0) = ((r + u).wrapping_sub(1), (p + v).wrapping_sub(1));
                    column[r * side + p] =
                        if r0 < side && c0 < side { x[c * n + r0 * side + c0] } else { 0.0 };
                }
            }
        }
        let columns = ArrayView2::from_shape((channels * 9, n), &columns[..]).unwrap();
        let mut y = ArrayViewMut2::from_shape((channels, n), y).unwrap();
        general_mat_mul(1.0, &w, &columns, 0.0, &mut y);
    });
    std::hint::black_box(y);
}
