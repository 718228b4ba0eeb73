//! Ops of a graph whose parameters are the object itself, positions, gains and background.

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Stage, Value};
use ptycho_gpu::ops::misfit::{Measured, Normalise, Upstream};
use ptycho_gpu::ops::{
    amplitude::amplitude, background::background, complex_variation::complex_variation, cut::cut,
    gather::gather, illuminate::illuminate, intensity::intensity, limit_modulus::limit_modulus,
    modulate::grids, modulate::modulate, modulate::modulate_backward, polar::polar, scale::scale,
};
use ptycho_gpu::plan::Plan;

use crate::support::{Case, case};

/// Corners (column, row) of three patches on a canvas of 7 × 11 pixels: inside, over two borders,
/// and outside.
const CORNERS: [f64; 6] = [2., 1., -2., 4., 8., 7.];

/// What is added to them: whole, fractional, and more than a pixel.
const SHIFTS: [f64; 6] = [0., 0.25, 0.5, -0.75, -1.625, 1.375];

fn cuts(canvas: bool, shift: bool) -> Case {
    case(|g| {
        let mut array = |name: &str, shape: &[usize], param: bool| {
            if param { g.param(name, shape) } else { g.input(name, shape) }
        };
        let k = array("canvas", &[7, 11, 2], canvas);
        let d = array("shift", &[3, 2], shift);
        let corner = g.input("corner", &[3, 2]);
        cut(g, k, corner, d, 4)
    })
    .with("corner", CORNERS)
}

#[test]
fn cut_is_linear_in_the_canvas() {
    cuts(true, false).with("shift", SHIFTS).linear().check(1e-6);
}

#[test]
fn cut_moves_with_its_shift() {
    // Between whole pixels, where the bilinear rule has a derivative.
    let between = SHIFTS.map(|s| s + 0.125);
    cuts(false, true).with("shift", between).check(1e-6);
    cuts(true, true).with("shift", between).check(1e-6);
}

#[test]
fn cut_adds_to_gradients_that_are_there() {
    case(|g| {
        let (k, d) = (g.param("canvas", &[6, 5, 2]), g.param("shift", &[1, 2]));
        let corner = g.input("corner", &[1, 2]);
        let (probe, scan) = (g.input("probe", &[1, 1, 4, 4, 2]), g.input("scan", &[1]));
        let [a, b] = [(); 2].map(|()| {
            let patch = cut(g, k, corner, d, 4);
            let exit = illuminate(g, patch, probe, scan);
            intensity(g, exit)
        });
        polar(g, a, b)
    })
    .with("corner", [1.0, 1.0])
    .with("shift", [0.375, -0.25])
    .with("scan", [0.0])
    .check(1e-6);
}

#[test]
fn cut_keeps_a_small_shift_far_from_the_origin() {
    let mut g = Graph::default();
    let width = 1 << 14;
    let (k, corner) = (g.input("canvas", &[1, width, 2]), g.input("corner", &[1, 2]));
    let shift = g.input("shift", &[1, 2]);
    let patch = cut(&mut g, k, corner, shift, 1);
    g.keep(patch);
    let mut cpu = Cpu::<f32>::new(Plan::new(g));
    let mut canvas = vec![0.0; 2 * width];
    canvas[2 * (width - 1)] = 1.0;
    // 16382 + 2⁻¹² needs more digits than f32 has.
    let small = 2f32.powi(-12);
    let inputs =
        [(k, canvas.as_slice()), (corner, &[width as f32 - 2.0, 0.0]), (shift, &[small, 0.0])];
    inputs.iter().for_each(|(v, x)| cpu.write(*v, x).unwrap());
    cpu.run(Stage::Forward).unwrap();
    assert_eq!(cpu.read(patch).unwrap()[0], small);
}

#[test]
fn gather_gives_each_member_of_a_table_its_gradient() {
    for index in [vec![2.0, 0.0, 3.0], vec![1.0, 1.0, 2.0]] {
        case(|g| {
            let (table, index) = (g.param("table", &[4, 2]), g.input("index", &[3]));
            gather(g, table, index)
        })
        .with("index", index)
        .linear()
        .check(1e-6);
    }
}

#[test]
fn scale_learns_its_gains() {
    let gains = |x: bool| {
        case(|g| {
            let x = if x { g.param("x", &[3, 1, 5, 5]) } else { g.input("x", &[3, 1, 5, 5]) };
            let gain = g.param("gain", &[3]);
            scale(g, x, gain)
        })
    };
    gains(false).linear().check(1e-6);
    gains(true).check(1e-6);
}

#[test]
fn background_adds_light_to_every_pattern() {
    for root in [vec![1], vec![3, 3]] {
        case(|g| {
            let (x, root) = (g.param("intensity", &[2, 1, 3, 3]), g.param("root", &root));
            background(g, x, root)
        })
        .check(1e-6);
    }
}

#[test]
fn amplitude_sums_the_valid_pixels_of_each_sample() {
    const MASKS: [f64; 8] = [0., 1., 0.5, 1., 1., 1., 1., 0.];
    for normalise in [Normalise::ValidPixels, Normalise::Sum] {
        case(|g| {
            let (intensity, seen) = losses(g, [3, 2, 2, 2], 2);
            let upstream = Upstream { weight: g.input("seed", &[3]), factor: 1.0 };
            amplitude(g, intensity, seen, upstream, normalise)
        })
        .positive()
        .with("mask", MASKS)
        .with("scan", [1.0, 0.0, 1.0])
        .check(1e-6);
    }
}

#[test]
fn amplitude_has_no_nan_on_a_dark_pixel() {
    for measured in [0.0, 2.0] {
        let mut g = Graph::default();
        let (intensity, seen) = losses(&mut g, [1, 1, 1, 1], 1);
        let seed = g.input("seed", &[1]);
        let upstream = Upstream { weight: seed, factor: 1.0 };
        let loss = amplitude(&mut g, intensity, seen, upstream, Normalise::Sum);
        g.keep(loss);
        g.differentiate(loss, seed);
        let slope = g.grad_of(intensity).unwrap();
        let mut cpu = Cpu::<f32>::new(Plan::new(g));
        for (v, x) in [(intensity, 0.0), (seen.amplitude, measured), (seen.dose, 3.0)] {
            cpu.write(v, &[x]).unwrap();
        }
        for (v, x) in [(seen.mask, 1.0), (seen.scan, 0.0), (seed, 1.0)] {
            cpu.write(v, &[x]).unwrap();
        }
        cpu.run_stages(Stage::Forward..=Stage::Backward).unwrap();
        let (loss, slope) = (cpu.read(loss).unwrap()[0], cpu.read(slope).unwrap()[0]);
        assert!((loss - 9.0 * measured * measured).abs() < 1e-5, "loss {loss}");
        // Times the dark field, which is 0, this is a gradient of 0.
        assert!(slope.is_finite() && (slope < 0.0) == (measured > 0.0), "slope {slope}");
    }
}

#[test]
fn complex_variation_is_the_length_of_all_steps() {
    case(|g| {
        let z = g.param("z", &[2, 3, 5, 5, 2]);
        complex_variation(g, z)
    })
    .check(1e-6);
    let mut g = Graph::default();
    let z = g.input("z", &[1, 1, 2, 2, 2]);
    let total = complex_variation(&mut g, z);
    g.keep(total);
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    // From 0: 3 to the right, 4i downwards; from there 3, and 4i.
    cpu.set(z, &[0.0, 0.0, 3.0, 0.0, 0.0, 4.0, 3.0, 4.0]);
    cpu.run(Stage::Forward).unwrap();
    // The softened root is off by at most ε at each pixel.
    assert!((cpu.get(total)[0] - (5.0 + 4.0 + 3.0)).abs() < 4e-3);
}

#[test]
fn limit_modulus_shortens_what_is_too_long_and_keeps_the_phase() {
    let mut g = Graph::default();
    let (z, limit) = (g.param("z", &[3, 2]), g.input("limit", &[1]));
    limit_modulus(&mut g, z, limit);
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    cpu.set(z, &[0.6, 0.0, 3.0, -4.0, 0.0, 0.0]);
    cpu.set(limit, &[1.0]);
    cpu.run(Stage::Forward).unwrap();
    let got = cpu.get(z);
    let want = [0.6, 0.0, 0.6, -0.8, 0.0, 0.0];
    assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}");
}

/// A canvas whose last row and column lie between nodes, and the pixels from one node to the next.
const CANVAS: [usize; 2] = [14, 26];
const SPACING: usize = 3;

/// A canvas of noise, and what `modulate` makes of it with grids of these values.
fn modulated(fine: impl Fn(usize) -> f64, coarse: impl Fn(usize) -> f64) -> [Vec<f64>; 2] {
    let mut g = Graph::default();
    let canvas = g.param("canvas", &[CANVAS[0], CANVAS[1], 2]);
    let nodes = grids(CANVAS[0], CANVAS[1], SPACING).map(|shape| g.input("grid", &shape));
    modulate(&mut g, canvas, nodes, SPACING);
    let lengths = nodes.map(|v| g.len(v));
    let before: Vec<f64> = (0..g.len(canvas)).map(|i| (1.7 * i as f64).sin()).collect();
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    cpu.set(canvas, &before);
    cpu.set(nodes[0], &(0..lengths[0]).map(fine).collect::<Vec<_>>());
    cpu.set(nodes[1], &(0..lengths[1]).map(coarse).collect::<Vec<_>>());
    cpu.run(Stage::Forward).unwrap();
    [before, cpu.get(canvas).to_vec()]
}

#[test]
fn modulate_turns_phases_and_keeps_the_modulus_where_the_grids_are_imaginary() {
    // Odd numbers are the imaginary parts: 0.2 on the finer grid and 0.1 on the coarser one.
    let odd = |value: f64| move |i: usize| if i % 2 == 1 { value } else { 0.0 };
    let [before, after] = modulated(odd(0.2), odd(0.1));
    let (sine, cosine) = (2.0 * 0.15f64.atan()).sin_cos();
    for (z, w) in before.chunks(2).zip(after.chunks(2)) {
        assert!((w[0] - (z[0] * cosine - z[1] * sine)).abs() < 1e-12);
        assert!((w[1] - (z[0] * sine + z[1] * cosine)).abs() < 1e-12);
    }
}

#[test]
fn modulate_is_the_exponential_to_second_order() {
    let even = |value: f64| move |i: usize| if i.is_multiple_of(2) { value } else { 0.0 };
    let [before, after] = modulated(even(0.01), even(-0.03));
    let factor = (-0.02f64).exp();
    assert!(before.iter().zip(&after).all(|(z, w)| (w - factor * z).abs() <= 1e-5 * z.abs()));
}

/// The length of all steps in a part of the canvas, which reaches over its border: something that
/// knows each pixel from its neighbours.
fn roughness(g: &mut Graph, canvas: Value) -> Value {
    let (corner, shift) = (g.input("corner", &[1, 2]), g.input("shift", &[1, 2]));
    let patches = cut(g, canvas, corner, shift, 14);
    complex_variation(g, patches)
}

#[test]
fn gradients_of_the_smooth_parts_are_slopes_of_the_loss() {
    let write = |cpu: &mut Cpu<f64>| {
        for (name, values) in [("corner", vec![14.0, 2.0]), ("shift", vec![0.3, -0.4])] {
            let v = cpu.plan().find(name).unwrap();
            cpu.set(v, &values);
        }
        let v = cpu.plan().find("canvas").unwrap();
        let len = cpu.plan().slots[v.0].len();
        cpu.set(v, &(0..len).map(|i| (2.3 * i as f64).cos()).collect::<Vec<_>>());
    };
    let loss = |grid: usize, at: usize, step: f64| {
        let mut g = Graph::default();
        let canvas = g.param("canvas", &[CANVAS[0], CANVAS[1], 2]);
        let nodes = grids(CANVAS[0], CANVAS[1], SPACING).map(|shape| g.input("grid", &shape));
        let lengths = nodes.map(|v| g.len(v));
        modulate(&mut g, canvas, nodes, SPACING);
        let total = roughness(&mut g, canvas);
        g.keep(total);
        let mut cpu = Cpu::<f64>::new(Plan::new(g));
        write(&mut cpu);
        for (k, v) in nodes.into_iter().enumerate() {
            let mut values = vec![0.0; lengths[k]];
            if k == grid {
                values[at] = step;
            }
            cpu.set(v, &values);
        }
        cpu.run(Stage::Forward).unwrap();
        cpu.get(total)[0]
    };
    let mut g = Graph::default();
    let canvas = g.param("canvas", &[CANVAS[0], CANVAS[1], 2]);
    let nodes = grids(CANVAS[0], CANVAS[1], SPACING).map(|shape| g.param("grid", &shape));
    let lengths = nodes.map(|v| g.len(v));
    let total = roughness(&mut g, canvas);
    let seed = g.input("seed", &[1]);
    g.differentiate(total, seed);
    modulate_backward(&mut g, canvas, nodes, SPACING);
    let slopes = nodes.map(|v| g.grad_of(v).unwrap());
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    write(&mut cpu);
    cpu.set(seed, &[1.0]);
    for (v, len) in nodes.into_iter().zip(lengths) {
        cpu.set(v, &vec![9.0; len]);
    }
    cpu.run_stages(Stage::Forward..=Stage::Backward).unwrap();
    let [height, width, _] = grids(CANVAS[0], CANVAS[1], SPACING)[0];
    let fine = cpu.get(slopes[0]).to_vec();
    let steep = |y: usize, x: usize| fine[2 * (y * width + x)].abs() > 1e-3;
    assert!((0..width).any(|x| steep(height - 1, x)) && (0..height).any(|y| steep(y, width - 1)));
    for (grid, (&v, len)) in slopes.iter().zip(lengths).enumerate() {
        assert!(cpu.get(nodes[grid]).iter().all(|&x| x == 0.0), "the grids are set back to 0");
        for at in 0..len {
            let step = 1e-5;
            let slope = (loss(grid, at, step) - loss(grid, at, -step)) / (2.0 * step);
            let got = cpu.get(v)[at];
            assert!((got - slope).abs() < 1e-5 * (1.0 + slope.abs()), "{grid} {at}: {got} {slope}");
        }
    }
}

fn losses(g: &mut Graph, shape: [usize; 4], scans: usize) -> (Value, Measured) {
    let intensity = g.param("intensity", &shape);
    let seen = Measured {
        amplitude: g.input("amplitude", &shape),
        dose: g.input("dose", &shape[..1]),
        mask: g.input("mask", &[scans, shape[2], shape[3]]),
        scan: g.input("scan", &shape[..1]),
    };
    (intensity, seen)
}
