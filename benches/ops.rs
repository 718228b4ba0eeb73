//! Time of each op at production shapes: `cargo bench --bench ops [FILTER]`.
//!
//! A row is op · shape · milliseconds (median of repeats) · rate. Times on a shared machine mean
//! little by themselves; compare rows of one run. The convolution is set beside the same product
//! as im2col and a general matrix multiplication.

use std::time::Instant;

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Role, Stage, Value};
use ptycho_gpu::ops::conv2d::conv2d;
use ptycho_gpu::plan::Plan;

const REPEATS: usize = 7;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:32} {:>20} {:>10} {:>12}", "op", "shape", "ms", "rate");
    for (batch, channels, side) in [(16, 64, 64), (16, 128, 32), (16, 256, 16), (16, 256, 8)] {
        if "conv2d".contains(&filter) {
            convolution(batch, channels, side);
        }
    }
}

/// Fills every parameter and input with small numbers and returns the backend.
fn backend(g: Graph) -> Cpu<f32> {
    let plan = Plan::new(g);
    let mut cpu = Cpu::new(plan.clone());
    for role in [Role::Param, Role::Input, Role::State] {
        for (v, slot) in plan.of_role(role) {
            let x: Vec<f32> = (0..slot.len()).map(|i| (i % 17) as f32 / 17.0 - 0.4).collect();
            cpu.set(v, &x);
        }
    }
    cpu
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

fn row(op: &str, shape: &str, ms: f64, rate: f64, unit: &str) {
    println!("{op:32} {shape:>20} {ms:>10.2} {rate:>8.1} {unit}");
}

fn convolution(batch: usize, channels: usize, side: usize) {
    let shape = format!("{batch}x{channels}x{side}x{side}");
    let flop = 2.0 * 9.0 * (batch * channels * channels * side * side) as f64;
    let build = |g: &mut Graph| -> Value {
        let x = g.param("x", &[batch, channels, side, side]);
        let w = g.param("w.weight", &[channels, channels, 3, 3]);
        let bias = g.param("bias", &[channels]);
        conv2d(g, x, w, Some(bias), true)
    };
    let mut g = Graph::default();
    let y = build(&mut g);
    g.keep(y);
    let seed = g.input("seed", &[batch, channels, side, side]);
    g.differentiate(y, seed);
    let mut cpu = backend(g);
    let forward = median(|| cpu.run(Stage::Forward).unwrap());
    row("conv2d forward", &shape, forward, flop / forward / 1e6, "GFLOP/s");
    let backward = median(|| cpu.run(Stage::Backward).unwrap());
    row("conv2d backward", &shape, backward, 2.0 * flop / backward / 1e6, "GFLOP/s");
    let gemm = median(|| im2col_gemm(batch, channels, side));
    row("im2col + matrixmultiply forward", &shape, gemm, flop / gemm / 1e6, "GFLOP/s");
}

/// The same product by the usual detour, one sample per task.
fn im2col_gemm(batch: usize, channels: usize, side: usize) {
    use rayon::prelude::*;
    let n = side * side;
    let x = vec![0.5f32; batch * channels * n];
    let w = vec![0.25f32; channels * channels * 9];
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
        let [m, k, n] = [channels, channels * 9, n];
        let strides = |columns: usize| (columns as isize, 1isize);
        let ((wr, wc), (xr, xc), (yr, yc)) = (strides(k), strides(n), strides(n));
        // SAFETY: w is m×k, columns k×n and y m×n, row-major.
        unsafe {
            matrixmultiply::sgemm(
                m,
                k,
                n,
                1.0,
                w.as_ptr(),
                wr,
                wc,
                columns.as_ptr(),
                xr,
                xc,
                0.0,
                y.as_mut_ptr(),
                yr,
                yc,
            );
        }
    });
    std::hint::black_box(y);
}
