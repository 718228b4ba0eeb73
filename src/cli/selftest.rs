//! `ptycho-gpu selftest`: does this machine compute what it should?

use serde_json::json;

use super::stdout;
use crate::backend;
use crate::config::Device;
use crate::measure::selftest;
use crate::report::print_json;
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check only what contains this in its name
    #[arg(value_name = "NAME", default_value = "")]
    pub filter: String,
    /// Check single ops alone, no training
    #[arg(long)]
    pub ops: bool,
    /// What to check: auto, cpu, cuda or cuda:1
    #[arg(long, default_value_t)]
    pub device: Device,
    /// Binding of the CUDA driver: with cust, every op must give the bits that it gives with cudarc
    #[arg(long, value_enum, default_value_t)]
    pub binding: Binding,
    /// Print all figures as one JSON line at the end
    #[arg(long)]
    pub json: bool,
}

/// What carries calls to the CUDA driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Binding {
    /// That of every other command
    #[default]
    Cudarc,
    /// An independent one, in programs built with the feature cust
    Cust,
}

/// Prints a line for each op; an error if one of them is wrong.
pub fn run(args: Args) -> Result<()> {
    match args.binding {
        Binding::Cudarc => against_the_cpu(&args),
        Binding::Cust => against_cudarc(&args),
    }
}

fn nothing(filter: &str) -> Error {
    Error::Config(format!("nothing that selftest checks has `{filter}` in its name"))
}

#[cfg(not(feature = "cust"))]
fn against_cudarc(_: &Args) -> Result<()> {
    Err(Error::Config(
        "--binding cust: this program was built without the feature cust; build it with `cargo \
         build --release --features cust`"
            .into(),
    ))
}

#[cfg(feature = "cust")]
fn against_cudarc(args: &Args) -> Result<()> {
    // The CPU has no binding, so auto means the first GPU here.
    let device = match args.device {
        Device::Auto => Device::Cuda(0),
        device => device,
    };
    let backend::Chosen::Cuda(device) = backend::choose(device)? else {
        return Err(Error::Config("--binding cust needs a CUDA device, not --device cpu".into()));
    };
    let say = |line: String| {
        if !args.json {
            stdout::say(line)
        }
    };
    say(format!("{device}\n{:32} {:>12} {:>12}", "cust against cudarc", "launches", "numbers"));
    let checks = crate::measure::cust::run(&device, &args.filter, |check| {
        let verdict = match &check.differs {
            None => "same bits".into(),
            Some(buffer) => format!("DIFFERENT: {} in all, first in {buffer}", check.different),
        };
        let (launches, numbers) = (check.launches, check.numbers);
        say(format!("{:32} {launches:>12} {numbers:>12}  {verdict}", check.what));
    })?;
    if checks.is_empty() {
        return Err(nothing(&args.filter));
    }
    let failed = checks.iter().filter(|check| check.differs.is_some()).count();
    if args.json {
        let (device, passed) = (device.to_string(), failed == 0);
        print_json(&json!({ "device": device, "passed": passed, "checks": checks }))?;
    }
    if failed == 0 {
        say(format!("all {} checks passed: the same bits with cust and with cudarc", checks.len()));
        return Ok(());
    }
    let all = checks.len();
    Err(Error::Run(format!("{failed} of {all} checks differ between cust and cudarc on {device}")))
}

fn against_the_cpu(args: &Args) -> Result<()> {
    let device = backend::choose(args.device)?;
    let say = |line: String| {
        if !args.json {
            stdout::say(line)
        }
    };
    say(format!("{device}\n{:32} {:>12} {:>12}", "against the CPU in f64", "error", "bound"));
    let checks = selftest::run(&device, &args.filter, !args.ops, |check| {
        let verdict = match (check.error <= check.bound, check.repeats, &check.overrun) {
            (_, _, Some(buffer)) => format!("OVERRUN past the end of {buffer}"),
            (false, _, _) => "WRONG".into(),
            (_, false, _) => "NOT REPEATED".into(),
            (true, true, None) => "ok".into(),
        };
        let (error, bound) = (check.error, check.bound);
        say(format!("{:32} {error:>12.1e} {bound:>12.0e}  {verdict}", check.what));
    });
    if checks.is_empty() {
        return Err(nothing(&args.filter));
    }
    let failed: Vec<&str> =
        checks.iter().filter(|c| !c.passed()).map(|c| c.what.as_str()).collect();
    if args.json {
        let passed = failed.is_empty();
        let device = device.to_string();
        print_json(&json!({ "device": device, "passed": passed, "checks": checks }))?;
    }
    if failed.is_empty() {
        say(format!("all {} checks passed, each twice with the same bits", checks.len()));
        return Ok(());
    }
    Err(Error::Run(format!(
        "{} of {} checks failed on {device}: {}; do not trust results of this device",
        failed.len(),
        checks.len(),
        failed.join(", ")
    )))
}
