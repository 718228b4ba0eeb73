//! `ptycho-gpu bench`: how fast every op and whole steps are on this machine.

use serde_json::json;

use super::stdout::say;
use crate::Result;
use crate::backend::{self, Chosen};
use crate::config::{Architecture, Device, Precision};
use crate::graph;
use crate::measure::bench::{self, OpTime, StepTime};

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
        if let Some(threads) = self.threads {
            // Fails only where the pool is running, which a fresh process is not.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
        backend::choose(self.device)
    }
}

/// Measures, and prints a row or a JSON object for each figure.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Ops(args) => ops(&args),
        What::Step(args) => step(&args),
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
