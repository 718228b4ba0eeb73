//! `ptycho-gpu selftest`: does this machine compute what it should?

use serde_json::json;

use crate::backend;
use crate::config::Device;
use crate::measure::selftest;
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
    /// Print all figures as one JSON line at the end
    #[arg(long)]
    pub json: bool,
}

/// Prints a line for each op; an error if one of them is wrong.
pub fn run(args: Args) -> Result<()> {
    let device = backend::choose(args.device)?;
    println!("{device}");
    println!("{:32} {:>12} {:>12}", "against the CPU in f64", "error", "bound");
    let checks = selftest::run(&device, &args.filter, !args.ops, |check| {
        let verdict = match (check.error <= check.bound, check.repeats) {
            (true, true) => "ok",
            (false, _) => "WRONG",
            (true, false) => "NOT REPEATED",
        };
        println!("{:32} {:>12.1e} {:>12.0e}  {verdict}", check.what, check.error, check.bound);
    })?;
    if checks.is_empty() {
        return Err(Error::Config(format!(
            "nothing that selftest checks has `{}` in its name",
            args.filter
        )));
    }
    let failed: Vec<&str> =
        checks.iter().filter(|c| !c.passed()).map(|c| c.what.as_str()).collect();
    if args.json {
        let passed = failed.is_empty();
        println!("{}", json!({ "device": device.to_string(), "passed": passed, "checks": checks }));
    }
    if failed.is_empty() {
        println!("all {} checks passed, each twice with the same bits", checks.len());
        return Ok(());
    }
    Err(Error::Run(format!(
        "{} of {} checks failed on {device}: {}; do not trust results of this device",
        failed.len(),
        checks.len(),
        failed.join(", ")
    )))
}
