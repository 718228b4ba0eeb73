//! Standard output, which is for results: whoever reads it may stop when enough has been seen.

use std::io::{ErrorKind, Write, stdout};

use crate::{Error, Result};

/// Prints bytes as they are.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    match stdout().write_all(bytes.as_ref()) {
        // `head`, for example, has gone.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(Error::io("write", "standard output")),
    }
}

/// Prints a line of a list that goes on whether anybody reads it or not.
pub fn say(line: impl std::fmt::Display) {
    // Nothing depends on the line: what fails is in the exit code.
    let _unread = print(format!("{line}\n"));
}
