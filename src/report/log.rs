//! What the program says while it works: stderr, and a file in the run folder once there is one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use log::{Level, LevelFilter, Record};

use crate::{Error, Result};

static QUIET: AtomicBool = AtomicBool::new(false);
static FILE: Mutex<Option<File>> = Mutex::new(None);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Target of the lines that a progress bar on the terminal makes needless.
pub(super) const EPOCH: &str = "epoch";

/// Sends the log to stderr: everything, or warnings and errors alone when `quiet`. Only the first
/// call sets the log up; later ones change `quiet`.
pub fn init(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    let dispatch = fern::Dispatch::new()
        .level(LevelFilter::Info)
        .chain(fern::Output::call(to_stderr))
        .chain(fern::Output::call(to_file));
    // A logger that is there already is this one, or a test's.
    let _ = dispatch.apply();
}

/// Sends the log to the end of `path` as well, in place of the file before it.
pub fn open_file(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let file = OpenOptions::new().create(true).append(true).open(path);
    *lock(&FILE) = Some(file.map_err(Error::io("write", path))?);
    Ok(())
}

/// Ends the log file.
pub fn close_file() {
    *lock(&FILE) = None;
}

/// Lines are written above this bar from now on; none: there is no bar any more.
pub(super) fn set_bar(bar: Option<ProgressBar>) {
    *lock(&BAR) = bar;
}

pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

fn to_stderr(record: &Record) {
    if is_quiet() && record.level() > Level::Warn {
        return;
    }
    // A closed stderr is no reason to stop.
    let print = || drop(writeln!(io::stderr(), "{}", line(record)));
    let bar = lock(&BAR).clone();
    match bar {
        Some(_) if record.target() == EPOCH => {}
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// A full disk must not end a training that may yet save itself: the file is given up instead.
fn to_file(record: &Record) {
    let mut slot = lock(&FILE);
    let Some(file) = slot.as_mut() else { return };
    if let Err(error) = writeln!(file, "{}", line(record)) {
        *slot = None;
        let _ = writeln!(io::stderr(), "warning: the log file is given up: {error}");
    }
}

fn line(record: &Record) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    format!("{level}: {}", record.args())
}

/// What is behind these locks is whole at any time, so a thread that panicked spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
