//! Files of `torch.save`: a zip archive of one pickle and the numbers of each storage.
//!
//! `NAME/data.pkl` says what there is, `NAME/data/KEY` holds the numbers of storage KEY,
//! `NAME/byteorder` their order. Sizes are believed only after they have been held against the bytes that are there.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use zip::ZipArchive;

use super::globals::{StorageType, storage_type};
use super::pickle::{self, Object, Ref, Storage, Tree, View};

/// Bytes that the members of an archive may have together.
const MAX_BYTES: u64 = 4 << 30;

/// How many times as long as the archive its members may be: weights are noise, which does not
/// shrink, and a file that grows by more than this is made to fill the memory.
const MAX_GROWTH: u64 = 100;

/// Entries of a tensor.
const MAX_ENTRIES: usize = 1 << 28;

/// Bytes that any archive may grow to.
const SMALL: u64 = 16 << 20;

/// A file of `torch.save`.
pub struct TorchFile<R> {
    archive: ZipArchive<R>,
    /// What stands before `data.pkl`.
    folder: String,
    tree: Tree,
    /// The storage that was read last: several tensors may share one.
    last: Option<(String, Vec<u8>)>,
}

/// Whether a file that begins so is a zip archive.
pub fn is_zip(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04")
}

/// Opens an archive, and refuses one that is made to fill the memory.
pub fn open_zip<R: Read + Seek>(mut file: R) -> Result<ZipArchive<R>, String> {
    let length = file.seek(std::io::SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let mut archive = ZipArchive::new(file)
        .map_err(|e| format!("not a whole zip archive, as torch writes it ({e})"))?;
    let mut total: u64 = 0;
    for at in 0..archive.len() {
        let member = archive.by_index_raw(at).map_err(|e| format!("its member {at}: {e}"))?;
        total = total.saturating_add(member.size());
    }
    let most = length.saturating_mul(MAX_GROWTH).clamp(SMALL, MAX_BYTES);
    if total > most {
        return Err(format!("its members declare {total} bytes, which {length} bytes cannot mean"));
    }
    Ok(archive)
}

/// The bytes of a member, as many as it declares, `most` at most; none where there is no such member.
pub fn member<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    most: usize,
) -> Result<Option<Vec<u8>>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("its member {}: {e}", pickle::shown(name));
    let mut member = match archive.by_name(name) {
        Ok(member) => member,
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(wrong(&error)),
    };
    let declared = member.size();
    if declared > most as u64 {
        return Err(wrong(&format!("{declared} bytes ({most} at most)")));
    }
    let mut bytes = Vec::new();
    member.by_ref().take(declared + 1).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
    if bytes.len() as u64 != declared {
        return Err(wrong(&format!("{declared} bytes are declared, {} are there", bytes.len())));
    }
    Ok(Some(bytes))
}

impl<R: Read + Seek> TorchFile<R> {
    /// Reads what there is, but no numbers yet. Error: one sentence.
    pub fn open(mut archive: ZipArchive<R>) -> Result<TorchFile<R>, String> {
        let folder = archive
            .file_names()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .filter(|folder| folder.matches('/').count() <= 1)
            .map(str::to_owned)
            .min()
            .ok_or("a zip archive without data.pkl: not a file of torch.save")?;
        let order = member(&mut archive, &format!("{folder}byteorder"), 16)?;
        if order.is_some_and(|order| order != b"little") {
            return Err(
                "its numbers are not little-endian: save it again on another machine".into()
            );
        }
        let bytes = member(&mut archive, &format!("{folder}data.pkl"), pickle::MAX_BYTES)?;
        let tree = Tree::read(&bytes.ok_or("it has no data.pkl")?)?;
        Ok(TorchFile { archive, folder, tree, last: None })
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tensors of the dict `of`, by name.
    pub fn tensors(&self, of: Ref) -> BTreeMap<String, View> {
        let entry = |&(key, value): &(Ref, Ref)| match (self.tree.get(key), self.tree.get(value)) {
            (Object::Text(name), Object::Tensor(view)) => Some((name.clone(), view.clone())),
            _ => None,
        };
        self.tree.entries(of).iter().filter_map(entry).collect()
    }

    /// The numbers of a tensor, row-major, in f32. The caller has checked that its shape is one that
    /// it has room for.
    pub fn numbers(&mut self, view: &View) -> Result<Vec<f32>, String> {
        let Object::Storage(storage) = self.tree.get(view.storage) else {
            return Err("its storage is none".into());
        };
        let Storage { class, key, len } = storage.clone();
        let kind = storage_type(&class).unwrap_or(StorageType::Other);
        let width = kind.bytes().ok_or(format!("its numbers are those of a {class}"))?;
        let declared = len.checked_mul(width).ok_or("its storage is too large")?;
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            let name = format!("{}data/{key}", self.folder);
            let bytes = member(&mut self.archive, &name, MAX_BYTES as usize)?;
            let bytes =
                bytes.ok_or_else(|| format!("there is no member {}", pickle::shown(&name)))?;
            self.last = Some((key, bytes));
        }
        let bytes = self.last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        if bytes.len() < declared {
            let found = bytes.len();
            return Err(format!("its storage declares {declared} bytes and has {found}"));
        }
        let bytes = &bytes[..declared];
        let number = |at: usize| kind.number(&bytes[at * width..][..width]);
        Ok(places(view, len)?.into_iter().map(number).collect())
    }
}

/// The place in a storage of `len` numbers of every entry of an array, row-major.
fn places(view: &View, len: usize) -> Result<Vec<usize>, String> {
    if view.shape.contains(&0) {
        return Ok(Vec::new());
    }
    let count = view.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    if count.is_none_or(|count| count > MAX_ENTRIES) {
        return Err(format!("it has more than {MAX_ENTRIES} entries"));
    }
    let axes = || view.shape.iter().zip(&view.strides);
    let last = axes().try_fold(view.offset, |last, (&size, &stride)| {
        last.checked_add((size - 1).checked_mul(stride)?)
    });
    if last.is_none_or(|last| last >= len) {
        return Err(format!("it reaches beyond the {len} numbers of its storage"));
    }
    let mut places = vec![view.offset];
    for (&size, &stride) in axes() {
        places = places.iter().flat_map(|p| (0..size).map(move |i| p + i * stride)).collect();
    }
    Ok(places)
}
