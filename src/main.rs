//! Parse, run, print the error. Everything else is in the library.

use std::process::ExitCode;

use ptycho_gpu::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse_args(std::env::args()).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
