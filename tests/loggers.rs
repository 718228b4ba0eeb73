//! What hears of each epoch beside history.csv, and what a shell is told of the program.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::str::contains;
use ptycho_gpu::report::history;
use serde_json::Value;

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

/// Trains for `epochs` in all, in `folder`.
fn train(folder: &Path, epochs: &str, more: &[&str]) {
    let scan = folder.join("scan.npz");
    if !scan.exists() {
        let recipe = ["--patterns=16", "--probe-diameter=20", "--photons=1e5", "--step=4"];
        program().arg("simulate").arg(&scan).args(recipe).assert().success();
    }
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(&scan).arg("--output-dir");
    command.arg(folder.join("run")).args(["--n-filters-scale=1", "--n-images=2", "--batch-size=2"]);
    command.args(["--device=cpu", "--quiet", "--logger=jsonl,tensorboard", "--max-epochs", epochs]);
    command.args(more).assert().success();
}

/// The event files of a run, the oldest first.
fn event_files(run: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<PathBuf> = files.filter(|p| name(p).starts_with("events.out.")).collect();
    files.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    files
}

/// CRC-32C bit by bit, masked as in TFRecord files.
fn masked(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The records of an event file, whose checksums are right.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        let (check, after) = after.split_at(4);
        assert_eq!(u32::from_le_bytes(check.try_into().unwrap()), masked(length));
        let (data, after) = after.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (check, after) = after.split_at(4);
        assert_eq!(u32::from_le_bytes(check.try_into().unwrap()), masked(data));
        found.push(data.to_vec());
        rest = after;
    }
    found
}

/// A field of a protocol buffer.
#[derive(Debug, PartialEq)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
    Float(f32),
    Double(f64),
}

fn fields(mut data: &[u8]) -> Vec<(u8, Field)> {
    fn varint(data: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = data.split_first().unwrap();
            *data = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, rest) = data.split_at(length);
        *data = rest;
        taken
    }
    let mut found = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let value = match key & 7 {
            0 => Field::Number(varint(&mut data)),
            1 => Field::Double(f64::from_le_bytes(take(&mut data, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut data) as usize;
                Field::Bytes(take(&mut data, length).to_vec())
            }
            5 => Field::Float(f32::from_le_bytes(take(&mut data, 4).try_into().unwrap())),
            wire => panic!("wire type {wire}"),
        };
        found.push(((key >> 3) as u8, value));
    }
    found
}

/// The only field of this number.
fn field(of: &[(u8, Field)], number: u8) -> Option<&Field> {
    of.iter().find(|(n, _)| *n == number).map(|(_, field)| field)
}

/// (epoch, value) of a scalar in the records of a file.
fn scalar(records: &[Vec<u8>], name: &str) -> Vec<(u64, f32)> {
    let mut found = Vec::new();
    for record in records {
        let event = fields(record);
        let Some(Field::Bytes(summary)) = field(&event, 5) else { continue };
        let Some(Field::Number(step)) = field(&event, 2) else { panic!("{event:?}") };
        for (number, value) in fields(summary) {
            let (1, Field::Bytes(value)) = (number, value) else { panic!("a value") };
            let value = fields(&value);
            if field(&value, 1) == Some(&Field::Bytes(name.as_bytes().to_vec())) {
                let Some(Field::Float(x)) = field(&value, 2) else { panic!("{value:?}") };
                found.push((*step, *x));
            }
        }
    }
    found
}

#[test]
fn event_files_and_json_lines_say_what_history_csv_says_also_after_a_resume() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    train(place.path(), "2", &[]);
    train(place.path(), "3", &["--resume=auto"]);
    let table = history::read(run.join("history.csv")).unwrap();
    assert_eq!(table.rows.len(), 3);

    let text = std::fs::read_to_string(run.join("history.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (line, row) in lines.iter().zip(&table.rows) {
        for (column, &value) in table.columns.iter().zip(row) {
            let said = line[column].as_f64();
            assert_eq!(said, Some(value).filter(|value| !value.is_nan()), "{column}: {line}");
        }
        assert!(line["epoch"].is_u64(), "{line}");
    }

    let files = event_files(&run);
    assert_eq!(files.len(), 2, "{files:?}");
    let read = files.iter().map(|file| records(file)).collect::<Vec<_>>();
    for records in &read {
        let first = fields(&records[0]);
        assert_eq!(field(&first, 3), Some(&Field::Bytes(b"brain.Event:2".to_vec())));
        assert!(matches!(field(&first, 1), Some(Field::Double(time)) if *time > 1.7e9));
    }
    // What comes after epoch 2 in older files is void.
    let start = fields(&read[1][1]);
    assert_eq!(field(&start, 2), Some(&Field::Number(3)));
    assert_eq!(field(&start, 7), Some(&Field::Bytes(vec![8, 1])));
    let losses: Vec<(u64, f32)> =
        read.iter().flat_map(|records| scalar(records, "train_loss")).collect();
    let want: Vec<(u64, f32)> = table.rows.iter().map(|r| (r[0] as u64, r[3] as f32)).collect();
    assert_eq!(losses, want);
}

#[test]
fn an_earlier_run_is_moved_aside_with_all_that_it_said() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path().join("run");
    train(place.path(), "1", &[]);
    let first = std::fs::read_to_string(run.join("history.jsonl")).unwrap();
    train(place.path(), "1", &["--seed=5"]);
    let aside = run.join("previous-1");
    assert_eq!(std::fs::read_to_string(aside.join("history.jsonl")).unwrap(), first);
    assert_eq!((event_files(&aside).len(), event_files(&run).len()), (1, 1));
    assert_ne!(std::fs::read_to_string(run.join("history.jsonl")).unwrap(), first);
}

#[test]
fn no_other_logger_is_heard_unless_it_is_asked_for() {
    let place = tempfile::tempdir().unwrap();
    train(place.path(), "1", &[]);
    let plain = place.path().join("plain");
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(place.path().join("scan.npz"));
    command.arg("--output-dir").arg(&plain).args(["--n-filters-scale=1", "--n-images=2"]);
    command.args(["--batch-size=2", "--device=cpu", "--quiet", "--max-epochs=1"]);
    command.assert().success();
    assert!(plain.join("history.csv").exists() && !plain.join("history.jsonl").exists());
    assert!(event_files(&plain).is_empty());
}

#[test]
fn shells_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = program().args(["completions", shell]).assert().success();
        done.stdout(contains("reconstruct")).stdout(contains("smooth-rate"));
    }
    program().args(["completions", "tcsh"]).assert().code(2).stderr(contains("zsh"));
}

#[test]
fn manual_pages_are_printed_or_written_for_every_command() {
    program().arg("man").assert().success().stdout(contains(".TH ptycho-gpu 1"));
    let place = tempfile::tempdir().unwrap();
    let pages = place.path().join("man");
    program().arg("man").arg("--output-dir").arg(&pages).assert().success();
    let page = std::fs::read_to_string(pages.join("ptycho-gpu-reconstruct.1")).unwrap();
    assert!(page.contains("smooth") && page.contains("SCAN"), "{page}");
    assert!(pages.join("ptycho-gpu.1").exists());
}
