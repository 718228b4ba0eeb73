//! Weights of PyTorch in, weights for other programs out.
//!
//! `exchange/fixtures` was written by PyTorch (`exchange/write.py`), with what PyTorch computes. With a
//! Python that has torch (`PTYCHO_TORCH_PYTHON`, else `PTYCHO_PYTHON`, else `python3`) it is written
//! again, and the reference vectors (`PTYCHO_GOLDEN`, else `shared/golden` beside the checkout) go
//! through its files; with one that has onnx and onnxruntime (`PTYCHO_ONNX_PYTHON`, …) our models are
//! run. `PTYCHO_REQUIRE_TORCH=1` and `PTYCHO_REQUIRE_ONNX=1` make their absence a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use ndarray::{Array3, s};
use num_complex::Complex32;
use ptycho_gpu::backend::{self, Backend, cpu::Cpu};
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::config::{AmpActivation, Device, Head, ModelConfig, PatchWeighting};
use ptycho_gpu::data::{LoadOptions, Npz, Patterns, Position, Scan, ScanFile, load, write_scan};
use ptycho_gpu::exchange::import::{Imported, Loader, Options, import};
use ptycho_gpu::exchange::recognise::Known;
use ptycho_gpu::exchange::weights::Weights;
use ptycho_gpu::graph::Stage;
use ptycho_gpu::infer::{self, Network};
use ptycho_gpu::metrics;
use ptycho_gpu::models::plans;
use ptycho_gpu::stitch::Orientation;
use ptycho_gpu::train::state;
use support::relative;

#[path = "exchange/commands.rs"]
mod commands;
#[path = "exchange/hostile.rs"]
mod hostile;
#[path = "exchange/outgoing.rs"]
mod outgoing;
#[allow(dead_code, reason = "one helper of the op harness is used here")]
mod support;
#[path = "exchange/torch.rs"]
mod torch;

/// Relative L2 error of patches against those that PyTorch makes, in f32.
const TOLERANCE: f64 = 1e-5;

/// Of every so many pixels the fixtures hold one.
const STRIDE: usize = 7;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchange").join(name)
}

fn fixture_path(name: &str) -> PathBuf {
    script("fixtures").join(name)
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixture_path(name)).unwrap()
}

/// A Python that can run `imports`.
fn python(what: &str, imports: &str) -> Option<String> {
    let own = std::env::var(format!("PTYCHO_{what}_PYTHON"));
    let python = own.or(std::env::var("PTYCHO_PYTHON")).unwrap_or_else(|_| "python3".into());
    let tried = Command::new(&python).args(["-c", imports]).output();
    if tried.as_ref().is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let required = std::env::var_os(format!("PTYCHO_REQUIRE_{what}")).is_some();
    assert!(!required, "{python} cannot {imports}: {tried:?}");
    eprintln!("skipped: {python} cannot {imports}");
    None
}

/// Little-endian f32.
fn numbers(bytes: &[u8]) -> Vec<f64> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers.iter().map(|number| f32::from_le_bytes(*number).into()).collect()
}

/// The error of a file with this content.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pt");
    std::fs::write(&path, bytes).unwrap();
    let done = Weights::open(&path).and_then(|mut weights| {
        import(&mut weights, &Options { input_scale: Some(1.0), ..Options::default() })
    });
    let message = done.expect_err("a file that is refused").to_string();
    assert!(message.contains("weights.pt"), "{message}");
    message
}

/// With inputs as they are.
fn imported(path: &Path, known: Known) -> ptycho_gpu::Result<Imported> {
    let options = Options { input_scale: Some(1.0), known, ..Options::default() };
    import(&mut Weights::open(path)?, &options)
}

/// Real and imaginary parts of the patches that a network makes of patterns.
fn run(checkpoint: &Checkpoint, model: &ModelConfig, patterns: &[f32], gain: f32) -> Vec<f64> {
    let batch = patterns.len() / (model.channels() * model.n * model.n);
    let plan = plans::inference(model, batch, None);
    let mut engine = Cpu::<f32>::new(plan.plan);
    state::apply(&mut engine, checkpoint, Path::new("a test")).unwrap();
    engine.set(plan.training, &[0.0]);
    engine.set(plan.gain, &vec![gain; batch]);
    engine.set(plan.amplitude, patterns);
    engine.run(Stage::Forward).unwrap();
    engine.get(plan.object).iter().map(|&part| f64::from(part)).collect()
}

/// The patterns that `write.py` gives the network.
fn patterns(channels: usize) -> Vec<f32> {
    let spot = |y: f64, x: f64| 8.0 * (-((y - 32.0).powi(2) + (x - 32.0).powi(2)) / 200.0).exp();
    let value = |at: usize| {
        let (c, y, x) = (at / 4096, at / 64 % 64, at % 64);
        spot(y as f64, x as f64) + ((5 * c + 7 * y + 11 * x) % 13) as f64 / 13.0
    };
    (0..channels * 4096).map(|at| value(at) as f32).collect()
}

/// Holds a network against what PyTorch made of the same weights.
fn agrees(folder: &Path, file: &str, answers: &str, known: Known) -> Imported {
    let imported = imported(&folder.join(file), known).unwrap();
    let model = &imported.recognised.model;
    let answers = numbers(&std::fs::read(folder.join(answers)).unwrap());
    let (amplitude, phase) = answers.split_at(answers.len() / 2);
    let want = amplitude.iter().zip(phase).flat_map(|(a, p)| [a * p.cos(), a * p.sin()]);
    let all = run(&imported.checkpoint, model, &patterns(model.channels()), 1.0);
    let got = all.chunks_exact(2).step_by(STRIDE).flatten().copied();
    let error = relative(&got.collect::<Vec<_>>(), &want.collect::<Vec<_>>());
    assert!(error < TOLERANCE, "{file}: {error:.1e}");
    imported
}

/// All files of `write.py`.
fn agree(folder: &Path) {
    let known = Known::default();
    let found = agrees(folder, "attention.ckpt", "attention.f32", known);
    let ModelConfig { n, gridsize, head, cbam_encoder, batch_norm, .. } = found.recognised.model;
    assert_eq!((n, gridsize, head, cbam_encoder, batch_norm), (64, 1, Head::Border, true, false));
    assert_eq!(found.recognised.assumed, Vec::<String>::new(), "the checkpoint says it all");
    assert_eq!(found.recognised.unused.len(), 4, "α, β, s1, s2 belong to the physics");
    let found = agrees(folder, "groups.pt", "groups.f32", known);
    let ModelConfig { gridsize, head, cbam_encoder, batch_norm, .. } = found.recognised.model;
    assert_eq!((gridsize, head, cbam_encoder, batch_norm), (2, Head::Border, false, true));
    assert_eq!(found.recognised.assumed.len(), 2, "a state dict alone says less");
    let found = agrees(folder, "wts.h5.zip", "older.f32", known);
    assert_eq!(found.recognised.model.head, Head::Full);
    assert_eq!(found.recognised.model.amp_activation, AmpActivation::Silu);
    assert_eq!(found.checkpoint.metadata["imported"]["settings"]["probe_scale"], 1.0);
}

#[test]
fn files_of_pytorch_give_what_pytorch_computes() {
    agree(&script("fixtures"));
}

#[test]
fn files_that_pytorch_writes_now_give_what_it_computes_now() {
    let Some(python) = python("TORCH", "import torch") else { return };
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(python)
        .args([&script("write.py"), Path::new("fixtures"), folder.path()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    agree(folder.path());
}

#[test]
fn without_path_2_patches_end_with_their_central_half() {
    let path = fixture_path("attention.ckpt");
    let known = |probe_big| Known { probe_big: Some(probe_big), ..Known::default() };
    let [all, centre] = [true, false].map(|big| {
        let imported = imported(&path, known(big)).unwrap();
        run(&imported.checkpoint, &imported.recognised.model, &patterns(1), 1.0)
    });
    let inside = |at: usize| (16..48).contains(&(at / 64)) && (16..48).contains(&(at % 64));
    for (at, (a, c)) in all.chunks_exact(2).zip(centre.chunks_exact(2)).enumerate() {
        assert!(if inside(at) { a == c } else { c == [0.0, 0.0] && a != c }, "pixel {at}");
    }
}

#[test]
fn a_network_of_2025_needs_to_be_told_whether_it_had_path_2() {
    let bytes = fixture("wts.h5.zip");
    let mut bundle = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut inner = Vec::new();
    let mut member = bundle.by_name("diffraction_to_obj/model.pth").unwrap();
    std::io::Read::read_to_end(&mut member, &mut inner).unwrap();
    let message = refusal(&inner);
    assert!(message.contains("--probe-big true or --probe-big false"), "{message}");
}

/// Folders of reference vectors.
fn golden() -> Vec<PathBuf> {
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

/// All arrays of an `.npz`, as a file of torch.
fn as_torch(path: &Path) -> Vec<u8> {
    let mut npz = Npz::open(path).unwrap();
    let members: Vec<(String, Vec<usize>)> =
        npz.members().iter().map(|m| (m.name.clone(), m.shape.clone())).collect();
    let arrays: Vec<Vec<f32>> =
        members.iter().map(|(name, _)| npz.f32(name).unwrap().iter().copied().collect()).collect();
    let tensors = members.iter().zip(&arrays);
    torch::state_dict(
        tensors.map(|((name, shape), data)| (name.as_str(), shape.as_slice(), data.as_slice())),
    )
}

fn real(path: &Path, name: &str) -> Vec<f32> {
    Npz::open(path).unwrap().f32(name).unwrap().iter().copied().collect()
}

/// The object of the first batch, held against the published one.
fn check_golden(case: &Path, imported: &Imported) {
    let model = &imported.recognised.model;
    let mut activations = Npz::open(case.join("activations.npz")).unwrap();
    let object = activations.c64("object_complex").unwrap();
    let want: Vec<f64> = object.iter().flat_map(|z| [z.re.into(), z.im.into()]).collect();
    let images = real(&case.join("inputs.npz"), "images_nchw");
    let got = run(&imported.checkpoint, model, &images[..object.len()], 1.0);
    let error = relative(&got, &want);
    assert!(error < TOLERANCE, "{}: {error:.1e}", case.display());
}

#[test]
fn published_weights_give_the_published_activations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pt");
    for case in golden() {
        std::fs::write(&path, as_torch(&case.join("weights.npz"))).unwrap();
        check_golden(&case, &imported(&path, Known::default()).unwrap());
        let Some(python) = python("TORCH", "import torch") else { continue };
        let weights = case.join("weights.npz");
        let arguments = [&script("write.py"), Path::new("npz"), &weights, &path];
        let done = Command::new(python).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        check_golden(&case, &imported(&path, Known::default()).unwrap());
    }
}

/// A scan of `patterns` with a probe, on a grid where crops of `n` pixels do not overlap.
fn scan(folder: &Path, patterns: &Array3<f32>, probe: &Array3<Complex32>) -> Scan {
    let n = patterns.dim().1;
    let at = |i: usize| (n + i * n) as f64;
    let positions: Vec<Position> =
        (0..patterns.dim().0).map(|m| Position { x: at(m % 2), y: at(m / 2) }).collect();
    let path = folder.join("scan.npz");
    let file = ScanFile {
        patterns: Patterns::Amplitude(patterns.view()),
        probe: probe.view(),
        positions: &positions,
        nominal: None,
        mask: None,
        object: None,
        labels: None,
        metadata: None,
    };
    write_scan(&path, &file).unwrap();
    load(&path, &LoadOptions::default()).unwrap()
}

#[test]
fn an_imported_network_explains_the_patterns_in_the_gauge_of_their_file() {
    let Some(case) = golden().into_iter().find(|case| case.ends_with("trained_full_gs1_poisson"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pt");
    std::fs::write(&path, as_torch(&case.join("weights.npz"))).unwrap();
    let inputs = case.join("inputs.npz");
    // The patterns of a file are not normalised, and its probe has some power of its own.
    let images = real(&inputs, "images_nchw").iter().map(|a| 3.0 * a).collect();
    let images = Array3::from_shape_vec((4, 64, 64), images).unwrap();
    let probe = Npz::open(&inputs).unwrap().c64("probe").unwrap();
    let probe = Array3::from_shape_vec((1, 64, 64), probe.iter().copied().collect()).unwrap();
    let scan = scan(folder.path(), &images, &probe);
    let options = Options { like: Some(&scan), ..Options::default() };
    let imported = import(&mut Weights::open(&path).unwrap(), &options).unwrap();
    let device = backend::choose(Device::Cpu).unwrap();
    let network = Network::new(&imported.checkpoint, &path, 4, &device).unwrap();
    let result = network.reconstruct(
        &scan,
        &infer::Options {
            batch_size: 4,
            n_images: None,
            recompute_normalisation: false,
            weighting: PatchWeighting::Uniform,
            crop: Some(64),
            orientation: Orientation::default(),
        },
    );
    let figures = metrics::data_space(&result.unwrap().explained(&scan)).unwrap();
    // The published prediction of these patterns has 0.0105.
    assert!(figures.residual < 0.012, "residual {}", figures.residual);
}

#[test]
fn the_scale_of_the_answers_follows_from_probe_and_patterns() {
    let folder = tempfile::tempdir().unwrap();
    let spot = |m: usize, y: usize, x: usize| {
        let (y, x) = (y as f32 - 32.0, x as f32 - 32.0);
        (1 + m) as f32 * (-(y * y + x * x) / 50.0).exp()
    };
    let images = Array3::from_shape_fn((4, 64, 64), |(m, y, x)| spot(m, y, x));
    let probe = Array3::from_shape_fn((2, 64, 64), |(m, y, x)| Complex32::new(0.0, spot(m, y, x)));
    let scan = scan(folder.path(), &images, &probe);
    let learned = |loader, probe_scale| {
        let options = Options { like: Some(&scan), loader, probe_scale, ..Options::default() };
        let path = fixture_path("attention.ckpt");
        import(&mut Weights::open(&path).unwrap(), &options).unwrap().learned
    };
    // |F(P/4 · o)| = s a, so that |F(P · f q o)| = a with f q = 1/(4 s).
    let (usual, q) = (learned(Loader::Container, None), scan.probe_gauge());
    let product = usual.object_factor * q * 4.0 * usual.input_scale;
    assert!((product - 1.0).abs() < 1e-9, "{product}");
    assert!((usual.input_scale / scan.input_scale() - 1.0).abs() < 1e-12);
    let undivided = learned(Loader::Container, Some(1.0));
    assert!((undivided.object_factor / usual.object_factor - 4.0).abs() < 1e-9);
    // The other loader: |F(P / (4 mean|P|) / 4 · o)| = 2 s a.
    let mapped = learned(Loader::Mapped, None);
    assert!((mapped.input_scale / usual.input_scale - 2.0).abs() < 1e-12);
    let mean =
        probe.slice(s![.., .., ..]).iter().map(|p| f64::from(p.norm())).sum::<f64>() / 8192.0;
    let product = mapped.object_factor * q * 16.0 * mean * mapped.input_scale;
    assert!((product - 1.0).abs() < 1e-6, "{product}");
}
