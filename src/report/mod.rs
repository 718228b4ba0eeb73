//! What a run leaves behind: pictures, history, record, log.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};
use lock::Lock;

pub mod bitmap;
pub mod colormap;
mod complex;
mod curve;
mod events;
mod font;
pub mod history;
pub mod html;
pub mod live;
mod lock;
pub mod log;
pub mod loggers;
mod picture;
mod positions;
mod progress;
mod run;
mod scale_bar;
mod ticks;

pub use colormap::Colormap;
pub use complex::{ComplexPicture, draw_complex, write_complex};
pub use curve::{Curve, Series, draw_curve, write_curve};
pub use history::History;
pub use picture::{Layout, Picture, Range, draw_image, write_image};
pub use positions::{Places, draw_positions, write_positions};
pub use progress::Progress;
pub use run::RunRecord;
pub use scale_bar::ScaleBar;

/// Makes sure that `path` is a folder that can be written to.
pub fn create_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(Error::io("create the output folder", path))?;
    // A folder may exist and still refuse: better known before hours of training than after.
    let probe = path.join(".writable");
    File::create(&probe).map_err(Error::io("write to the output folder", path))?;
    fs::remove_file(&probe).map_err(Error::io("write to the output folder", path))
}

/// An output folder of this run alone, which goes again, with the parents that were made for it, if
/// nothing was put into it: a run that fails before its first result leaves no trace.
#[derive(Debug)]
pub struct OutputFolder {
    /// Folders that were made, the outermost first.
    made: Vec<PathBuf>,
    lock: Option<Lock>,
}

impl OutputFolder {
    /// As [`create_folder`]; the folder stays when something is in it once the guard is dropped.
    ///
    /// Error, beside those of the system: another process writes to it.
    pub fn create(path: impl AsRef<Path>) -> Result<OutputFolder> {
        let path = path.as_ref();
        let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let mut made: Vec<PathBuf> =
            path.ancestors().take_while(missing).map(Path::to_path_buf).collect();
        made.reverse();
        let mut guard = OutputFolder { made, lock: None };
        create_folder(path)?;
        guard.lock = Lock::take(path)?;
        Ok(guard)
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        self.lock = None;
        for folder in self.made.iter().rev() {
            // Refused where the folder holds something, which is the point.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Prints one line of JSON on stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let line = serde_json::to_string(value).map_err(|error| Error::Run(error.to_string()))?;
    crate::cli::stdout::print(line + "\n")
}

/// Writes `bytes` to `path` so that the file is either whole or not there: a temporary file in
/// the same folder, fsync, rename, fsync of the folder. A failure removes the temporary file.
pub fn atomic_write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let temporary = Temporary(temporary_beside(path)?);
    let mut file = File::create(&temporary.0).map_err(Error::io("write", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("write", path))?;
    drop(file);
    fs::rename(&temporary.0, path).map_err(Error::io("write", path))?;
    sync_folder(path)
}

/// `dir/name` → `dir/.name.PID.part`: another process that writes the same file does no harm.
fn temporary_beside(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::Config(format!("{} is no name for a file", path.display())));
    };
    let name = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(name))
}

/// A rename is safe from a power cut only when the folder is on disk too.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder_file = File::open(folder).map_err(Error::io("read", folder))?;
    folder_file.sync_all().map_err(Error::io("write", folder))
}

/// Removes the file when dropped. After the rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
