//! Frames that say something wrong are found, named, and left out where that is asked for; and what is left
//! out has no part in the result.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use ptycho_gpu::data::bad_frames::find;
use ptycho_gpu::data::{Fault, LoadOptions, Npz, RejectFrames, Room, Scan, load, save_scan};
use serde_json::Value;
use tempfile::TempDir;

/// Frames that are spoiled, and what the program is to call it.
const SPOILED: [(usize, &str); 6] = [
    (7, "dead"),
    (19, "empty"),
    (33, "saturated"),
    (48, "duplicated"),
    (61, "shifted"),
    (74, "misplaced"),
];

/// The same as a list of frames.
const LIST: &str = "7,19,33,48,61,74";

struct Files {
    folder: TempDir,
    sound: PathBuf,
    spoiled: PathBuf,
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("ptycho-gpu").expect("the binary");
    command.args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn scan(path: &Path) -> Scan {
    load(path, &LoadOptions::default()).unwrap()
}

/// 100 patterns, and the same with six of them spoiled.
fn files(side: &str) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let [sound, spoiled] = ["sound.npz", "spoiled.npz"].map(|name| folder.path().join(name));
    let recipe =
        ["--patterns=100", "--step=3", "--probe-diameter=9", "--defocus=12", "--probe=gaussian"];
    program(&["simulate", text(&sound), side, "--seed=4", "--photons=1e6"])
        .args(recipe)
        .assert()
        .success();
    let mut scan = scan(&sound);
    spoil(&mut scan);
    save_scan(&spoiled, &scan).unwrap();
    Files { folder, sound, spoiled }
}

fn spoil(scan: &mut Scan) {
    let side = scan.side();
    let patterns = scan.amplitude.held_mut();
    let most = patterns.iter().copied().fold(0.0, f32::max);
    let frame = |index: usize| ndarray::s![index, .., ..];
    patterns.slice_mut(frame(7)).fill(0.0);
    // A beam of a thousandth, in whole photons.
    patterns.slice_mut(frame(19)).mapv_inplace(|a| (1e-3 * a * a).round().sqrt());
    let square = ndarray::s![33, side / 2 - 3..side / 2 + 3, side / 2 - 3..side / 2 + 3];
    patterns.slice_mut(square).fill(most);
    let copy = patterns.slice(frame(12)).to_owned();
    patterns.slice_mut(frame(48)).assign(&copy);
    let before = patterns.slice(frame(61)).to_owned();
    for ((y, x), a) in before.indexed_iter() {
        patterns[[61, (y + 3) % side, (x + side - 2) % side]] = *a;
    }
    scan.positions[74].x += 4.0;
    scan.positions[74].y -= 6.0;
}

fn small() -> &'static Files {
    static FILES: LazyLock<Files> = LazyLock::new(|| files("--side=32"));
    &FILES
}

/// Of a size that a network takes.
fn large() -> &'static Files {
    static FILES: LazyLock<Files> = LazyLock::new(|| files("--side=64"));
    &FILES
}

/// Reconstructs directly; the folder of the result.
fn reconstructed(scan: &Path, name: &str, more: &[&str]) -> PathBuf {
    let output = small().folder.path().join(name);
    let fixed = ["--epochs=60", "--seed=1", "--no-report", "--quiet"];
    program(&["reconstruct", text(scan), "--output-dir", text(&output)])
        .args(fixed)
        .args(more)
        .assert()
        .success();
    output
}

/// (frame, fault, used) of the rows of bad_frames.csv.
fn listed(folder: &Path) -> Vec<(usize, String, String)> {
    let table = fs::read_to_string(folder.join("bad_frames.csv")).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        (fields[0].parse().unwrap(), fields[1].to_owned(), fields[2].to_owned())
    };
    table.lines().skip(1).map(row).collect()
}

fn expected(used: &str) -> Vec<(usize, String, String)> {
    SPOILED.map(|(frame, fault)| (frame, fault.to_owned(), used.to_owned())).to_vec()
}

fn record(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("run.json")).unwrap()).unwrap()
}

fn object(folder: &Path) -> Vec<u32> {
    let object = Npz::open(folder.join("reconstruction.npz")).unwrap().c64("object").unwrap();
    object.iter().flat_map(|z| [z.re.to_bits(), z.im.to_bits()]).collect()
}

#[test]
fn frames_that_give_themselves_away_are_found_without_an_object() {
    let found = find(&scan(&small().spoiled)).unwrap();
    let names: Vec<(usize, &str)> = found.iter().map(|bad| (bad.frame, bad.fault.name())).collect();
    assert_eq!(names, SPOILED[..4]);
    assert_eq!(found[3].fault, Fault::Duplicated { of: 12 });
    assert_eq!(find(&scan(&small().sound)).unwrap(), []);
}

#[test]
fn inspect_lists_them_with_a_remedy() {
    program(&["inspect", text(&small().spoiled)])
        .assert()
        .success()
        .stdout(contains("4 of 100 frames: 7 (dead").and(contains("--reject-frames auto")));
    let sound = program(&["inspect", text(&small().sound)]).assert().success();
    sound.stdout(contains("frames:").not());
}

/// What is listed of a scan without some of its frames.
fn found_without(frames: &str) -> Value {
    let list = format!("--reject-frames={frames}");
    record(&reconstructed(&small().spoiled, frames, &[&list]))["results"]["bad_frames"].clone()
}

#[test]
fn the_others_are_found_by_the_object_that_all_make() {
    let found = found_without("7,19,33,48");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let shifted = serde_json::json!({ "frame": 61, "fault": "shifted", "rows": 3, "columns": -2 });
    assert!(shifted.as_object().unwrap().iter().all(|(k, v)| found[0][k] == *v), "{found}");
    // Once that does not hide it any more; it was taken where it was before it was spoiled.
    let found = found_without("7,19,33,48,61");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let misplaced = serde_json::json!({ "frame": 74, "fault": "misplaced", "x": -4.0, "y": 6.0 });
    assert!(misplaced.as_object().unwrap().iter().all(|(k, v)| found[0][k] == *v), "{found}");
}

#[test]
fn a_frame_beside_a_bad_one_is_not_blamed_for_it() {
    let folder = reconstructed(&small().spoiled, "all", &[]);
    let bad = listed(&folder);
    assert!(bad.len() >= 4, "{bad:?}");
    assert!(bad.iter().all(|(frame, ..)| SPOILED.iter().any(|(s, _)| s == frame)), "{bad:?}");
}

#[test]
fn no_frame_of_a_sound_scan_is_called_bad() {
    for (name, more) in [("sound", [].as_slice()), ("sound-auto", &["--reject-frames=auto"])] {
        let folder = reconstructed(&small().sound, name, more);
        assert_eq!(listed(&folder), [], "{name}");
    }
    let [plain, auto] =
        ["sound", "sound-auto"].map(|name| object(&small().folder.path().join(name)));
    assert!(plain == auto, "what is left out is nothing, so the object is the same");
}

#[test]
fn a_reconstruction_without_them_is_that_of_a_scan_that_never_had_them() {
    let auto = reconstructed(&small().spoiled, "auto", &["--reject-frames=auto"]);
    assert_eq!(listed(&auto), expected("no"));
    let rejected = &record(&auto)["inputs"][0]["rejected_frames"];
    assert_eq!(rejected.as_array().map(Vec::len), Some(6), "{rejected}");

    let list = format!("--reject-frames={LIST}");
    let by_list = reconstructed(&small().spoiled, "list", &[&list]);
    let table = format!("--reject-frames={}", auto.join("bad_frames.csv").display());
    let by_table = reconstructed(&small().spoiled, "table", &[&table]);
    let without = small().folder.path().join("without.npz");
    program(&["convert", text(&small().spoiled), text(&without), &list]).assert().success();
    let never = reconstructed(&without, "never", &[]);
    for other in [&by_list, &by_table, &never] {
        assert!(object(&auto) == object(other), "{}", other.display());
    }
    let indices = Npz::open(auto.join("reconstruction.npz")).unwrap().i64("indices").unwrap();
    assert_eq!(indices.len(), 94);
    assert!(SPOILED.iter().all(|(frame, _)| !indices.iter().any(|i| *i == *frame as i64)));
}

#[test]
fn refining_and_evaluating_leave_out_what_they_are_told_to() {
    let all = reconstructed(&small().spoiled, "before", &[]);
    let refined = small().folder.path().join("refined");
    program(&["refine", text(&all), text(&small().spoiled), "--output-dir", text(&refined)])
        .args(["--epochs=2", "--reject-frames=auto", "--no-report"])
        .assert()
        .success();
    let left_out = listed(&refined).into_iter().filter(|(_, _, used)| used == "no");
    let left_out: Vec<usize> = left_out.map(|(frame, ..)| frame).collect();
    assert!(
        left_out.len() >= 4 && SPOILED.iter().take(4).all(|(frame, _)| left_out.contains(frame))
    );
    let residual = |reject: &[&str]| {
        let mut command = program(&["evaluate", text(&all), text(&small().spoiled), "--json"]);
        let output = command.args(reject).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
        serde_json::from_str::<Value>(&line).unwrap()["residual"].as_f64().unwrap()
    };
    let list = format!("--reject-frames={LIST}");
    assert!(residual(&[list.as_str()]) < 0.5 * residual(&[]));
}

/// The training of a small network.
fn training(scan: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command =
        program(&["train", "--train-data-file", text(scan), "--output-dir", text(output)]);
    command.args(["--batch-size=8", "--n-filters-scale=1", "--seed=2", "--no-report"]).args(more);
    command
}

/// Trains for an epoch; the folder.
fn trained(scan: &Path, name: &str, more: &[&str]) -> PathBuf {
    let output = large().folder.path().join(name);
    training(scan, &output, more).arg("--max-epochs=1").assert().success();
    output
}

fn without() -> &'static Path {
    static WITHOUT: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = large().folder.path().join("without.npz");
        let list = format!("--reject-frames={LIST}");
        program(&["convert", text(&large().spoiled), text(&path), &list]).assert().success();
        path
    });
    &WITHOUT
}

#[test]
fn a_network_that_is_not_shown_them_is_that_of_a_scan_that_never_had_them() {
    let list = format!("--reject-frames={LIST}");
    let weights = |folder: &Path| {
        let bytes = fs::read(folder.join("checkpoints/last.safetensors")).unwrap();
        let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[head..].to_vec()
    };
    let never = weights(&trained(without(), "never", &["--validation-split=0.2"]));
    let told = trained(&large().spoiled, "told", &[&list, "--validation-split=0.2"]);
    assert!(weights(&told) == never, "the weights are the same");
    // From a file that does not fit in memory too.
    let more = [&list, "--validation-split=0.2", "--memory-limit=110MB"];
    let streamed = trained(&large().spoiled, "streamed", &more);
    assert!(weights(&streamed) == never, "the weights are the same");
    let shown = trained(&large().spoiled, "shown", &["--validation-split=0.2"]);
    assert!(weights(&shown) != never, "the frames are no part of this test");
}

#[test]
fn a_resumed_training_says_that_a_list_of_frames_is_another_now() {
    let list = large().folder.path().join("frames.txt");
    let reject = format!("--reject-frames={}", list.display());
    fs::write(&list, "frame\n7\n").unwrap();
    let folder = trained(&large().spoiled, "listed", &[&reject]);
    let resumed = |epochs: &str| {
        let more = [&reject, epochs, "--resume=auto"];
        training(&large().spoiled, &folder, &more).assert().success()
    };
    resumed("--max-epochs=2").stderr(contains("where it was").not());
    fs::write(&list, "frame\n7\n19\n").unwrap();
    let (now, before) =
        ("resuming with all frames but 7, 19 of ", "where it was all frames but 7 so far");
    resumed("--max-epochs=3").stderr(contains(now).and(contains(before)));
}

#[test]
fn inference_stitches_without_them() {
    let network = trained(&large().spoiled, "network", &["--reject-frames=auto"]);
    let infer = |scan: &Path, name: &str, more: &[&str]| {
        let output = large().folder.path().join(name);
        program(&["infer", "--model-path", text(&network), "--test-data", text(scan)])
            .args(["--output-dir", text(&output), "--no-report"])
            .args(more)
            .assert()
            .success();
        output
    };
    let auto = infer(&large().spoiled, "infer-auto", &["--reject-frames=auto"]);
    let found = listed(&auto);
    let dead = ["dead", "empty", "saturated", "duplicated"];
    let left_out =
        found.iter().filter(|(_, fault, used)| used == "no" && dead.contains(&fault.as_str()));
    assert_eq!(left_out.count(), 4, "{found:?}");
    let list = format!("--reject-frames={LIST}");
    let told = infer(&large().spoiled, "infer-list", &[&list]);
    assert!(object(&told) == object(&infer(without(), "infer-never", &[])));
    assert!(object(&told) != object(&infer(&large().spoiled, "infer-all", &[])));
}

#[test]
fn patterns_in_a_file_are_judged_as_those_in_memory() {
    let scratch = large().folder.path().to_path_buf();
    let room = Some(Room { bytes: 0, scratch });
    let options = LoadOptions { room, ..LoadOptions::default() };
    let (mut filed, mut held) = (load(&large().spoiled, &options).unwrap(), scan(&large().spoiled));
    assert!(filed.amplitude.is_filed());
    let found = held.reject(&RejectFrames::Auto).unwrap();
    assert_eq!(filed.reject(&RejectFrames::Auto).unwrap(), found);
    assert_eq!(found.len(), 4);
    assert_eq!(filed.mean_energy().to_bits(), held.mean_energy().to_bits());
    let kept = held.subset(&held.used()).unwrap();
    assert_eq!(held.mean_energy().to_bits(), kept.mean_energy().to_bits());
}

#[test]
fn frames_that_are_not_there_are_one_error_and_leave_nothing_behind() {
    let output = small().folder.path().join("wrong");
    for (list, message) in [
        ("100", "no frame 100 in a scan of 100"),
        ("0-99", "leaves out all 100 frames"),
        ("3,x.csv", "3,x.csv"),
    ] {
        let reject = format!("--reject-frames={list}");
        program(&["reconstruct", text(&small().sound), "--output-dir", text(&output), &reject])
            .assert()
            .code(1)
            .stderr(contains(message).and(predicate::str::contains("error:").count(1)));
        assert!(!output.exists(), "{list}");
    }
    program(&["inspect", text(&small().sound), "--reject-frames=5-3"]).assert().code(2);
}

#[test]
fn where_most_frames_look_bad_none_is_left_out() {
    let mut scan = scan(&small().sound);
    scan.amplitude.held_mut().slice_mut(ndarray::s![..30, .., ..]).fill(0.0);
    assert_eq!(scan.reject(&RejectFrames::Auto).unwrap(), []);
    assert_eq!(scan.used().len(), 100);
    // A list is taken at its word.
    scan.reject(&RejectFrames::List(vec![(0, 29)])).unwrap();
    assert_eq!(scan.used().len(), 70);
}
