//! HDF5 files: numbers of any type and byte order, compound complex numbers, units, and links and
//! virtual data sets that may not lead out of the file's folder.
//!
//! The format itself is left to the crate `rust-hdf5`; what is here says what we accept of it.

mod growing;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use ndarray::{ArrayD, IxDyn};
use num_complex::Complex32;
use rust_hdf5::{
    ByteOrder, DatatypeMessage, Filter, H5Dataset, H5File, H5FileOptions, H5Group, H5Type,
    Hdf5Error, Hyperslab, LinkClass, Selection,
};

use super::archive::{Kind, Member, convert_chunk, decoder};
use crate::{Error, Result};

pub use write::{Hdf5Writer, Written};

/// A file may unpack to so many times its size: no filter that detectors use does more, deflate 1032
/// times.
const MOST_INFLATION: u64 = 1100;

/// What a file without any packed data may claim, bytes: fill values take no space.
const SMALL: u64 = 1 << 26;

/// Filters, by their numbers, and what a block and a line of szip may have at most.
const SZIP: u16 = 4;
const NBIT: u16 = 5;
const SCALE_OFFSET: u16 = 6;
const BITSHUFFLE: u16 = 32008;
const SZIP_BLOCK: u64 = 32;
const SZIP_LINE: u64 = 4096;

/// Numbers that are read at once where an array is gone through by parts.
const PART: usize = 1 << 18;

/// Links on the way to an array.
const MOST_LINKS: usize = 16;

/// An array, and the files that its values are in.
struct Found {
    data: H5Dataset,
    files: Vec<PathBuf>,
}

impl Found {
    /// The most bytes that these files may unpack to.
    fn limit(&self) -> u64 {
        let sizes = self.files.iter().filter_map(|file| fs::metadata(file).ok());
        let bytes: u64 = sizes.map(|file| file.len()).sum();
        bytes.saturating_mul(MOST_INFLATION).max(SMALL)
    }
}

/// An open file.
pub struct Hdf5 {
    path: PathBuf,
    file: H5File,
}

impl Hdf5 {
    pub fn open(path: impl AsRef<Path>) -> Result<Hdf5> {
        let path = path.as_ref();
        // Detectors hold locks on what they still write, and network folders refuse them.
        fs::metadata(path).map_err(Error::io("open", path))?;
        growing::check(path)?;
        let file = H5FileOptions::new().no_locking().open(path);
        let file = file.map_err(|error| {
            Error::input(path, format!("is no sound HDF5 file ({error}): copy it again"))
        })?;
        Ok(Hdf5 { path: path.into(), file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is something at `at`, be it a link that leads nowhere: what is wrong with that is
    /// said when it is read.
    pub fn has(&self, at: &str) -> bool {
        match self.first_link(at) {
            Some(link) => link == at.trim_matches('/') || self.dataset(at).is_ok(),
            None => self.hard(at).is_some(),
        }
    }

    /// The first step on the way to `at` that is a soft or an external link.
    pub fn first_link<'a>(&self, at: &'a str) -> Option<&'a str> {
        let at = at.trim_matches('/');
        let ends = at.match_indices('/').map(|(end, _)| end).chain([at.len()]);
        ends.map(|end| &at[..end]).find(|path| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let class = self.hard(parent).map(|group| group.link_class(name));
            matches!(class, Some(Ok(LinkClass::Soft { .. } | LinkClass::External { .. })))
        })
    }

    /// The group at `at`, or that of the array there, by hard links alone.
    fn hard(&self, at: &str) -> Option<H5Group> {
        let mut group = self.file.root_group();
        for part in at.split('/').filter(|part| !part.is_empty()) {
            if !matches!(group.link_class(part), Ok(LinkClass::Hard)) {
                return None;
            }
            if let Ok(inner) = group.group(part) {
                group = inner;
            }
        }
        Some(group)
    }

    /// The first of `places` where there is an array, else the first where there is something.
    pub fn first<'a>(&self, places: &[&'a str]) -> Option<&'a str> {
        let find = |there: &dyn Fn(&str) -> bool| places.iter().copied().find(|at| there(at));
        find(&|at| self.dataset(at).is_ok()).or_else(|| find(&|at| self.has(at)))
    }

    /// Names in the group `at`.
    pub fn names(&self, at: &str) -> Result<Vec<String>> {
        let root = self.file.root_group();
        let group = match at.trim_matches('/') {
            "" => Ok(root),
            at => root.group(at),
        };
        group.and_then(|group| group.link_names()).map_err(|error| self.refuse(at, &error))
    }

    /// What the array at `at` is, for the key that it has with us.
    pub fn member(&self, key: &str, at: &str) -> Result<Member> {
        self.describe(key, at, &self.dataset(at)?)
    }

    /// Real values as f32.
    pub fn f32(&self, at: &str) -> Result<ArrayD<f32>> {
        self.real(at, |re, _| re as f32)
    }

    /// The real values at `at` as f32, shown to `see` by whole numbers of `unit`s: some steps along the
    /// first axis at once, whole chunks where the values are packed in such.
    pub fn f32_parts(
        &self,
        at: &str,
        unit: usize,
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let found = self.dataset(at)?;
        let member = self.describe("", at, &found)?;
        let decode = decoder(member.kind, member.size).filter(|_| !member.is_complex());
        let Some(decode) = decode else {
            let problem = format!("has type {}, expected real numbers", member.dtype);
            return Err(self.problem(at, &problem));
        };
        self.bounded(at, &found)?;
        let Some((&steps, inner)) = member.shape.split_first() else { return Ok(()) };
        let step: usize = inner.iter().product();
        if !step.is_multiple_of(unit) {
            return Err(self.problem(at, "has patterns that are cut by its first axis"));
        }
        let chunk = found.data.chunk_dims().and_then(|chunk| chunk.first().copied()).unwrap_or(1);
        let part = (PART / step.max(1)).max(1).next_multiple_of(chunk.max(1));
        let mut values = Vec::new();
        for first in (0..steps).step_by(part) {
            let mut counts = member.shape.clone();
            counts[0] = part.min(steps - first);
            let mut starts = vec![0; counts.len()];
            starts[0] = first;
            let bytes = slice(&found.data, member.size, &starts, &counts);
            let mut bytes = bytes.map_err(|error| self.refuse(at, &error))?;
            // The bytes come in the order of this machine.
            let host = Member { big_endian: cfg!(target_endian = "big"), ..member.clone() };
            values.clear();
            convert_chunk(&host, &mut bytes, decode, |re, _| re as f32, &mut values);
            see(&values)?;
        }
        Ok(())
    }

    /// Real values as f64.
    pub fn f64(&self, at: &str) -> Result<ArrayD<f64>> {
        self.real(at, |re, _| re)
    }

    /// Complex values; real ones get the imaginary part 0.
    pub fn c64(&self, at: &str) -> Result<ArrayD<Complex32>> {
        let data = self.dataset(at)?;
        let member = self.describe("", at, &data)?;
        self.values(at, &data, &member, |re, im| Complex32::new(re as f32, im as f32))
    }

    /// The only number of an array.
    pub fn number(&self, at: &str) -> Result<f64> {
        let values = self.f64(at)?;
        match values.len() {
            1 => Ok(values.iter().sum()),
            count => Err(self.problem(at, &format!("has {count} numbers, expected one"))),
        }
    }

    /// A numeric attribute of the array at `at`.
    pub fn attribute(&self, at: &str, name: &str) -> Option<f64> {
        let attribute = self.dataset(at).ok()?.data.attr(name).ok()?;
        let floats = attribute.read_numeric_as::<f64>().ok();
        let whole = || {
            attribute.read_numeric_as::<i64>().ok().map(|n| n.iter().map(|&n| n as f64).collect())
        };
        floats.or_else(whole).and_then(|values: Vec<f64>| values.first().copied())
    }

    /// A numeric attribute of the file itself. Those of groups are beyond the crate that reads the
    /// rest.
    pub fn root_number(&self, name: &str) -> Option<f64> {
        let root = hdf5_reader::Hdf5File::open(&self.path).and_then(|file| file.root_group());
        let number = root.and_then(|root| root.attribute(name)).and_then(|it| it.read_as_f64());
        number.ok().filter(|number| number.is_finite())
    }

    /// The text at `at`.
    pub fn text(&self, at: &str) -> Result<String> {
        let texts = self.dataset(at)?.data.read_strings_lossy();
        let mut texts = texts.map_err(|error| self.refuse(at, &error))?;
        match texts.len() {
            1 => Ok(texts.remove(0)),
            count => Err(self.problem(at, &format!("has {count} texts, expected one"))),
        }
    }

    /// The files that the values at `at` are in.
    pub fn files(&self, at: &str) -> Result<Vec<PathBuf>> {
        Ok(self.dataset(at)?.files)
    }

    /// The unit of the array at `at`, if it says one.
    pub fn units(&self, at: &str) -> Option<String> {
        self.dataset(at).ok()?.data.attr("units").ok()?.read_string().ok()
    }

    fn real<T: Clone>(&self, at: &str, convert: fn(f64, f64) -> T) -> Result<ArrayD<T>> {
        let data = self.dataset(at)?;
        let member = self.describe("", at, &data)?;
        if member.is_complex() {
            return Err(
                self.problem(at, &format!("has type {}, expected real numbers", member.dtype))
            );
        }
        self.values(at, &data, &member, convert)
    }

    fn values<T: Clone>(
        &self,
        at: &str,
        data: &Found,
        member: &Member,
        convert: fn(f64, f64) -> T,
    ) -> Result<ArrayD<T>> {
        let Some(decode) = decoder(member.kind, member.size) else {
            return Err(self.problem(at, &format!("has type {}, expected numbers", member.dtype)));
        };
        let claimed = self.bounded(at, data)?;
        let mut bytes = data.data.read_raw_bytes().map_err(|error| self.refuse(at, &error))?;
        if bytes.len() as u64 != claimed {
            return Err(
                self.problem(at, &format!("holds {} bytes, expected {claimed}", bytes.len()))
            );
        }
        let mut values = Vec::with_capacity(bytes.len() / member.size);
        convert_chunk(member, &mut bytes, decode, convert, &mut values);
        ArrayD::from_shape_vec(IxDyn(&member.shape), values)
            .map_err(|error| self.problem(at, &error.to_string()))
    }

    /// Bytes of an array that its files can hold, and so the chunks that are unpacked whole, however
    /// little of them it has.
    fn bounded(&self, at: &str, found: &Found) -> Result<u64> {
        let (data, limit) = (&found.data, found.limit());
        let chunk = data.chunk_dims().unwrap_or_default();
        if self.claimed(at, &chunk, data.element_size())? > limit {
            return Err(self.problem(at, &format!("has chunks of {chunk:?}: it is damaged")));
        }
        let filters = data.filters().map_err(|error| self.refuse(at, &error))?;
        if let Some(filter) = filters.iter().find(|filter| !is_sound(filter, limit)) {
            let (id, values) = (filter.id, &filter.cd_values);
            let problem =
                format!("is packed by filter {id} in blocks of {values:?}: it is damaged");
            return Err(self.problem(at, &problem));
        }
        let claimed = self.claimed(at, &data.shape(), data.element_size())?;
        if claimed > limit {
            let problem = format!(
                "claims {claimed} bytes, more than {limit} that its files can hold: it is damaged"
            );
            return Err(self.problem(at, &problem));
        }
        Ok(claimed)
    }

    /// Bytes of an array of this shape.
    fn claimed(&self, at: &str, shape: &[usize], size: usize) -> Result<u64> {
        let bytes = shape.iter().try_fold(size as u64, |n, &side| n.checked_mul(side as u64));
        bytes.ok_or_else(|| self.problem(at, &format!("has the impossible shape {shape:?}")))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn dataset(&self, at: &str) -> Result<Found> {
        self.follow(at.trim_matches('/').to_owned(), 0)
    }

    /// What is at `at`, by way of links that do not leave the folder of their file. Each step is made
    /// from the group itself and not from its name: a group may have several, and links are known under
    /// one of them.
    fn follow(&self, at: String, links: usize) -> Result<Found> {
        if links > MOST_LINKS {
            return Err(self.problem(&at, "is behind a chain of links without end"));
        }
        let mut group = self.file.root_group();
        let parts: Vec<&str> = at.split('/').filter(|part| !part.is_empty()).collect();
        let Some((last, groups)) = parts.split_last() else {
            return Err(self.problem(&at, "is the whole file, expected an array"));
        };
        for (depth, part) in parts.iter().enumerate() {
            let rest =
                || parts[depth + 1..].iter().map(|part| format!("/{part}")).collect::<String>();
            match group.link_class(part) {
                Ok(LinkClass::Soft { path }) => {
                    let base = if path.starts_with('/') { "" } else { group.name() };
                    return self.follow(format!("{base}/{path}{}", rest()), links + 1);
                }
                Ok(LinkClass::External { file, path }) => {
                    self.inside(&parts[..=depth].join("/"), &file)?;
                    let other = Hdf5::open(self.folder().join(&file))?;
                    return other.follow(format!("{path}{}", rest()), links + 1);
                }
                Ok(LinkClass::UserDefined { link_type }) => {
                    let problem = format!("is a link of type {link_type}, which is not known here");
                    return Err(self.problem(&parts[..=depth].join("/"), &problem));
                }
                _ => {}
            }
            if depth < groups.len() {
                group = group.group(part).map_err(|error| self.refuse(&at, &error))?;
            }
        }
        let path = format!("{}/{last}", group.name().trim_matches('/'));
        let data = self.file.dataset(path.trim_matches('/'));
        let data = data.map_err(|error| self.refuse(&at, &error))?;
        let mut files = vec![self.path.clone()];
        self.sources(&at, &data, links, &mut files)?;
        files.sort();
        files.dedup();
        Ok(Found { data, files })
    }

    /// Adds the files that the values of a virtual data set are in, after a look at each of them: a
    /// source that is not there, or of another type, would be taken for fill values or copied as bytes.
    fn sources(
        &self,
        at: &str,
        data: &H5Dataset,
        links: usize,
        files: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let raw = data.external_files().map_err(|error| self.refuse(at, &error))?;
        if let Some(raw) = raw.first() {
            let problem = format!("keeps its values in `{}`, apart from any HDF5 file", raw.name);
            return Err(self.problem(at, &problem));
        }
        let mappings = data.virtual_mappings().map_err(|error| self.refuse(at, &error))?;
        let mut seen: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for mapping in mappings {
            if !fits(&mapping.virtual_selection, &data.shape()) {
                return Err(self.problem(at, "maps more elements than it has: it is damaged"));
            }
            let name = (mapping.source_file_name, mapping.source_dset_name);
            let shape = match seen.get(&name) {
                Some(shape) => shape,
                None => {
                    let source = self.source(at, data, &name, links)?;
                    files.extend(source.files);
                    seen.entry(name.clone()).or_insert(source.data.shape())
                }
            };
            if !fits(&mapping.source_selection, shape) {
                let (file, path) = name;
                let problem =
                    format!("maps more elements than its source `{path}` in `{file}` has");
                return Err(self.problem(at, &problem));
            }
        }
        Ok(())
    }

    /// One of the arrays, by file and path, that a virtual data set is made of.
    fn source(
        &self,
        at: &str,
        data: &H5Dataset,
        (file, path): &(String, String),
        links: usize,
    ) -> Result<Found> {
        let source = match file.as_str() {
            "." => self.follow(path.clone(), links + 1)?,
            file if file.contains('%') || path.contains('%') => {
                return Err(self.problem(at, &format!("has numbered sources (`{file}`)")));
            }
            file => {
                self.inside(at, file)?;
                Hdf5::open(self.folder().join(file))?.follow(path.clone(), links + 1)?
            }
        };
        let kinds = [data.datatype(), source.data.datatype()];
        if !matches!(&kinds, [Ok(one), Ok(other)] if one == other) {
            let problem = format!("and its source `{path}` in `{file}` have different types");
            return Err(self.problem(at, &problem));
        }
        self.bounded(at, &source)?;
        Ok(source)
    }

    /// Refuses a file name that leads out of the folder of this file: a scan may not make the program
    /// read what its author cannot know.
    fn inside(&self, at: &str, file: &str) -> Result<()> {
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        match Path::new(file).components().all(plain) {
            true => Ok(()),
            false => Err(self.problem(
                at,
                &format!(
                    "leads to `{file}`, out of the folder of the file: put the files together"
                ),
            )),
        }
    }

    fn describe(&self, key: &str, at: &str, found: &Found) -> Result<Member> {
        let data = &found.data;
        let kind = data.datatype().map_err(|error| self.refuse(at, &error))?;
        let (kind, size, big_endian) = element(&kind).unwrap_or((Kind::Unreadable, 0, false));
        let dtype = match kind {
            Kind::Unreadable => data.datatype().map_or("unknown".into(), |kind| kind.to_string()),
            _ => name(kind, size, big_endian),
        };
        let (key, shown) = (key.to_owned(), Some(format!("/{}", at.trim_matches('/'))));
        Ok(Member { name: key, at: shown, dtype, shape: data.shape(), kind, size, big_endian })
    }

    fn refuse(&self, at: &str, error: &Hdf5Error) -> Error {
        self.problem(
            at,
            &format!("cannot be read ({error}): copy the file again, with those it links to"),
        )
    }

    /// `problem` of what is at `at`.
    pub fn problem(&self, at: &str, problem: &str) -> Error {
        Error::input(&self.path, format!("`/{}` {problem}", at.trim_matches('/')))
    }
}

/// The bytes of a part of an array of numbers of `size` bytes, in the order of this machine.
fn slice(
    data: &H5Dataset,
    size: usize,
    starts: &[usize],
    counts: &[usize],
) -> Result<Vec<u8>, Hdf5Error> {
    fn flat<T: H5Type, const SIZE: usize>(
        data: &H5Dataset,
        (starts, counts): (&[usize], &[usize]),
        bytes: fn(T) -> [u8; SIZE],
    ) -> Result<Vec<u8>, Hdf5Error> {
        let values = data.read_slice::<T>(starts, counts)?;
        Ok(values.into_iter().flat_map(bytes).collect())
    }
    let part = (starts, counts);
    match size {
        1 => data.read_slice::<u8>(starts, counts),
        2 => flat(data, part, u16::to_ne_bytes),
        4 => flat(data, part, u32::to_ne_bytes),
        _ => flat(data, part, u64::to_ne_bytes),
    }
}

/// Whether a filter asks for no more memory than `limit` and than its blocks are large: the crate believes what
/// stands in the file of how many values, of how many bytes, it unpacks at once.
fn is_sound(filter: &Filter, limit: u64) -> bool {
    let value = |at: usize| u64::from(filter.cd_values.get(at).copied().unwrap_or(0));
    match filter.id {
        SZIP => value(1) <= SZIP_BLOCK && value(3) <= SZIP_LINE,
        NBIT | SCALE_OFFSET => value(2).saturating_mul(value(4).max(1)) <= limit,
        // Where the length of a block is not said, it is 128 values at least.
        BITSHUFFLE => value(2).saturating_mul(value(3).max(128)) <= SMALL,
        _ => true,
    }
}

/// Whether a selection names no more elements than an array of `shape` has: going through them takes as
/// long as they are many, whatever there is.
fn fits(selection: &Selection, shape: &[usize]) -> bool {
    let most = shape.iter().try_fold(1u64, |n, &side| n.checked_mul(side as u64));
    let Selection::Hyperslab { form, .. } = selection else { return true };
    let product =
        |sides: Vec<Option<u64>>| sides.into_iter().try_fold(1u64, |n, side| n.checked_mul(side?));
    let named = match form {
        Hyperslab::Regular(slab) => {
            // One axis may go on without end: it is cut off at the end of the array.
            let along =
                |(&count, &block): (&u64, &u64)| match count == u64::MAX || block == u64::MAX {
                    true => Some(1),
                    false => count.checked_mul(block),
                };
            product(slab.count.iter().zip(&slab.block).map(along).collect())
        }
        Hyperslab::Blocks(blocks) => blocks.iter().try_fold(0u64, |sum, block| {
            let side = |(&start, &end): (&u64, &u64)| end.checked_sub(start)?.checked_add(1);
            sum.checked_add(product(block.start.iter().zip(&block.end).map(side).collect())?)
        }),
    };
    named.zip(most).is_some_and(|(named, most)| named <= most)
}

/// Kind, bytes and byte order of a type; none for what is no number.
fn element(kind: &DatatypeMessage) -> Option<(Kind, usize, bool)> {
    let big = |order: &ByteOrder| *order == ByteOrder::BigEndian;
    match kind {
        DatatypeMessage::FixedPoint { size, byte_order, signed, bit_offset, bit_precision } => {
            let whole = *bit_offset == 0 && u32::from(*bit_precision) == 8 * size;
            let kind = if *signed { Kind::Int } else { Kind::Uint };
            whole.then(|| (kind, *size as usize, big(byte_order)))
        }
        DatatypeMessage::FloatingPoint { size, byte_order, .. } => {
            Some((Kind::Float, *size as usize, big(byte_order)))
        }
        // Truth values of h5py.
        DatatypeMessage::Enum { base, .. } => element(base),
        // Real and imaginary part, as h5py, Matlab and Julia write them.
        DatatypeMessage::Compound { size, members } => {
            let [re, im] = members.as_slice() else { return None };
            let (a, b) = (element(&re.datatype)?, element(&im.datatype)?);
            let dense = re.offset == 0 && im.offset * 2 == *size && a == b && a.0 == Kind::Float;
            dense.then_some((Kind::Complex, *size as usize, a.2))
        }
        _ => None,
    }
}

/// A type as NumPy writes it.
fn name(kind: Kind, size: usize, big_endian: bool) -> String {
    let letter = match kind {
        Kind::Int => "i",
        Kind::Uint => "u",
        Kind::Complex => "c",
        _ => "f",
    };
    let order = match (size, big_endian) {
        (1, _) => "|",
        (_, true) => ">",
        (_, false) => "<",
    };
    format!("{order}{letter}{size}")
}
