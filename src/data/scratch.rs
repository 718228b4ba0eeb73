//! Files for what does not fit in memory while a run goes on.

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// Distinguishes the files of one process.
static FILES: AtomicU32 = AtomicU32::new(0);

/// Bytes that are written at once.
const BUFFER: usize = 1 << 18;

/// A file that has no name from the moment on that it is opened: it goes when the run ends, however it
/// ends.
#[derive(Debug)]
pub struct Scratch {
    file: BufWriter<fs::File>,
    /// For messages.
    path: PathBuf,
}

impl Scratch {
    /// An empty file in `folder`.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(folder: &Path) -> Result<Scratch> {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".scratch.{}-{number}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(Error::io("create the scratch file", &path))?;
        fs::remove_file(&path).map_err(Error::io("unlink the scratch file", &path))?;
        Ok(Scratch { file: BufWriter::with_capacity(BUFFER, file), path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends numbers, little-endian.
    ///
    /// # Errors
    /// The disk is full.
    pub fn append(&mut self, values: &[f32]) -> Result<()> {
        let full = Error::io("write (see --scratch-dir)", &self.path);
        let mut write =
            || values.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()));
        write().map_err(full)
    }

    /// The file, for reading.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish(self) -> Result<fs::File> {
        let full = Error::io("write (see --scratch-dir)", &self.path);
        self.file.into_inner().map_err(|error| full(error.into_error()))
    }
}
