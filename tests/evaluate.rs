//! The commands around scans with known truth: simulate, fixture, evaluate.

use std::path::Path;

use assert_cmd::Command;
use ndarray::{Array1, Array2, Array3, arr1, s};
use ptycho_gpu::data::npz::NpzWriter;
use ptycho_gpu::data::{DoseOrigin, LoadOptions, Scan, load};
use serde_json::Value;

const SMALL: [&str; 8] =
    ["--side", "32", "--patterns", "49", "--probe-diameter", "12", "--photons", "1e5"];

fn ptycho(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("ptycho-gpu").expect("the binary").args(arguments).assert()
}

fn simulated(folder: &Path, more: &[&str]) -> std::path::PathBuf {
    let path = folder.join("scan.npz");
    let file = path.to_str().expect("a UTF-8 path");
    ptycho(&[&["simulate", file], &SMALL[..], more].concat()).success();
    path
}

fn read(path: &Path) -> Scan {
    load(path, &LoadOptions::default()).expect("a valid scan")
}

/// A reconstruction file that holds `object` as found and the probe of `scan`.
fn reconstruction(folder: &Path, scan: &Scan, object: &Array2<num_complex::Complex32>) {
    placed(folder, scan, object, [0.0, 0.0]);
}

/// The same, where pixel (0, 0) of `object` has the object coordinates `origin_yx`.
fn placed(
    folder: &Path,
    scan: &Scan,
    object: &Array2<num_complex::Complex32>,
    origin_yx: [f64; 2],
) {
    std::fs::create_dir_all(folder).unwrap();
    let mut file = NpzWriter::create(folder.join("reconstruction.npz")).unwrap();
    let positions = Array2::from_shape_fn((scan.len(), 2), |(i, k)| {
        [scan.positions[i].x, scan.positions[i].y][k]
    });
    file.c64("object", object).unwrap();
    file.f32("weights", &Array2::ones(object.dim())).unwrap();
    file.f64("origin_yx", &arr1(&origin_yx)).unwrap();
    file.c64("probe", &scan.probe).unwrap();
    file.f64("positions", &positions).unwrap();
    file.i64("indices", &(0..scan.len() as i64).collect::<Array1<i64>>()).unwrap();
    file.finish().unwrap();
}

/// The last line that `evaluate --json` prints for the folder's reconstruction.
fn figures(folder: &Path, more: &[&str]) -> Value {
    let name = folder.to_str().unwrap();
    let done = ptycho(&[&["evaluate", name, "--json"], more].concat()).success();
    let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn the_truth_evaluated_as_a_reconstruction_is_perfect_and_leaves_shot_noise() {
    let folder = tempfile::tempdir().unwrap();
    let path = simulated(folder.path(), &["--modes", "3,1"]);
    let scan = read(&path);
    reconstruction(folder.path(), &scan, scan.object.as_ref().unwrap());
    let frc = folder.path().join("frc.csv");
    let got = figures(folder.path(), &[path.to_str().unwrap(), "--frc", frc.to_str().unwrap()]);
    assert!(got["relative_l2"].as_f64().unwrap() < 1e-6, "{got}");
    assert!(
        got["residual"].as_f64().unwrap() < 0.01 && got["r_factor"].as_f64().unwrap() < 0.2,
        "{got}"
    );
    assert!(
        got["ssim"][0].as_f64().unwrap() > 0.999999 && got["phase_mae"].as_f64().unwrap() < 1e-6
    );
    assert!(std::fs::read_to_string(frc).unwrap().starts_with("ring,cycles_per_pixel"));
}

#[test]
fn another_reconstruction_is_a_truth_wherever_its_canvas_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = simulated(folder.path(), &[]);
    let scan = read(&path);
    let object = scan.object.as_ref().unwrap();
    reconstruction(folder.path(), &scan, object);
    let other = folder.path().join("other");
    let (height, width) = object.dim();
    let mut wider = Array2::zeros((height + 3, width + 5));
    wider.slice_mut(s![3.., 5..]).assign(object);
    let against = |origin| {
        placed(&other, &scan, &wider, origin);
        let truth = ["--truth", other.to_str().unwrap()];
        figures(folder.path(), &truth)["relative_l2"].as_f64().unwrap()
    };
    assert!(against([-3.0, -5.0]) < 1e-6);
    assert!(against([0.0, 0.0]) > 0.01, "a shifted object is another one");
}

#[test]
fn a_constant_object_guess_is_no_truth() {
    let folder = tempfile::tempdir().unwrap();
    let path = simulated(folder.path(), &["--amplitude-min", "1", "--phase", "0"]);
    let scan = read(&path);
    reconstruction(folder.path(), &scan, scan.object.as_ref().unwrap());
    let got = figures(folder.path(), &[path.to_str().unwrap()]);
    assert!(
        got["note"].as_str().unwrap().contains("guess") && got["relative_l2"].is_null(),
        "{got}"
    );
    assert!(got["residual"].as_f64().unwrap() < 0.01);
}

#[test]
fn a_simulated_file_is_the_same_twice_and_reads_back_as_counts() {
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [one, two] = [&a, &b].map(|folder| simulated(folder.path(), &[]));
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap());
    let scan = read(&one);
    assert_eq!((scan.dose.origin, scan.dose.kappa), (DoseOrigin::Counts, 1.0));
    assert!((scan.mean_photons() / 1e5 - 1.0).abs() < 0.01);
}

#[test]
fn a_noiseless_scan_keeps_its_dose_in_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let scan = read(&simulated(folder.path(), &["--noiseless"]));
    assert_eq!(scan.dose.origin, DoseOrigin::Metadata);
    assert!((scan.dose.kappa - 1.0).abs() < 1e-6 && (scan.mean_photons() / 1e5 - 1.0).abs() < 1e-6);
}

#[test]
fn a_fixture_keeps_patterns_and_positions_together() {
    let folder = tempfile::tempdir().unwrap();
    let (source, small) = (simulated(folder.path(), &[]), folder.path().join("small.npz"));
    ptycho(&["fixture", source.to_str().unwrap(), small.to_str().unwrap(), "-n", "10"]).success();
    let (all, some) = (read(&source), read(&small));
    let kept: Vec<usize> = (0..10).map(|i| i * 49 / 10).collect();
    let wanted = all.subset(&kept).unwrap();
    assert!(some.amplitude.held() == wanted.amplitude.held() && some.positions == wanted.positions);
    let sidecar = std::fs::read_to_string(small.with_extension("json")).unwrap();
    let sidecar: Value = serde_json::from_str(&sidecar).unwrap();
    assert_eq!(sidecar["indices"], serde_json::json!(kept));
    assert_eq!(sidecar["result"]["sha256"], some.source.sha256.as_str());
    assert_eq!(sidecar["source"]["sha256"], all.source.sha256.as_str());
}

#[test]
fn a_scan_falls_into_parts_that_share_no_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let source = simulated(folder.path(), &[]);
    let part = |name: &str, flags: &[&str]| {
        let path = folder.path().join(name);
        let files = ["fixture", source.to_str().unwrap(), path.to_str().unwrap()];
        ptycho(&[&files[..], flags].concat()).success();
        read(&path)
    };
    let all = read(&source);
    let (left, right) = (part("left.npz", &["--x=0:0.6"]), part("right.npz", &["--x=0.6:1"]));
    assert_eq!(left.len() + right.len(), all.len());
    let most = left.positions.iter().fold(f64::MIN, |most, p| most.max(p.x));
    assert!(right.positions.iter().all(|p| p.x > most));
    assert!(left.len() > right.len(), "{} and {}", left.len(), right.len());
    let corner = part("corner.npz", &["--x=0:0.5", "--y=0.5:1", "-n", "4"]);
    assert_eq!(corner.len(), 4);
    for wrong in ["--x=0.6:0.5", "--x=0:1.1", "--y=half"] {
        let path = folder.path().join("none.npz");
        let refused = ptycho(&["fixture", source.to_str().unwrap(), path.to_str().unwrap(), wrong]);
        let text = String::from_utf8_lossy(&refused.code(2).get_output().stderr).into_owned();
        assert!(text.contains("FROM:TO") && !path.exists(), "{text}");
    }
}

#[test]
fn a_fixture_larger_than_its_scan_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = simulated(folder.path(), &[]);
    let refused = ptycho(&["fixture", source.to_str().unwrap(), "x.npz", "-n", "50"]).failure();
    let text = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(text.contains("50") && text.contains("49"), "{text}");
}

#[test]
fn the_committed_fixture_is_what_its_recipe_makes() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/siemens64.npz");
    let scan = read(&fixture);
    assert_eq!(
        (scan.len(), scan.side(), scan.probe.dim()),
        (100, 64, Array3::<u8>::zeros((1, 64, 64)).dim())
    );
    assert!(std::fs::metadata(&fixture).unwrap().len() <= 1_000_000);
    assert!((scan.mean_photons() / 2e5 - 1.0).abs() < 0.01, "{} photons", scan.mean_photons());
}
