//! The header of a `.npy` member: a Python dictionary of three entries, written by hundreds of
//! programs, here read without trust in any of its numbers.

use std::io::{self, Read};

/// Longest header that is read. NumPy itself stops at 10 000 bytes.
const LONGEST: usize = 1 << 16;

/// What a `.npy` header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `<f4`; a list for records.
    pub descr: String,
    pub fortran: bool,
    pub shape: Vec<usize>,
}

/// Reads a header of any version; the data follows in `reader`.
pub fn read(reader: &mut impl Read) -> io::Result<Header> {
    let mut start = [0u8; 8];
    reader.read_exact(&mut start)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(invalid("it is no NumPy array"));
    }
    let mut length = [0u8; 4];
    let width = if start[6] == 1 { 2 } else { 4 };
    reader.read_exact(&mut length[..width])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(invalid("its header is too long"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| invalid("its header makes no sense"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parse(text: &str) -> Option<Header> {
    let descr = entry(text, "descr")?;
    let descr = match descr.chars().next()? {
        quote @ ('\'' | '"') => descr[1..].split(quote).next()?,
        _ => descr.split_inclusive(']').next()?,
    };
    let fortran = match entry(text, "fortran_order")? {
        rest if rest.starts_with("True") => true,
        rest if rest.starts_with("False") => false,
        _ => return None,
    };
    let sides = entry(text, "shape")?.strip_prefix('(')?.split(')').next()?;
    let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty());
    // Python 2 wrote long integers with an L.
    let shape = sides.map(|side| side.trim_end_matches('L').parse().ok()).collect::<Option<_>>()?;
    Some(Header { descr: descr.to_owned(), fortran, shape })
}

/// What follows the key and its colon.
fn entry<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let after =
        text.split_once(&format!("'{key}'")).or_else(|| text.split_once(&format!("\"{key}\"")));
    Some(after?.1.trim_start().strip_prefix(':')?.trim_start())
}
