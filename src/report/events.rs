//! Records of an event file as TensorBoard reads it.
//!
//! A record is its length (u64), the masked checksum of that, the data, and the masked checksum of the
//! data, all little-endian (the TFRecord format); the data are a protocol buffer `Event`, of which
//! these few fields are needed: wall_time (1), step (2), file_version (3), summary (5), session_log (7).

use crc::{CRC_32_ISCSI, Crc};

const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// `SessionLog.START`.
const START: u64 = 1;

/// The first record of a file. `time` in seconds since 1970.
pub fn version(time: f64) -> Vec<u8> {
    record(&[at(time), bytes(3, b"brain.Event:2")].concat())
}

/// Values by name, all of one `step`.
pub fn scalars(step: u64, time: f64, values: &[(&str, f32)]) -> Vec<u8> {
    let value = |(name, value): &(&str, f32)| {
        let number = [vec![key(2, FIXED32)], value.to_le_bytes().to_vec()].concat();
        bytes(1, &[bytes(1, name.as_bytes()), number].concat())
    };
    let summary: Vec<u8> = values.iter().flat_map(value).collect();
    record(&[at(time), number(2, step), bytes(5, &summary)].concat())
}

/// A session starts after `step`: what earlier files have beyond it is void.
pub fn start(step: u64, time: f64) -> Vec<u8> {
    record(&[at(time), number(2, step + 1), bytes(7, &number(1, START))].concat())
}

fn at(time: f64) -> Vec<u8> {
    [vec![key(1, FIXED64)], time.to_le_bytes().to_vec()].concat()
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![key(field, VARINT)], varint(value)].concat()
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    [vec![key(field, BYTES)], varint(content.len() as u64), content.to_vec()].concat()
}

fn key(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [length.as_slice(), &masked(&length), data, &masked(data)].concat()
}

/// The checksum, rotated and shifted so that data which hold checksums do not look right by chance.
fn masked(data: &[u8]) -> [u8; 4] {
    CASTAGNOLI.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
