//! A folder of `.npz` files, each with so many patterns of the scan, in our own layout.
//!
//! Every part has probe, mask and metadata, so that programs that read one file after the other find what
//! they need; the object, which may be larger than all of it, is in the first.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::data::save::{ScanFile, counts_to_keep, write_scan};
use crate::data::scan::Scan;
use crate::{Error, Result};

/// Patterns of a part, if nothing is said: some megabytes of frames of 64 pixels.
pub const PART: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Digits in the number of a part, or more for more parts than that.
const DIGITS: usize = 4;

/// Distinguishes the temporary folders of writers in one process.
static WRITERS: AtomicU32 = AtomicU32::new(0);

/// Writes `scan` into the folder `path`, `part` patterns to a file; a reader sees all of it or nothing. A
/// folder that is there is replaced, if it holds no more than parts that were written here.
///
/// Error: something else is there.
pub fn write_folder(path: &Path, scan: &Scan, part: NonZeroUsize) -> Result<()> {
    replaceable(path)?;
    let folder = Temporary::create(path)?;
    let counts = counts_to_keep(scan);
    let mut whole = ScanFile::new(scan);
    if let Some(counts) = &counts {
        whole.patterns = counts.view();
    }
    let starts: Vec<usize> = (0..scan.len()).step_by(part.get()).collect();
    // Readers take the parts in the order of their names.
    let digits = starts.len().to_string().len().max(DIGITS);
    for (number, &start) in starts.iter().enumerate() {
        let end = scan.len().min(start + part.get());
        let mut file = whole.part(start..end);
        file.object = file.object.filter(|_| number == 0);
        write_scan(folder.path.join(part_name(number, digits)), &file)?;
    }
    folder.put(path)
}

/// Whether `path` is a folder with nothing in it.
pub(super) fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Refuses what is no folder of parts that a writer made: all that is in it goes.
fn replaceable(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if !path.is_dir() {
        let problem = "is a file, and the parts of a scan need a folder: give another name";
        return Err(Error::input(path, problem));
    }
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let entry = entry.map_err(Error::io("read", path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_part(&name) {
            let problem = format!(
                "is a folder that holds `{name}`, which is no part of a scan ({}) and would be gone: give \
                 the name of a folder that is not there",
                part_name(0, DIGITS)
            );
            return Err(Error::input(path, problem));
        }
    }
    Ok(())
}

/// The name of part `number`, of at least so many digits.
fn part_name(number: usize, digits: usize) -> String {
    format!("part_{number:0digits$}.npz")
}

fn is_part(name: &str) -> bool {
    let number = name.strip_prefix("part_").and_then(|name| name.strip_suffix(".npz"));
    let digit = |c: char| c.is_ascii_digit();
    number.is_some_and(|number| number.len() >= DIGITS && number.chars().all(digit))
}

/// A folder beside the one that is to be written; dropped, it is gone.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn create(path: &Path) -> Result<Temporary> {
        let temporary = Temporary { path: beside(path, "part")? };
        fs::create_dir(&temporary.path).map_err(Error::io("create", path))?;
        Ok(temporary)
    }

    /// Moves it to `path`, in place of the folder that is there.
    fn put(self, path: &Path) -> Result<()> {
        let old = beside(path, "old")?;
        let replaced = path.exists();
        if replaced {
            fs::rename(path, &old).map_err(Error::io("rename", path))?;
        }
        if let Err(error) = fs::rename(&self.path, path) {
            if replaced {
                // What was there comes back, unless that cannot be renamed either.
                let _lost = fs::rename(&old, path);
            }
            return Err(Error::io("rename", path)(error));
        }
        if replaced {
            fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
        }
        // The rename becomes durable with the folder that it is in; not every file system can sync one.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Ok(parent) = fs::File::open(parent.unwrap_or(Path::new("."))) {
            let _unsupported = parent.sync_all();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.path.exists() {
            // Nothing more can be done about a temporary folder that will not go.
            let _left_behind = fs::remove_dir_all(&self.path);
        }
    }
}

/// A hidden name of this process beside `path`.
fn beside(path: &Path, ending: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::Config(format!("{} names no folder to write", path.display())));
    };
    let (name, process) = (name.to_string_lossy(), std::process::id());
    let number = WRITERS.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_file_name(format!(".{name}.{process}-{number}.{ending}")))
}
