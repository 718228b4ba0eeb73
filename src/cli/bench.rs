//! `ptycho-gpu bench`: how fast every op and whole steps are on this machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::stdout::say;
use crate::backend::{self, Chosen, cpu::start_threads};
use crate::config::{Architecture, Device, Precision};
use crate::data::check_network_side;
use crate::graph;
use crate::measure::bench::{self, OpTime, StepTime};
use crate::measure::scale::{self, Scale};
use crate::memory;
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Every op, forward and backward, at the sizes of a training
    Ops(OpsArgs),
    /// Whole training steps and inference batches
    Step(StepArgs),
    /// Loading, training, inference and stitching over the number of patterns, with the memory that they
    /// take
    Scale(ScaleArgs),
}

#[derive(Debug, clap::Args)]
pub struct OpsArgs {
    /// Measure only the ops whose name contains this
    #[arg(value_name = "NAME", default_value = "")]
    pub filter: String,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, clap::Args)]
pub struct StepArgs {
    /// Networks, each with its default options
    #[arg(long, value_delimiter = ',', ignore_case = true, default_value = "cnn")]
    pub architecture: Vec<Architecture>,
    /// Side of a pattern in pixels: 64, 128 or 256
    #[arg(long, value_delimiter = ',', default_value = "64")]
    pub n: Vec<usize>,
    /// Patterns of a batch
    #[arg(long, value_delimiter = ',', default_value = "16")]
    pub batch: Vec<usize>,
    /// Of convolutions on a GPU: fp32, tf32, bf16, or auto for that of a training
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub precision: Precision,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    /// Patterns of the scans
    #[arg(long, value_delimiter = ',', value_parser = whole, default_value = "1e3,1e4")]
    pub patterns: Vec<usize>,
    /// Side of a pattern in pixels: 64, 128 or 256
    #[arg(long, default_value_t = 64)]
    pub n: usize,
    /// Patterns of a step
    #[arg(long, default_value_t = 16, value_parser = whole)]
    pub batch: usize,
    /// Steps of the training and batches of the inference; all patterns are loaded and stitched
    #[arg(long, default_value_t = 8, value_parser = whole)]
    pub steps: usize,
    /// Memory of the machine that each size may take, such as 8e9, 16GB or 50% [default: what is free]
    #[arg(long, value_name = "BYTES")]
    pub memory_limit: Option<memory::Limit>,
    /// Folder for the scans, which go again; one of a million patterns takes 8 GB [default: that for
    /// temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub scratch_dir: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

/// A whole number above 0, also as 1e6.
fn whole(text: &str) -> Result<usize, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match number.fract() == 0.0 && (1.0..=1e9).contains(&number) {
        true => Ok(number as usize),
        false => Err("not a whole number of 1 to 1e9".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub struct Common {
    /// Where to compute: auto, cpu, cuda or cuda:1
    #[arg(long, default_value_t)]
    pub device: Device,
    /// Threads of the CPU [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Common {
    fn open(&self) -> Result<Chosen> {
        start_threads(self.threads)?;
        backend::choose(self.device)
    }
}

/// Measures, and prints a row or a JSON object for each figure.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Ops(args) => ops(&args),
        What::Step(args) => step(&args),
        What::Scale(args) => scale(&args),
    }
}

fn ops(args: &OpsArgs) -> Result<()> {
    let device = args.common.open()?;
    let roofs = bench::roofs(&device)?;
    if args.common.json {
        say(json!({ "device": device.to_string(), "roofs": roofs }));
    } else {
        let (copy, multiply) = (roofs.gb_per_s, roofs.gflop_per_s);
        say(format!("{device}\nroofs: copy {copy:.1} GB/s, multiply-add {multiply:.1} GFLOP/s\n"));
        say(format!("{:24} {:9} {:>18} {:>12} {:>12}  roof", "op", "stage", "shape", "µs", "rate"));
    }
    let json = args.common.json;
    bench::ops(&device, &args.filter, &roofs, |time| {
        if json { say(json!(time)) } else { print_op(time) }
    })?;
    Ok(())
}

fn print_op(time: &OpTime) {
    let OpTime { op, stage, shape, microseconds, gb_per_s, gflop_per_s, of_roof } = time;
    let (rate, unit) = match gflop_per_s {
        Some(rate) => (rate, "GFLOP/s"),
        None => (gb_per_s, "GB/s"),
    };
    let of_roof = of_roof.map_or("   –".into(), |share| format!("{share:>4.0} %"));
    say(format!(
        "{op:24} {stage:9} {shape:>18} {microseconds:>12.1} {rate:>8.1} {unit:7} {of_roof}"
    ));
}

fn step(args: &StepArgs) -> Result<()> {
    let device = args.common.open()?;
    let precision = device.precision(args.precision, graph::Precision::Tf32)?;
    if !args.common.json {
        say(format!("{device}, convolutions in {precision}"));
        say(format!(
            "{:12} {:8} {:>5} {:>6} {:>12} {:>14} {:>8}",
            "network", "job", "N", "batch", "ms", "patterns/s", "MB"
        ));
    }
    for &architecture in &args.architecture {
        for (&n, &batch) in args.n.iter().flat_map(|n| args.batch.iter().map(move |b| (n, b))) {
            for time in bench::steps(&device, architecture, n, batch, precision)? {
                if args.common.json { say(json!(time)) } else { print_step(&time) }
            }
        }
    }
    Ok(())
}

fn print_step(time: &StepTime) {
    let StepTime { what, architecture, batch, n, ms, patterns_per_s, bytes, .. } = time;
    let architecture = architecture.to_string();
    let megabytes = *bytes as f64 * 1e-6;
    say(format!(
        "{architecture:12} {what:8} {n:>5} {batch:>6} {ms:>12.2} {patterns_per_s:>14.1} {megabytes:>8.0}"
    ));
}

/// Every size in a process of its own, whose peak of memory is then its own.
fn scale(args: &ScaleArgs) -> Result<()> {
    check_network_side(args.n)?;
    if let &[patterns] = args.patterns.as_slice() {
        let device = args.common.open()?;
        let options = scale::Options {
            n: args.n,
            batch: args.batch,
            steps: args.steps,
            memory_limit: args.memory_limit,
            scratch: args.scratch_dir.clone().unwrap_or_else(std::env::temp_dir),
        };
        let scale = scale::measure(&device, &options, patterns)?;
        if args.common.json {
            say(json!(scale));
        } else {
            scale_head(args);
            print_scale(&scale);
        }
        return Ok(());
    }
    if !args.common.json {
        scale_head(args);
    }
    for &patterns in &args.patterns {
        let text = alone(args, patterns)?;
        match args.common.json {
            true => say(text.trim()),
            false => print_scale(&serde_json::from_str(&text).map_err(no_figures)?),
        }
    }
    Ok(())
}

/// The line of JSON of one size.
fn alone(args: &ScaleArgs, patterns: usize) -> Result<String> {
    let own = std::env::current_exe().map_err(no_figures)?;
    let mut command = Command::new(own);
    command.args(["bench", "scale", "--json", "--patterns", &patterns.to_string()]);
    let numbers = [("--n", args.n), ("--batch", args.batch), ("--steps", args.steps)];
    for (flag, number) in numbers {
        command.args([flag, &number.to_string()]);
    }
    command.args(["--device", &args.common.device.to_string()]);
    if let Some(threads) = args.common.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if let Some(limit) = args.memory_limit {
        command.args(["--memory-limit", &limit.to_string()]);
    }
    if let Some(folder) = &args.scratch_dir {
        command.arg("--scratch-dir").arg(folder);
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(no_figures)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::Run(format!("no figures for {patterns} patterns: see above"))),
    }
}

fn no_figures(error: impl std::fmt::Display) -> Error {
    Error::Run(format!("no figures: {error}"))
}

fn scale_head(args: &ScaleArgs) {
    let through = args.steps * args.batch;
    say(format!(
        "patterns of {0}x{0}, 16-bit counts; load (hash, checks) and stitch: all of them; train and infer: \
         {through}",
        args.n
    ));
    say(format!(
        "{:>9} {:>9} {:>6} {:>14} {:>5}  {:>10} {:>10} {:>10} {:>10} {:>9}",
        "patterns",
        "scan MB",
        "from",
        "canvas",
        "bands",
        "load /s",
        "train /s",
        "infer /s",
        "stitch /s",
        "peak MB"
    ));
}

fn print_scale(scale: &Scale) {
    let from = if scale.in_memory { "memory" } else { "disk" };
    let bands = if scale.bands { "yes" } else { "no" };
    let canvas = format!("{}x{}", scale.canvas[0], scale.canvas[1]);
    let peak = scale.peak_mb.map_or("?".to_owned(), |mb| format!("{mb:.0}"));
    say(format!(
        "{:>9} {:>9.1} {from:>6} {canvas:>14} {bands:>5}  {:>10.0} {:>10.1} {:>10.1} {:>10.0} {peak:>9}",
        scale.patterns,
        scale.scan_mb,
        scale.load_per_s,
        scale.train_per_s,
        scale.infer_per_s,
        scale.stitch_per_s
    ));
}
