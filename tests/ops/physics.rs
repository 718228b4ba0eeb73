//! From object patch to loss.

use std::f64::consts::TAU;

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Role, Stage, Value};
use ptycho_gpu::ops::diffraction::{Source, diffraction};
use ptycho_gpu::ops::misfit::{self, Distance, Measured, Normalise, Upstream};
use ptycho_gpu::ops::{
    extract::extract,
    fft2::fft2,
    gather::gather,
    illuminate::illuminate,
    intensity::intensity,
    mae::mae,
    merge::{MergeRule, merge},
    poisson::poisson,
    polar::polar,
    scale::scale,
    weighted_sum::{Term, weighted_sum},
};
use ptycho_gpu::plan::Plan;
use ptycho_gpu::random::{Purpose, Stream};

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
        case(|g| {
            let x = g.param("frames", &shape);
            fft2(g, x)
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
        let (far, back) = (fft2(g, exit), fft2(g, exit));
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

/// How patterns of side N come about in the tests of [`diffraction`].
#[derive(Clone, Copy)]
struct Scene {
    side: usize,
    group: usize,
    modes: usize,
    /// Side of the canvas that the patches are cut out of, if they are.
    canvas: Option<usize>,
    distance: Distance,
    normalise: Normalise,
}

const SCENE: Scene = Scene {
    side: 64,
    group: 1,
    modes: 1,
    canvas: None,
    // Without a background the darkest pixels of noise would decide alone.
    distance: Distance::Poisson(0.05),
    normalise: Normalise::ValidPixels,
};

/// Samples of a scene, the second of the second scan.
const SAMPLES: usize = 2;

impl Scene {
    /// The loss of each sample, by one op or by the chain of those that it stands for.
    fn loss(self, g: &mut Graph, fused: bool) -> [Value; 2] {
        let Scene { side: n, group, modes, canvas, distance, normalise } = self;
        let source = match canvas {
            None => Source::Patches(g.param("object", &[SAMPLES, group, n, n, 2])),
            Some(side) => {
                let canvas = g.param("canvas", &[SAMPLES, side, side, 2]);
                Source::Canvas(canvas, g.input("offsets", &[SAMPLES, group, 2]))
            }
        };
        let probe = g.param("probe", &[2, modes, n, n, 2]);
        let seen = measured(g, &[SAMPLES, group, n, n], 2);
        let upstream = Upstream { weight: g.input("seed", &[SAMPLES]), factor: 1.0 };
        if fused {
            return diffraction(g, source, probe, seen, upstream, distance, normalise);
        }
        let patches = match source {
            Source::Patches(patches) => patches,
            Source::Canvas(canvas, offsets) => extract(g, canvas, offsets, n),
        };
        let exit = illuminate(g, patches, probe, seen.scan);
        let field = fft2(g, exit);
        let predicted = intensity(g, field);
        [predicted, misfit::misfit(g, distance, predicted, seen, upstream, normalise)]
    }

    /// Every seventh pixel of the first mask and every fifth of the second are ignored, and were not
    /// measured.
    fn case(self) -> Case {
        let pixels = self.side * self.side;
        let ignored = |i: usize| i % if i < pixels { 7 } else { 5 } == 0;
        let mask: Vec<f64> = (0..2 * pixels).map(|i| f64::from(!ignored(i))).collect();
        let amplitude = (0..SAMPLES * self.group * pixels).map(|i| {
            let (scan, pixel) = (i / pixels / self.group, i % pixels);
            let noise = (i * 7919 % 1009) as f64 / 1009.0;
            if ignored(scan * pixels + pixel) { f64::NAN } else { noise }
        });
        let case = case(|g| {
            let [intensity, loss] = self.loss(g, true);
            g.keep(intensity);
            loss
        });
        let case = case.with("amplitude", amplitude.collect::<Vec<_>>()).with("mask", mask);
        let case = case.with("dose", [1.5, 0.5]).with("scan", [0.0, 1.0]).with("seed", [1.0, 0.25]);
        if self.canvas.is_none() {
            return case;
        }
        case.with("offsets", &OFFSETS[..2 * SAMPLES * self.group])
    }
}

#[test]
fn diffraction_has_the_gradients_of_every_distance_at_both_sides() {
    for distance in [Distance::Poisson(0.05), Distance::Mae, Distance::Amplitude] {
        for side in [64, 128] {
            Scene { side, distance, ..SCENE }.case().check(2e-6); // seven ops in a row
        }
    }
}

#[test]
fn diffraction_sums_modes_and_the_patterns_of_a_group() {
    for normalise in [Normalise::ValidPixels, Normalise::Sum] {
        Scene { group: 2, modes: 3, normalise, ..SCENE }.case().check(2e-6);
    }
    Scene { side: 128, modes: 2, ..SCENE }.case().check(2e-6);
}

#[test]
fn diffraction_cuts_the_patches_of_a_group_out_of_its_canvas() {
    let cut = Scene { group: 3, canvas: Some(68), ..SCENE };
    cut.case().check(2e-6);
    Scene { side: 128, group: 1, canvas: Some(132), modes: 2, ..SCENE }.case().check(2e-6);
}

#[test]
fn diffraction_on_the_cpu_has_the_bits_of_the_ops_one_by_one() {
    for scene in [
        Scene { modes: 2, group: 2, ..SCENE },
        Scene { canvas: Some(70), group: 3, distance: Distance::Mae, ..SCENE },
        Scene { distance: Distance::Amplitude, normalise: Normalise::Sum, ..SCENE },
    ] {
        let [fused, chain] = [true, false].map(|fused| {
            let mut g = Graph::default();
            let [intensity, loss] = scene.loss(&mut g, fused);
            let seed = g.find("seed").unwrap();
            g.differentiate(loss, seed);
            let params = g.of_role(Role::Param);
            let gradients = params.iter().map(|&p| g.grad_of(p).unwrap());
            let results: Vec<Value> = gradients.chain([intensity, loss]).collect();
            results.iter().for_each(|&v| g.keep(v));
            bits_after_a_step(Plan::new(g), &results)
        });
        assert!(fused == chain, "{:?}", scene.distance);
    }
}

/// The bits of `results` in single precision, from the same noise in what has the same name.
fn bits_after_a_step(plan: Plan, results: &[Value]) -> Vec<Vec<u32>> {
    let mut cpu = Cpu::<f32>::new(plan.clone());
    for (v, slot) in [Role::Param, Role::Input].iter().flat_map(|&role| plan.of_role(role)) {
        let index = slot.name.bytes().fold(0, |sum, byte| 31 * sum % 65521 + u32::from(byte));
        let mut stream = Stream::new(1, Purpose::Noise, index);
        let noise = (0..slot.len()).map(|i| match slot.name.as_str() {
            "scan" => i as f32,
            "mask" => f32::from(i % 7 != 0),
            _ => (2.0 * stream.uniform() - 1.0) as f32,
        });
        cpu.set(v, &noise.collect::<Vec<f32>>());
    }
    cpu.run_stages(Stage::Forward..=Stage::Backward).unwrap();
    results.iter().map(|&v| cpu.get(v).iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn poisson_sums_the_valid_pixels_of_each_sample() {
    for normalise in [Normalise::ValidPixels, Normalise::Sum] {
        misfit(2, 2, |g, i, seen, up| poisson(g, i, seen, up, 0.05, normalise)).check(1e-6);
        misfit(1, 1, |g, i, seen, up| poisson(g, i, seen, up, 0.0, normalise)).check(1e-6);
    }
}

#[test]
fn poisson_of_no_photons_has_the_slope_of_the_mean() {
    let dark = |g: &mut Graph, i, seen, up| poisson(g, i, seen, up, 0.0, Normalise::Sum);
    assert_eq!(one_pixel(dark, 0.0, 0.0, 3.0).1, 9.0);
    assert_eq!(one_pixel(dark, 2.0, 0.0, 3.0), (18.0, 9.0));
    assert!(one_pixel(dark, 0.0, 2.0, 3.0).1.is_finite());
}

#[test]
fn poisson_differs_from_the_log_likelihood_by_a_constant_of_the_data() {
    let nll = |g: &mut Graph, i, seen, up| poisson(g, i, seen, up, 0.5, Normalise::Sum);
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
        misfit(2, 2, |g, i, seen, up| mae(g, i, seen, up, normalise)).check(1e-6);
        misfit(1, 1, |g, i, seen, up| mae(g, i, seen, up, normalise)).check(1e-6);
    }
}

#[test]
fn mae_is_flat_at_its_kinks() {
    let error = |g: &mut Graph, i, seen, up| mae(g, i, seen, up, Normalise::ValidPixels);
    assert_eq!(one_pixel(error, 0.0, 2.0, 3.0), (6.0, 0.0));
    assert_eq!(one_pixel(error, 4.0, 2.0, 3.0), (0.0, 0.0));
    assert_eq!(one_pixel(error, 4.0, 1.0, 3.0), (3.0, 0.75));
}

#[test]
fn misfits_know_their_share_of_a_weighted_total() {
    for kind in ["poisson", "mae"] {
        case(|g| {
            let intensity = g.param("intensity", &[2, 2, 3, 3]);
            let seen = measured(g, &[2, 2, 3, 3], 2);
            let upstream = Upstream { weight: g.input("weight", &[2]), factor: 0.25 };
            let loss = match kind {
                "poisson" => poisson(g, intensity, seen, upstream, 0.05, Normalise::ValidPixels),
                _ => mae(g, intensity, seen, upstream, Normalise::ValidPixels),
            };
            let Upstream { weight, factor: coefficient } = upstream;
            weighted_sum(g, vec![term(loss, weight, coefficient)])
        })
        .positive()
        .with("mask", MASKS)
        .with("scan", [0.0, 1.0])
        .with("seed", [1.0])
        .check(1e-6);
    }
}

/// A loss of `b` samples of `c` patterns of 3 × 3 pixels; every other sample is of the second scan.
fn misfit(
    b: usize,
    c: usize,
    build: impl FnOnce(&mut Graph, Value, Measured, Upstream) -> Value,
) -> Case {
    let scan: Vec<f64> = (0..b).map(|b| (b % 2) as f64).collect();
    case(|g| {
        let intensity = g.param("intensity", &[b, c, 3, 3]);
        let seen = measured(g, &[b, c, 3, 3], 2);
        let upstream = Upstream { weight: g.input("seed", &[b]), factor: 1.0 };
        build(g, intensity, seen, upstream)
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
    build: impl FnOnce(&mut Graph, Value, Measured, Upstream) -> Value,
    intensity: f64,
    amplitude: f64,
    dose: f64,
) -> (f64, f64) {
    let mut g = Graph::default();
    let i = g.param("intensity", &[1, 1, 1, 1]);
    let seen = measured(&mut g, &[1, 1, 1, 1], 1);
    let seed = g.input("seed", &[1]);
    let loss = build(&mut g, i, seen, Upstream { weight: seed, factor: 1.0 });
    g.keep(loss);
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

#[test]
fn gather_takes_members_of_any_shape_in_any_order() {
    let mut g = Graph::default();
    let (source, index) = (g.input("source", &[4, 1, 3]), g.input("index", &[1, 3]));
    let batch = gather(&mut g, source, index);
    assert_eq!(g.shape(batch), [1, 3, 1, 3]);
    let source: Vec<f64> = (0..12).map(f64::from).collect();
    let got = forward(g, batch, &[("source", &source), ("index", &[2.0, 0.0, 2.0])]);
    assert_eq!(got, [6., 7., 8., 0., 1., 2., 6., 7., 8.]);
}

#[test]
fn scale_multiplies_each_sample_by_its_gain() {
    for shape in [vec![3, 2, 5, 5], vec![1, 7]] {
        case(|g| {
            let (x, gain) = (g.param("x", &shape), g.input("gain", &shape[..1]));
            scale(g, x, gain)
        })
        .linear()
        .check(1e-6);
    }
}

#[test]
fn scale_takes_the_gain_of_the_sample_itself() {
    let mut g = Graph::default();
    let (x, gain) = (g.input("x", &[2, 2]), g.input("gain", &[2]));
    let y = scale(&mut g, x, gain);
    assert_eq!(forward(g, y, &[("x", &[1., 2., 3., 4.]), ("gain", &[3., 5.])]), [3., 6., 15., 20.]);
}

#[test]
fn scale_adds_to_a_gradient_that_is_there() {
    case(|g| {
        let (x, gain) = (g.param("x", &[2, 1, 3, 3]), g.input("gain", &[2]));
        let [a, b] = [(); 2].map(|()| scale(g, x, gain));
        polar(g, a, b)
    })
    .check(1e-6);
}

fn term(value: Value, weight: Value, coefficient: f64) -> Term {
    Term { value, weight, coefficient }
}

#[test]
fn weighted_sum_adds_terms_over_samples() {
    case(|g| {
        let [data, prior] = ["data", "prior"].map(|name| g.param(name, &[5]));
        let [v, w] = ["v", "w"].map(|name| g.input(name, &[5]));
        weighted_sum(g, vec![term(data, v, 0.75), term(prior, w, -2.0)])
    })
    .linear()
    .check(1e-6);
    case(|g| {
        let (x, weight) = (g.param("x", &[1]), g.input("weight", &[1]));
        weighted_sum(g, vec![term(x, weight, 1.0), term(x, weight, 2.0)])
    })
    .linear()
    .check(1e-6);
}

#[test]
fn weighted_sum_reports_each_term() {
    let mut g = Graph::default();
    let (a, b, weight) = (g.input("a", &[2]), g.input("b", &[2]), g.input("w", &[2]));
    let loss = weighted_sum(&mut g, vec![term(a, weight, 2.0), term(b, weight, 3.0)]);
    assert_eq!(g.name(loss), "loss");
    let terms = g.find("loss terms").expect("the terms are kept");
    let inputs: [(&str, &[f64]); 3] = [("a", &[1.0, 2.0]), ("b", &[4.0, 8.0]), ("w", &[0.5, 0.25])];
    assert_eq!(forward(g, terms, &inputs), [1.0, 4.0]);
}

/// Offsets (x, y) of two groups of three patches: whole, fractional, and over the border.
const OFFSETS: [f64; 12] = [1., -1., 0.25, 0.5, -1.75, 2.25, 0., 0., -0.5, 3.5, 2.125, -0.25];

#[test]
fn merge_is_linear_in_the_patches() {
    for (b, c, side, canvas) in [(2, 3, 5, 9), (1, 1, 4, 4), (2, 2, 4, 8)] {
        for rule in [MergeRule::default(), MergeRule { threshold: 0.3, floor: 0.01 }] {
            case(|g| {
                let patches = g.param("patches", &[b, c, side, side, 2]);
                let (offsets, w) = (g.input("offsets", &[b, c, 2]), g.input("w", &[side, side]));
                merge(g, patches, offsets, w, canvas, rule)
            })
            .positive()
            .with("offsets", &OFFSETS[..2 * b * c])
            .linear()
            .check(1e-6);
        }
    }
}

#[test]
fn merge_moves_a_patch_by_its_offset() {
    let mut g = Graph::default();
    let (patches, w) = (g.input("patches", &[1, 1, 2, 2, 2]), g.input("w", &[2, 2]));
    let offsets = g.input("offsets", &[1, 1, 2]);
    let canvas = merge(&mut g, patches, offsets, w, 4, MergeRule::default());
    let patch = [1., 10., 2., 20., 3., 30., 4., 40.];
    let inputs: [(&str, &[f64]); 3] =
        [("patches", &patch), ("w", &[0.5; 4]), ("offsets", &[1.0, -1.0])];
    let mut want = [0.0; 32];
    want[4..8].copy_from_slice(&patch[..4]);
    want[12..16].copy_from_slice(&patch[4..]);
    assert_eq!(forward(g, canvas, &inputs), want);
}

#[test]
fn merge_and_extract_add_to_a_gradient_that_is_there() {
    case(|g| {
        let (patches, w) = (g.param("patches", &[1, 3, 5, 5, 2]), g.input("w", &[5, 5]));
        let offsets = g.input("offsets", &[1, 3, 2]);
        let [one, two] = [(); 2].map(|()| merge(g, patches, offsets, w, 9, MergeRule::default()));
        let parts = [one, one, two].map(|canvas| extract(g, canvas, offsets, 5));
        let scan = g.input("scan", &[1]);
        let [a, b, c] = parts.map(|part| lit(g, part, scan));
        let object = polar(g, a, b);
        let object = lit(g, object, scan);
        polar(g, object, c)
    })
    .positive()
    .with("offsets", &OFFSETS[..6])
    .with("scan", [0.0])
    .check(1e-5); // a dozen ops in a row
}

#[test]
fn extract_is_linear_in_the_canvas() {
    for (b, c, side, canvas) in [(2, 3, 5, 9), (1, 1, 4, 4), (2, 2, 4, 8)] {
        case(|g| {
            let k = g.param("canvas", &[b, canvas, canvas, 2]);
            let offsets = g.input("offsets", &[b, c, 2]);
            extract(g, k, offsets, side)
        })
        .with("offsets", &OFFSETS[..2 * b * c])
        .linear()
        .check(1e-6);
    }
}

#[test]
fn extract_finds_the_patches_that_were_merged() {
    let mut g = Graph::default();
    let (patches, w) = (g.input("patches", &[1, 1, 3, 3, 2]), g.input("w", &[3, 3]));
    let offsets = g.input("offsets", &[1, 1, 2]);
    let canvas = merge(&mut g, patches, offsets, w, 9, MergeRule::default());
    let found = extract(&mut g, canvas, offsets, 3);
    let patch: Vec<f64> = (0..18).map(f64::from).collect();
    let inputs: [(&str, &[f64]); 3] =
        [("patches", &patch), ("w", &[0.5; 9]), ("offsets", &[-2.0, 3.0])];
    assert_eq!(forward(g, found, &inputs), patch);
}

/// Intensity of [B, C, N, N, 2] patches under a probe of noise.
fn lit(g: &mut Graph, patches: Value, scan: Value) -> Value {
    let [_, _, n, _, _] = g.dims(patches);
    let probe = g.input("probe", &[1, 1, n, n, 2]);
    let exit = illuminate(g, patches, probe, scan);
    intensity(g, exit)
}
