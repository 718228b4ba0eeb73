//! What else hears of each epoch: JSON lines, and event files for TensorBoard.
//!
//! history.csv is always written, and a resumed training goes on from it; these follow it row by row.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::history::Table;
use super::{atomic_write, events};
use crate::config::Logger;
use crate::{Error, Result};

const LINES: &str = "history.jsonl";

/// How the names of event files begin.
const EVENTS: &str = "events.out.tfevents.";

/// The event files in `folder`.
pub fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(EVENTS)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The loggers of a training beside history.csv.
#[derive(Debug)]
pub struct Loggers {
    columns: Vec<String>,
    jsonl: Option<(PathBuf, File)>,
    events: Option<(PathBuf, File)>,
}

impl Loggers {
    /// Files in `folder`. `history` is what history.csv holds already: the rows that a resumed training
    /// keeps. history.jsonl is made to hold the same; event files are never changed, a new one
    /// says where it goes on.
    pub fn open(folder: &Path, loggers: &[Logger], history: &Table) -> Result<Loggers> {
        let wanted = |logger| loggers.contains(&logger);
        let columns = history.columns.clone();
        // One that is there already goes on: it would no longer say what history.csv says.
        let lines = wanted(Logger::Jsonl) || folder.join(LINES).exists();
        let jsonl = lines.then(|| jsonl(folder, history)).transpose()?;
        let last = history.rows.last().map_or(0, |row| row[0] as u64);
        let events = wanted(Logger::Tensorboard).then(|| tensorboard(folder, last)).transpose()?;
        Ok(Loggers { columns, jsonl, events })
    }

    /// A row as in history.csv, at once on its way to the files.
    pub fn append(&mut self, row: &[f64]) -> Result<()> {
        if let Some((path, file)) = &mut self.jsonl {
            write(path, file, line(&self.columns, row).as_bytes())?;
        }
        if let Some((path, file)) = &mut self.events {
            let measured = self.columns.iter().zip(row).filter(|(name, value)| {
                !["epoch", "step"].contains(&name.as_str()) && value.is_finite()
            });
            let values: Vec<(&str, f32)> =
                measured.map(|(name, &value)| (name.as_str(), value as f32)).collect();
            write(path, file, &events::scalars(row[0] as u64, now(), &values))?;
        }
        Ok(())
    }
}

fn jsonl(folder: &Path, history: &Table) -> Result<(PathBuf, File)> {
    let path = folder.join(LINES);
    let kept: String = history.rows.iter().map(|row| line(&history.columns, row)).collect();
    atomic_write(&path, kept.as_bytes())?;
    let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
    Ok((path, file))
}

/// One JSON object and a line feed; what is no number is null.
fn line(columns: &[String], row: &[f64]) -> String {
    let whole = |value: f64| value.fract() == 0.0 && value.abs() < 2f64.powi(53);
    let number = |name: &str, value: f64| match name {
        "epoch" | "step" if whole(value) => json!(value as i64),
        _ => json!(value),
    };
    let object: Map<String, Value> =
        columns.iter().zip(row).map(|(name, &value)| (name.clone(), number(name, value))).collect();
    format!("{}\n", Value::Object(object))
}

/// A new event file, which says that whatever older ones have beyond `epoch` no longer counts.
fn tensorboard(folder: &Path, epoch: u64) -> Result<(PathBuf, File)> {
    let seconds = now().floor();
    // A training that is resumed within the second must not write over the file before.
    let name = |n: u32| folder.join(format!("{EVENTS}{seconds}.ptycho-gpu.{n}"));
    let (path, mut file) = (0..)
        .map(name)
        .find_map(|path| match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
            opened => Some(opened.map_err(Error::io("write", &path)).map(|file| (path, file))),
        })
        .expect("numbers do not run out")?;
    let mut head = events::version(now());
    if epoch > 0 {
        head.extend(events::start(epoch, now()));
    }
    write(&path, &mut file, &head)?;
    Ok((path, file))
}

fn write(path: &Path, file: &mut File, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).and_then(|()| file.flush()).map_err(Error::io("write", path))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
