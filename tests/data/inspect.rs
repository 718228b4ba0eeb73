use assert_cmd::Command;
use predicates::str::contains;

use super::Draft;

fn inspect(file: &std::path::Path, flags: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("ptycho-gpu").unwrap().arg("inspect").arg(file).args(flags).assert()
}

#[test]
fn inspect_describes_a_sound_scan_and_exits_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = Draft::sound(25, 64).write(folder.path());
    inspect(&path, &[])
        .success()
        .stdout(contains("25 × 64 × 64"))
        .stdout(contains("1.0000e9 per pattern"))
        .stdout(contains("+----"))
        .stdout(contains("No problems found."));
}

#[test]
fn inspect_prints_one_json_object() {
    let folder = tempfile::tempdir().unwrap();
    let path = Draft::sound(25, 64).write(folder.path());
    let assert = inspect(&path, &["--json", "--nphotons", "2e5"]).success();
    let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(report["usable"], true);
    assert_eq!(report["keys"]["diffraction"]["shape"], serde_json::json!([25, 64, 64]));
    assert_eq!(report["scan"]["dose_origin"], "flag");
    let photons = report["scan"]["mean_photons_per_pattern"].as_f64().unwrap();
    assert!((photons / 2e5 - 1.0).abs() < 1e-9);
}

#[test]
fn inspect_lists_every_problem_of_an_unusable_scan_and_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let mut draft = Draft::sound(10, 32);
    draft.pixels()[[3, 1, 2]] = f32::NAN;
    draft.pixels()[[4, 1, 2]] = -1.0;
    let path = draft.write(folder.path());
    inspect(&path, &[])
        .code(1)
        .stdout(contains("NaN or infinite, the first at [3, 1, 2]"))
        .stdout(contains("negative values, the first at [4, 1, 2]"))
        .stderr(contains("cannot be used: 2 errors"));
    inspect(&path, &["--json"]).code(1).stdout(contains("\"name\": \"non_finite\""));
}

#[test]
fn inspect_warns_of_a_side_that_the_network_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = Draft::sound(10, 32).write(folder.path());
    inspect(&path, &[]).success().stdout(contains("the network takes 64, 128 or 256"));
}

#[test]
fn garbage_gives_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    std::fs::write(&path, b"certainly not a scan").unwrap();
    inspect(&path, &[]).code(1).stdout("").stderr(contains("is no NPZ file"));
}
