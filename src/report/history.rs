//! history.csv: one row per epoch.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::atomic_write;
use crate::{Error, Result};

/// The history file of a training, open for the next row. The first column is the epoch.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    columns: usize,
    file: File,
}

/// What a history file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub columns: Vec<String>,
    /// As wide as `columns`; an empty cell is NaN.
    pub rows: Vec<Vec<f64>>,
}

impl History {
    /// Starts a new file, over an old one if need be.
    pub fn create(path: impl AsRef<Path>, columns: &[&str]) -> Result<History> {
        let header = format!("{}\n", columns.join(","));
        atomic_write(path.as_ref(), header.as_bytes())?;
        History::open(path.as_ref(), columns.len())
    }

    /// Goes on with a file: rows before `epoch` stay, the others are about to be written again. A
    /// missing file is begun.
    pub fn resume(path: impl AsRef<Path>, columns: &[&str], epoch: usize) -> Result<History> {
        let path = path.as_ref();
        if !path.exists() {
            return History::create(path, columns);
        }
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let header = text.lines().next().unwrap_or_default();
        if header != columns.join(",") {
            return Err(Error::input(
                path,
                format!(
                    "has the columns `{header}`, but this training writes `{}`; move the file away",
                    columns.join(",")
                ),
            ));
        }
        // Text is kept, not numbers, so that the rows stay the same to the last digit. A row that
        // was cut off when the program was killed goes.
        let before = |line: &&str| {
            let cells: Vec<&str> = line.split(',').collect();
            cells.len() == columns.len()
                && cells[0].parse::<f64>().is_ok_and(|row| row < epoch as f64)
        };
        let mut kept = format!("{header}\n");
        for line in text.split_inclusive('\n').skip(1).filter_map(|l| l.strip_suffix('\n')) {
            if before(&line) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        atomic_write(path, kept.as_bytes())?;
        History::open(path, columns.len())
    }

    fn open(path: &Path, columns: usize) -> Result<History> {
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("write", path))?;
        Ok(History { path: path.to_path_buf(), columns, file })
    }

    /// Adds a row, at once on its way to the file. NaN leaves a cell empty. An error unless there is
    /// one value per column.
    pub fn append(&mut self, row: &[f64]) -> Result<()> {
        if row.len() != self.columns {
            let (values, columns) = (row.len(), self.columns);
            let problem =
                format!("has {columns} columns, but a row of {values} values was to be added");
            return Err(Error::input(&self.path, problem));
        }
        let mut line = String::new();
        for (index, value) in row.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let written = match value.is_nan() {
                true => write!(line, "{comma}"),
                false => write!(line, "{comma}{value}"),
            };
            written.expect("a string takes any text");
        }
        line.push('\n');
        // One write per row: a killed program leaves whole rows, but for a torn last one.
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.file.flush().map_err(Error::io("write", &self.path))
    }
}

/// Reads a history file.
pub fn read(path: impl AsRef<Path>) -> Result<Table> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let columns: Vec<String> = header.split(',').map(str::to_string).collect();
    let mut rows = Vec::new();
    for line in lines {
        let cells = line.split(',').map(|cell| match cell {
            "" => Some(f64::NAN),
            cell => cell.parse().ok(),
        });
        let row: Option<Vec<f64>> = cells.collect();
        match row.filter(|row| row.len() == columns.len()) {
            Some(row) => rows.push(row),
            None => return Err(Error::input(path, format!("`{line}` is no row of `{header}`"))),
        }
    }
    Ok(Table { columns, rows })
}
