//! NPZ archives: a zip of NumPy arrays, one `.npy` member per key.
//!
//! Opening reads the zip directory and the header of every member, so keys, shapes and types are
//! known before any data is. Values of any numeric type, byte order and memory order are converted
//! while they stream in: no second copy in the file's own type is ever held.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use num_complex::Complex32;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::archive::{Archive, Decode, Kind, Member, convert_chunk, decoder, fixed};
use crate::{Error, Result};
use header::Header;

mod header;
mod pickle;
mod write;

pub use write::NpzWriter;

/// Values converted per read of the zip stream; bounds the working memory.
const CHUNK: usize = 1 << 14;
/// A file may unpack to so many times its size: deflate does no more than 1032 times.
const MOST_INFLATION: u64 = 1100;
/// A header may claim any size; memory beyond this many values is reserved only as data arrives.
const TRUSTED: usize = 1 << 26;

/// An open archive.
#[derive(Debug)]
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    members: Vec<Member>,
    places: Vec<Place>,
}

/// Where the values of a member are.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index in the zip directory.
    entry: usize,
    fortran: bool,
}

impl Npz {
    /// Opens an archive and reads the header of every member. Fails when the file cannot be read or
    /// is no zip; a member with a bad header is listed, and fails only when it is read.
    pub fn open(path: impl AsRef<Path>) -> Result<Npz> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut archive =
            ZipArchive::new(BufReader::new(file)).map_err(|error| not_an_archive(path, &error))?;
        let (mut members, mut places) = (Vec::new(), Vec::new());
        for entry in 0..archive.len() {
            let mut reader = match archive.by_index(entry) {
                Ok(reader) => reader,
                Err(error) => return Err(not_an_archive(path, &error)),
            };
            let Some(name) = reader.name().strip_suffix(".npy").map(str::to_owned) else {
                continue;
            };
            let (member, fortran) = describe(name, header::read(&mut reader));
            members.push(member);
            places.push(Place { entry, fortran });
        }
        Ok(Npz { path: path.into(), archive, members, places })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every array, in the order of the file.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    fn place(&self, member: &Member) -> Place {
        let at = self.members.iter().position(|other| other.name == member.name);
        self.places[at.expect("a member of this archive")]
    }

    /// Real values as f32; the imaginary part of complex values is refused.
    pub fn f32(&mut self, name: &str) -> Result<ArrayD<f32>> {
        self.real(name, |re, _| re as f32)
    }

    /// Real values as f64. Integers above 2^53 are rounded.
    pub fn f64(&mut self, name: &str) -> Result<ArrayD<f64>> {
        self.real(name, |re, _| re)
    }

    /// Integer or boolean values as i64; real values are refused. Exact up to 2^53.
    pub fn i64(&mut self, name: &str) -> Result<ArrayD<i64>> {
        let member = self.member(name)?;
        if !(member.is_integer() || member.kind == Kind::Bool) {
            return Err(self.wrong_type(&member, "integers"));
        }
        self.values(&member, |re, _| re as i64)
    }

    /// Complex values as pairs of f32; real values get the imaginary part 0.
    pub fn c64(&mut self, name: &str) -> Result<ArrayD<Complex32>> {
        let member = self.member(name)?;
        self.values(&member, |re, im| Complex32::new(re as f32, im as f32))
    }

    /// The text of a member with one element: unicode, bytes, or a pickled string, which is parsed
    /// and never executed. `None` where a pickle holds anything else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        let member = self.member(name)?;
        if member.shape.iter().any(|&side| side != 1) {
            let problem = format!("`{name}` has shape {:?}, expected one string", member.shape);
            return Err(Error::input(&self.path, problem));
        }
        let mut bytes = Vec::new();
        self.stream(&member, |reader| reader.read_to_end(&mut bytes).map(drop))?;
        match member.kind {
            Kind::Unicode => Ok(Some(utf32(&bytes, member.big_endian))),
            Kind::Bytes => {
                Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()))
            }
            Kind::Object => Ok(pickle::last_string(&bytes)),
            _ => Err(self.wrong_type(&member, "a string")),
        }
    }

    fn member(&self, name: &str) -> Result<Member> {
        self.find(name).cloned().ok_or_else(|| {
            let found: Vec<_> = self.members.iter().map(|member| member.name.as_str()).collect();
            let problem = format!("no key `{name}`; the file holds {}", found.join(", "));
            Error::input(&self.path, problem)
        })
    }

    fn real<T: Clone>(&mut self, name: &str, convert: fn(f64, f64) -> T) -> Result<ArrayD<T>> {
        let member = self.member(name)?;
        if member.is_complex() {
            return Err(self.wrong_type(&member, "real numbers"));
        }
        self.values(&member, convert)
    }

    fn values<T: Clone>(
        &mut self,
        member: &Member,
        convert: fn(f64, f64) -> T,
    ) -> Result<ArrayD<T>> {
        let (decode, count) = (self.decode(member)?, self.count(member)?);
        let mut values = Vec::with_capacity(count.min(TRUSTED));
        self.stream(member, |reader| {
            let mut buffer = vec![0u8; member.size * CHUNK.min(count)];
            while values.len() < count {
                let part = member.size * CHUNK.min(count - values.len());
                reader.read_exact(&mut buffer[..part])?;
                convert_chunk(member, &mut buffer[..part], decode, convert, &mut values);
            }
            Ok(())
        })?;
        let fortran = self.place(member).fortran;
        let shape = IxDyn(&member.shape).set_f(fortran);
        let array = ArrayD::from_shape_vec(shape, values)
            .map_err(|error| self.damaged(member, &error.to_string()))?;
        Ok(if fortran { array.as_standard_layout().into_owned() } else { array })
    }

    fn decode(&self, member: &Member) -> Result<Decode> {
        decoder(member.kind, member.size).ok_or_else(|| self.wrong_type(member, "numbers"))
    }

    /// How many values a member has: no more than the file can hold.
    fn count(&self, member: &Member) -> Result<usize> {
        let bytes = member.shape.iter().try_fold(member.size, |n, &side| n.checked_mul(side));
        // Text may have no letters.
        let count = bytes.and_then(|bytes| bytes.checked_div(member.size));
        let count = count.ok_or_else(|| self.damaged(member, "impossible shape"))?;
        let size = fs::metadata(&self.path).map_err(Error::io("read", &self.path))?.len();
        if (count * member.size) as u64 > size.saturating_mul(MOST_INFLATION) {
            return Err(self.damaged(member, "its shape is more than the file can hold"));
        }
        Ok(count)
    }

    /// The real values as f32, shown to `see` by whole numbers of `unit`s in the order of the file.
    pub fn f32_parts(
        &mut self,
        name: &str,
        unit: usize,
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let member = self.member(name)?;
        if member.is_complex() {
            return Err(self.wrong_type(&member, "real numbers"));
        }
        let (decode, count) = (self.decode(&member)?, self.count(&member)?);
        if self.place(&member).fortran {
            let problem = format!(
                "`{name}` is in Fortran order, which is turned in memory alone: write it again, with \
                 numpy.ascontiguousarray"
            );
            return Err(Error::input(&self.path, problem));
        }
        let most =
            CHUNK.checked_next_multiple_of(unit.max(1)).map_or(count, |most| most.min(count));
        let mut failed = None;
        let streamed = self.stream(&member, |reader| {
            let (mut buffer, mut values) = (vec![0u8; member.size * most], Vec::new());
            for first in (0..count).step_by(most.max(1)) {
                let part = member.size * most.min(count - first);
                reader.read_exact(&mut buffer[..part])?;
                values.clear();
                convert_chunk(&member, &mut buffer[..part], decode, |re, _| re as f32, &mut values);
                if let Err(error) = see(&values) {
                    failed = Some(error);
                    return Err(std::io::Error::other("not wanted any more"));
                }
            }
            Ok(())
        });
        // What was wrong with the values comes before what the reader makes of it.
        failed.map_or(streamed, Err)
    }

    /// The byte from which on the values of a member are as they are, one row after the other; none
    /// where they are packed.
    pub fn offset(&mut self, name: &str) -> Option<u64> {
        let member = self.find(name)?.clone();
        let (place, bytes) = (self.place(&member), self.count(&member).ok()? * member.size);
        let entry = self.archive.by_index(place.entry).ok()?;
        let plain = entry.compression() == CompressionMethod::Stored && !entry.encrypted();
        if !plain || place.fortran {
            return None;
        }
        // The header is what the values leave of the member.
        Some(entry.data_start()? + entry.size().checked_sub(bytes as u64)?)
    }

    /// Runs `read` on the data of `member`, after its header, and checks that nothing is left and
    /// that the checksum, which zip compares at the end of a member, is right.
    fn stream(
        &mut self,
        member: &Member,
        read: impl FnOnce(&mut dyn Read) -> std::io::Result<()>,
    ) -> Result<()> {
        let entry = self.place(member).entry;
        let outcome = (|| {
            let mut reader = self.archive.by_index(entry).map_err(std::io::Error::from)?;
            header::read(&mut reader)?;
            read(&mut reader)?;
            match reader.read(&mut [0])? {
                0 => Ok(()),
                _ => Err(std::io::Error::other("more data than its header says")),
            }
        })();
        outcome.map_err(|error| self.damaged(member, &error.to_string()))
    }

    fn damaged(&self, member: &Member, reason: &str) -> Error {
        let name = &member.name;
        let problem = format!("`{name}` is truncated or damaged ({reason}): copy the file again");
        Error::input(&self.path, problem)
    }

    fn wrong_type(&self, member: &Member, expected: &str) -> Error {
        let Member { name, dtype, .. } = member;
        Error::input(&self.path, format!("`{name}` has type {dtype}, expected {expected}"))
    }
}

impl Archive for Npz {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn members(&self) -> &[Member] {
        self.members()
    }

    fn f32(&mut self, key: &str) -> Result<ArrayD<f32>> {
        self.f32(key)
    }

    fn f32_parts(
        &mut self,
        key: &str,
        unit: usize,
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.f32_parts(key, unit, see)
    }

    fn in_place(&mut self, key: &str) -> Option<(PathBuf, u64)> {
        let offset = self.offset(key)?;
        Some((self.path.clone(), offset))
    }

    fn f64(&mut self, key: &str) -> Result<ArrayD<f64>> {
        self.f64(key)
    }

    fn c64(&mut self, key: &str) -> Result<ArrayD<Complex32>> {
        self.c64(key)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        self.text(key)
    }
}

/// A member, and whether its first axis runs fastest.
fn describe(name: String, header: std::io::Result<Header>) -> (Member, bool) {
    let (header, unreadable) = match header {
        Ok(header) => (header, None),
        Err(error) => (Header { descr: String::new(), fortran: false, shape: vec![] }, Some(error)),
    };
    let (kind, size, big_endian) = element(&header.descr).unwrap_or((Kind::Unreadable, 0, false));
    // One axis or none: both orders are the same.
    let fortran = header.fortran && header.shape.len() > 1;
    let dtype = unreadable.map_or(header.descr, |error| format!("unreadable ({error})"));
    (Member { name, at: None, dtype, shape: header.shape, kind, size, big_endian }, fortran)
}

/// Kind, bytes and byte order of a type such as `<f4`; `None` for records and exotic types.
fn element(descr: &str) -> Option<(Kind, usize, bool)> {
    let (order, rest) = descr.split_at_checked(1)?;
    let (kind, digits) = rest.split_at_checked(1)?;
    let kind = match kind {
        "b" => Kind::Bool,
        "i" => Kind::Int,
        "u" => Kind::Uint,
        "f" => Kind::Float,
        "c" => Kind::Complex,
        "U" => Kind::Unicode,
        "S" => Kind::Bytes,
        "O" => return Some((Kind::Object, 0, false)),
        _ => return None,
    };
    let units: usize = digits.parse().ok()?;
    // A character of a unicode string takes four bytes.
    let size = if kind == Kind::Unicode { units.checked_mul(4)? } else { units };
    Some((kind, size, order == ">"))
}

/// NumPy pads strings with zeros; a code point outside Unicode becomes the replacement character.
fn utf32(bytes: &[u8], big_endian: bool) -> String {
    let points = bytes.chunks_exact(4).map(|b| match big_endian {
        true => u32::from_be_bytes(fixed(b)),
        false => u32::from_le_bytes(fixed(b)),
    });
    let text: String = points.map(|p| char::from_u32(p).unwrap_or('\u{fffd}')).collect();
    text.trim_end_matches('\0').to_owned()
}

/// What a file is that is no zip: its first bytes tell the common mistakes apart.
fn not_an_archive(path: &Path, error: &ZipError) -> Error {
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        // A directory opens but cannot be read: then the zip error alone is reported.
        let _unreadable = file.take(8).read_to_end(&mut head);
    }
    let problem = match head.as_slice() {
        [] if path.is_dir() => "is a folder, expected an .npz file".to_owned(),
        [] => "is empty, expected an .npz file".to_owned(),
        [b'P', b'K', ..] => {
            format!("is a truncated or damaged zip archive ({error}): copy the file again")
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => {
            "is a single array (.npy); pack it with coordinates and probe into one .npz".to_owned()
        }
        [0x89, b'H', b'D', b'F', ..] => "is an HDF5 file, expected an .npz file".to_owned(),
        _ => "is no NPZ file (a zip archive of NumPy arrays)".to_owned(),
    };
    Error::input(path, problem)
}
