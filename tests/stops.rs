//! Runs that are stopped from outside: what they leave, what they say, and that going on is the same as
//! never having been stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::report::history;
use ptycho_gpu::signals::STOPPED;
use tempfile::TempDir;

/// Steps that take some milliseconds each, and many of them.
const SMALL: [&str; 6] = [
    "--n-filters-scale=1",
    "--batch-size=2",
    "--gridsize=1",
    "--seed=3",
    "--max-epochs=3",
    "--no-report",
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("ptycho-gpu"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn workplace() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let scan = folder.path().join("scan.npz");
    let recipe = ["--patterns=40", "--probe-diameter=20", "--photons=1e5", "--step=4", "--seed=1"];
    let made = command(&["simulate", text(&scan)]).args(recipe).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    (folder, scan)
}

/// `more` takes the place of what is in [`SMALL`].
fn training(scan: &Path, folder: &Path, more: &[&str]) -> Command {
    let name = |flag: &&str| flag.split('=').next().map(str::to_owned);
    let given: Vec<_> = more.iter().map(name).collect();
    let files = ["train", "--train-data-file", text(scan), "--output-dir", text(folder)];
    let mut command = command(&files);
    command.args(SMALL.iter().filter(|flag| !given.contains(&name(flag)))).args(more);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn finished(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The run has begun its steps: from then on it listens to signals.
fn begun(folder: &Path) {
    wait_for("the history", || folder.join("history.csv").exists());
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn last(folder: &Path) -> Checkpoint {
    Checkpoint::load(folder.join("checkpoints/last.safetensors")).unwrap()
}

/// All columns of the history but the last two, which tell the time.
fn history_of(folder: &Path) -> Vec<Vec<u64>> {
    let rows = history::read(folder.join("history.csv")).unwrap().rows;
    rows.iter().map(|row| row[..row.len() - 2].iter().map(|x| x.to_bits()).collect()).collect()
}

/// Stops a training by `signal` again and again until it gets through, and holds it against one that was
/// left alone. Returns how often it was stopped within an epoch.
fn stopped_is_as_uninterrupted(signal: &str, more: &[&str]) -> usize {
    let (place, scan) = workplace();
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    finished(training(&scan, &whole, more));
    let mut within = 0;
    for turn in 0u64.. {
        assert!(turn < 200, "no end");
        let resume = if turn == 0 { &[][..] } else { &["--resume=auto"] };
        let child = training(&scan, &parts, &[more, resume].concat()).spawn().unwrap();
        begun(&parts);
        // Every time a bit later, so that all parts of an epoch are met.
        std::thread::sleep(Duration::from_millis(15 + 10 * turn));
        // It may have got through in the meantime.
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).output();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            break;
        }
        // None: it did not listen yet, and there was nothing to save.
        if output.status.code().is_some() {
            assert_eq!(output.status.code(), Some(STOPPED.into()), "{}", said(&output));
            assert!(said(&output).contains("--resume auto goes on"), "{}", said(&output));
        }
        within += usize::from(
            parts.join("checkpoints").exists()
                && last(&parts).metadata["progress"].get("within").is_some(),
        );
    }
    assert!(last(&whole).tensors == last(&parts).tensors, "the same bits");
    assert_eq!(history_of(&whole), history_of(&parts));
    within
}

#[test]
fn a_training_that_is_stopped_within_its_epochs_ends_as_the_uninterrupted_one() {
    assert!(stopped_is_as_uninterrupted("-TERM", &[]) > 0, "it was stopped within an epoch");
}

#[test]
fn so_does_one_with_all_kinds_of_state() {
    let more = ["--batch-norm", "--probe-trainable", "--accumulate-grad-batches=3"];
    assert!(stopped_is_as_uninterrupted("-INT", &more) > 0, "it was stopped within an epoch");
}

#[test]
fn a_training_that_is_asked_for_a_checkpoint_writes_it_and_goes_on() {
    let (place, scan) = workplace();
    let [whole, asked] = ["whole", "asked"].map(|name| place.path().join(name));
    finished(training(&scan, &whole, &[]));
    let child = training(&scan, &asked, &[]).spawn().unwrap();
    begun(&asked);
    send(&child, "-USR1");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("checkpoint written in epoch 1"), "{}", said(&output));
    assert!(last(&whole).tensors == last(&asked).tensors);
    assert_eq!(history_of(&whole), history_of(&asked));
}

#[test]
fn a_second_signal_ends_at_once_and_harms_no_checkpoint() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    // Steps that take long.
    let more = ["--max-epochs=50", "--batch-size=40", "--n-filters-scale=2"];
    let child = training(&scan, &folder, &more).spawn().unwrap();
    wait_for("a checkpoint", || folder.join("checkpoints/last.safetensors").exists());
    let before = last(&folder);
    send(&child, "-INT");
    let started = Instant::now();
    // Signals that come together are one.
    std::thread::sleep(Duration::from_millis(50));
    send(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(STOPPED.into()), "{}", said(&output));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!said(&output).contains("everything is saved"), "not by way of the first one");
    let step = |c: &Checkpoint| c.metadata["progress"]["step"].as_u64().unwrap();
    assert!(step(&last(&folder)) >= step(&before));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let (place, scan) = workplace();
    let [whole, hurt] = ["whole", "hurt"].map(|name| place.path().join(name));
    finished(training(&scan, &whole, &[]));
    finished(training(&scan, &hurt, &["--max-epochs=2"]));
    // It would be as good: the last epoch was the best.
    fs::remove_file(hurt.join("checkpoints/best.safetensors")).unwrap();
    let path = hurt.join("checkpoints/last.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = finished(training(&scan, &hurt, &["--resume=auto"]));
    assert!(said(&output).contains("damaged"), "{}", said(&output));
    assert!(said(&output).contains("previous.safetensors after epoch 1"), "{}", said(&output));
    assert!(last(&whole).tensors == last(&hurt).tensors);
    assert_eq!(history_of(&whole), history_of(&hurt));
}

#[test]
fn a_damaged_checkpoint_does_not_take_the_place_of_the_one_before() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    finished(training(&scan, &folder, &["--max-epochs=2"]));
    let [last, previous] =
        ["last", "previous"].map(|name| folder.join(format!("checkpoints/{name}.safetensors")));
    fs::remove_file(folder.join("checkpoints/best.safetensors")).unwrap();
    fs::write(&last, b"nothing").unwrap();
    let before = Checkpoint::load(&previous).unwrap();
    finished(training(&scan, &folder, &["--max-epochs=2", "--resume=auto"]));
    assert!(Checkpoint::load(&previous).unwrap() == before && Checkpoint::load(&last).is_ok());
}

#[test]
fn checkpoints_that_are_all_damaged_are_an_error_and_stay() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    finished(training(&scan, &folder, &["--max-epochs=1"]));
    let names =
        ["last", "best", "previous"].map(|n| folder.join(format!("checkpoints/{n}.safetensors")));
    names.iter().filter(|path| path.exists()).for_each(|path| fs::write(path, b"nothing").unwrap());
    let output = training(&scan, &folder, &["--resume=auto"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(fs::read(&names[0]).unwrap(), b"nothing");
}

#[test]
fn an_epoch_that_has_other_batches_on_resume_is_begun_again() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    let child = training(&scan, &folder, &[]).spawn().unwrap();
    begun(&folder);
    send(&child, "-TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(STOPPED.into()));
    assert!(
        last(&folder).metadata["progress"]["within"].is_object(),
        "it was stopped within an epoch"
    );
    // With another seed there are as many batches of the same size, of other patterns.
    let from = format!("--resume={}", folder.display());
    for (name, other) in [("size", "--batch-size=4"), ("order", "--seed=4")] {
        let output = finished(training(&scan, &place.path().join(name), &[&from, other]));
        assert!(said(&output).contains("is begun again"), "{name}: {}", said(&output));
    }
}

#[test]
fn a_folder_that_a_run_writes_to_is_refused_to_another_which_learns_its_name() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    let mut first = training(&scan, &folder, &["--max-epochs=500"]).spawn().unwrap();
    begun(&folder);
    for second in [
        training(&scan, &folder, &[]),
        command(&["reconstruct", text(&scan), "--output-dir", text(&folder)]),
    ] {
        let mut second = second;
        let output = second.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let name = format!("process {} on ", first.id());
        assert!(said(&output).contains(&name), "{}", said(&output));
        assert!(said(&output).contains(" train"), "{}", said(&output));
    }
    // What a killed run leaves is no obstacle.
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(folder.join(".lock").exists());
    finished(training(&scan, &folder, &["--max-epochs=1"]));
    assert!(!folder.join(".lock").exists());
}

#[test]
fn a_reconstruction_that_is_stopped_leaves_what_it_has() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    let arguments = ["reconstruct", text(&scan), "--output-dir", text(&folder), "--epochs=100000"];
    let child = command(&arguments).arg("--patience=100000").spawn().unwrap();
    wait_for("an epoch", || {
        fs::read_to_string(folder.join("history.csv")).is_ok_and(|h| h.lines().count() > 2)
    });
    send(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(STOPPED.into()), "{}", said(&output));
    assert!(said(&output).contains("SIGTERM ended the run after epoch"), "{}", said(&output));
    assert!(folder.join("reconstruction.npz").exists() && folder.join("run.json").exists());
    let more = place.path().join("more");
    let go_on = ["refine", text(&folder), text(&scan), "--output-dir", text(&more)];
    finished(command(&[&go_on[..], &["--epochs=1"]].concat()));
}
