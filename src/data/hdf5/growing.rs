//! A look at the virtual data sets of a file before `rust-hdf5` opens it.
//!
//! On opening, that crate finds out how far each virtual data set without a fixed end reaches: it opens
//! the sources, and what these are made of, one after the other. It comes to no end where a source of
//! fixed size is to be repeated and has no number in its name, and takes ages where files are sources of
//! one another. Neither is written by a sound program.
//!
//! Lists of sources are in global heaps, which may be anywhere: they are looked for in the first
//! [`MOST_SEARCHED`] bytes of a file, once for each state of it. What lies behind is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rust_hdf5::VirtualMapping;
use rust_hdf5::format::FormatContext;
use rust_hdf5::format::global_heap::GlobalHeapCollection;
use rust_hdf5::format::messages::virtual_mapping::{VirtualMappingList, parse_source_name};

use crate::{Error, Result};

/// Bytes of a file in which lists of sources are looked for: so many take less than a second, and large
/// files are patterns.
const MOST_SEARCHED: u64 = 1 << 30;

/// What a global heap begins with, and the one version that there is.
const MARK: &[u8; 5] = b"GCOL\x01";

/// A heap is no smaller.
const LEAST_HEAP: usize = 4096;

/// Bytes that sizes may have in a file.
const SIZES: [u8; 3] = [8, 4, 2];

/// Bytes of a file that are looked at together.
const BLOCK: u64 = 1 << 20;

/// ... and whether they have the letters of the mark.
const PIECE: usize = 256;

/// Files that one may make the crate open, counted as often as it does.
const MOST_OPENED: usize = 10_000;

/// How deep the crate follows sources of sources.
const MOST_NESTED: usize = 16;

/// A virtual data set without a fixed end, and the source of one of its pieces.
struct Growing {
    file: String,
    path: String,
    /// The source has no fixed end either.
    open: bool,
}

impl Growing {
    fn of(mapping: VirtualMapping) -> Option<Growing> {
        mapping.virtual_selection.unlim_dim()?;
        let open = mapping.source_selection.unlim_dim().is_some();
        Some(Growing { file: mapping.source_file_name, path: mapping.source_dset_name, open })
    }

    /// Whether the name of the file changes from piece to piece. Of absolute names the last part is
    /// looked for elsewhere too.
    fn numbered_file(&self) -> bool {
        let file = Path::new(&self.file);
        match file.file_name() {
            Some(last) if file.is_absolute() => numbered(&last.to_string_lossy()),
            _ => numbered(&self.file),
        }
    }

    /// Whether the pieces come to an end.
    fn ends(&self) -> bool {
        self.open || self.numbered_file() || numbered(&self.path)
    }
}

/// Whether a name has a place for the number of a piece.
fn numbered(name: &str) -> bool {
    parse_source_name(name).is_ok_and(|name| name.nsubs() > 0)
}

/// Refuses a file that the crate would not come to an end with.
///
/// Error: one that names the file and what is wrong with its virtual data sets; it cannot be read.
pub(super) fn check(path: &Path) -> Result<()> {
    let mut opened = 0;
    follow(path, 0, &mut opened)?;
    match opened > MOST_OPENED {
        true => Err(Error::input(
            path,
            format!(
                "has virtual data sets whose sources are virtual in turn, more than {MOST_OPENED} files \
                 one in the other, as where they lead in a circle: copy it again, with the files that it \
                 is made of"
            ),
        )),
        false => Ok(()),
    }
}

/// Counts the files that are opened for the one at `path`.
fn follow(path: &Path, depth: usize, opened: &mut usize) -> Result<()> {
    if depth > MOST_NESTED || *opened > MOST_OPENED {
        return Ok(());
    }
    let known = growing(path)?;
    if let Some(endless) = known.iter().find(|growing| !growing.ends()) {
        let problem = format!(
            "has a virtual data set without end, all of whose pieces are the same `{}` of `{}`: expected \
             a source without end, or `%b` in its name for the number of a piece; write the file again",
            endless.path, endless.file
        );
        return Err(Error::input(path, problem));
    }
    let mut sources = BTreeSet::new();
    for growing in known.iter().filter(|growing| growing.file != ".") {
        sources.extend(files(path, growing));
    }
    for source in sources {
        *opened += 1;
        follow(&source, depth + 1, opened)?;
    }
    Ok(())
}

/// The files that the sources of a data set in `path` are in, wherever the crate looks for them.
fn files(path: &Path, growing: &Growing) -> Vec<PathBuf> {
    let Ok(name) = parse_source_name(&growing.file) else { return Vec::new() };
    let folders = folders(path);
    let found = |number: u64| -> Vec<PathBuf> {
        let name = PathBuf::from(name.build(number));
        let last = name.file_name().filter(|_| name.is_absolute()).map(PathBuf::from);
        let base = last.unwrap_or_else(|| name.clone());
        let places = folders.iter().map(|folder| folder.join(&base)).chain([name, base.clone()]);
        let places = places.filter(|place| place.is_file());
        places.filter_map(|place| fs::canonicalize(place).ok()).collect()
    };
    match growing.numbered_file() {
        true => (0..)
            .map(found)
            .take_while(|found| !found.is_empty())
            .take(MOST_OPENED + 1)
            .flatten()
            .collect(),
        false => found(0),
    }
}

/// Where sources of a file are looked for, but for the folder that the program runs in.
fn folders(path: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| path.parent().map(Path::to_path_buf);
    let actual = fs::canonicalize(path).ok();
    let told = std::env::var("HDF5_VDS_PREFIX").unwrap_or_default();
    let told = told.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from);
    told.chain(parent(path)).chain(actual.as_deref().and_then(parent)).collect()
}

/// Length and time of a file, as it was when its data sets were looked for.
type State = (u64, Option<SystemTime>);

/// What is known of each file.
type Known = BTreeMap<PathBuf, (State, Arc<[Growing]>)>;

/// The virtual data sets without a fixed end in a file.
fn growing(path: &Path) -> Result<Arc<[Growing]>> {
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let meta = fs::metadata(path).map_err(Error::io("open", path))?;
    let (state, key) = ((meta.len(), meta.modified().ok()), fs::canonicalize(path).ok());
    if let Some((_, found)) =
        key.as_ref().and_then(|key| known().get(key).filter(|(then, _)| *then == state).cloned())
    {
        return Ok(found);
    }
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let lists = lists(&mut file, state.0).map_err(Error::io("read", path))?;
    let Some(lists) = lists else {
        let problem = "has global heaps one over the other: it is damaged, copy it again";
        return Err(Error::input(path, problem));
    };
    let found: Arc<[Growing]> =
        lists.into_iter().flat_map(|list| list.mappings).filter_map(Growing::of).collect();
    if let Some(key) = key {
        known().insert(key, (state, found.clone()));
    }
    Ok(found)
}

/// The lists of sources in a file of so many bytes; none where heaps take more bytes than there are, so
/// that going through them had no end.
fn lists(file: &mut File, length: u64) -> io::Result<Option<Vec<VirtualMappingList>>> {
    let mut found = Vec::new();
    let mut left = length.saturating_mul(2);
    let marks = marks(file)?;
    if marks.len() as u64 > length / LEAST_HEAP as u64 {
        return Ok(None);
    }
    for at in marks {
        let mut head = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        file.take(16).read_to_end(&mut head)?;
        // Sizes of fewer bytes are mostly the same number, and then so is the heap.
        let mut read: Option<(usize, Vec<u8>)> = None;
        for sizeof_size in SIZES {
            let context = FormatContext { sizeof_addr: 8, sizeof_size };
            let Ok(size) = GlobalHeapCollection::decode_size(&head, &context) else { continue };
            if size < LEAST_HEAP || size as u64 > length.saturating_sub(at) {
                continue;
            }
            if read.as_ref().is_none_or(|(known, _)| *known != size) {
                let Some(rest) = left.checked_sub(size as u64) else { return Ok(None) };
                left = rest;
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(at))?;
                file.take(size as u64).read_to_end(&mut bytes)?;
                read = Some((size, bytes));
            }
            let Some((_, bytes)) = &read else { continue };
            let Ok((heap, _)) = GlobalHeapCollection::decode(bytes, &context) else { continue };
            let decode = |data: &[u8]| VirtualMappingList::decode(data, &context).ok();
            found.extend(heap.objects.iter().filter_map(|object| decode(&object.data)));
        }
    }
    Ok(Some(found))
}

/// Where global heaps begin, or what looks like it.
fn marks(file: &mut File) -> io::Result<Vec<u64>> {
    let mut rest = file.take(MOST_SEARCHED);
    let (mut block, mut start, mut found) = (Vec::new(), 0, Vec::new());
    loop {
        // The last bytes may be the beginning of a mark.
        let done = block.len().saturating_sub(MARK.len() - 1);
        block.drain(..done);
        start += done as u64;
        if rest.by_ref().take(BLOCK).read_to_end(&mut block)? == 0 {
            return Ok(found);
        }
        found.extend(marked(&block).map(|at| start + at as u64));
    }
}

/// Where a block has the mark. Few pieces have even its first two letters, which a processor looks for in
/// many places together.
fn marked(block: &[u8]) -> impl Iterator<Item = usize> {
    let starts = block.len().saturating_sub(MARK.len() - 1);
    let piece = move |from: usize| from..starts.min(from + PIECE);
    let letters = move |from: &usize| {
        let pairs = block[piece(*from)].iter().zip(&block[from + 1..]);
        pairs.fold(false, |seen, (a, b)| seen | ((*a == MARK[0]) & (*b == MARK[1])))
    };
    let places = (0..starts).step_by(PIECE).filter(letters).flat_map(piece);
    places.filter(|&at| block[at..].starts_with(MARK))
}
