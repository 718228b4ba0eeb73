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
/// What was said before there was a file.
static EARLIER: Mutex<Vec<String>> = Mutex::new(Vec::new());
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Lines that are kept for a file to come.
const MOST_EARLIER: usize = 1000;

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

/// No progress bars, and no log but warnings and errors; without [`init`] none at all.
pub fn hush() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Sends the log to the end of `path` as well, in place of the file before it. What was said while
/// there was no file comes first.
pub fn open_file(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let write = || -> io::Result<File> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        for line in lock(&EARLIER).drain(..) {
            writeln!(file, "{line}")?;
        }
        Ok(file)
    };
    *lock(&FILE) = Some(write().map_err(Error::io("write", path))?);
    Ok(())
}

/// Writes the error that ends the run to the file alone: it is printed elsewhere.
pub fn last_words(error: &Error) {
    if let Some(file) = lock(&FILE).as_mut() {
        // The run has failed already; that the file cannot say so adds nothing.
        let _ = writeln!(file, "error: {error}");
    }
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
    let Some(file) = slot.as_mut() else {
        let mut earlier = lock(&EARLIER);
        if earlier.len() < MOST_EARLIER {
            earlier.push(line(record));
        }
        return;
    };
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
