//! Files taken apart and put together again with right lengths and checksums, so that what is spoiled is
//! looked at and not refused at the door.

use std::io::{Cursor, Read, Write};

use ptycho_gpu::random::Stream;
use rust_hdf5::format::checksum::checksum_metadata;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A file in parts.
pub struct Parts {
    kind: Kind,
    /// Name and content.
    parts: Vec<(String, Vec<u8>)>,
}

enum Kind {
    /// Members.
    Zip,
    /// Our metadata, the rest of the header, the numbers.
    Checkpoint,
}

/// Where the checksum of a checkpoint is in its header, and how long it is.
const START: &str = r#"{"__metadata__":{"checksum":""#;
const DIGITS: usize = 64;

impl Parts {
    /// The parts of a file that has any.
    pub fn of(bytes: &[u8]) -> Option<Parts> {
        Parts::of_zip(bytes).or_else(|| Parts::of_checkpoint(bytes))
    }

    pub fn of_zip(bytes: &[u8]) -> Option<Parts> {
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).ok()?;
        let mut parts = Vec::new();
        for index in 0..zip.len() {
            let (name, mut content) = (zip.name_for_index(index)?.to_owned(), Vec::new());
            // What is larger than any seed is none of ours to unpack.
            zip.by_index(index).ok()?.take(1 << 20).read_to_end(&mut content).ok()?;
            parts.push((name, content));
        }
        Some(Parts { kind: Kind::Zip, parts })
    }

    fn of_checkpoint(bytes: &[u8]) -> Option<Parts> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (header, numbers) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        let mut header: Map<String, Value> = serde_json::from_slice(header).ok()?;
        let ours = header.get_mut("__metadata__")?.get_mut("metadata")?;
        let metadata = ours.as_str()?.as_bytes().to_vec();
        *ours = Value::Null;
        let header = serde_json::to_vec(&header).ok()?;
        let named = [("metadata", metadata), ("header", header), ("numbers", numbers.to_vec())];
        let parts = named.into_iter().map(|(name, part)| (name.to_owned(), part)).collect();
        Some(Parts { kind: Kind::Checkpoint, parts })
    }

    /// The content of one of the parts.
    pub fn choose(&mut self, dice: &mut Stream) -> Option<&mut Vec<u8>> {
        let count = self.parts.len();
        (count > 0).then(|| &mut self.parts[dice.below(count)].1)
    }

    /// The file again.
    pub fn join(&self) -> Option<Vec<u8>> {
        match self.kind {
            Kind::Zip => self.zip(),
            Kind::Checkpoint => self.checkpoint(),
        }
    }

    fn zip(&self) -> Option<Vec<u8>> {
        let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in &self.parts {
            let options = zip::write::SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored);
            out.start_file(name.as_str(), options).ok()?;
            out.write_all(content).ok()?;
        }
        Some(out.finish().ok()?.into_inner())
    }

    fn checkpoint(&self) -> Option<Vec<u8>> {
        let [(_, metadata), (_, header), (_, numbers)] = self.parts.as_slice() else { return None };
        let header = match serde_json::from_slice::<Map<String, Value>>(header) {
            Ok(mut map) => {
                let ours =
                    map.get_mut("__metadata__").and_then(|entries| entries.get_mut("metadata"));
                if let Some(ours) = ours {
                    *ours = String::from_utf8_lossy(metadata).into();
                }
                serde_json::to_vec(&map).ok()?
            }
            Err(_) => header.clone(),
        };
        let length = (header.len() as u64).to_le_bytes();
        let mut bytes = [length.as_slice(), &header, numbers].concat();
        sign(&mut bytes);
        Some(bytes)
    }
}

/// Sets the checksum of a checkpoint right, where there is room for one.
fn sign(bytes: &mut [u8]) {
    let digits = 8 + START.len()..8 + START.len() + DIGITS;
    if bytes.get(8..).is_some_and(|header| header.starts_with(START.as_bytes()))
        && bytes.len() >= digits.end
    {
        bytes[digits.clone()].fill(b'0');
        let digest: String = Sha256::digest(&*bytes).iter().map(|b| format!("{b:02x}")).collect();
        bytes[digits].copy_from_slice(digest.as_bytes());
    }
}

/// Sets the checksums of a file right that has some in itself: of a checkpoint, and of the superblock and
/// the object headers of HDF5.
pub fn mend(bytes: &mut [u8]) {
    sign(bytes);
    if !bytes.starts_with(b"\x89HDF") {
        return;
    }
    if matches!(bytes.get(8), Some(2 | 3)) {
        let addresses = usize::from(bytes.get(9).copied().unwrap_or(8));
        seal(bytes, 0, 12 + 4 * addresses);
    }
    let heads = bytes
        .windows(5)
        .enumerate()
        .filter(|(_, window)| window[0] == b'O' && *window == b"OHDR\x02");
    for at in heads.map(|(at, _)| at).collect::<Vec<_>>() {
        if let Some(length) = head(&bytes[at..]) {
            seal(bytes, at, length);
        }
    }
}

/// Length of an object header of version 2 up to its checksum.
fn head(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.get(5)?;
    let times = if flags & 0x20 != 0 { 16 } else { 0 };
    let phases = if flags & 0x10 != 0 { 4 } else { 0 };
    let (start, width) = (6 + times + phases, 1 << (flags & 3));
    let size = bytes.get(start..start + width)?;
    let size =
        size.iter().rev().fold(0, |sum: usize, byte| sum.wrapping_mul(256) + usize::from(*byte));
    (size < bytes.len()).then(|| start + width + size)
}

/// Writes the checksum of `length` bytes at `at` behind them.
fn seal(bytes: &mut [u8], at: usize, length: usize) {
    let end = at + length;
    if end + 4 <= bytes.len() {
        let checksum = checksum_metadata(&bytes[at..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}
