//! Writing HDF5 files that h5py and the viewers of beamlines open; the same content gives the same bytes,
//! and a reader never sees half a file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use num_complex::Complex32;
use rust_hdf5::{H5Dataset, H5File, H5FileOptions, H5Group, H5Type, Hdf5Error, VarLenUnicode};

use crate::{Error, Result};

/// Distinguishes the temporary files of writers in one process.
static WRITERS: AtomicU32 = AtomicU32::new(0);

/// Level of deflate: higher ones cost much and gain little on photon counts.
const LEVEL: u32 = 4;

/// Writes into a temporary file beside `path`; [`finish`](Hdf5Writer::finish) makes it durable and moves
/// it into place. Dropped before that, it leaves nothing.
pub struct Hdf5Writer {
    path: PathBuf,
    temporary: PathBuf,
    /// `None` once finished.
    file: Option<H5File>,
    groups: BTreeSet<String>,
}

/// An array that was written, for its attributes.
pub struct Written<'a> {
    path: &'a Path,
    data: H5Dataset,
}

impl Hdf5Writer {
    pub fn create(path: impl AsRef<Path>) -> Result<Hdf5Writer> {
        let path = path.as_ref().to_path_buf();
        let Some(name) = path.file_name() else {
            return Err(Error::Config(format!("{} names no file to write", path.display())));
        };
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}.{}-{number}.part", name.to_string_lossy(), std::process::id());
        let temporary = path.with_file_name(name);
        // The system's own words, where the folder is not there or may not be written to.
        File::create(&temporary).map_err(Error::io("create", &path))?;
        let mut writer = Hdf5Writer { path, temporary, file: None, groups: BTreeSet::new() };
        let file = H5FileOptions::new().no_locking().track_times(false).create(&writer.temporary);
        writer.file = Some(file.map_err(|error| refuse(&writer.path, &error))?);
        Ok(writer)
    }

    fn file(&self) -> &H5File {
        self.file.as_ref().expect("not finished yet")
    }

    /// The group at `at`, made with those that it is in.
    fn group(&mut self, at: &str) -> Result<H5Group> {
        let at = at.trim_matches('/');
        if at.is_empty() {
            return Ok(self.file().root_group());
        }
        if self.groups.contains(at) {
            let group = self.file().root_group().group(at);
            return group.map_err(|error| refuse(&self.path, &error));
        }
        let (parent, name) = at.rsplit_once('/').unwrap_or(("", at));
        let made = self.group(parent)?.create_group(name);
        let made = made.map_err(|error| refuse(&self.path, &error))?;
        self.groups.insert(at.to_owned());
        Ok(made)
    }

    /// An array of `shape` at `at`.
    pub fn array<T: H5Type>(
        &mut self,
        at: &str,
        shape: &[usize],
        values: &[T],
    ) -> Result<Written<'_>> {
        self.build(at, shape, values, false)
    }

    /// Patterns [M, N, N], packed one by one.
    pub fn frames<T: H5Type>(
        &mut self,
        at: &str,
        shape: &[usize],
        values: &[T],
    ) -> Result<Written<'_>> {
        self.build(at, shape, values, true)
    }

    fn build<T: H5Type>(
        &mut self,
        at: &str,
        shape: &[usize],
        values: &[T],
        packed: bool,
    ) -> Result<Written<'_>> {
        let (parent, name) = split(at);
        let builder = self.group(parent)?.new_dataset::<T>();
        let builder = match (shape, packed) {
            ([], _) => builder.scalar(),
            ([_, height, width], true) => {
                builder.shape(shape).chunk(&[1, *height, *width]).shuffle_deflate(LEVEL)
            }
            _ => builder.shape(shape),
        };
        let written = builder.create(name).and_then(|data| data.write_raw(values).map(|()| data));
        let data = written.map_err(|error| refuse(&self.path, &error))?;
        Ok(Written { path: &self.path, data })
    }

    /// Complex values as pairs (r, i), which h5py and Julia know.
    pub fn complex<'v>(
        &mut self,
        at: &str,
        shape: &[usize],
        values: impl IntoIterator<Item = &'v Complex32>,
    ) -> Result<Written<'_>> {
        let pair = |z: &Complex32| rust_hdf5::Complex32 { re: z.re, im: z.im };
        let values: Vec<rust_hdf5::Complex32> = values.into_iter().map(pair).collect();
        self.build(at, shape, &values, false)
    }

    /// One number.
    pub fn number(&mut self, at: &str, value: f64) -> Result<Written<'_>> {
        self.array(at, &[], &[value])
    }

    /// One text.
    pub fn text(&mut self, at: &str, text: &str) -> Result<()> {
        let (parent, name) = split(at);
        let written = self.group(parent)?.write_vlen_strings(name, &[text]);
        written.map(drop).map_err(|error| refuse(&self.path, &error))
    }

    /// A text that belongs to a group, or with an empty `at` to the file.
    pub fn group_text(&mut self, at: &str, name: &str, text: &str) -> Result<()> {
        let set = match at.trim_matches('/') {
            "" => self.file().set_attr_string(name, text),
            at => self.group(at)?.set_attr_string(name, text),
        };
        set.map_err(|error| refuse(&self.path, &error))
    }

    /// Several texts that belong to a group.
    pub fn group_texts(&mut self, at: &str, name: &str, texts: &[&str]) -> Result<()> {
        let set = self.group(at)?.set_attr_string_array(name, texts);
        set.map_err(|error| refuse(&self.path, &error))
    }

    /// A number that belongs to the file.
    pub fn file_number(&mut self, name: &str, value: f64) -> Result<()> {
        self.file().set_attr_numeric(name, &value).map_err(|error| refuse(&self.path, &error))
    }

    /// Another name for what is at `target`.
    pub fn link(&mut self, at: &str, target: &str) -> Result<()> {
        let (parent, name) = split(at);
        let made = self.group(parent)?.link(name, target);
        made.map_err(|error| refuse(&self.path, &error))
    }

    /// Completes the file, forces it to disk and renames it to its final name.
    pub fn finish(mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        file.close().map_err(|error| refuse(&self.path, &error))?;
        let synced = File::open(&self.temporary).and_then(|file| file.sync_all());
        synced.map_err(Error::io("write", &self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::io("rename", &self.path))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // The rename itself becomes durable with the folder; not every file system can sync one.
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            let _unsupported = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Hdf5Writer {
    fn drop(&mut self) {
        drop(self.file.take());
        if self.temporary.exists() {
            // Nothing more can be done about a temporary file that will not go.
            let _left_behind = fs::remove_file(&self.temporary);
        }
    }
}

impl Written<'_> {
    pub fn with_number(self, name: &str, value: f64) -> Result<Self> {
        let set = self.data.new_attr::<f64>().shape(()).create(name);
        set.and_then(|attribute| attribute.write_numeric(&value))
            .map_err(|error| refuse(self.path, &error))?;
        Ok(self)
    }

    pub fn with_text(self, name: &str, text: &str) -> Result<Self> {
        let set = self.data.new_attr::<VarLenUnicode>().shape(()).create(name);
        set.and_then(|attribute| attribute.write_string(text))
            .map_err(|error| refuse(self.path, &error))?;
        Ok(self)
    }
}

/// A path in the file as its group and its name.
fn split(at: &str) -> (&str, &str) {
    let at = at.trim_matches('/');
    at.rsplit_once('/').unwrap_or(("", at))
}

fn refuse(path: &Path, error: &Hdf5Error) -> Error {
    Error::Run(format!("{}: cannot be written: {error}", path.display()))
}
