//! Files of `torch.save`, written byte by byte.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A zip archive.
pub fn archive(members: &[(&str, &[u8])], how: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(how)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An archive as torch lays it out, with this pickle and these storages.
pub fn file(pickle: &[u8], storages: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<String> = (0..storages.len()).map(|key| format!("weights/data/{key}")).collect();
    let mut members: Vec<(&str, &[u8])> =
        vec![("weights/data.pkl", pickle), ("weights/byteorder", b"little")];
    members
        .extend(names.iter().zip(storages).map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    members.push(("weights/version", b"3\n"));
    archive(&members, CompressionMethod::Stored)
}

/// A state dict with a storage of f32 for each tensor.
pub fn state_dict<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>,
) -> Vec<u8> {
    let (mut pickle, mut storages) = (b"\x80\x02}(".to_vec(), Vec::new());
    for (key, (name, shape, numbers)) in tensors.into_iter().enumerate() {
        text(&mut pickle, name);
        let strides: Vec<usize> =
            (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        tensor(&mut pickle, &key.to_string(), numbers.len(), 0, shape, &strides);
        storages.push(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
    }
    pickle.extend(b"u.");
    file(&pickle, &storages)
}

/// Opcodes of a tensor of f32.
pub fn tensor(
    pickle: &mut Vec<u8>,
    key: &str,
    len: usize,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
) {
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(b"ctorch\nFloatStorage\n");
    text(pickle, key);
    text(pickle, "cpu");
    int(pickle, len);
    pickle.extend(b"tQ");
    int(pickle, offset);
    for sizes in [shape, strides] {
        pickle.push(b'(');
        sizes.iter().for_each(|&size| int(pickle, size));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

pub fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn int(pickle: &mut Vec<u8>, number: usize) {
    pickle.extend([0x8a, 8]);
    pickle.extend(number.to_le_bytes());
}
