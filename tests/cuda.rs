//! The whole program on a CUDA device, held against the CPU: a GPU where there is one, or the
//! virtual device (tests/virtual/README.md). Without either there is nothing to compare, unless
//! `PTYCHO_REQUIRE_CUDA=1` asks for it.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ndarray::{ArrayD, Zip};
use num_complex::Complex32;
use ptycho_gpu::backend::{self, Backend, cpu::Cpu};
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::config::Device;
use ptycho_gpu::data::Npz;
use ptycho_gpu::graph::{Graph, Precision, Stage};
use ptycho_gpu::ops::conv2d::conv2d;
use ptycho_gpu::plan::Plan;
use ptycho_gpu::random::{Purpose, Stream};
use ptycho_gpu::report::history;
use tempfile::TempDir;

/// Whether there is a device; says why not.
fn device() -> bool {
    let found = backend::choose(Device::Cuda(0));
    if let Err(why) = &found {
        assert!(std::env::var_os("PTYCHO_REQUIRE_CUDA").is_none(), "{why}");
        eprintln!("not compared with CUDA: {why}");
    }
    found.is_ok()
}

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

/// A folder with a scan of 8 patterns, simulated on the CPU.
fn workplace() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let recipe = ["--patterns=8", "--probe-diameter=20", "--photons=1e5", "--step=4", "--seed=1"];
    program().arg("simulate").arg(&path).args(recipe).assert().success();
    (folder, path)
}

/// The least network of all, where it matters only how steps follow on each other.
const LEAST: [&str; 5] =
    ["--architecture=ffno", "--width=2", "--fourier-modes=2", "--blocks=1", "--refiners=0"];

/// Trains a narrow network, two patterns a step unless `more` has another number, in single precision
/// unless it has another; what it says.
fn train(scan: &Path, folder: &Path, more: &[&str]) -> String {
    let batch = if more.contains(&"--batch-size=1") { &[][..] } else { &["--batch-size=2"] };
    let given = more.iter().any(|option| option.starts_with("--precision"));
    let precision = if given { &[][..] } else { &["--precision=fp32"] };
    // Only the default network has that width.
    let narrow = if more.contains(&LEAST[0]) { &[][..] } else { &["--n-filters-scale=1"] };
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(scan).arg("--output-dir").arg(folder);
    let done = command
        .arg("--seed=3")
        .args(narrow)
        .args(batch)
        .args(precision)
        .args(more)
        .assert()
        .success();
    String::from_utf8_lossy(&done.get_output().stderr).into_owned()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn infer(model: &Path, scan: &Path, folder: &Path, device: &str) -> ArrayD<Complex32> {
    infer_in("fp32", model, scan, folder, device)
}

fn infer_in(
    precision: &str,
    model: &Path,
    scan: &Path,
    folder: &Path,
    device: &str,
) -> ArrayD<Complex32> {
    let mut command = program();
    command
        .arg("infer")
        .args(["--precision", precision])
        .arg("--model-path")
        .arg(model)
        .arg("--test-data")
        .arg(scan);
    command.arg("--output-dir").arg(folder).args(["--device", device, "--batch-size=4"]);
    command.assert().success();
    Npz::open(folder.join("reconstruction.npz")).unwrap().c64("object").unwrap()
}

fn weights(folder: &Path) -> Vec<f32> {
    let checkpoint = Checkpoint::load(folder.join("checkpoints/last.safetensors")).unwrap();
    checkpoint.tensors.values().flat_map(|tensor| tensor.data.clone()).collect()
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    let pairs = got.iter().zip(want).map(|(&g, &w)| (f64::from(g), f64::from(w)));
    let (off, size) =
        pairs.fold((0.0, 0.0), |(off, size), (g, w)| (off + (g - w).powi(2), size + w * w));
    (off / size).sqrt()
}

#[test]
fn inference_gives_the_same_object_on_both_devices() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let [model, cpu, cuda] = ["model", "cpu", "cuda"].map(|name| place.path().join(name));
    train(&scan, &model, &["--device=cpu", "--max-epochs=1"]);
    let (want, got) = (infer(&model, &scan, &cpu, "cpu"), infer(&model, &scan, &cuda, "cuda"));
    let (mut off, mut size) = (0.0, 0.0);
    Zip::from(&got).and(&want).for_each(|g, w| {
        off += f64::from((g - w).norm_sqr());
        size += f64::from(w.norm_sqr());
    });
    assert!((off / size).sqrt() <= 1e-5, "relative L2 {:.1e}", (off / size).sqrt());
}

#[test]
fn ten_steps_have_the_same_losses_on_both_devices() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let grouped = &["--n-images=1", "--batch-size=1", "--gridsize=2", "--probe-trainable"];
    for more in [&["--n-images=2"][..], grouped] {
        let losses = ["cpu", "cuda"].map(|device| {
            let folder = place.path().join(device);
            let (device, epochs) = (format!("--device={device}"), "--max-epochs=10");
            train(&scan, &folder, &[more, &[&device, epochs]].concat());
            let rows = history::read(folder.join("history.csv")).unwrap().rows;
            rows.iter().map(|row| row[3] as f32).collect::<Vec<f32>>()
        });
        assert_eq!(losses[0].len(), 10);
        for (cpu, cuda) in losses[0].iter().zip(&losses[1]) {
            assert!(((cuda - cpu) / cpu).abs() <= 1e-3, "{more:?}: {losses:?}");
        }
    }
}

/// Relative difference of the losses of ten steps in TF32 and in bfloat16 from those in single precision.
/// The factors of each of a dozen products in a row are off by 2e-4 and 1.6e-3; Adam then moves weights
/// whose gradients are lost in that by whole steps.
const LOSSES: [(&str, f64); 2] = [("tf32", 5e-3), ("bf16", 1e-2)];

#[test]
fn ten_steps_by_tensor_cores_have_nearly_the_losses_of_single_precision() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let common = ["--device=cuda", "--n-images=1", "--batch-size=1", "--max-epochs=10"];
    let losses = |precision: &str| {
        let folder = place.path().join(precision);
        let asked = format!("--precision={precision}");
        train(&scan, &folder, &[&common[..], &[&asked]].concat());
        let recorded = &json(&folder.join("run.json"))["configuration"]["precision"];
        assert_eq!(recorded, &serde_json::json!({ "value": precision, "origin": "flag" }));
        let rows = history::read(folder.join("history.csv")).unwrap().rows;
        rows.iter().map(|row| row[3]).collect::<Vec<f64>>()
    };
    let want = losses("fp32");
    for (precision, bound) in LOSSES {
        let got = losses(precision);
        assert!(got != want, "{precision}: tensor cores have fewer digits");
        let apart = got.iter().zip(&want).map(|(got, want)| ((got - want) / want).abs());
        let most = apart.fold(0.0, f64::max);
        println!("{precision}: losses {most:.1e} apart");
        assert!(most <= bound, "{precision}: {got:?}, {want:?}");
    }
}

#[test]
fn a_resumed_training_keeps_its_precision_and_takes_the_same_steps() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    for (precision, flag) in [("tf32", "--precision=tf32"), ("bf16", "--precision=bf16")] {
        let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(precision).join(name));
        // The schedule of a constant rate does not know how many epochs there will be.
        let common = ["--device=cuda", "--n-images=1", "--batch-size=1", "--schedule=constant"];
        let with = |more: &[&'static str]| [&common[..], more].concat();
        train(&scan, &whole, &with(&["--max-epochs=2", flag]));
        train(&scan, &parts, &with(&["--max-epochs=1", flag]));
        train(&scan, &parts, &with(&["--max-epochs=2", "--precision=auto", "--resume=auto"]));
        let recorded = &json(&parts.join("run.json"))["configuration"]["precision"];
        assert_eq!(recorded, &serde_json::json!({ "value": precision, "origin": "checkpoint" }));
        assert!(weights(&whole) == weights(&parts), "{precision}");
        let mut elsewhere = program();
        elsewhere.arg("train").arg("--train-data-file").arg(&scan).arg("--output-dir").arg(&parts);
        elsewhere.args(["--n-filters-scale=1", "--batch-size=1", "--seed=3", "--n-images=1"]);
        let output =
            elsewhere.args(["--device=cpu", "--resume=auto", "--max-epochs=3"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(precision) && said.contains("--precision fp32"), "{said}");
        assert!(!output.status.success());
    }
}

/// Relative L2 error of an object that is inferred in TF32 and in bfloat16.
const INFERENCE: [(&str, f64); 2] = [("tf32", 1e-3), ("bf16", 1e-2)];

#[test]
fn inference_by_tensor_cores_is_near_that_of_single_precision_and_says_so() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let model = place.path().join("model");
    train(&scan, &model, &["--device=cpu", "--max-epochs=1"]);
    let run = |precision: &str| {
        let folder = place.path().join(precision);
        let object = infer_in(precision, &model, &scan, &folder, "cuda");
        let flat = object.iter().flat_map(|z| [z.re, z.im]).collect::<Vec<_>>();
        (flat, json(&folder.join("run.json"))["precision"].clone())
    };
    let (want, usual) = run("auto");
    assert_eq!(usual, "fp32");
    for (precision, bound) in INFERENCE {
        let (got, asked) = run(precision);
        assert_eq!(asked, precision);
        let error = relative(&got, &want);
        println!("{precision}: relative L2 {error:.1e}");
        assert!(error > 0.0 && error <= bound, "{precision}: relative L2 {error:.1e}");
    }
}

/// The layers of the default network for 64 × 64 pixels that are given to tensor cores: inputs,
/// outputs, side.
const LAYERS: [[usize; 3]; 10] = [
    [64, 64, 64],
    [64, 128, 32],
    [128, 128, 32],
    [128, 256, 16],
    [256, 256, 16],
    [256, 128, 8],
    [128, 128, 8],
    [128, 64, 16],
    [64, 64, 16],
    [8, 64, 32],
];

#[test]
fn tensor_cores_have_the_layers_of_the_network_to_the_bits_of_their_factors() {
    let Ok(device) = backend::choose(Device::Cuda(0)) else { return };
    // From two roundings of 2.0e-4 or 1.6e-3 each: src/measure/selftest.rs.
    let both = [(Precision::Tf32, 5e-4), (Precision::Bf16, 4e-3)];
    let all = both.into_iter().flat_map(|kind| LAYERS.map(|layer| (kind, layer)));
    for ((precision, bound), [inputs, outputs, side]) in all {
        let mut g = Graph::with_precision(precision);
        let weight = g.param("w.weight", &[outputs, inputs, 3, 3]);
        let x = g.param("x", &[1, inputs, side, side]);
        let y = conv2d(&mut g, x, weight, None, false);
        g.keep(y);
        let seed = g.input("seed", &[1, outputs, side, side]);
        g.differentiate(y, seed);
        let results = [Some(y), g.grad_of(x), g.grad_of(weight)].map(|v| v.expect("a result"));
        let plan = Plan::new(g);
        let mut cuda = device.open(plan.clone()).unwrap();
        let mut cpu = Cpu::<f64>::new(plan);
        for v in [x, weight, seed] {
            let noise = Stream::new(1, Purpose::Noise, v.0 as u32);
            let len = cpu.plan().range(v).len();
            let noise: Vec<f32> = std::iter::repeat_with({
                let mut noise = noise;
                move || (2.0 * noise.uniform() - 1.0) as f32
            })
            .take(len)
            .collect();
            cuda.write(v, &noise).unwrap();
            cpu.set(v, &noise.iter().map(|&x| x.into()).collect::<Vec<f64>>());
        }
        for stage in [Stage::Forward, Stage::Backward] {
            cuda.run(stage).unwrap();
            cpu.run(stage).unwrap();
        }
        for (what, v) in ["y", "dx", "dw"].into_iter().zip(results) {
            let want: Vec<f32> = cpu.get(v).iter().map(|&x| x as f32).collect();
            let error = relative(&cuda.read(v).unwrap(), &want);
            println!("{precision}, {inputs} → {outputs} at {side}²: {what} {error:.2e}");
            assert!(
                error <= bound,
                "{precision}, {inputs} → {outputs} at {side}²: {what} {error:.1e}"
            );
        }
    }
}

#[test]
fn weights_that_are_written_again_are_packed_again() {
    if !device() {
        return;
    }
    let chosen = backend::choose(Device::Cuda(0)).unwrap();
    for precision in [Precision::Tf32, Precision::Bf16] {
        let mut g = Graph::with_precision(precision);
        let (x, w) = (g.input("x", &[1, 32, 8, 8]), g.param("w.weight", &[32, 32, 3, 3]));
        let y = conv2d(&mut g, x, w, None, false);
        g.keep(y);
        let plan = Plan::new(g);
        let noise = |len: usize, index: u32| -> Vec<f32> {
            let mut stream = Stream::new(1, Purpose::Noise, index);
            (0..len).map(|_| stream.uniform() as f32 - 0.5).collect()
        };
        let run = |backend: &mut dyn Backend, weights: u32| {
            backend.write(w, &noise(32 * 32 * 9, weights)).unwrap();
            backend.run(Stage::Forward).unwrap();
            backend.read(y).unwrap()
        };
        let mut kept = chosen.open(plan.clone()).unwrap();
        kept.write(x, &noise(32 * 64, 0)).unwrap();
        let first = run(kept.as_mut(), 1);
        let mut fresh = chosen.open(plan).unwrap();
        fresh.write(x, &noise(32 * 64, 0)).unwrap();
        let second = run(kept.as_mut(), 2);
        assert!(second == run(fresh.as_mut(), 2) && second != first, "{precision:?}");
    }
}

#[test]
fn two_steps_leave_nearly_the_same_weights_on_both_devices() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let weights = ["cpu", "cuda"].map(|device| {
        let folder = place.path().join(device);
        train(&scan, &folder, &["--n-images=4", "--max-epochs=1", &format!("--device={device}")]);
        weights(&folder)
    });
    let error = relative(&weights[1], &weights[0]);
    assert!(error <= 1e-3, "relative L2 {error:.1e}");
}

#[test]
fn a_training_on_cuda_has_the_same_bits_when_it_is_done_in_two_parts() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    let common = ["--device=cuda", "--n-images=4", "--batch-norm"];
    train(&scan, &whole, &[&common[..], &["--max-epochs=2"]].concat());
    train(&scan, &parts, &[&common[..], &["--max-epochs=1"]].concat());
    train(&scan, &parts, &[&common[..], &["--max-epochs=2", "--resume=auto"]].concat());
    assert!(weights(&whole) == weights(&parts));
}

#[test]
fn a_checkpoint_moves_between_devices() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    for (device, epochs) in [("cpu", 1), ("cuda", 2), ("cpu", 3)] {
        let (device, epochs) = (format!("--device={device}"), format!("--max-epochs={epochs}"));
        train(&scan, &folder, &["--n-images=2", "--resume=auto", &device, &epochs]);
    }
    assert_eq!(history::read(folder.join("history.csv")).unwrap().rows.len(), 3);
}

#[test]
fn streamed_patterns_give_the_same_bits() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let [whole, streamed] = ["whole", "streamed"].map(|name| place.path().join(name));
    let common = [&LEAST[..], &["--device=cuda", "--max-epochs=2", "--n-images=5"]].concat();
    train(&scan, &whole, &common);
    // One byte less than what the plan takes with all patterns; two batches of them are fewer.
    let record = std::fs::read_to_string(whole.join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let device = &record["device"];
    assert_eq!((&device["kind"], &device["index"]), (&"cuda".into(), &0.into()));
    for what in ["name", "compute_capability", "driver_cuda", "kernels_cuda"] {
        assert!(device[what].is_string(), "{what}: {device}");
    }
    assert!(device["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{device}");
    let limit = record["plan_bytes"].as_u64().expect("the size of the plan") - 1;
    let limit = format!("--device-memory-limit={limit}");
    let said = train(&scan, &streamed, &[&common[..], &[&limit]].concat());
    assert!(said.contains("patterns are streamed"), "{said}");
    assert!(weights(&whole) == weights(&streamed));
}

#[test]
fn more_steps_than_the_ring_holds_have_the_loss_of_the_cpu() {
    if !device() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scan = folder.path().join("many.npz");
    let recipe = ["--patterns=34", "--probe-diameter=20", "--photons=1e5", "--step=4", "--seed=1"];
    program().arg("simulate").arg(&scan).args(recipe).assert().success();
    let losses = ["cpu", "cuda"].map(|device| {
        let run = folder.path().join(device);
        let device = format!("--device={device}");
        let common = ["--batch-size=1", "--max-epochs=1", "--learning-rate=1e-5", &device];
        train(&scan, &run, &[&LEAST[..], &common].concat());
        history::read(run.join("history.csv")).unwrap().rows[0][3]
    });
    let apart = ((losses[1] - losses[0]) / losses[0]).abs();
    assert!(apart <= 1e-4, "{losses:?}");
}

#[test]
fn a_short_last_batch_of_transposed_patches_is_stitched_alike() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let model = place.path().join("model");
    train(&scan, &model, &["--device=cpu", "--max-epochs=1"]);
    let objects = ["cpu", "cuda"].map(|device| {
        let folder = place.path().join(device);
        let mut command = program();
        command.arg("infer").arg("--model-path").arg(&model).arg("--test-data").arg(&scan);
        command.arg("--output-dir").arg(&folder).args(["--device", device, "--batch-size=3"]);
        command.args(["--transpose-patches", "--swap-xy"]).assert().success();
        let mut result = Npz::open(folder.join("reconstruction.npz")).unwrap();
        let object = result.c64("object").unwrap();
        let consistency = result.f32("consistency").unwrap();
        let parts = object.iter().flat_map(|z| [z.re, z.im]).chain(consistency.iter().copied());
        parts.collect::<Vec<f32>>()
    });
    let error = relative(&objects[1], &objects[0]);
    assert!(error <= 1e-5, "relative L2 {error:.1e}");
}

/// What a command says that fails with exit code 1 on the virtual device, with `name` set to `value`.
fn refused(name: &str, value: &str, more: &[&str]) -> Option<String> {
    let found = backend::choose(Device::Cuda(0)).ok()?.to_string();
    if !found.contains("virtual device") {
        return None;
    }
    let (place, scan) = workplace();
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(&scan).args(["--device", "cuda"]).args(more);
    let command = command.arg("--output-dir").arg(place.path().join("run")).env(name, value);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked") && said.contains("--device cpu"), "{said}");
    Some(said)
}

#[test]
fn an_old_driver_a_hidden_device_and_too_little_memory_are_named() {
    if !device() {
        return;
    }
    let Some(old) = refused("PTYCHO_VIRTUAL_DRIVER", "12040", &[]) else { return };
    assert!(old.contains("CUDA 12.4") && old.contains("13.0"), "{old}");
    let hidden = refused("CUDA_VISIBLE_DEVICES", "5", &[]).unwrap();
    assert!(hidden.contains("CUDA_VISIBLE_DEVICES"), "{hidden}");
    let small = refused("PTYCHO_VIRTUAL_MEMORY", "140", &[]).unwrap();
    assert!(small.contains("MB") && small.contains("--batch-size"), "{small}");
    let none = refused("LD_LIBRARY_PATH", "/nowhere", &[]).unwrap();
    assert!(none.contains("libcuda"), "{none}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    if !device() {
        return;
    }
    let (place, scan) = workplace();
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(&scan).args(["--device", "cuda:7"]);
    let output = command.arg("--output-dir").arg(place.path().join("run")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no cuda:7") && said.contains("cuda:0"), "{said}");
}
