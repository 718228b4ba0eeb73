//! One run at a time in an output folder.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The file that is locked while a run writes to its folder.
pub const FILE: &str = ".lock";

/// A name that another run holds is read up to here.
const LONGEST: u64 = 1000;

/// A folder that no other process writes to. The system lets go of it when the process ends, however it
/// does, so that what a killed run leaves behind is no obstacle.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes `folder`, which must exist; none where its file system knows no locks.
    ///
    /// Error: another process has it, and is named.
    pub fn take(folder: &Path) -> Result<Option<Lock>> {
        let path = folder.join(FILE);
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::io("write to the output folder", folder))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(folder, &mut file)),
                Err(TryLockError::Error(error)) => {
                    log::warn!(
                        "{} cannot be locked ({error}): let no other run write to it",
                        path.display()
                    );
                    let _ = fs::remove_file(&path);
                    return Ok(None);
                }
            }
            // The one who held it may have removed the file since it was opened.
            let id = |m: fs::Metadata| (m.dev(), m.ino());
            let (held, there) = (file.metadata().map(id), fs::metadata(&path).map(id));
            if held.is_ok_and(|held| there.is_ok_and(|there| there == held)) {
                let named = sign(&mut file);
                let lock = Lock { path, _file: file };
                named.map_err(Error::io("write to the output folder", folder))?;
                return Ok(Some(lock));
            }
        }
    }
}

/// Writes who holds the lock.
fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let command: Vec<String> = std::env::args().take(2).collect();
    let (pid, host) = (std::process::id(), host.trim());
    writeln!(file, "process {pid} on {host}: {}", command.join(" "))
}

fn taken(folder: &Path, file: &mut File) -> Error {
    let mut who = String::new();
    let read = file.take(LONGEST).read_to_string(&mut who);
    let who = match (read, who.lines().next()) {
        (Ok(_), Some(line)) if !line.is_empty() => line.to_owned(),
        _ => "another process".into(),
    };
    Error::Run(format!(
        "{} is being written to by {who}: wait for it, end it, or name another --output-dir",
        folder.display()
    ))
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock goes, so that nobody else's file is removed.
        let _ = fs::remove_file(&self.path);
    }
}
