//! The one error type of the crate.
//!
//! Every message is written for the person at the keyboard: which file or key, what was found,
//! what was expected, and what to do about it.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that was read, but does not say what it should.
    #[error("{}: {problem}", path.display())]
    Input { path: PathBuf, problem: String },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// Options that exclude each other or lie outside their range.
    #[error("{0}")]
    Config(String),
    /// The device that was asked for cannot be used.
    #[error("{0}")]
    Device(String),
    /// Training or inference cannot go on.
    #[error("{0}")]
    Run(String),
    /// The run was asked to end, and can be gone on with.
    #[error("{0}")]
    Stopped(String),
}

impl Error {
    /// `path` was read, but `problem`.
    pub fn input(path: impl AsRef<Path>, problem: impl Into<String>) -> Error {
        Error::Input { path: path.as_ref().into(), problem: problem.into() }
    }

    /// For `map_err`: the operating system refused to `action` (a verb: "read", "write") `path`.
    pub fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }
}
