//! Writing archives: the same arrays give the same bytes, and a reader never sees half a file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ndarray::{ArrayBase, Data, Dimension};
use num_complex::Complex32;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::{Error, Result};

/// Distinguishes the temporary files of writers in one process.
static WRITERS: AtomicU32 = AtomicU32::new(0);
/// Headers end on a multiple of this, as NumPy asks, so that data can be memory-mapped.
const ALIGNMENT: usize = 64;
/// A zip member above this size needs 64-bit fields; below it they would only confuse old readers.
const LARGE: u64 = u32::MAX as u64 - (1 << 16);

/// Writes arrays into a temporary file beside `path`; [`finish`](NpzWriter::finish) makes it
/// durable and moves it into place. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct NpzWriter {
    path: PathBuf,
    temporary: PathBuf,
    /// `None` once finished.
    zip: Option<ZipWriter<Once>>,
    compression: CompressionMethod,
}

impl NpzWriter {
    pub fn create(path: impl AsRef<Path>) -> Result<NpzWriter> {
        let path = path.as_ref().to_path_buf();
        let Some(name) = path.file_name() else {
            return Err(Error::Config(format!("{} names no file to write", path.display())));
        };
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}.{}-{number}.part", name.to_string_lossy(), std::process::id());
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(Error::io("create", &path))?;
        let zip = Some(ZipWriter::new(Once::new(file)));
        Ok(NpzWriter { path, temporary, zip, compression: CompressionMethod::Deflated })
    }

    /// Arrays as they are, not packed: written faster, and read where they lie.
    pub fn plain(mut self) -> NpzWriter {
        self.compression = CompressionMethod::Stored;
        self
    }

    pub fn f32<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<()>
    where
        S: Data<Elem = f32>,
        D: Dimension,
    {
        self.array(name, "<f4", array, |value| value.to_le_bytes())
    }

    pub fn f64<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<()>
    where
        S: Data<Elem = f64>,
        D: Dimension,
    {
        self.array(name, "<f8", array, |value| value.to_le_bytes())
    }

    pub fn c64<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<()>
    where
        S: Data<Elem = Complex32>,
        D: Dimension,
    {
        self.array(name, "<c8", array, complex_bytes)
    }

    pub fn u16<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<()>
    where
        S: Data<Elem = u16>,
        D: Dimension,
    {
        self.array(name, "<u2", array, |value| value.to_le_bytes())
    }

    pub fn u32<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<()>
    where
        S: Data<Elem = u32>,
        D: Dimension,
    {
        self.array(name, "<u4", array, |value| value.to_le_bytes())
    }

    pub fn i64<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<()>
    where
        S: Data<Elem = i64>,
        D: Dimension,
    {
        self.array(name, "<i8", array, |value| value.to_le_bytes())
    }

    /// An array of `shape` from parts that come one after the other: `next` gives the next numbers, and
    /// none at the end.
    pub fn f32_parts(
        &mut self,
        name: &str,
        shape: &[usize],
        next: impl FnMut() -> Result<Option<Vec<f32>>>,
    ) -> Result<()> {
        self.parts(name, "<f4", shape, next, |value| value.to_le_bytes())
    }

    /// The same of whole numbers.
    pub fn u16_parts(
        &mut self,
        name: &str,
        shape: &[usize],
        next: impl FnMut() -> Result<Option<Vec<u16>>>,
    ) -> Result<()> {
        self.parts(name, "<u2", shape, next, |value| value.to_le_bytes())
    }

    /// The same of complex numbers.
    pub fn c64_parts(
        &mut self,
        name: &str,
        shape: &[usize],
        next: impl FnMut() -> Result<Option<Vec<Complex32>>>,
    ) -> Result<()> {
        self.parts(name, "<c8", shape, next, complex_bytes)
    }

    fn parts<T, const SIZE: usize>(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        mut next: impl FnMut() -> Result<Option<Vec<T>>>,
        bytes: fn(&T) -> [u8; SIZE],
    ) -> Result<()> {
        let count: usize = shape.iter().product();
        let (mut failed, mut written) = (None, 0);
        let outcome = self.member(name, dtype, shape, SIZE * count, |out| {
            let mut out = BufWriter::with_capacity(1 << 16, out);
            loop {
                let part = match next() {
                    Ok(Some(part)) => part,
                    Ok(None) => break,
                    Err(error) => {
                        failed = Some(error);
                        return Err(io::Error::other("there is nothing to write"));
                    }
                };
                written += part.len();
                part.iter().try_for_each(|value| out.write_all(&bytes(value)))?;
            }
            out.flush()
        });
        assert!(failed.is_some() || outcome.is_err() || written == count, "{name} is whole");
        failed.map_or(outcome, Err)
    }

    /// A string as a 0-d unicode array, which every reader takes without unpickling.
    pub fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut bytes: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        // The width of a string type is at least one character.
        bytes.resize(bytes.len().max(4), 0);
        let dtype = format!("<U{}", bytes.len() / 4);
        self.member(name, &dtype, &[], bytes.len(), |out| out.write_all(&bytes))
    }

    /// Completes the archive, forces it to disk and renames it to its final name.
    pub fn finish(mut self) -> Result<()> {
        let Some(zip) = self.zip.take() else { return Ok(()) };
        let once = zip.finish().map_err(io::Error::from).map_err(Error::io("write", &self.path))?;
        let file = once.whole().map_err(Error::io("write", &self.path))?;
        let file = file.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all()).map_err(Error::io("write", &self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::io("rename", &self.path))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // The rename itself becomes durable with the folder; not every file system can sync one.
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            let _unsupported = folder.sync_all();
        }
        Ok(())
    }

    fn array<T, S, D, const SIZE: usize>(
        &mut self,
        name: &str,
        dtype: &str,
        array: &ArrayBase<S, D>,
        bytes: fn(&T) -> [u8; SIZE],
    ) -> Result<()>
    where
        S: Data<Elem = T>,
        D: Dimension,
    {
        self.member(name, dtype, array.shape(), SIZE * array.len(), |out| {
            let mut out = BufWriter::with_capacity(1 << 16, out);
            for value in array {
                out.write_all(&bytes(value))?;
            }
            out.flush()
        })
    }

    fn member(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        bytes: usize,
        data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let Some(zip) = self.zip.as_mut() else { return Ok(()) };
        let options = SimpleFileOptions::default()
            .compression_method(self.compression)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .large_file(bytes as u64 > LARGE);
        let outcome = zip.start_file(format!("{name}.npy"), options).map_err(io::Error::from);
        outcome
            .and_then(|()| zip.write_all(&header(dtype, shape)))
            .and_then(|()| data(zip))
            .map_err(Error::io("write", &self.path))
    }
}

/// A file whose errors are said once. An archive that is given up is still brought to its end, by the library
/// itself and whatever becomes of it, and should that fail too, it is written to stderr: from the first
/// error on, what is written goes nowhere, but is counted.
#[derive(Debug)]
struct Once {
    file: BufWriter<File>,
    failed: bool,
    /// The next byte, and the one behind the last.
    at: u64,
    end: u64,
}

impl Once {
    fn new(file: File) -> Once {
        Once { file: BufWriter::new(file), failed: false, at: 0, end: 0 }
    }

    fn noting<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        self.failed |= outcome.is_err();
        outcome
    }

    /// The file, if all of it was written.
    fn whole(self) -> io::Result<BufWriter<File>> {
        match self.failed {
            false => Ok(self.file),
            true => Err(io::Error::other("an array before could not be written")),
        }
    }
}

impl Write for Once {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = if self.failed { Ok(bytes.len()) } else { self.file.write(bytes) };
        let written = self.noting(outcome)?;
        self.at += written as u64;
        self.end = self.end.max(self.at);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        let outcome = self.file.flush();
        self.noting(outcome)
    }
}

impl Seek for Once {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from = |place: u64, by: i64| place.checked_add_signed(by);
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => from(self.at, by),
            SeekFrom::End(by) => from(self.end, by),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        if !self.failed {
            let outcome = self.file.seek(SeekFrom::Start(self.at));
            self.noting(outcome)?;
        }
        Ok(self.at)
    }
}

impl Drop for NpzWriter {
    fn drop(&mut self) {
        if self.zip.take().is_some() || self.temporary.exists() {
            // Nothing more can be done about a temporary file that will not go.
            let _left_behind = fs::remove_file(&self.temporary);
        }
    }
}

fn complex_bytes(value: &Complex32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.re.to_le_bytes());
    bytes[4..].copy_from_slice(&value.im.to_le_bytes());
    bytes
}

/// Magic, version 1.0, length and the Python dictionary that opens a `.npy` file.
fn header(dtype: &str, shape: &[usize]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let shape = match shape.len() {
        1 => sides.trim_end().to_owned(),
        _ => sides.trim_end_matches(", ").to_owned(),
    };
    let text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    let before = 10;
    let total = (before + text.len() + 1).next_multiple_of(ALIGNMENT);
    let padded = format!("{text:width$}\n", width = total - before - 1);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes
}
