//! Parse, run, print the error. Everything else is in the library.

use std::process::ExitCode;

use ptycho_gpu::Error;
use ptycho_gpu::cli::Cli;
use ptycho_gpu::signals::STOPPED;

fn main() -> ExitCode {
    match Cli::parse_args(std::env::args()).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(stopped @ Error::Stopped(_)) => {
            eprintln!("stopped: {stopped}");
            ExitCode::from(STOPPED)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
