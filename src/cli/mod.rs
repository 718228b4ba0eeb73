//! The command line: one file per subcommand, help for every flag.

use clap::{Parser, Subcommand};

use crate::Result;
use crate::backend::cpu::start_threads;

mod bad_frames;
mod bands;
pub mod bench;
pub mod convert;
pub mod demo;
pub mod evaluate;
pub mod export;
pub mod fixture;
pub mod import;
pub mod infer;
pub mod inspect;
mod pictures;
pub mod plan;
pub mod reconstruct;
pub mod refine;
pub mod report;
pub mod selftest;
pub mod shell;
pub mod simulate;
pub mod stdout;
pub mod train;

/// Physics-informed neural reconstruction of ptychography scans.
#[derive(Debug, Parser)]
#[command(name = "ptycho-gpu", version, help_expected = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Learn a network from one or more scans
    Train(Box<train::Args>),
    /// Reconstruct a scan with a trained network and stitch the patches
    Infer(infer::Args),
    /// Solve for the object behind a scan directly, without a network
    Reconstruct(Box<reconstruct::Args>),
    /// Bring a reconstruction closer to the data: a network's, or an earlier one
    Refine(Box<refine::Args>),
    /// Make one page of the folder of a run, to look at in a browser
    Report(report::Args),
    /// Show what a scan file holds, and every problem with it
    Inspect(inspect::Args),
    /// Turn a scan into a file of another format
    Convert(Box<convert::Args>),
    /// Measure a reconstruction against the truth and against the data
    Evaluate(evaluate::Args),
    /// Simulate a scan with known object and probe
    Simulate(simulate::Args),
    /// Cut a deterministic subset out of a scan: some patterns, or a part of its area
    Fixture(fixture::Args),
    /// Take over a network that was trained in PyTorch; nothing in its file is executed
    Import(import::Args),
    /// Write a trained network as ONNX or as plain weights
    Export(export::Args),
    /// Print the operations, shapes, parameters and bytes of a network before running it
    Plan(plan::Args),
    /// Simulate a scan, train on it, reconstruct it, and measure the result
    Demo(demo::Args),
    /// Check every op of this machine's device against double precision on the CPU
    Selftest(selftest::Args),
    /// Measure how fast every op and whole steps are on this machine
    Bench(bench::Args),
    /// Print a script that completes commands and flags in a shell
    Completions(shell::Completions),
    /// Print the manual page, or write those of all commands
    Man(shell::Man),
}

impl Cli {
    /// Parses `args` (program name first). Flags may be written `--kebab-case` or `--snake_case`.
    pub fn parse_args(args: impl Iterator<Item = String>) -> Cli {
        Cli::parse_from(args.map(kebab))
    }

    pub fn run(self) -> Result<()> {
        // `bench` says how many itself.
        let few =
            matches!(self.command, Command::Bench(_) | Command::Completions(_) | Command::Man(_));
        if !few {
            start_threads(None)?;
        }
        match self.command {
            Command::Train(args) => train::run(*args),
            Command::Infer(args) => infer::run(args),
            Command::Reconstruct(args) => reconstruct::run(*args),
            Command::Refine(args) => refine::run(*args),
            Command::Report(args) => report::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Convert(args) => convert::run(*args),
            Command::Evaluate(args) => evaluate::run(args),
            Command::Simulate(args) => simulate::run(args),
            Command::Fixture(args) => fixture::run(args),
            Command::Import(args) => import::run(args),
            Command::Export(args) => export::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Selftest(args) => selftest::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Completions(args) => shell::completions(args),
            Command::Man(args) => shell::man(args),
        }
    }
}

/// `--max_epochs=3` → `--max-epochs=3`; values are left alone.
fn kebab(arg: String) -> String {
    let Some(flag) = arg.strip_prefix("--") else { return arg };
    match flag.split_once('=') {
        Some((name, value)) => format!("--{}={value}", name.replace('_', "-")),
        None => format!("--{}", flag.replace('_', "-")),
    }
}
