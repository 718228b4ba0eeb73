//! Whole steps of training and inference: `cargo bench --bench step`, which is
//! `ptycho-gpu bench step --n 64,128`.

use clap::Parser;
use ptycho_gpu::cli::Cli;

fn main() -> ptycho_gpu::Result<()> {
    Cli::parse_from(["ptycho-gpu", "bench", "step", "--n", "64,128"]).run()
}
