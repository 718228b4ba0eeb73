//! Time of each op at production shapes: `cargo bench --bench ops [FILTER]`.
//!
//! A row is op · shape · microseconds (median of repeats) · rate. The rate counts every buffer that
//! the op reads or writes once, workspaces included. Times on a shared machine mean little by
//! themselves; compare rows of one run. The convolution is set beside the same product as im2col
//! and a general matrix multiplication.

use std::time::Instant;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Group, Role, Stage, Value};
use ptycho_gpu::ops::activate::{Activation, activate};
use ptycho_gpu::ops::adam::{Constants, adam};
use ptycho_gpu::ops::clip::{Rule, clip};
use ptycho_gpu::ops::merge::{MergeRule, merge};
use ptycho_gpu::ops::misfit::{Measured, Normalise};
use ptycho_gpu::ops::{
    absolute_error::absolute_error, accumulate::accumulate, batch_norm::batch_norm,
    channel_gate::channel_gate, channel_pool::channel_pool, conv2d::conv2d, extract::extract,
    fft2::fft2, gather::gather, global_norm::global_norm, head_sum::head_sum,
    illuminate::illuminate, intensity::intensity, mae::mae, max_pool::max_pool,
    mean_deviation::mean_deviation, poisson::poisson, polar::polar, scale::scale, sgd::sgd,
    spatial_gate::spatial_gate, spatial_pool::spatial_pool, split::split,
    total_variation::total_variation, upsample::upsample, weighted_sum::weighted_sum,
};
use ptycho_gpu::plan::Plan;

const REPEATS: usize = 7;

/// Samples, largest feature maps, patterns in a group of the batch, and their side.
const BATCH: usize = 16;
const CHANNELS: usize = 64;
const GROUP: usize = 4;
const SIDE: usize = 64;
/// Side of the canvas that holds a group.
const CANVAS: usize = SIDE + 12;
/// Patterns of a scan.
const FRAMES: usize = 1000;
/// Parameters of the network for N = 64.
const WEIGHTS: usize = 2_300_000;

/// Appends one op to a graph and returns what is differentiated; `None` for an op without adjoint.
type Build = fn(&mut Graph) -> Option<Value>;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:32} {:>16} {:>12} {:>8}", "op", "shape", "µs", "rate");
    for (batch, channels, side) in [(16, 64, 64), (16, 128, 32), (16, 256, 16), (16, 256, 8)] {
        if "conv2d".contains(&filter) {
            convolution(batch, channels, side);
        }
    }
    let [network, physics, update] = [network(), physics(), update()];
    for (name, build) in network.into_iter().chain(physics).chain(update) {
        if name.contains(&filter) {
            measure(name, build);
        }
    }
}

fn image(g: &mut Graph, name: &str) -> Value {
    g.param(name, &[BATCH, CHANNELS, SIDE, SIDE])
}

/// Ops on feature maps.
fn network() -> Vec<(&'static str, Build)> {
    vec![
        ("activate relu", |g| Some(image(g, "x")).map(|x| activate(g, x, Activation::Relu))),
        ("activate silu", |g| Some(image(g, "x")).map(|x| activate(g, x, Activation::Silu))),
        ("batch_norm", |g| {
            let x = image(g, "x");
            let [gamma, beta] = ["gamma", "beta"].map(|name| g.param(name, &[CHANNELS]));
            let [mean, variance] = ["mean", "variance"].map(|name| g.state(name, &[CHANNELS]));
            let training = g.input("training", &[1]);
            Some(batch_norm(g, x, gamma, beta, mean, variance, training))
        }),
        ("channel_gate", |g| {
            let x = image(g, "x");
            let gate = g.param("gate", &[2 * BATCH, CHANNELS, 1, 1]);
            Some(channel_gate(g, x, gate))
        }),
        ("channel_pool", |g| Some(image(g, "x")).map(|x| channel_pool(g, x))),
        ("head_sum", |g| {
            let inner = g.param("inner", &[BATCH, GROUP, SIDE / 2, SIDE / 2]);
            let outer = g.param("outer", &[BATCH, GROUP, SIDE, SIDE]);
            Some(head_sum(g, inner, outer, false))
        }),
        ("max_pool", |g| Some(image(g, "x")).map(|x| max_pool(g, x))),
        ("spatial_gate", |g| {
            let y = image(g, "y");
            let gate = g.param("gate", &[BATCH, 1, SIDE, SIDE]);
            Some(spatial_gate(g, y, gate))
        }),
        ("spatial_pool", |g| Some(image(g, "x")).map(|x| spatial_pool(g, x))),
        ("split", |g| {
            let x = image(g, "x");
            let (low, high) = split(g, x, CHANNELS - 8);
            g.keep(high);
            Some(low)
        }),
        ("upsample", |g| {
            let x = g.param("x", &[BATCH, CHANNELS, SIDE / 2, SIDE / 2]);
            Some(upsample(g, x))
        }),
    ]
}

fn real(g: &mut Graph, name: &str) -> Value {
    g.param(name, &[BATCH, GROUP, SIDE, SIDE])
}

fn complex(g: &mut Graph, name: &str) -> Value {
    g.param(name, &[BATCH, GROUP, SIDE, SIDE, 2])
}

fn measured(g: &mut Graph) -> Measured {
    Measured {
        amplitude: g.input("amplitude", &[BATCH, GROUP, SIDE, SIDE]),
        dose: g.input("dose", &[BATCH]),
        mask: g.input("mask", &[1, SIDE, SIDE]),
        scan: g.input("scan", &[BATCH]),
    }
}

/// Ops on patches and patterns.
fn physics() -> Vec<(&'static str, Build)> {
    vec![
        ("absolute_error", |g| {
            let (x, target) = (real(g, "x"), g.input("target", &[BATCH, GROUP, SIDE, SIDE]));
            Some(absolute_error(g, x, target))
        }),
        ("extract", |g| {
            let canvas = g.param("canvas", &[BATCH, CANVAS, CANVAS, 2]);
            let offsets = g.input("offsets", &[BATCH, GROUP, 2]);
            Some(extract(g, canvas, offsets, SIDE))
        }),
        ("fft2", |g| Some(complex(g, "x")).map(|x| fft2(g, x))),
        ("gather", |g| {
            let frames = g.input("frames", &[FRAMES, SIDE, SIDE]);
            let index = g.input("index", &[BATCH, GROUP]);
            gather(g, frames, index);
            None
        }),
        ("illuminate", |g| {
            let object = complex(g, "object");
            let probe = g.param("probe", &[1, 2, SIDE, SIDE, 2]);
            let scan = g.input("scan", &[BATCH]);
            Some(illuminate(g, object, probe, scan))
        }),
        ("intensity", |g| {
            let field = g.param("field", &[BATCH, GROUP, 2, SIDE, SIDE, 2]);
            Some(intensity(g, field))
        }),
        ("mae", |g| {
            let (x, seen) = (real(g, "x"), measured(g));
            Some(mae(g, x, seen, Normalise::ValidPixels))
        }),
        ("mean_deviation", |g| Some(real(g, "x")).map(|x| mean_deviation(g, x))),
        ("merge", |g| {
            let patches = complex(g, "patches");
            let offsets = g.input("offsets", &[BATCH, GROUP, 2]);
            let weight = g.input("weight", &[SIDE, SIDE]);
            Some(merge(g, patches, offsets, weight, CANVAS, MergeRule::default()))
        }),
        ("poisson", |g| {
            let (x, seen) = (real(g, "x"), measured(g));
            Some(poisson(g, x, seen, 1e-6, Normalise::ValidPixels))
        }),
        ("polar", |g| {
            let (amplitude, phase) = (real(g, "amplitude"), real(g, "phase"));
            Some(polar(g, amplitude, phase))
        }),
        ("scale", |g| {
            let (x, gain) = (real(g, "x"), g.input("gain", &[BATCH]));
            Some(scale(g, x, gain))
        }),
        ("total_variation", |g| Some(real(g, "x")).map(|x| total_variation(g, x))),
        ("weighted_sum", |g| {
            let (loss, weight) = (g.param("loss", &[BATCH]), g.input("weight", &[BATCH]));
            Some(weighted_sum(g, vec![(loss, 1.0)], weight))
        }),
    ]
}

/// Parameters, gradients and moments of one large layer, as regions.
fn regions(g: &mut Graph) -> [Value; 4] {
    let param = g.param("weights", &[WEIGHTS]);
    for role in [Role::ParamGrad, Role::Moment1, Role::Moment2] {
        g.mirror(param, role, "of ");
    }
    [Role::Param, Role::ParamGrad, Role::Moment1, Role::Moment2]
        .map(|role| g.region(role, Group::Network))
}

/// Ops on all parameters at once.
fn update() -> Vec<(&'static str, Build)> {
    vec![
        ("accumulate", |g| {
            let [_, gradient, sum, _] = regions(g);
            let keep = g.input("keep", &[1]);
            accumulate(g, gradient, sum, keep);
            None
        }),
        ("adam", |g| {
            let (regions, control) = (regions(g), g.input("control", &[3]));
            let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
            let constants =
                Constants { beta1, beta2, epsilon, weight_decay: 0.0, decoupled: false };
            adam(g, regions, control, constants);
            None
        }),
        ("clip", |g| {
            let [_, gradient, ..] = regions(g);
            clip(g, Rule::Value, &[gradient], 0.5);
            None
        }),
        ("global_norm", |g| {
            let [_, gradient, ..] = regions(g);
            global_norm(g, &[gradient]);
            None
        }),
        ("sgd", |g| {
            let ([param, gradient, moment, _], control) = (regions(g), g.input("control", &[3]));
            sgd(g, [param, gradient, moment], control, 0.9, 0.0);
            None
        }),
    ]
}

/// One row for the op, and one for its adjoint.
fn measure(name: &str, build: Build) {
    let mut g = Graph::default();
    let output = build(&mut g);
    if let Some(y) = output {
        g.keep(y);
        let shape = g.shape(y).to_vec();
        let seed = g.input("seed", &shape);
        g.differentiate(y, seed);
    }
    let mut cpu = backend(g);
    let first = &cpu.plan().slots[0].shape;
    let shape = first.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    for (stage, what) in [(Stage::Forward, "forward"), (Stage::Backward, "backward")] {
        let plan = cpu.plan().clone();
        let touched = plan.stage(stage).flat_map(|s| [s.op.reads(), s.op.writes()].concat());
        // Of the scan only the patterns of the batch are read.
        let read = |v: Value| match plan.slots[v.0].name.as_str() {
            "frames" => BATCH * GROUP * SIDE * SIDE,
            _ => plan.range(v).len(),
        };
        let bytes: usize = touched.map(|v| read(v) * size_of::<f32>()).sum();
        if bytes > 0 {
            let ms = median(|| cpu.run(stage).unwrap());
            row(&format!("{name} {what}"), &shape, ms, bytes as f64 / ms / 1e6, "GB/s");
        }
    }
}

/// Fills everything that an op may read with numbers in (0, 1), which as indices are 0.
fn backend(g: Graph) -> Cpu<f32> {
    let plan = Plan::new(g);
    let mut cpu = Cpu::new(plan.clone());
    let moments = [Role::ParamGrad, Role::Moment1, Role::Moment2];
    for role in [Role::Param, Role::Input, Role::State].into_iter().chain(moments) {
        for (v, slot) in plan.of_role(role) {
            let x: Vec<f32> = (0..slot.len()).map(|i| ((i % 17) as f32 + 0.5) / 17.0).collect();
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
    println!("{op:32} {shape:>16} {:>12.1} {rate:>8.1} {unit}", 1e3 * ms);
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
