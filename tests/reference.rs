//! Parity with the published network: activations, loss, every gradient, and five steps of Adam,
//! from vectors made by running it.
//!
//! The folder is PTYCHO_GOLDEN or, failing that, `shared/golden` beside the checkout; every case in
//! it is run. The published network differs from ours in constants (probe divided by 4, merge
//! weights with 0.001 added, amplitude activation, attention): they are given here.

#[allow(dead_code, reason = "one helper of the op harness is used here")]
mod support;

use std::path::{Path, PathBuf};

use num_complex::{Complex32, Complex64};
use ptycho_gpu::backend::Backend;
use ptycho_gpu::backend::cpu::{Cpu, Real};
use ptycho_gpu::config::{AmpActivation, Head, ModelConfig, OptimiserConfig};
use ptycho_gpu::data::npz::Npz;
use ptycho_gpu::exchange::PREFIX;
use ptycho_gpu::graph::{Graph, Role, Stage, Value};
use ptycho_gpu::models::cnn;
use ptycho_gpu::models::optimiser::{self, Controls};
use ptycho_gpu::models::physics::{Overlap, central_box, checkerboard, compare, merged};
use ptycho_gpu::ops::diffraction::Source;
use ptycho_gpu::ops::merge::MergeRule;
use ptycho_gpu::ops::misfit::{Distance, Measured, Normalise, Upstream};
use ptycho_gpu::ops::polar::polar;
use ptycho_gpu::ops::weighted_sum::{Term, weighted_sum};
use ptycho_gpu::plan::Plan;
use ptycho_gpu::random::ln_factorial;
use serde_json::Value as Json;
use support::{cuda, relative};

/// Relative error of losses and relative L2 error of activations.
const TOLERANCE: f64 = 1e-5;

/// Relative L2 error of a gradient at random weights; the published network's own difference
/// between f32 and f64 reaches 2e-3 on the worst tensor.
const GRADIENT: f64 = 1e-3;

/// The same on the trained case, whose gradients are well conditioned.
const GRADIENT_TRAINED: f64 = 3e-4;

#[test]
fn every_case_agrees_in_f64() {
    let open = |plan| -> Box<dyn Engine> { Box::new(Cpu::<f64>::new(plan)) };
    cases().iter().for_each(|case| check(case, "f64", false, open));
}

#[test]
fn every_case_agrees_in_f32() {
    let open = |plan| -> Box<dyn Engine> { Box::new(Cpu::<f32>::new(plan)) };
    cases().iter().for_each(|case| check(case, "f32", true, open));
}

#[test]
fn every_case_agrees_on_cuda() {
    let Some(device) = cuda() else { return };
    let open = |plan| -> Box<dyn Engine> { Box::new(Single(device.open(plan).unwrap())) };
    cases().iter().for_each(|case| check(case, "CUDA", true, open));
}

/// Runs a plan and shows its buffers in double precision.
trait Engine {
    fn get(&mut self, v: Value) -> Vec<f64>;
    fn set(&mut self, v: Value, values: &[f64]);
    fn run(&mut self, stage: Stage);
}

impl<T: Real> Engine for Cpu<T> {
    fn get(&mut self, v: Value) -> Vec<f64> {
        Cpu::get(self, v).iter().map(|x| x.wide()).collect()
    }

    fn set(&mut self, v: Value, values: &[f64]) {
        Cpu::set(self, v, &values.iter().map(|&x| T::of(x)).collect::<Vec<T>>());
    }

    fn run(&mut self, stage: Stage) {
        Backend::run(self, stage).unwrap();
    }
}

/// A device that computes in single precision.
struct Single(Box<dyn Backend>);

impl Engine for Single {
    fn get(&mut self, v: Value) -> Vec<f64> {
        self.0.read(v).unwrap().into_iter().map(f64::from).collect()
    }

    fn set(&mut self, v: Value, values: &[f64]) {
        self.0.write(v, &values.iter().map(|&x| x as f32).collect::<Vec<f32>>()).unwrap();
    }

    fn run(&mut self, stage: Stage) {
        self.0.run(stage).unwrap();
    }
}

/// Folders with a meta.json that describes a network.
fn cases() -> Vec<PathBuf> {
    let folder = match std::env::var_os("PTYCHO_GOLDEN") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"),
    };
    let Ok(entries) = folder.read_dir() else {
        assert!(std::env::var_os("PTYCHO_GOLDEN").is_none(), "{} is a folder", folder.display());
        eprintln!("skipped: no reference vectors in {}", folder.display());
        return Vec::new();
    };
    let mut cases: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    cases.retain(|case| case.join("weights.npz").exists());
    cases.sort();
    cases
}

/// The published loss of one batch, as a graph, and where its numbers go.
struct Reference {
    plan: Plan,
    images: Value,
    probe: Value,
    overlap: Option<Overlap>,
    inputs: Vec<(Value, f64)>,
    weight: Value,
    loss: Value,
    object: Value,
    intensity: Value,
    controls: Controls,
}

struct Case {
    name: String,
    meta: Json,
    batch: usize,
    channels: usize,
    side: usize,
    scale: f64,
}

impl Case {
    fn read(folder: &Path) -> Case {
        let text = std::fs::read_to_string(folder.join("meta.json")).unwrap();
        // The file was written by a program whose JSON knows NaN.
        let meta: Json = serde_json::from_str(&text.replace("NaN", "null")).unwrap();
        let size = |key: &str| meta[key].as_u64().unwrap() as usize;
        let scale = numbers(&folder.join("inputs.npz"), "physics_scale")[0];
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Case { name, batch: size("B"), channels: size("C"), side: size("N"), scale, meta }
    }

    fn model(&self) -> ModelConfig {
        ModelConfig {
            n: self.side,
            gridsize: self.meta["gridsize"].as_u64().unwrap() as usize,
            n_filters_scale: self.meta["n_filters_scale"].as_u64().unwrap() as usize,
            head: Head::Border,
            amp_activation: AmpActivation::Silu,
            cbam_encoder: true,
            ..ModelConfig::default()
        }
    }

    fn is_poisson(&self) -> bool {
        self.meta["loss"] == "poisson"
    }

    fn build(&self) -> Reference {
        let (b, c, n) = (self.batch, self.channels, self.side);
        let mut g = Graph::default();
        let images = g.input("images", &[b, c, n, n]);
        let training = g.input("training", &[1]);
        let patch = cnn::build(&mut g, &self.model(), images, training, &mut Vec::new());
        let network = polar(&mut g, patch.amplitude, patch.phase);
        let overlap = (c > 1).then(|| Overlap {
            offsets: g.input("offsets", &[b, c, 2]),
            weight: g.input("merge weight", &[n, n]),
            side: self.meta["padded_size"].as_u64().unwrap() as usize,
            rule: MergeRule { threshold: 1e-6, floor: 1e-3 },
        });
        let source = match &overlap {
            Some(overlap) => merged(&mut g, network, overlap),
            None => Source::Patches(network),
        };
        let probe = g.input("probe", &[1, 1, n, n, 2]);
        let (scan, dose) = (g.input("scan", &[b]), g.input("dose", &[b]));
        let mask = g.input("mask", &[1, n, n]);
        let measured = Measured { amplitude: images, dose, mask, scan };
        let (weight, seed) = (g.input("weight", &[b]), g.input("seed", &[1]));
        let upstream = Upstream { weight, factor: 1.0 };
        let (distance, normalise) = match self.is_poisson() {
            true => (Distance::Poisson(0.0), Normalise::Sum),
            false => (Distance::Mae, Normalise::ValidPixels),
        };
        let [intensity, misfit] =
            compare(&mut g, source, probe, measured, upstream, distance, normalise);
        let term = Term { value: misfit, weight, coefficient: 1.0 };
        let loss = weighted_sum(&mut g, vec![term]);
        g.differentiate(loss, seed);
        let controls = optimiser::attach(&mut g, &OptimiserConfig::default(), loss);
        let convolutions: Vec<Value> =
            (0..g.slot_count()).map(Value).filter(|&v| g.name(v).ends_with(" output")).collect();
        convolutions.into_iter().chain([network, intensity]).for_each(|v| g.keep(v));
        let inputs =
            vec![(training, 1.0), (scan, 0.0), (dose, self.scale), (mask, 1.0), (seed, 1.0)];
        let (object, plan) = (network, Plan::new(g));
        Reference {
            plan,
            images,
            probe,
            overlap,
            inputs,
            weight,
            loss,
            object,
            intensity,
            controls,
        }
    }
}

/// `open` makes the engine of a plan; `single` if that computes in f32.
fn check(folder: &Path, name: &str, single: bool, open: impl Fn(Plan) -> Box<dyn Engine>) {
    let case = Case::read(folder);
    let reference = case.build();
    let mut engine = open(reference.plan.clone());
    let engine = engine.as_mut();
    for &(v, value) in &reference.inputs {
        let len = reference.plan.slots[v.0].len();
        engine.set(v, &vec![value; len]);
    }
    write_probe(engine, &case, &reference, folder);
    let weights = folder.join("weights.npz");
    for (v, slot) in reference.plan.of_role(Role::Param) {
        engine.set(v, &numbers(&weights, &format!("{PREFIX}{}", slot.name)));
    }
    for role in [Role::Moment1, Role::Moment2] {
        for (v, slot) in reference.plan.of_role(role) {
            engine.set(v, &vec![0.0; slot.len()]);
        }
    }
    let constant = write_batch(engine, &case, &reference, folder, 0);
    engine.run(Stage::Forward);
    engine.run(Stage::Backward);
    let what = format!("{} {name}", case.name);
    let loss = engine.get(reference.loss)[0] + constant;
    close(&format!("{what} loss"), loss, case.meta["losses_f64"][0].as_f64().unwrap(), TOLERANCE);
    check_activations(engine, &case, &reference, folder, &what);
    check_gradients(engine, &case, &reference, folder, &what, single);
    check_adam(engine, &case, &reference, folder, &what);
}

/// The published forward divides the probe by a constant.
fn write_probe(engine: &mut dyn Engine, case: &Case, reference: &Reference, folder: &Path) {
    let n = case.side;
    let probe = complex(&folder.join("inputs.npz"), "probe");
    let probe = ndarray::Array3::from_shape_vec((1, n, n), probe).unwrap();
    let probe = checkerboard(probe.view(), 1.0 / case.meta["probe_scale"].as_f64().unwrap());
    let parts: Vec<f64> = probe.iter().flat_map(|z| [z.re.into(), z.im.into()]).collect();
    engine.set(reference.probe, &parts);
    if let Some(overlap) = &reference.overlap {
        let weight: Vec<f64> = central_box(n).iter().map(|&w| w.into()).collect();
        engine.set(overlap.weight, &weight);
    }
}

/// Writes batch `k` and returns what the published loss adds to ours: a constant of the data.
fn write_batch(
    engine: &mut dyn Engine,
    case: &Case,
    reference: &Reference,
    folder: &Path,
    k: usize,
) -> f64 {
    let inputs = folder.join("inputs.npz");
    let len = case.batch * case.channels * case.side * case.side;
    let images = &numbers(&inputs, "images_nchw")[k * len..][..len];
    engine.set(reference.images, images);
    if let Some(overlap) = &reference.overlap {
        let len = case.batch * case.channels * 2;
        // The published offsets count from the member to the middle of its group.
        let offsets = &numbers(&inputs, "coords_nc12")[k * len..][..len];
        engine.set(overlap.offsets, &offsets.iter().map(|x| -x).collect::<Vec<_>>());
    }
    let mean = images.iter().sum::<f64>() / len as f64;
    let weight = 1.0 / (case.batch as f64 * mean);
    engine.set(reference.weight, &vec![weight; case.batch]);
    if !case.is_poisson() {
        return 0.0;
    }
    let counts = images.iter().map(|x| (case.scale * x).powi(2)).filter(|&k| k > 0.0);
    weight * counts.map(|k| k - k * k.ln() + ln_gamma(k + 1.0)).sum::<f64>()
}

/// ln Γ(x), x ≥ 1: shifted up by the recurrence until Stirling's series is exact to 1e-14.
fn ln_gamma(x: f64) -> f64 {
    let steps = (16.0 - x).max(0.0).ceil() as u32;
    let shifted = x + f64::from(steps);
    ln_factorial(shifted - 1.0) - (0..steps).map(|i| (x + f64::from(i)).ln()).sum::<f64>()
}

fn check_activations(
    engine: &mut dyn Engine,
    case: &Case,
    reference: &Reference,
    folder: &Path,
    what: &str,
) {
    let path = folder.join("activations.npz");
    let object = engine.get(reference.object);
    let wanted: Vec<f64> =
        complex64(&path, "object_complex").iter().flat_map(|z| [z.re, z.im]).collect();
    bounded(&format!("{what} object"), &object, &wanted, TOLERANCE);
    let predicted: Vec<f64> = engine.get(reference.intensity).iter().map(|i| i.sqrt()).collect();
    bounded(&format!("{what} prediction"), &predicted, &numbers(&path, "pred"), TOLERANCE);
    let stored: Vec<String> =
        Npz::open(&path).unwrap().members().iter().map(|m| m.name.clone()).collect();
    let mut compared = 0;
    for member in stored {
        let layer = member.trim_start_matches("ae.").trim_end_matches("@b0");
        let Some(v) = reference.plan.find(&format!("{layer} output")) else { continue };
        if layer.contains("ChannelGate") {
            // The published module is called once for the mean and once for the maximum.
            continue;
        }
        let mut wanted = numbers(&path, &member);
        let head = layer.ends_with(".amp.conv1")
            || layer.ends_with(".phase.conv1")
            || layer.ends_with(".amp.conv2")
            || layer.ends_with(".phase.conv2");
        if !head && !layer.contains("SpatialGate") {
            // Ours is after the ReLU.
            wanted.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        let got = engine.get(v);
        bounded(&format!("{what} {layer}"), &got[..wanted.len()], &wanted, TOLERANCE);
        compared += 1;
    }
    let tiny = case.name.starts_with("tiny");
    assert!(!tiny || compared >= 20, "{what}: {compared} layers were compared");
}

fn check_gradients(
    engine: &mut dyn Engine,
    case: &Case,
    reference: &Reference,
    folder: &Path,
    what: &str,
    single: bool,
) {
    let path = folder.join("grads.npz");
    let trained = case.name.starts_with("trained");
    let grads = reference.plan.of_role(Role::ParamGrad);
    let (mut worst, mut of, mut wrong) = (0.0, String::new(), Vec::new());
    for (v, slot) in grads {
        let name = slot.name.trim_start_matches("d ");
        let key = format!("{PREFIX}{name}");
        let got = engine.get(v);
        let error = relative(&got, &numbers(&path, &key));
        // What the published network itself loses in f32 is the least that f32 can be held to.
        let spread = case.meta["grad_err_f32_vs_f64"][&key]["rel_l2"].as_f64().unwrap_or(0.0);
        let bound = if trained { GRADIENT_TRAINED } else { GRADIENT };
        let bound = if single { bound.max(2.0 * spread) } else { bound };
        if error > bound {
            wrong.push(format!("{name}: {error:.1e} > {bound:.1e} (spread {spread:.1e})"));
        }
        if error > worst {
            (worst, of) = (error, name.to_owned());
        }
    }
    assert!(wrong.is_empty(), "{what} gradients: {wrong:#?}");
    println!("{what}: worst gradient {worst:.1e} ({of})");
}

/// Five steps on five batches: the losses, and the weights where they are stored.
fn check_adam(
    engine: &mut dyn Engine,
    case: &Case,
    reference: &Reference,
    folder: &Path,
    what: &str,
) {
    let after = folder.join("after5.npz");
    if !after.exists() {
        return;
    }
    let (_, control) = reference.controls.rates[0];
    for step in 0..5 {
        let constant = write_batch(engine, case, reference, folder, step);
        engine.run(Stage::Forward);
        let loss = engine.get(reference.loss)[0] + constant;
        let wanted = case.meta["losses_f64"][step].as_f64().unwrap();
        close(&format!("{what} loss of step {step}"), loss, wanted, 3.0 * TOLERANCE);
        engine.run(Stage::Backward);
        let t = step as i32 + 1;
        let rate = case.meta["lr"].as_f64().unwrap();
        engine.set(control, &[rate, 1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t)]);
        engine.run(Stage::Update);
    }
    let spread = case.meta["after5_f32_vs_f64"]["rel_l2"].as_f64().unwrap();
    let mut total = (0.0, 0.0);
    for (v, slot) in reference.plan.of_role(Role::Param) {
        let wanted = numbers(&after, &format!("{PREFIX}{}", slot.name));
        for (got, want) in engine.get(v).iter().zip(&wanted) {
            total.0 += (got - want).powi(2);
            total.1 += want * want;
        }
    }
    let error = (total.0 / total.1).sqrt();
    assert!(error <= spread, "{what} weights after 5 steps: {error:.1e} > {spread:.1e}");
}

fn numbers(path: &Path, key: &str) -> Vec<f64> {
    Npz::open(path).unwrap().f64(key).unwrap().iter().copied().collect()
}

fn complex(path: &Path, key: &str) -> Vec<Complex32> {
    Npz::open(path).unwrap().c64(key).unwrap().iter().copied().collect()
}

fn complex64(path: &Path, key: &str) -> Vec<Complex64> {
    complex(path, key).iter().map(|z| Complex64::new(z.re.into(), z.im.into())).collect()
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs() / want.abs();
    assert!(
        error <= tolerance,
        "{what}: {got} ≠ {want}, relative error {error:.1e} > {tolerance:.1e}"
    );
}

fn bounded(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let error = relative(got, want);
    assert!(error <= tolerance, "{what}: relative L2 error {error:.1e} > {tolerance:.1e}");
}
