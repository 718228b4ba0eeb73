//! Training through the binary: the same bits again, resumed, on any number of threads; and every
//! choice of the configuration runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use ndarray::{Array2, Array3, s};
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::data::{LoadOptions, Patterns, Scan, ScanFile, load, write_scan};
use ptycho_gpu::report::history;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A network and an epoch that take as little time as there can be.
const TINY: [&str; 6] = [
    "--n-filters-scale=1",
    "--n-images=4",
    "--batch-size=2",
    "--seed=3",
    "--max-epochs=1",
    "--json",
];

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

/// A folder with a scan of 16 patterns.
fn workplace() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let scan = simulated(folder.path(), "scan.npz", "1");
    (folder, scan)
}

fn simulated(folder: &Path, name: &str, seed: &str) -> PathBuf {
    let path = folder.join(name);
    let recipe = ["--patterns=16", "--probe-diameter=20", "--photons=1e5", "--step=4", "--seed"];
    program().arg("simulate").arg(&path).args(recipe).arg(seed).assert().success();
    path
}

/// The training of `scan` into `folder`; `more` takes the place of what is in `TINY`.
fn arguments(scan: &Path, folder: &Path, more: &[&str]) -> Vec<OsString> {
    let name = |flag: &str| flag.split('=').next().map(str::to_owned);
    let tiny = TINY.iter().filter(|flag| !more.iter().any(|m| name(m) == name(flag)));
    let files = ["train", "--train-data-file"].map(OsString::from).into_iter();
    let files = files.chain([scan.into(), "--output-dir".into(), folder.into()]);
    files.chain(tiny.chain(more).map(OsString::from)).collect()
}

fn training(scan: &Path, folder: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments(scan, folder, more));
    command
}

/// The JSON line of a training that went well.
fn train(scan: &Path, folder: &Path, more: &[&str]) -> Value {
    let done = training(scan, folder, more).assert().success();
    let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

/// What the training wrote to stderr, and whether it went well.
fn said(scan: &Path, folder: &Path, more: &[&str]) -> (bool, String) {
    let output = training(scan, folder, more).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn last(folder: &Path) -> Checkpoint {
    Checkpoint::load(folder.join("checkpoints/last.safetensors")).unwrap()
}

fn rows(folder: &Path) -> history::Table {
    history::read(folder.join("history.csv")).unwrap()
}

/// One epoch, then a second one with `--resume auto`, is as good as two at once: every bit of
/// weights, moments and running statistics.
fn resumes_exactly(more: &[&str]) {
    let (place, scan) = workplace();
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    let one = train(&scan, &whole, &[more, &["--max-epochs", "2"]].concat());
    train(&scan, &parts, &[more, &["--max-epochs", "1"]].concat());
    let two = train(&scan, &parts, &[more, &["--resume=auto", "--max-epochs", "2"]].concat());
    assert_eq!(one["weights_sha256"], two["weights_sha256"], "{more:?}");
    assert!(last(&whole).tensors == last(&parts).tensors, "{more:?}");
    assert_eq!(rows(&parts).rows.len(), 2);
    assert_eq!(one["residual"], two["residual"]);
}

#[test]
fn a_resumed_training_is_the_uninterrupted_one() {
    resumes_exactly(&["--schedule=plateau", "--plateau-patience=0", "--plateau-threshold=0.9"]);
}

#[test]
fn a_resumed_training_with_all_kinds_of_state_is_the_uninterrupted_one() {
    let more = ["--batch-norm", "--probe-trainable", "--gridsize=2", "--n-images=6"];
    resumes_exactly(&[&more[..], &["--accumulate-grad-batches=2"]].concat());
}

#[test]
fn seed_and_nothing_else_decides_the_weights() {
    let (place, scan) = workplace();
    let digest = |name: &str, threads: &str, seed: &str| {
        let mut command = training(&scan, &place.path().join(name), &["--seed", seed]);
        let done = command.env("RAYON_NUM_THREADS", threads).assert().success();
        let line: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
        line["weights_sha256"].as_str().unwrap().to_owned()
    };
    let first = digest("a", "1", "3");
    assert_eq!(first, digest("b", "1", "3"), "the same twice");
    assert_eq!(first, digest("c", "2", "3"), "another number of threads");
    assert_ne!(first, digest("d", "1", "4"), "another seed");
}

#[test]
fn a_killed_training_resumes_as_if_nothing_had_happened() {
    let (place, scan) = workplace();
    let [whole, killed] = ["whole", "killed"].map(|name| place.path().join(name));
    let epochs = ["--max-epochs", "4"];
    let expected = train(&scan, &whole, &epochs);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("ptycho-gpu"))
        .args(arguments(&scan, &killed, &epochs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (checkpoint, started) = (killed.join("checkpoints/last.safetensors"), Instant::now());
    while !checkpoint.exists() && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = train(&scan, &killed, &["--resume=auto", "--max-epochs", "4"]);
    assert_eq!(expected["weights_sha256"], resumed["weights_sha256"]);
    assert_eq!(rows(&killed).rows.len(), 4);
}

#[test]
fn a_finished_training_that_is_resumed_still_has_its_figures() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    let before = train(&scan, &folder, &[]);
    let after = train(&scan, &folder, &["--resume=auto"]);
    for name in ["residual", "r_factor", "train_loss", "weights_sha256"] {
        assert_eq!(before[name], after[name], "{name}");
    }
}

#[test]
fn what_differs_on_resume_is_said_or_refused() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    train(&scan, &folder, &[]);
    let resumed = |more: &[&str]| said(&scan, &folder, &[more, &["--resume=auto"]].concat());
    let (fine, text) = resumed(&["--learning-rate=0.5"]);
    assert!(fine && text.contains("warning: resuming with --learning-rate 0.5"), "{text}");
    for (other, word) in [
        ("--optimizer=sgd", "--optimizer"),
        ("--probe-trainable", "--probe-trainable"),
        ("--n-filters-scale=2", "n_filters_scale"),
    ] {
        let (fine, text) = resumed(&[other]);
        assert!(!fine && text.contains(word) && text.contains("last.safetensors"), "{text}");
    }
    let other = simulated(place.path(), "other.npz", "2");
    let (fine, text) = said(&other, &folder, &["--resume=auto"]);
    assert!(!fine && text.contains("other.npz") && text.contains("scan.npz"), "{text}");
}

#[test]
fn an_earlier_run_is_moved_aside_and_can_be_gone_on_with() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    let first = train(&scan, &folder, &[]);
    let (fine, text) = said(&scan, &folder, &["--seed=9"]);
    assert!(fine && text.contains("previous-1"), "{text}");
    let aside = folder.join("previous-1");
    let digest = |folder: &Path| last(folder).weights_digest("");
    assert_eq!(digest(&aside), first["weights_sha256"].as_str().unwrap());
    assert_ne!(digest(&folder), digest(&aside));
    let resume = ["--max-epochs", "2", "--resume", aside.to_str().unwrap()];
    train(&scan, &folder, &resume);
    assert!(folder.join("previous-2").exists(), "the second run is kept too");
    assert_eq!(rows(&folder).rows.len(), 2, "the history goes along");
    assert!(folder.join("checkpoints/best.safetensors").exists());
}

#[test]
fn eight_frames_are_learned_by_heart() {
    let (place, scan) = workplace();
    let more = ["--max-epochs", "12", "--n-images=8", "--batch-size=4"];
    train(&scan, place.path(), &more);
    let table = rows(place.path());
    let loss = |row: usize| table.rows[row][3];
    assert!(loss(11) < 0.8 * loss(0), "{} to {}", loss(0), loss(11));
}

#[test]
fn every_choice_runs_and_leaves_finite_numbers() {
    let (place, scan) = workplace();
    let second = simulated(place.path(), "second.npz", "2");
    let second = second.to_str().unwrap();
    let choices: [&[&str]; 14] = [
        &["--gridsize=2"],
        &["--gridsize=3", "--n-images=2"],
        &["--cbam-encoder"],
        &["--batch-norm"],
        &["--head=full", "--amp-activation=silu"],
        &["--head=border", "--amp-activation=sigmoid"],
        &["--loss=mae"],
        &["--optimizer=adamw", "--weight-decay=0.01"],
        &["--optimizer=sgd", "--gradient-clip-val=1", "--gradient-clip-algorithm=norm"],
        &["--gradient-clip-val=0.1", "--gradient-clip-algorithm=value"],
        &["--gradient-clip-val=0.1", "--gradient-clip-algorithm=agc"],
        &["--validation-split=0.25", "--tv-phase=0.01", "--md-amplitude=0.01"],
        &["--test-data-file", second, "--probe-trainable"],
        &["--train-data-file", second],
    ];
    for (i, more) in choices.iter().enumerate() {
        let folder = place.path().join(i.to_string());
        let line = train(&scan, &folder, more);
        assert!(line["residual"].as_f64().is_some_and(f64::is_finite), "{more:?}: {line}");
        let table = rows(&folder);
        let missing = |c: usize| table.columns[c] == "val_loss" && line["val_loss"].is_null();
        let finite = table.rows.iter().flat_map(|row| row.iter().enumerate());
        assert!(finite.filter(|(c, _)| !missing(*c)).all(|(_, v)| v.is_finite()), "{more:?}");
    }
}

#[test]
fn two_batches_of_two_make_the_step_of_one_batch_of_four() {
    let (place, scan) = workplace();
    let residual = |name: &str, more: &[&str]| {
        train(&scan, &place.path().join(name), more)["residual"].as_f64().unwrap()
    };
    let one = residual("one", &["--batch-size=4"]);
    let two = residual("two", &["--batch-size=2", "--accumulate-grad-batches=2"]);
    assert!((one / two - 1.0).abs() < 1e-5, "{one} and {two}");
}

#[test]
fn training_stops_early_and_best_is_not_last() {
    let (place, scan) = workplace();
    // A rate that makes it worse sooner or later.
    let more = ["--max-epochs", "30", "--early-stop-patience=1", "--learning-rate=0.03"];
    let line = train(&scan, place.path(), &[&more[..], &["--validation-split=0.25"]].concat());
    let (epochs, best) = (line["epochs"].as_u64().unwrap(), line["best_epoch"].as_u64().unwrap());
    assert_eq!(epochs, best + 1, "{line}");
    assert!(epochs < 30);
    let best = Checkpoint::load(place.path().join("checkpoints/best.safetensors")).unwrap();
    assert!(best.tensors != last(place.path()).tensors);
}

fn read(path: &Path) -> Scan {
    load(path, &LoadOptions::default()).unwrap()
}

#[test]
fn labels_are_learned_from() {
    let (place, path) = workplace();
    let mut scan = read(&path);
    let object = scan.object.clone().unwrap();
    let mut labels = Array3::zeros(scan.amplitude.held().dim());
    for (mut label, p) in labels.outer_iter_mut().zip(&scan.positions) {
        let (y, x) = (p.y.round() as usize - 32, p.x.round() as usize - 32);
        label.assign(&object.slice(s![y..y + 64, x..x + 64]));
    }
    let refused = said(&path, place.path(), &["--mode=supervised", "--loss=mae"]);
    assert!(!refused.0 && refused.1.contains("`Y`"), "{}", refused.1);
    scan.labels = Some(labels);
    let labelled = place.path().join("labelled.npz");
    write_scan(&labelled, &ScanFile::new(&scan)).unwrap();
    let folder = place.path().join("run");
    let line = train(&labelled, &folder, &["--mode=supervised", "--loss=mae", "--max-epochs", "3"]);
    assert!(line.get("residual").is_some() && line.get("r_factor").is_some(), "{line}");
    let table = rows(&folder);
    assert!(table.rows[2][3] < table.rows[0][3], "{:?}", table.rows);
}

#[test]
fn masked_pixels_decide_nothing() {
    let (place, path) = workplace();
    let scan = read(&path);
    let mut mask = Array2::ones((64, 64));
    mask.slice_mut(s![10..14, 30..40]).fill(0.0);
    let digest = |name: &str, dead: u16| {
        let mut counts = scan.amplitude.held().mapv(|a| (a * a).round() as u16);
        counts.slice_mut(s![.., 10..14, 30..40]).fill(dead);
        let mut file = ScanFile::new(&scan);
        (file.patterns, file.mask) = (Patterns::Counts16(counts.view()), Some(mask.view()));
        let path = place.path().join(name);
        write_scan(&path, &file).unwrap();
        train(&path, &place.path().join(format!("run {name}")), &[])["weights_sha256"].clone()
    };
    assert_eq!(digest("dark.npz", 0), digest("hot.npz", 60_000));
}

#[test]
fn the_record_says_everything() {
    let (place, scan) = workplace();
    let line = train(&scan, place.path(), &[]);
    let text = std::fs::read(place.path().join("run.json")).unwrap();
    let record: Value = serde_json::from_slice(&text).unwrap();
    let option = |name: &str| &record["configuration"][name];
    assert_eq!(option("seed")["origin"], "flag");
    assert_eq!(option("n")["origin"], "data set");
    assert_eq!(option("learning_rate")["origin"], "default");
    // What `auto` came to.
    assert_eq!(option("precision"), &json!({ "value": "fp32", "origin": "device" }));
    assert_eq!(last(place.path()).metadata["configuration"]["precision"], *option("precision"));
    assert_eq!(record["inputs"][0]["sha256"], read(&scan).source.sha256.as_str());
    let device = &record["device"];
    assert_eq!(device["kind"], "cpu");
    assert!(device["threads"].as_u64().unwrap() > 0 && device.get("name").is_some());
    assert!(["AVX-512", "AVX2", "portable"].contains(&device["vector_unit"].as_str().unwrap()));
    assert!(record["timings_s"]["total_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(record["results"]["training"]["weights_sha256"], line["weights_sha256"]);
}

#[test]
fn streamed_patterns_give_the_same_weights() {
    let (place, scan) = workplace();
    let [whole, streamed] = ["whole", "streamed"].map(|name| place.path().join(name));
    let common = ["--n-images=5", "--max-epochs=2", "--validation-split=0.2"];
    let one = train(&scan, &whole, &common);
    let record = std::fs::read_to_string(whole.join("run.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    // One byte less than all patterns need.
    let limit = record["plan_bytes"].as_u64().unwrap() - 1;
    let limit = format!("--device-memory-limit={limit}");
    let (done, said) = said(&scan, &streamed, &[&common[..], &[&limit]].concat());
    assert!(done && said.contains("patterns are streamed"), "{said}");
    assert!(last(&whole).tensors == last(&streamed).tensors);
    assert_eq!(rows(&streamed).rows.last().unwrap()[4], rows(&whole).rows.last().unwrap()[4]);
    assert!(one["val_loss"].is_f64());
}

#[test]
fn a_limit_below_what_streaming_needs_is_an_error() {
    let (place, scan) = workplace();
    let run = place.path().join("run");
    let (done, said) = said(&scan, &run, &["--device-memory-limit=1e5"]);
    assert!(!done && said.contains("--device-memory-limit"), "{said}");
}

/// A scan whose last pattern has a pixel so bright that nothing in single precision can hold its photons.
fn blinding(folder: &Path, path: &Path) -> PathBuf {
    let mut scan = read(path);
    let last = scan.len() - 1;
    scan.amplitude.held_mut()[[last, 20, 30]] = 1e20;
    let path = folder.join("blinding.npz");
    write_scan(&path, &ScanFile::new(&scan)).unwrap();
    path
}

#[test]
fn a_batch_with_a_loss_that_is_no_number_stops_the_training_and_is_named() {
    let (place, path) = workplace();
    let (scan, folder) = (blinding(place.path(), &path), place.path().join("run"));
    let (well, text) = said(&scan, &folder, &["--n-images=16", "--batch-norm"]);
    assert!(!well && !text.contains("panicked"), "{text}");
    let line = text.lines().find(|line| line.starts_with("error:")).expect("one message");
    for part in ["in epoch 1", "15", "the gradient of encoder.blocks.", "--on-nonfinite skip"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn a_batch_with_a_loss_that_is_no_number_is_left_out_where_that_is_asked_for() {
    let (place, path) = workplace();
    let (scan, folder) = (blinding(place.path(), &path), place.path().join("run"));
    let more = ["--n-images=16", "--batch-norm", "--on-nonfinite=skip", "--max-epochs=2"];
    let (well, text) = said(&scan, &folder, &more);
    assert!(well, "{text}");
    assert_eq!(text.matches("the step is left out").count(), 2, "once in each epoch: {text}");
    let weights = last(&folder);
    assert!(weights.tensors.values().all(|t| t.data.iter().all(|x| x.is_finite())));
    assert!(rows(&folder).rows.iter().all(|row| row[3].is_finite()));
}
