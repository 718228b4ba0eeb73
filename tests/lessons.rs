//! Where true patches come from, and what is made of them: synthetic objects, a teacher, a mixture
//! with the physics, and weights that a training starts with.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ndarray::{Array2, Array3, ArrayView2, Axis, s};
use num_complex::{Complex32, Complex64};
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::config::LossConfig;
use ptycho_gpu::data::npz::NpzWriter;
use ptycho_gpu::data::scan::{Position, Scan};
use ptycho_gpu::data::{LoadOptions, load};
use ptycho_gpu::simulate::{DoseSpec, Forward, Recipe, ScanSpec, SimulatedScan, simulate};
use ptycho_gpu::train::schedule::label_share;
use ptycho_gpu::train::synthetic::{Supply, Synthetic};
use ptycho_gpu::train::teacher::Teacher;
use serde_json::Value;
use tempfile::TempDir;

/// A scan of 12 patterns, bright enough that noise is a small part of them.
fn simulated() -> SimulatedScan {
    let mut recipe = Recipe { seed: 4, dose: DoseSpec::Photons(1e7), ..Recipe::default() };
    recipe.scan = ScanSpec { patterns: 12, step: 4.0, jitter: 0.5 };
    simulate(&recipe).unwrap()
}

struct Workplace {
    folder: TempDir,
    scan: PathBuf,
    truth: SimulatedScan,
}

fn workplace() -> Workplace {
    let (folder, truth) = (tempfile::tempdir().unwrap(), simulated());
    let scan = folder.path().join("scan.npz");
    truth.write(&scan).unwrap();
    Workplace { folder, scan, truth }
}

impl Workplace {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The truth as a file of a reconstruction.
    fn teacher(&self) -> PathBuf {
        let (path, truth) = (self.path("teacher.npz"), self.truth.to_scan());
        let object = truth.object.unwrap();
        let positions = truth.positions.iter().flat_map(|p| [p.x, p.y]).collect();
        let mut file = NpzWriter::create(&path).unwrap();
        file.c64("object", &object).unwrap();
        file.f32("weights", &Array2::<f32>::ones(object.dim())).unwrap();
        file.f64("origin_yx", &ndarray::arr1(&[0.0, 0.0])).unwrap();
        file.c64("probe", &truth.probe).unwrap();
        file.f64("positions", &Array2::from_shape_vec((12, 2), positions).unwrap()).unwrap();
        file.i64("indices", &ndarray::Array1::from_iter(0..12)).unwrap();
        file.finish().unwrap();
        path
    }

    /// Trains a small network for a moment; what it wrote to stderr if that failed.
    fn train(&self, name: &str, more: &[&str]) -> Result<Value, String> {
        let mut command = Command::cargo_bin("ptycho-gpu").expect("the binary");
        command.args(["train", "--n-filters-scale=1", "--batch-size=3", "--device=cpu", "--json"]);
        command.arg("--output-dir").arg(self.path(name)).args(more);
        let output = command.output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let text = String::from_utf8(output.stdout).unwrap();
        Ok(serde_json::from_str(text.lines().last().expect("a line")).expect("JSON"))
    }

    fn digest(&self, name: &str, more: &[&str]) -> Value {
        self.train(name, more).unwrap()["weights_sha256"].clone()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

#[test]
fn every_epoch_has_objects_of_its_own_and_the_same_in_every_run() {
    let like = simulated().to_scan();
    let synthetic = |seed| Synthetic::new(like.clone(), 30, seed).unwrap();
    let patterns = |scans: Vec<Scan>| -> Vec<Array3<f32>> {
        scans.into_iter().map(|scan| scan.amplitude.held().clone()).collect()
    };
    let epoch = |seed, epoch| patterns(synthetic(seed).epoch(epoch).unwrap());
    // 12 positions each, and the rest.
    assert_eq!(epoch(1, 0).iter().map(|a| a.dim().0).collect::<Vec<_>>(), [12, 12, 6]);
    assert_eq!(epoch(1, 3), epoch(1, 3));
    assert_ne!(epoch(1, 3), epoch(1, 4));
    assert_ne!(epoch(1, 3)[0], epoch(1, 3)[1]);
    assert_ne!(epoch(1, 3), epoch(2, 3));
    // Simulated ahead, out of order, or anew.
    let mut supply = Supply::new(synthetic(1));
    for wanted in [0, 1, 2, 1] {
        assert_eq!(patterns(supply.take(wanted).unwrap()), epoch(1, wanted), "epoch {wanted}");
    }
}

#[test]
fn synthetic_patterns_are_those_of_their_labels_at_the_dose_of_the_scan() {
    let mut like = simulated().to_scan();
    // Another unit, a dead pixel, and an empty one.
    like.dose.kappa = 2.0;
    let mut mask = Array2::ones((64, 64));
    mask[[30, 31]] = 0.0;
    like.mask = Some(mask);
    for scan in Synthetic::new(like.clone(), 24, 5).unwrap().epoch(0).unwrap() {
        let off = scan.mean_energy() / like.mean_energy() - 1.0;
        assert!(off.abs() < 0.02, "the patterns are brighter by {off}");
        let probe = scan.probe.mapv(|z| Complex64::new(z.re.into(), z.im.into()));
        let forward = Forward::new(probe);
        let labels = scan.labels.as_ref().expect("true patches");
        for (patch, amplitude) in labels.outer_iter().zip(scan.amplitude.held().outer_iter()) {
            assert_eq!(amplitude[[30, 31]], 0.0, "a masked pixel is dark");
            assert!(residual(&forward, patch, amplitude) < 1e-3);
        }
    }
}

/// Σ(a − √Î)² / Σ a² of one pattern and the patch that it is said to be of.
fn residual(forward: &Forward, patch: ArrayView2<Complex32>, amplitude: ArrayView2<f32>) -> f64 {
    let patch = patch.mapv(|z| Complex64::new(z.re.into(), z.im.into()));
    let expected = forward.intensity(patch.view(), Position { x: 32.0, y: 32.0 });
    let (mut off, mut sum) = (0.0, 0.0);
    for (&a, i) in amplitude.iter().zip(&expected) {
        if a > 0.0 {
            off += (f64::from(a) - i.sqrt()).powi(2);
            sum += f64::from(a).powi(2);
        }
    }
    off / sum
}

#[test]
fn a_synthetic_training_is_resumed_to_the_bit() {
    let place = workplace();
    let common = ["--synthetic=7", "--like", text(&place.scan), "--mode=mixed"];
    let run = |name: &str, more: &[&str]| place.digest(name, &[&common, more].concat());
    let whole = run("whole", &["--max-epochs=2"]);
    // The share of the labels depends on the number of epochs.
    let parts = ["--label-share=0.5", "--label-share-end=0.5"];
    let whole_of_parts = run("same", &[&parts[..], &["--max-epochs=2"]].concat());
    run("parts", &[&parts[..], &["--max-epochs=1"]].concat());
    let resumed = run("parts", &[&parts[..], &["--max-epochs=2", "--resume=auto"]].concat());
    assert_eq!(whole_of_parts, resumed);
    assert_ne!(whole, resumed);
}

#[test]
fn a_mixture_of_nothing_but_one_kind_is_that_kind() {
    let place = workplace();
    let teacher = place.teacher();
    let scan = ["--train-data-file", text(&place.scan), "--max-epochs=1"];
    place.train("start", &scan).unwrap();
    let start = place.path("start");
    let from = |name: &str, more: &[&str]| {
        place.digest(name, &[&scan[..], &["--init-from", text(&start)], more].concat())
    };
    let taught = |name: &str, share: &str| {
        let end = format!("--label-share-end={share}");
        let share = format!("--label-share={share}");
        let mixed = ["--mode=mixed", "--loss=mae", "--teacher", text(&teacher), &share, &end];
        from(name, &mixed)
    };
    let physics = from("physics", &["--loss=mae"]);
    let labels = ["--mode=supervised", "--loss=mae", "--teacher", text(&teacher)];
    let labels = from("labels", &labels);
    assert_eq!(taught("no labels", "0"), physics);
    assert_eq!(taught("no physics", "1"), labels);
    assert_ne!(taught("both", "0.5"), physics);
}

#[test]
fn a_teacher_gives_the_true_patches_of_the_patterns_that_it_covers() {
    let truth = simulated();
    let scan = truth.to_scan();
    let object = scan.object.clone().unwrap();
    let mut weights = Array2::<f32>::ones(object.dim());
    let path = Path::new("teacher.npz");
    let indices: Vec<usize> = (0..12).collect();
    let teach = |weights: &Array2<f32>, shift: f64| {
        let positions: Vec<Position> =
            scan.positions.iter().map(|p| Position { x: p.x + shift, y: p.y }).collect();
        let teacher = Teacher {
            path,
            object: object.view(),
            weights: weights.view(),
            origin_yx: [0.0, shift],
            probe: scan.probe.view(),
            positions: &positions,
            indices: &indices,
        };
        teacher.teach(&scan)
    };
    let taught = teach(&weights, 0.0).unwrap();
    let patches = taught.labels.as_ref().unwrap();
    for (patch, position) in patches.outer_iter().zip(&scan.positions) {
        let want = ptycho_gpu::simulate::forward::extract(truth.object.view(), *position, 64);
        let off = patch.iter().zip(&want).map(|(p, w)| (f64::from(p.re) - w.re).abs());
        assert!(off.fold(0.0, f64::max) < 1e-6);
    }
    // Canvas and positions moved together: the same patches, at the teacher's positions.
    let moved = teach(&weights, 100.0).unwrap();
    assert_eq!(moved.labels, taught.labels);
    assert_eq!(moved.positions[0].x, scan.positions[0].x + 100.0);
    // Nothing is known of the right half: patterns there are left out.
    let middle = object.dim().1 / 2;
    weights.slice_mut(s![.., middle + 12..]).fill(0.0);
    let half = teach(&weights, 0.0).unwrap();
    assert!(half.len() < 12 && !half.is_empty(), "{} patterns", half.len());
    assert!(half.positions.iter().all(|p| p.x < middle as f64 + 4.0));
    weights.fill(0.0);
    let refused = teach(&weights, 0.0).unwrap_err().to_string();
    assert!(refused.contains("teacher.npz") && refused.contains("covers no patch"), "{refused}");
}

#[test]
fn the_teachers_probe_goes_into_the_checkpoint_and_comes_out_of_inference() {
    let place = workplace();
    let teacher = place.teacher();
    // A scan whose own probe is another one.
    let mut scan = load(&place.scan, &LoadOptions::default()).unwrap();
    let probe = scan.probe.clone();
    scan.probe.mapv_inplace(|z| z.conj() * 3.0);
    let guess = place.path("guess.npz");
    let file = ptycho_gpu::data::ScanFile::new(&scan);
    ptycho_gpu::data::write_scan(&guess, &file).unwrap();
    let lesson = ["--mode=mixed", "--teacher", text(&teacher), "--max-epochs=1"];
    place.train("taught", &[&["--train-data-file", text(&guess)], &lesson[..]].concat()).unwrap();
    let last = Checkpoint::load(place.path("taught/checkpoints/last.safetensors")).unwrap();
    assert_eq!(last.tensors["probe"].shape, [1, 1, 64, 64, 2]);
    let mut infer = Command::cargo_bin("ptycho-gpu").unwrap();
    infer.args(["infer", "--device=cpu", "--model-path", text(&place.path("taught"))]);
    infer.args(["--test-data", text(&guess), "--output-dir", text(&place.path("result"))]);
    infer.assert().success();
    let path = place.path("result/reconstruction.npz");
    let mut result = ptycho_gpu::data::npz::Npz::open(path).unwrap();
    let used = result.c64("probe").unwrap();
    let used = used.index_axis(Axis(0), 0);
    let off: f32 = used.iter().zip(&probe).map(|(u, p)| (u - p).norm_sqr()).sum();
    let size: f32 = probe.iter().map(|p| p.norm_sqr()).sum();
    assert!(off < 1e-10 * size, "not the teacher's probe: {off} of {size}");
}

#[test]
fn physics_alone_can_use_a_teachers_probe_and_positions() {
    let place = workplace();
    let (scan, teacher) = (text(&place.scan), place.teacher());
    let physics = ["--train-data-file", scan, "--max-epochs=1"];
    let taught = [&physics[..], &["--teacher", text(&teacher)]].concat();
    // The teacher is the truth, probe and positions included: there is nothing else to learn from.
    assert_eq!(place.digest("plain", &physics), place.digest("taught", &taught));
    let last = Checkpoint::load(place.path("taught/checkpoints/last.safetensors")).unwrap();
    assert!(last.tensors.contains_key("probe"), "the teacher's probe is not kept");
}

#[test]
fn modes_that_are_asked_for_are_learned_beside_the_probe() {
    let place = workplace();
    let scan = text(&place.scan);
    let modes = ["--probe-trainable", "--probe-modes=3", "--probe-learning-rate=0.05"];
    place
        .train("run", &[&["--train-data-file", scan, "--max-epochs=2"], &modes[..]].concat())
        .unwrap();
    let last = Checkpoint::load(place.path("run/checkpoints/last.safetensors")).unwrap();
    assert_eq!(last.tensors["probe"].shape, [1, 3, 64, 64, 2]);
    let mut infer = Command::cargo_bin("ptycho-gpu").unwrap();
    infer.args(["infer", "--device=cpu", "--model-path", text(&place.path("run"))]);
    infer.args(["--test-data", scan, "--output-dir", text(&place.path("result"))]);
    infer.assert().success();
    let mut result =
        ptycho_gpu::data::npz::Npz::open(place.path("result/reconstruction.npz")).unwrap();
    let probe = result.c64("probe").unwrap().into_dimensionality::<ndarray::Ix3>().unwrap();
    let dot = |a: usize, b: usize| -> Complex64 {
        let (a, b) = (probe.index_axis(Axis(0), a), probe.index_axis(Axis(0), b));
        a.iter()
            .zip(&b)
            .map(|(a, b)| a.conj() * b)
            .map(|z| Complex64::new(z.re.into(), z.im.into()))
            .sum()
    };
    let power = [0, 1, 2].map(|mode| dot(mode, mode).re);
    assert!(power[0] > power[1] && power[1] >= power[2] && power[2] > 0.0, "{power:?}");
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(dot(a, b).norm() < 1e-4 * power[0], "modes {a} and {b} are not orthogonal");
    }
}

#[test]
fn the_share_of_labels_goes_in_a_straight_line() {
    let loss = LossConfig { label_share: 0.8, label_share_end: 0.2, ..LossConfig::default() };
    let shares = [0, 1, 2, 3, 9].map(|epoch| label_share(&loss, epoch, 4));
    let wanted = [0.8, 0.6, 0.4, 0.2, 0.2];
    assert!(shares.iter().zip(wanted).all(|(s, w)| (s - w).abs() < 1e-12), "{shares:?}");
    assert_eq!(label_share(&loss, 0, 1), 0.8);
}

#[test]
fn contradicting_sources_are_refused_with_what_to_do() {
    let place = workplace();
    let scan = text(&place.scan);
    let cases: [(&[&str], &str); 9] = [
        (&[], "--synthetic and --like"),
        (&["--synthetic=8"], "--like SCAN"),
        (&["--like", scan, "--train-data-file", scan], "--synthetic PATTERNS"),
        (&["--synthetic=8", "--like", scan, "--train-data-file", scan], "--init-from"),
        (&["--synthetic=8", "--like", scan, "--probe-trainable"], "--probe-trainable"),
        (&["--train-data-file", scan, "--probe-modes=2"], "--probe-trainable"),
        (&["--train-data-file", scan, "--probe-trainable", "--probe-modes=11"], "from 1 to 10"),
        (&["--train-data-file", scan, "--mode=mixed"], "--teacher"),
        (&["--train-data-file", scan, "--init-from", scan], "scan.npz"),
    ];
    for (given, wanted) in cases {
        let said = place.train("run", given).unwrap_err();
        assert!(said.contains(wanted), "{given:?}: {said}");
        assert!(!place.path("run/checkpoints").exists(), "{given:?} left something");
    }
}
