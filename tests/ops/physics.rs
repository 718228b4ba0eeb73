//! From object patch to loss.

use std::f64::consts::TAU;

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Stage, Value};
use ptycho_gpu::ops::misfit::{Measured, Normalise};
use ptycho_gpu::ops::{
    fft2::{fft2, ifft2},
    illuminate::illuminate,
    intensity::intensity,
    mae::mae,
    poisson::poisson,
    polar::polar,
};
use ptycho_gpu::plan::Plan;

use crate::support::{Case, case, relative};

/// Two scans' masks of 3 × 3 pixels: a corner and a middle are ignored.
const MASKS: [f64; 18] = [0., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 0., 1., 1., 1., 1.];

#[test]
fn polar_makes_a_complex_patch_of_amplitude_and_phase() {
    case(|g| {
        let (a, phi) = (g.param("amplitude", &[2, 3, 5, 4]), g.param("phase", &[2, 3, 5, 4]));
        polar(g, a, phi)
    })
    .check(1e-6);
}

#[test]
fn polar_shares_one_amplitude_among_the_phases_of_a_group() {
    case(|g| {
        let (a, phi) = (g.param("amplitude", &[2, 1, 5, 4]), g.param("phase", &[2, 3, 5, 4]));
        polar(g, a, phi)
    })
    .check(1e-6);
}

#[test]
fn intensity_sums_the_modes_incoherently() {
    case(|g| {
        let field = g.param("field", &[2, 1, 3, 4, 4, 2]);
        intensity(g, field)
    })
    .check(1e-6);
}

#[test]
fn fft2_is_unitary_at_any_size() {
    for shape in [vec![1, 1, 1, 2], vec![2, 3, 5, 5, 2], vec![7, 7, 2], vec![1, 2, 3, 18, 18, 2]] {
        let frames = |g: &mut Graph| g.param("frames", &shape);
        case(|g| {
            let x = frames(g);
            fft2(g, x)
        })
        .linear()
        .check(1e-6);
        case(|g| {
            let x = frames(g);
            ifft2(g, x)
        })
        .linear()
        .check(1e-6);
    }
}

#[test]
fn fft2_of_a_point_is_a_plane_wave() {
    let (n, row, column) = (5, 1, 3);
    let mut g = Graph::default();
    let x = g.input("x", &[n, n, 2]);
    let y = fft2(&mut g, x);
    let mut point = vec![0.0; 2 * n * n];
    point[2 * (row * n + column)] = n as f64;
    let wave = |k: usize| -TAU * ((k / n * row + k % n * column) as f64) / n as f64;
    let want: Vec<f64> = (0..n * n).flat_map(|k| [wave(k).cos(), wave(k).sin()]).collect();
    assert!(relative(&forward(g, y, &[("x", &point)]), &want) < 1e-14);
}

#[test]
fn fft2_and_illuminate_add_to_a_gradient_that_is_there() {
    case(|g| {
        let (object, probe) =
            (g.param("object", &[2, 1, 4, 4, 2]), g.param("probe", &[1, 2, 4, 4, 2]));
        let scan = g.input("scan", &[2]);
        let [exit, again] = [(); 2].map(|()| illuminate(g, object, probe, scan));
        let (far, back) = (fft2(g, exit), ifft2(g, exit));
        let [far, back, near] = [far, back, again].map(|field| intensity(g, field));
        let patch = polar(g, far, back);
        let lit = illuminate(g, patch, probe, scan);
        let lit = intensity(g, lit);
        polar(g, lit, near)
    })
    .with("scan", [0.0, 0.0])
    .check(1e-5); // ten ops in a row
}

#[test]
fn illuminate_multiplies_every_mode_of_the_samples_own_scan() {
    let exit = |object: bool, probe: bool| {
        case(|g| {
            let mut array = |name: &str, shape: &[usize], param: bool| {
                if param { g.param(name, shape) } else { g.input(name, shape) }
            };
            let x = array("object", &[3, 2, 5, 5, 2], object);
            let p = array("probe", &[3, 2, 5, 5, 2], probe);
            let scan = g.input("scan", &[3]);
            illuminate(g, x, p, scan)
        })
        .with("scan", [2.0, 0.0, 2.0])
    };
    exit(true, false).linear().check(1e-6);
    exit(false, true).linear().check(1e-6);
    exit(true, true).check(1e-6);
}

#[test]
fn illuminate_takes_one_sample_and_one_mode() {
    case(|g| {
        let (x, p) = (g.param("object", &[1, 1, 3, 3, 2]), g.param("probe", &[1, 1, 3, 3, 2]));
        let scan = g.input("scan", &[1]);
        illuminate(g, x, p, scan)
    })
    .with("scan", [0.0])
    .check(1e-6);
}

#[test]
fn poisson_sums_the_valid_pixels_of_each_sample() {
    for normalise in [Normalise::ValidPixels, Normalise::Sum] {
        misfit(2, 2, |g, i, seen| poisson(g, i, seen, 0.05, normalise)).check(1e-6);
        misfit(1, 1, |g, i, seen| poisson(g, i, seen, 0.0, normalise)).check(1e-6);
    }
}

#[test]
fn poisson_of_no_photons_has_the_slope_of_the_mean() {
    let dark = |g: &mut Graph, i, seen| poisson(g, i, seen, 0.0, Normalise::Sum);
    assert_eq!(one_pixel(dark, 0.0, 0.0, 3.0).1, 9.0);
    assert_eq!(one_pixel(dark, 2.0, 0.0, 3.0), (18.0, 9.0));
    assert!(one_pixel(dark, 0.0, 2.0, 3.0).1.is_finite());
}

#[test]
fn poisson_differs_from_the_log_likelihood_by_a_constant_of_the_data() {
    let nll = |g: &mut Graph, i, seen| poisson(g, i, seen, 0.5, Normalise::Sum);
    let (kappa, amplitude) = (2.0, 1.5);
    let published = |intensity: f64| {
        let (lambda, k) = (kappa * kappa * intensity + 0.5, (kappa * amplitude).powi(2));
        lambda - k * lambda.ln()
    };
    let loss = |intensity| one_pixel(nll, intensity, amplitude, kappa).0;
    let (ours, theirs) = (loss(3.0) - loss(1.0), published(3.0) - published(1.0));
    assert!((ours - theirs).abs() < 1e-13, "{ours} ≠ {theirs}");
    assert_eq!(loss((9.0 - 0.5) / 4.0), 0.0);
}

#[test]
fn mae_averages_the_valid_pixels_of_each_sample() {
    for normalise in [Normalise::ValidPixels, Normalise::Sum] {
        misfit(2, 2, |g, i, seen| mae(g, i, seen, normalise)).check(1e-6);
        misfit(1, 1, |g, i, seen| mae(g, i, seen, normalise)).check(1e-6);
    }
}

#[test]
fn mae_is_flat_at_its_kinks() {
    let error = |g: &mut Graph, i, seen| mae(g, i, seen, Normalise::ValidPixels);
    assert_eq!(one_pixel(error, 0.0, 2.0, 3.0), (6.0, 0.0));
    assert_eq!(one_pixel(error, 4.0, 2.0, 3.0), (0.0, 0.0));
    assert_eq!(one_pixel(error, 4.0, 1.0, 3.0), (3.0, 0.75));
}

/// A loss of `b` samples of `c` patterns of 3 × 3 pixels; every other sample is of the second scan.
fn misfit(b: usize, c: usize, build: impl FnOnce(&mut Graph, Value, Measured) -> Value) -> Case {
    let scan: Vec<f64> = (0..b).map(|b| (b % 2) as f64).collect();
    case(|g| {
        let intensity = g.param("intensity", &[b, c, 3, 3]);
        let seen = measured(g, &[b, c, 3, 3], 2);
        build(g, intensity, seen)
    })
    .positive()
    .with("mask", MASKS)
    .with("scan", scan)
}

fn measured(g: &mut Graph, shape: &[usize; 4], scans: usize) -> Measured {
    Measured {
        amplitude: g.input("amplitude", shape),
        dose: g.input("dose", &shape[..1]),
        mask: g.input("mask", &[scans, shape[2], shape[3]]),
        scan: g.input("scan", &shape[..1]),
    }
}

/// Loss and ∂loss/∂I of a single pixel.
fn one_pixel(
    build: impl FnOnce(&mut Graph, Value, Measured) -> Value,
    intensity: f64,
    amplitude: f64,
    dose: f64,
) -> (f64, f64) {
    let mut g = Graph::default();
    let i = g.param("intensity", &[1, 1, 1, 1]);
    let seen = measured(&mut g, &[1, 1, 1, 1], 1);
    let loss = build(&mut g, i, seen);
    g.keep(loss);
    let seed = g.input("seed", &[1]);
    g.differentiate(loss, seed);
    let slope = g.grad_of(i).unwrap();
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    let inputs = [(i, intensity), (seen.amplitude, amplitude), (seen.dose, dose)];
    for (v, x) in inputs.into_iter().chain([(seen.mask, 1.0), (seen.scan, 0.0), (seed, 1.0)]) {
        cpu.set(v, &[x]);
    }
    cpu.run(Stage::Forward).unwrap();
    cpu.run(Stage::Backward).unwrap();
    (cpu.get(loss)[0], cpu.get(slope)[0])
}

/// The content of `output` in f64, with inputs by name.
fn forward(mut g: Graph, output: Value, inputs: &[(&str, &[f64])]) -> Vec<f64> {
    g.keep(output);
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    for (name, x) in inputs {
        let v = cpu.plan().find(name).expect("the graph has this input");
        cpu.set(v, x);
    }
    cpu.run(Stage::Forward).unwrap();
    cpu.get(output).to_vec()
}
