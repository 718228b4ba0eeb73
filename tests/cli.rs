//! train, infer and evaluate as typed, and what they say to input that cannot be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use ndarray::{Array, Array1, Array2, Array3, Axis, Dimension};
use num_complex::Complex32;
use ptycho_gpu::data::{LoadOptions, Npz, NpzWriter, Position, load};
use ptycho_gpu::stitch;
use serde_json::Value;
use tempfile::TempDir;

fn run(arguments: &[&str]) -> Output {
    Command::cargo_bin("ptycho-gpu").expect("the binary").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(arguments: &[&str]) -> Output {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    output
}

/// Exit code 1 and one error that holds all `words`; no panic.
fn refuses(arguments: &[&str], words: &[&str]) {
    let output = run(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(!said.contains("panicked") && said.matches("error: ").count() == 1, "{said}");
    let error = said.lines().find(|line| line.starts_with("error: ")).expect("an error line");
    words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in: {error}"));
    assert!(output.stdout.is_empty(), "results go with success alone");
}

/// The last line on stdout.
fn json(output: &Output) -> Value {
    serde_json::from_str(text(&output.stdout).lines().last().expect("a line")).expect("JSON")
}

struct Place {
    folder: TempDir,
}

impl Place {
    /// With `S.npz`, 16 patterns of 64×64.
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        place.simulate("S.npz", &[]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn simulate(&self, name: &str, more: &[&str]) -> String {
        let file = self.name(name);
        let recipe = ["--patterns=16", "--probe-diameter=20", "--photons=1e5", "--step=4"];
        succeeds(&[&["simulate", &file][..], &recipe, more].concat());
        file
    }

    /// A scan file made of the arrays of `S.npz` after `change`.
    fn changed(&self, name: &str, change: impl FnOnce(&mut Arrays)) -> String {
        let mut arrays = Arrays::read(&self.path("S.npz"));
        change(&mut arrays);
        arrays.write(&self.path(name));
        self.name(name)
    }

    /// A network of one epoch in `OUT`.
    fn trained(&self) -> String {
        succeeds(
            &self.train(&self.name("S.npz"), "OUT", &[]).iter().map(|a| &**a).collect::<Vec<_>>(),
        );
        self.name("OUT")
    }

    fn train(&self, scan: &str, out: &str, more: &[&str]) -> Vec<String> {
        let out = self.name(out);
        let fixed = ["train", "--train_data_file", scan, "--output_dir", &out, "--max_epochs", "1"];
        let tiny = ["--n_images", "4", "--batch_size", "4", "--n_filters_scale", "1"];
        fixed.iter().chain(&tiny).chain(more).map(|a| a.to_string()).collect()
    }

    /// `train` fails with `words` and leaves no folder.
    fn training_refuses(&self, scan: &str, more: &[&str], words: &[&str]) {
        let arguments = self.train(scan, "REFUSED", more);
        refuses(&arguments.iter().map(|a| &**a).collect::<Vec<_>>(), words);
        assert!(!self.path("REFUSED").exists(), "nothing is left behind");
    }

    fn inference_refuses(&self, model: &str, scan: &str, words: &[&str]) {
        let out = self.name("REFUSED");
        refuses(
            &["infer", "--model_path", model, "--test_data", scan, "--output_dir", &out],
            words,
        );
        assert!(!self.path("REFUSED").exists(), "nothing is left behind");
    }
}

/// What a scan file is made of.
struct Arrays {
    patterns: Array3<f32>,
    probe: Array2<Complex32>,
    x: Array1<f64>,
    y: Array1<f64>,
}

impl Arrays {
    fn read(path: &Path) -> Arrays {
        let scan = load(path, &LoadOptions::default()).unwrap();
        Arrays {
            patterns: scan.amplitude.held().clone(),
            probe: scan.probe.index_axis(Axis(0), 0).to_owned(),
            x: scan.positions.iter().map(|p| p.x).collect(),
            y: scan.positions.iter().map(|p| p.y).collect(),
        }
    }

    fn keep(&mut self, patterns: usize) {
        let kept: Vec<usize> = (0..patterns).collect();
        self.patterns = self.patterns.select(Axis(0), &kept);
        (self.x, self.y) = (self.x.select(Axis(0), &kept), self.y.select(Axis(0), &kept));
    }

    fn write(&self, path: &Path) {
        write(path, &self.patterns, &self.probe, &self.x, &self.y);
    }
}

fn write<D: Dimension>(
    path: &Path,
    patterns: &Array<f32, D>,
    probe: &Array2<Complex32>,
    x: &Array1<f64>,
    y: &Array1<f64>,
) {
    let mut file = NpzWriter::create(path).unwrap();
    file.f32("diffraction", patterns).unwrap();
    file.c64("probeGuess", probe).unwrap();
    file.f64("xcoords", x).unwrap();
    file.f64("ycoords", y).unwrap();
    file.finish().unwrap();
}

#[test]
fn patches_are_written_if_asked_for_and_are_those_that_were_stitched() {
    let place = Place::new();
    let (model, scan, rec) = (place.trained(), place.name("S.npz"), place.name("REC"));
    let plain = ["infer", "--model-path", &model, "--test-data", &scan, "--output-dir", &rec];
    let few =
        ["--n-images=6", "--patch-weighting=uniform", "--stitch-crop-size=20", "--device=cpu"];
    succeeds(&[&plain[..], &few].concat());
    assert!(!place.path("REC/patches.npz").exists(), "nobody asked for them");
    let object = Npz::open(place.path("REC/reconstruction.npz")).unwrap().c64("object").unwrap();
    succeeds(&[&plain[..], &few, &["--patches"]].concat());
    let patches = Npz::open(place.path("REC/patches.npz")).unwrap().c64("patches").unwrap();
    assert_eq!(patches.shape(), [6, 64, 64]);
    let mut saved = Npz::open(place.path("REC/reconstruction.npz")).unwrap();
    assert_eq!(saved.c64("object").unwrap(), object, "a witness changes nothing");
    let positions = saved.f64("positions").unwrap();
    let positions: Vec<Position> =
        positions.outer_iter().map(|p| Position { x: p[[0]], y: p[[1]] }).collect();
    let options = stitch::Options { crop: 20, weights: stitch::Weights::Uniform };
    let canvas = stitch::Canvas::around(&positions, 20).unwrap();
    let patches = patches.into_dimensionality().unwrap();
    let again = stitch::stitch(patches.view(), &positions, &canvas, &options).unwrap();
    assert_eq!(again.object.into_dyn(), object);
}

#[test]
fn train_infer_evaluate_as_typed() {
    let place = Place::new();
    let (scan, out, rec) = (place.name("S.npz"), place.name("OUT"), place.name("REC"));
    for dash in ["_", "-"] {
        let flags = |list: &[&str]| -> Vec<String> {
            list.iter()
                .map(|a| if a.starts_with("--") { a.replace('_', dash) } else { a.to_string() })
                .collect()
        };
        let train = flags(&[
            "train",
            "--train_data_file",
            &scan,
            "--test_data_file",
            &scan,
            "--output_dir",
            &out,
            "--max_epochs",
            "1",
            "--n_images",
            "4",
            "--gridsize",
            "1",
            "--batch_size",
            "4",
            "--device",
            "cpu",
            "--disable_mlflow",
            "--deterministic",
            "--n_filters_scale",
            "1",
            "--json",
        ]);
        let infer = flags(&[
            "infer",
            "--model_path",
            &out,
            "--test_data",
            &scan,
            "--output_dir",
            &rec,
            "--n_images",
            "15",
            "--device",
            "cpu",
            "--json",
        ]);
        let trained = succeeds(&train.iter().map(|a| &**a).collect::<Vec<_>>());
        let said = text(&trained.stderr);
        assert!(said.contains("--disable-mlflow has no effect"), "{said}");
        assert!(said.contains("--deterministic has no effect"), "{said}");
        assert_eq!(said.lines().filter(|l| l.contains("epoch 1/1")).count(), 1, "{said}");
        assert_eq!(text(&trained.stdout).lines().count(), 1, "one line of results");
        let inferred = succeeds(&infer.iter().map(|a| &**a).collect::<Vec<_>>());
        let evaluated = succeeds(&["evaluate", &rec, &scan, "--json"]);
        for output in [&trained, &inferred, &evaluated] {
            let line = json(output);
            assert!(line["residual"].is_f64() && line["r_factor"].is_f64(), "{line}");
        }
        assert_eq!(json(&inferred)["residual"], json(&evaluated)["residual"]);
    }
    for file in [
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
        "history.csv",
        "run.json",
        "log.txt",
    ] {
        assert!(fs::metadata(place.path("OUT").join(file)).unwrap().len() > 0, "{file}");
    }
    for file in ["amplitude.png", "phase.png", "consistency.png", "run.json"] {
        assert!(fs::metadata(place.path("REC").join(file)).unwrap().len() > 0, "{file}");
    }
    let npz = Npz::open(place.path("REC").join("reconstruction.npz")).unwrap();
    for key in [
        "object",
        "weights",
        "origin_yx",
        "consistency",
        "amplitude",
        "phase",
        "positions",
        "global_offsets",
        "coords_nominal",
        "probe",
        "indices",
    ] {
        assert!(npz.find(key).is_some(), "{key}");
    }
    assert_eq!(npz.find("indices").unwrap().shape, [15]);
}

#[test]
fn quiet_says_nothing_and_usage_errors_exit_with_2() {
    let place = Place::new();
    let train = place.train(&place.name("S.npz"), "OUT", &["--quiet", "--json"]);
    let output = succeeds(&train.iter().map(|a| &**a).collect::<Vec<_>>());
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(json(&output)["residual"].is_f64());
    for usage in [&["train", "--no-such-flag"][..], &["infer"], &["trian"]] {
        assert_eq!(run(usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn the_precision_of_tensor_cores_is_refused_on_the_cpu() {
    let place = Place::new();
    let scan = place.name("S.npz");
    let out = place.name("REFUSED");
    let infer = ["infer", "--model-path", &scan, "--test-data", &scan, "--output-dir", &out];
    for (precision, said) in [("tf32", "--precision tf32"), ("bf16", "--precision bf16")] {
        let asked = ["--device", "cpu", "--precision", precision];
        place.training_refuses(&scan, &asked, &[said, "--device cuda"]);
        refuses(&[&infer[..], &asked].concat(), &[said, "--device cuda"]);
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let place = Place::new();
    let scan = place.name("S.npz");
    place.training_refuses(&scan, &["--device", "cuda"], &["cuda", "--device cpu"]);
    let out = place.name("REFUSED");
    let infer = ["infer", "--model-path", &scan, "--test-data", &scan, "--output-dir", &out];
    refuses(&[&infer[..], &["--device", "cuda:1"]].concat(), &["cuda:1", "--device cpu"]);
}

#[test]
fn scans_that_cannot_be_used_are_refused() {
    let place = Place::new();
    let refused = |name: &str, words: &[&str], change: &dyn Fn(&mut Arrays)| {
        let scan = place.changed(name, change);
        place.training_refuses(&scan, &[], &[&[name], words].concat());
    };
    refused("nan.npz", &["`diffraction`", "NaN"], &|a| a.patterns[[3, 5, 7]] = f32::NAN);
    refused("negative.npz", &["negative"], &|a| a.patterns[[3, 5, 7]] = -1.0);
    refused("dark.npz", &["dark"], &|a| a.patterns.fill(0.0));
    refused("count.npz", &["16 patterns", "15 positions"], &|a| {
        (a.x, a.y) = (a.x.select(Axis(0), &[0; 15]), a.y.select(Axis(0), &[0; 15]));
    });
    refused("metres.npz", &["metres", "pixel size"], &|a| {
        (a.x, a.y) = (&a.x * 1e-8, &a.y * 1e-8);
    });
    refused("probe.npz", &["64 × 64", "32 × 32"], &|a| {
        a.probe = a.probe.slice(ndarray::s![..32, ..32]).to_owned();
    });
    refused("empty.npz", &["empty"], &|a| a.keep(0));
    refused("cube.npz", &["order of the axes", "--order"], &|a| {
        a.patterns = Array3::ones((64, 64, 64));
        (a.x, a.y) = (Array1::range(0.0, 256.0, 4.0), Array1::range(0.0, 256.0, 4.0));
    });
}

#[test]
fn scans_that_are_too_small_for_a_group_are_refused() {
    let place = Place::new();
    let one = place.changed("one.npz", |a| a.keep(1));
    place.training_refuses(&one, &["--gridsize=2"], &["one.npz", "1 patterns", "gridsize 2"]);
    let three = place.changed("three.npz", |a| a.keep(3));
    place.training_refuses(&three, &["--gridsize=2"], &["three.npz", "3 patterns", "smaller"]);
    let scan = place.name("S.npz");
    let split = ["--gridsize=2", "--validation-split=0.1"];
    place.training_refuses(&scan, &split, &["S.npz", "validate"]);
}

#[test]
fn files_of_the_wrong_kind_are_refused() {
    let place = Place::new();
    let path = place.path("missing.npz");
    let mut file = NpzWriter::create(&path).unwrap();
    file.f32("intensities", &Array3::<f32>::ones((4, 64, 64))).unwrap();
    file.finish().unwrap();
    place.training_refuses(&place.name("missing.npz"), &[], &["`probeGuess`", "`intensities`"]);

    let mut file = NpzWriter::create(place.path("dtype.npz")).unwrap();
    let scan = Arrays::read(&place.path("S.npz"));
    file.c64("diffraction", &scan.patterns.mapv(|a| Complex32::new(a, 0.0))).unwrap();
    file.c64("probeGuess", &scan.probe).unwrap();
    file.f64("xcoords", &scan.x).unwrap();
    file.f64("ycoords", &scan.y).unwrap();
    file.finish().unwrap();
    place.training_refuses(&place.name("dtype.npz"), &[], &["`diffraction`", "c8"]);

    let whole = fs::read(place.path("S.npz")).unwrap();
    fs::write(place.path("cut.npz"), &whole[..whole.len() / 2]).unwrap();
    place.training_refuses(&place.name("cut.npz"), &[], &["cut.npz", "truncated"]);
    fs::write(place.path("text.npz"), "not an archive").unwrap();
    place.training_refuses(&place.name("text.npz"), &[], &["text.npz", "NPZ"]);
    place.training_refuses(&place.name("nowhere.npz"), &[], &["nowhere.npz"]);
    let odd = place.simulate("odd.npz", &["--side=96"]);
    place.training_refuses(&odd, &[], &["odd.npz", "96", "64, 128 or 256"]);
}

#[test]
fn the_old_order_of_axes_is_read_and_said() {
    let place = Place::new();
    let a = Arrays::read(&place.path("S.npz"));
    let moved = a.patterns.view().permuted_axes([1, 2, 0]).as_standard_layout().into_owned();
    write(&place.path("legacy.npz"), &moved, &a.probe, &a.x, &a.y);
    let train = place.train(&place.name("legacy.npz"), "OUT", &[]);
    let output = succeeds(&train.iter().map(|a| &**a).collect::<Vec<_>>());
    let said = text(&output.stderr);
    assert!(said.contains("last axis") && said.contains("reordered"), "{said}");
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    let place = Place::new();
    let (scan, out) = (place.name("S.npz"), place.trained());
    let large = place.simulate("large.npz", &["--side=128"]);
    place.inference_refuses(&out, &large, &["128×128", "64×64"]);
    place.inference_refuses(&place.name("nowhere"), &scan, &["nowhere"]);
    let train = place.train(&scan, "OUT", &["--resume=auto"]);
    let train: Vec<_> = train.iter().map(|a| if a == "1" { "2" } else { a.as_str() }).collect();
    refuses(&train, &["another network", "n_filters_scale"]);

    let whole = fs::read(place.path("OUT/checkpoints/best.safetensors")).unwrap();
    let bad = place.name("bad.safetensors");
    fs::write(&bad, &whole[..whole.len() - 1000]).unwrap();
    place.inference_refuses(&bad, &scan, &["bad.safetensors", "cut short"]);
    let mut newer = whole.clone();
    let version = br#""version":"1""#;
    let at = newer.windows(version.len()).position(|w| w == version).expect("a version");
    newer[at + version.len() - 2] = b'9';
    fs::write(&bad, &newer).unwrap();
    place.inference_refuses(&bad, &scan, &["version 9", "version 1"]);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&bad, &flipped).unwrap();
    place.inference_refuses(&bad, &scan, &["damaged", "checksum"]);
    fs::write(&bad, "no checkpoint").unwrap();
    place.inference_refuses(&bad, &scan, &["bad.safetensors"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let place = Place::new();
    let scan = place.name("S.npz");
    fs::write(place.path("file"), "").unwrap();
    let train = place.train(&scan, "file/OUT", &[]);
    refuses(&train.iter().map(|a| &**a).collect::<Vec<_>>(), &["file/OUT"]);
    let (model, rec) = (place.trained(), place.name("file/REC"));
    refuses(
        &["infer", "--model-path", &model, "--test-data", &scan, "--output-dir", &rec],
        &["file/REC"],
    );
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_older_checkpoint_whole() {
    let place = Place::new();
    let (scan, _) = (place.name("S.npz"), place.trained());
    let checkpoint = place.path("OUT/checkpoints/last.safetensors");
    let before = fs::read(&checkpoint).unwrap();
    let mut train = place.train(&scan, "OUT", &["--resume=auto"]);
    let at = train.iter().position(|a| a == "--max_epochs").unwrap();
    train[at + 1] = "2".into();
    // A file may not grow beyond a limit: what a full disk looks like to the program.
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(assert_cmd::cargo::cargo_bin("ptycho-gpu"))
        .args(&train)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: cannot write") && !said.contains("panicked"), "{said}");
    assert!(fs::read(&checkpoint).unwrap() == before, "the older checkpoint is intact");
    let names = fs::read_dir(place.path("OUT/checkpoints")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing half-written: {names:?}");
    assert!(
        !fs::read_dir(place.path("OUT"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".part") })
    );
}
