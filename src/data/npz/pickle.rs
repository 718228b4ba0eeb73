//! The text in a pickled array of one string: the metadata of files written by NumPy as an object.
//!
//! A pickle is a program. This walks over its instructions without obeying any: strings are
//! collected, everything else is stepped over, and an instruction that is not known ends the walk
//! with nothing. In the pickle of an array the data comes last, after the names of types.

/// The last string in a pickle (protocol 0 excluded), or `None` if it is not understood.
pub fn last_string(mut rest: &[u8]) -> Option<String> {
    let mut last = None;
    loop {
        let (&opcode, arguments) = rest.split_first()?;
        if opcode == b'.' {
            return last;
        }
        let (skip, length) = argument_sizes(opcode, arguments)?;
        let text = arguments.get(skip..skip.checked_add(length)?)?;
        if opcode == b']' {
            // The list of an array's elements: what came before are names of types.
            last = None;
        }
        if matches!(opcode, b'X' | 0x8c | 0x8d) {
            last = Some(std::str::from_utf8(text).ok()?.to_owned());
        }
        rest = &arguments[skip + length..];
    }
}

/// Bytes of the length field and of the payload after `opcode`.
fn argument_sizes(opcode: u8, arguments: &[u8]) -> Option<(usize, usize)> {
    let length = |bytes: usize| -> Option<(usize, usize)> {
        let field = arguments.get(..bytes)?;
        let value = field.iter().rev().try_fold(0usize, |n, &byte| {
            n.checked_mul(256).and_then(|n| n.checked_add(usize::from(byte)))
        });
        Some((bytes, value?))
    };
    match opcode {
        // Strings and bytes with a length of 1, 4 or 8 bytes in front.
        0x8c | b'C' | b'U' | 0x8a => length(1),
        b'X' | b'B' | b'T' | 0x8b => length(4),
        0x8d | 0x8e | 0x96 => length(8),
        // Fixed arguments: small numbers, memo slots, the protocol, a float, a frame's size.
        b'K' | b'q' | b'h' | 0x80 | 0x82 => Some((1, 0)),
        b'M' | 0x83 => Some((2, 0)),
        b'J' | b'r' | b'j' | 0x84 => Some((4, 0)),
        b'G' | 0x95 => Some((8, 0)),
        // A global: two lines, module and name.
        b'c' => {
            let mut ends = arguments.iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
            ends.next()?;
            Some((ends.next()?.0 + 1, 0))
        }
        // Marks, tuples, lists, dicts, constants, calls and memos: no argument.
        b'('
        | b')'
        | b']'
        | b'['
        | b'}'
        | b'{'
        | b't'
        | b'l'
        | b'd'
        | b'a'
        | b'e'
        | b's'
        | b'u'
        | b'N'
        | b'R'
        | b'b'
        | b'0'
        | b'1'
        | b'2'
        | 0x81
        | 0x85..=0x89
        | 0x8f..=0x94 => Some((0, 0)),
        _ => None,
    }
}
