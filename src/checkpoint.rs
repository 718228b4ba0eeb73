//! Weights and everything needed to go on from them, in one safetensors file.
//!
//! The file is an ordinary safetensors file of f32 tensors. Its `__metadata__` map holds
//! `format` (who wrote it), `version` (of this layout), `metadata` (our JSON, as a string) and
//! `checksum`: the SHA-256 of the whole file with the checksum's own digits read as zeros, so that
//! no byte can change unseen. Equal content gives equal bytes: names are sorted and no time is kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Who wrote the file.
const FORMAT: &str = "ptycho-gpu";
/// Of the layout; raised whenever an older program would misread a newer file.
const VERSION: u64 = 1;
/// A header larger than this is not ours: some hundred tensors take less than 100 KiB.
const MAX_HEADER: u64 = 16 << 20;
/// What every header starts with; the checksum's digits follow.
const HEADER_START: &str = r#"{"__metadata__":{"checksum":""#;
const CHECKSUM_DIGITS: usize = 64;
/// f32 values that are converted to or from bytes at a time.
const BLOCK: usize = 1 << 14;

/// The content of a checkpoint file.
///
/// ```
/// use ptycho_gpu::checkpoint::{Checkpoint, Tensor};
///
/// # fn main() -> ptycho_gpu::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("weights.safetensors");
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.tensors.insert("bias".into(), Tensor { shape: vec![2], data: vec![0.5, -1.0] });
/// checkpoint.metadata = serde_json::json!({ "seed": 3 });
/// checkpoint.save(&path)?;
/// assert_eq!(Checkpoint::load(&path)?, checkpoint);
///
/// // One changed byte, and it is refused.
/// let mut bytes = std::fs::read(&path).unwrap();
/// *bytes.last_mut().unwrap() ^= 1;
/// std::fs::write(&path, bytes).unwrap();
/// assert!(Checkpoint::load(&path).unwrap_err().to_string().contains("damaged"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// By name; weights, moments and whatever else is numbers.
    pub tensors: BTreeMap<String, Tensor>,
    /// Configuration, normalisation, progress, provenance. The order of its keys is kept. A
    /// fraction may come back one unit in the last place of f64 away, as JSON is read here: numbers
    /// that must keep every bit go in as integers (`to_bits`) or as tensors.
    pub metadata: Value,
}

/// One named array.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// Empty for a scalar.
    pub shape: Vec<usize>,
    /// Row-major, as many values as the shape says.
    pub data: Vec<f32>,
}

impl Tensor {
    /// Whether there are as many values as the shape says.
    pub fn is_whole(&self) -> bool {
        let values = self.shape.iter().try_fold(1, |n: usize, size| n.checked_mul(*size));
        values == Some(self.data.len())
    }
}

/// Which of the checkpoints of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Of the lowest validation loss.
    Best,
    /// Of the last finished epoch.
    Last,
}

impl Which {
    /// The name inside the folder `checkpoints` of a run.
    pub fn file_name(self) -> &'static str {
        match self {
            Which::Best => "best.safetensors",
            Which::Last => "last.safetensors",
        }
    }
}

impl Checkpoint {
    /// Writes the file so that `path` holds either all of it or what it held before, whatever
    /// happens in between: a temporary file in the same folder, flushed to the disk, then renamed.
    ///
    /// The folder must exist. Errors: a tensor whose shape and data disagree, a reserved name, too
    /// much metadata, or the system's refusal (no such folder, no permission, disk full), after
    /// which no temporary file is left.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut header = self.header(path)?;
        let mut hasher = Sha256::new();
        self.write_to(&header, &mut HashWriter(&mut hasher)).map_err(Error::io("hash", path))?;
        let start = HEADER_START.len();
        header.replace_range(start..start + CHECKSUM_DIGITS, &hex(hasher));
        write_atomically(path, |file| self.write_to(&header, file))
            .map_err(Error::io("write", path))
    }

    /// Reads a file that [`Checkpoint::save`] wrote, whole and unchanged.
    ///
    /// Errors, each saying what is wrong: the file cannot be read, is no safetensors file, was cut
    /// short, was written by another program or for another version of the layout, or differs from
    /// its checksum. Never allocates more than the file is long.
    pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let mut reader = BufReader::new(file);
        let header = read_header(&mut reader, length, path)?;
        let layout: Metadata = serde_json::from_slice(&header).map_err(|e| {
            Error::input(path, format!("not a safetensors file: its header does not parse ({e})"))
        })?;
        let entries = layout.metadata().clone().unwrap_or_default();
        check_producer(entries.get("format"), entries.get("version"), path)?;
        check_length(length, header.len(), layout.data_len(), path)?;
        let mut hasher = hash_header(&header, path)?;
        let mut tensors = BTreeMap::new();
        for name in layout.offset_keys() {
            let info = layout.info(&name).expect("the name comes from the same table");
            let tensor = read_tensor(&mut reader, info, &mut hasher, &name, path)?;
            tensors.insert(name, tensor);
        }
        let stated = &header[HEADER_START.len()..HEADER_START.len() + CHECKSUM_DIGITS];
        if hex(hasher).as_bytes() != stated {
            return Err(damaged(path, "its content differs from its checksum"));
        }
        let metadata =
            entries.get("metadata").ok_or_else(|| damaged(path, "it has no metadata"))?;
        let metadata = serde_json::from_str(metadata)
            .map_err(|e| damaged(path, &format!("its metadata does not parse ({e})")))?;
        Ok(Checkpoint { tensors, metadata })
    }

    /// SHA-256 over names, shapes and values of the tensors whose name starts with `prefix`, in
    /// lower-case hexadecimal digits: equal for equal weights, whatever else the file holds.
    pub fn weights_digest(&self, prefix: &str) -> String {
        let mut hasher = Sha256::new();
        let chosen = self.tensors.iter().filter(|(name, _)| name.starts_with(prefix));
        for (name, tensor) in chosen {
            // Lengths go first, so that no two sets of tensors run into the same bytes.
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update((tensor.shape.len() as u64).to_le_bytes());
            tensor.shape.iter().for_each(|size| hasher.update((*size as u64).to_le_bytes()));
            write_values(&tensor.data, &mut HashWriter(&mut hasher))
                .expect("hashing does not fail");
        }
        hex(hasher)
    }

    /// The header with zeros for the checksum, padded to a multiple of 8 bytes.
    fn header(&self, path: &Path) -> Result<String> {
        let mut entries = Map::new();
        entries.insert("checksum".into(), "0".repeat(CHECKSUM_DIGITS).into());
        entries.insert("format".into(), FORMAT.into());
        entries.insert("metadata".into(), self.metadata.to_string().into());
        entries.insert("version".into(), VERSION.to_string().into());
        let mut header = Map::new();
        header.insert("__metadata__".into(), entries.into());
        let mut start = 0;
        for (name, tensor) in &self.tensors {
            if !tensor.is_whole() || name == "__metadata__" {
                let (shape, values) = (&tensor.shape, tensor.data.len());
                let problem = format!(
                    "tensor \"{name}\" of shape {shape:?} with {values} values cannot be saved"
                );
                return Err(Error::input(path, problem));
            }
            let end = start + size_of::<f32>() * tensor.data.len();
            let entry = serde_json::json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end] });
            header.insert(name.clone(), entry);
            start = end;
        }
        let mut header = Value::Object(header).to_string();
        debug_assert!(header.starts_with(HEADER_START));
        let padding = header.len().next_multiple_of(size_of::<u64>()) - header.len();
        header.push_str(&" ".repeat(padding));
        if header.len() as u64 > MAX_HEADER {
            let problem =
                format!("{} bytes of metadata cannot be saved: {MAX_HEADER} at most", header.len());
            return Err(Error::input(path, problem));
        }
        Ok(header)
    }

    fn write_to(&self, header: &str, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        self.tensors.values().try_for_each(|tensor| write_values(&tensor.data, out))
    }
}

/// The checkpoint that `model_path` means: a file is itself, a folder is a run (`checkpoints/…`) or
/// the folder of its checkpoints.
///
/// Error: none is there; lists every place that was looked at.
pub fn find(model_path: impl AsRef<Path>, which: Which) -> Result<PathBuf> {
    let path = model_path.as_ref();
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.exists() {
        return Err(Error::input(path, "there is no such file or folder, so no checkpoint"));
    }
    let places = |which: Which| {
        [path.join("checkpoints").join(which.file_name()), path.join(which.file_name())]
    };
    if let Some(found) = places(which).into_iter().find(|place| place.is_file()) {
        return Ok(found);
    }
    let looked = places(which).map(|place| place.display().to_string()).join(" and ");
    let mut problem = format!("holds no checkpoint: looked for {looked}");
    let other = if which == Which::Best { Which::Last } else { Which::Best };
    if let Some(place) = places(other).into_iter().find(|place| place.is_file()) {
        problem.push_str(&format!("; {} is there and can be named instead", place.display()));
    }
    Err(Error::input(path, problem))
}

/// The header's bytes, after its declared length has been held against the file's.
fn read_header(reader: &mut impl Read, length: u64, path: &Path) -> Result<Vec<u8>> {
    let mut declared = [0; size_of::<u64>()];
    let prefix = declared.len() as u64;
    if length < prefix {
        let problem = format!("not a safetensors file, or cut short: it has {length} bytes");
        return Err(Error::input(path, problem));
    }
    reader.read_exact(&mut declared).map_err(Error::io("read", path))?;
    let declared = u64::from_le_bytes(declared);
    if declared > MAX_HEADER {
        let problem = format!(
            "not a safetensors file: it declares a header of {declared} bytes ({MAX_HEADER} at most)"
        );
        return Err(Error::input(path, problem));
    }
    if declared > length - prefix {
        let problem = format!(
            "cut short: the header alone needs {} bytes, the file has {length}",
            prefix + declared
        );
        return Err(Error::input(path, problem));
    }
    let mut header = vec![0; declared as usize];
    reader.read_exact(&mut header).map_err(Error::io("read", path))?;
    Ok(header)
}

fn check_producer(format: Option<&String>, version: Option<&String>, path: &Path) -> Result<()> {
    if format.map(String::as_str) != Some(FORMAT) {
        let found = format.map_or("nothing".into(), |format| format!("\"{format}\""));
        let problem =
            format!("not a checkpoint of {FORMAT}: its metadata names {found} as the format");
        return Err(Error::input(path, problem));
    }
    let problem = match version.map(|version| (version, version.parse::<u64>())) {
        Some((_, Ok(VERSION))) => return Ok(()),
        Some((_, Ok(found))) => {
            let age = if found > VERSION { "a newer" } else { "an older" };
            format!(
                "the checkpoint has layout version {found}, this program reads version {VERSION}: \
                 {age} {FORMAT} wrote it, so use that one or train again"
            )
        }
        Some((found, Err(_))) => {
            format!("the checkpoint has layout version \"{found}\", which is no number")
        }
        None => "the checkpoint does not say its layout version".into(),
    };
    Err(Error::input(path, problem))
}

fn check_length(length: u64, header: usize, data: usize, path: &Path) -> Result<()> {
    let expected = (size_of::<u64>() + header) as u64 + data as u64;
    if length < expected {
        return Err(Error::input(
            path,
            format!("cut short: {expected} bytes are declared, the file has {length}"),
        ));
    }
    if length > expected {
        return Err(damaged(
            path,
            &format!("{expected} bytes are declared, the file has {length}"),
        ));
    }
    Ok(())
}

/// Starts the checksum of a file with its header, the checksum's own digits as zeros.
fn hash_header(header: &[u8], path: &Path) -> Result<Sha256> {
    let after = header
        .strip_prefix(HEADER_START.as_bytes())
        .and_then(|rest| rest.get(CHECKSUM_DIGITS..))
        .ok_or_else(|| damaged(path, "its header has no checksum in the first place"))?;
    let mut hasher = Sha256::new();
    hasher.update((header.len() as u64).to_le_bytes());
    hasher.update(HEADER_START);
    hasher.update([b'0'; CHECKSUM_DIGITS]);
    hasher.update(after);
    Ok(hasher)
}

/// Reads the next tensor of the file; `info` has been held against the file's length.
fn read_tensor(
    reader: &mut impl Read,
    info: &TensorInfo,
    hasher: &mut Sha256,
    name: &str,
    path: &Path,
) -> Result<Tensor> {
    if info.dtype != Dtype::F32 {
        return Err(Error::input(
            path,
            format!("tensor \"{name}\" is {}, expected F32", info.dtype),
        ));
    }
    let bytes = info.data_offsets.1 - info.data_offsets.0;
    let mut data = Vec::with_capacity(bytes / size_of::<f32>());
    let mut block = vec![0; bytes.min(BLOCK * size_of::<f32>())];
    let mut left = bytes;
    while left > 0 {
        let part = &mut block[..left.min(BLOCK * size_of::<f32>())];
        reader.read_exact(part).map_err(Error::io("read", path))?;
        hasher.update(&*part);
        let (values, _) = part.as_chunks::<{ size_of::<f32>() }>();
        data.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
        left -= part.len();
    }
    Ok(Tensor { shape: info.shape.clone(), data })
}

fn write_values(values: &[f32], out: &mut dyn Write) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(values.len().min(BLOCK) * size_of::<f32>());
    for block in values.chunks(BLOCK) {
        bytes.clear();
        bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Replaces `path` by what `write` writes, or leaves it as it was.
fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "it does not name a file",
        ));
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A fixed name: what a killed program left behind is overwritten by the next save.
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".partial");
    let temporary = folder.join(temporary_name);
    let file = File::create(&temporary)?;
    let outcome = fill(file, write).and_then(|()| fs::rename(&temporary, path));
    if outcome.is_err() {
        // The first error is the one to report; if this fails too, there is nothing left to do.
        let _ = fs::remove_file(&temporary);
        return outcome;
    }
    // The rename itself is only durable once the folder has reached the disk.
    File::open(folder)?.sync_all()
}

fn fill(
    file: File,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffered = BufWriter::new(file);
    write(&mut buffered)?;
    buffered.into_inner().map_err(|error| error.into_error())?.sync_all()
}

/// Feeds a checksum through the interface of a file.
pub(crate) struct HashWriter<'a>(pub(crate) &'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn damaged(path: &Path, how: &str) -> Error {
    Error::input(path, format!("the checkpoint is damaged: {how}"))
}
