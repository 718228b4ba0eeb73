//! What every scan file is seen as: arrays under the keys of our own layout.

use std::path::PathBuf;

use ndarray::ArrayD;
use num_complex::Complex32;

use super::instrument::Instrument;
use crate::Result;

/// A scan file of any format, open for reading. A new format is a value of this trait, and a line in
/// [`formats::open`](super::formats::open).
pub trait Archive {
    /// Every array that has a meaning for us, known by its header alone.
    fn members(&self) -> &[Member];

    fn find(&self, key: &str) -> Option<&Member> {
        self.members().iter().find(|member| member.name == key)
    }

    /// Real values as f32.
    fn f32(&mut self, key: &str) -> Result<ArrayD<f32>>;

    /// Shows the real values as f32 to `see`, as many of them at once as make some `units` of that many.
    fn f32_parts(
        &mut self,
        key: &str,
        unit: usize,
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()>;

    /// The file and the byte from which on the values are as they are, in the order of the axes; none
    /// where they are packed, turned, or in pieces.
    fn in_place(&mut self, key: &str) -> Option<(PathBuf, u64)> {
        let _packed = key;
        None
    }

    /// Real values as f64.
    fn f64(&mut self, key: &str) -> Result<ArrayD<f64>>;

    /// Complex values; real ones get the imaginary part 0.
    fn c64(&mut self, key: &str) -> Result<ArrayD<Complex32>>;

    /// The text of an array with one element; none where it is no text.
    fn text(&mut self, key: &str) -> Result<Option<String>>;

    /// Every file that is read, in an order that does not depend on which of them was named.
    fn files(&self) -> Vec<PathBuf>;

    /// What was converted on the way, one sentence each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// What the file says of the instrument.
    fn instrument(&self) -> Instrument {
        Instrument::default()
    }

    /// Whether positions are in pixels of λz/(NΔ) with the N and the Δ of the frames as they are in the
    /// file, and not in those of a probe that may belong to a part of them.
    fn positions_of_frames(&self) -> bool {
        false
    }

    /// Whether the format says that the first axis counts the patterns.
    fn frames_first(&self) -> bool {
        false
    }

    /// Whether the format says that the patterns are intensities.
    fn intensities(&self) -> bool {
        false
    }
}

/// One array of a scan file, known by its header alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key in our own layout.
    pub name: String,
    /// Where the file has it, if that is called otherwise.
    pub at: Option<String>,
    /// As NumPy writes it (`<f4`), or why the header cannot be read.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub(super) kind: Kind,
    /// Bytes per element.
    pub(super) size: usize,
    pub(super) big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Uint,
    Float,
    Complex,
    Unicode,
    Bytes,
    Object,
    Unreadable,
}

impl Member {
    /// Whether the elements are integers (booleans are not).
    pub fn is_integer(&self) -> bool {
        matches!(self.kind, Kind::Int | Kind::Uint)
    }

    /// The same array as little-endian f32.
    pub(super) fn floats(self) -> Member {
        Member { dtype: "<f4".to_owned(), kind: Kind::Float, size: 4, big_endian: false, ..self }
    }

    pub fn is_complex(&self) -> bool {
        self.kind == Kind::Complex
    }

    /// Whether the elements need more than the 4 bytes of f32 (8 of a complex pair of them).
    pub fn is_double(&self) -> bool {
        matches!((self.kind, self.size), (Kind::Float, 8) | (Kind::Complex, 16))
    }

    /// Largest value of an unsigned type: what detectors write into pixels that they do not trust.
    pub fn unsigned_limit(&self) -> Option<f64> {
        (self.kind == Kind::Uint).then(|| 2f64.powi(8 * self.size as i32) - 1.0)
    }
}

/// From the little-endian bytes of one real scalar, or of one part of a complex one.
pub(super) type Decode = fn(&[u8]) -> f64;

/// `None` for what is no number: text, objects, records, and the 16-byte floats of some machines.
pub(super) fn decoder(kind: Kind, size: usize) -> Option<Decode> {
    Some(match (kind, size) {
        (Kind::Bool, 1) => |b| f64::from(u8::from(b[0] != 0)),
        (Kind::Uint, 1) => |b| f64::from(b[0]),
        (Kind::Uint, 2) => |b| f64::from(u16::from_le_bytes(fixed(b))),
        (Kind::Uint, 4) => |b| f64::from(u32::from_le_bytes(fixed(b))),
        (Kind::Uint, 8) => |b| u64::from_le_bytes(fixed(b)) as f64,
        (Kind::Int, 1) => |b| f64::from(i8::from_le_bytes(fixed(b))),
        (Kind::Int, 2) => |b| f64::from(i16::from_le_bytes(fixed(b))),
        (Kind::Int, 4) => |b| f64::from(i32::from_le_bytes(fixed(b))),
        (Kind::Int, 8) => |b| i64::from_le_bytes(fixed(b)) as f64,
        (Kind::Float, 2) => |b| f64::from(half::f16::from_le_bytes(fixed(b))),
        (Kind::Float, 4) | (Kind::Complex, 8) => |b| f64::from(f32::from_le_bytes(fixed(b))),
        (Kind::Float, 8) | (Kind::Complex, 16) => |b| f64::from_le_bytes(fixed(b)),
        _ => return None,
    })
}

pub(super) fn fixed<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    let mut out = [0; SIZE];
    out.copy_from_slice(bytes);
    out
}

pub(super) fn convert_chunk<T>(
    member: &Member,
    bytes: &mut [u8],
    decode: Decode,
    convert: fn(f64, f64) -> T,
    values: &mut Vec<T>,
) {
    let parts = if member.is_complex() { 2 } else { 1 };
    let part = member.size / parts;
    if member.big_endian {
        bytes.chunks_exact_mut(part).for_each(<[u8]>::reverse);
    }
    values.extend(bytes.chunks_exact(member.size).map(|element| {
        let (re, im) = element.split_at(part);
        convert(decode(re), if parts == 2 { decode(im) } else { 0.0 })
    }));
}
