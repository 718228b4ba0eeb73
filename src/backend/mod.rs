//! Where a plan runs. Chosen once, when a job starts.

pub mod cpu;

use crate::config::Device;
use crate::graph::{Stage, Value};
use crate::plan::Plan;
use crate::{Error, Result};

/// Holds the arena of one plan and runs its steps.
pub trait Backend {
    fn plan(&self) -> &Plan;

    /// Copies `host` into `v`. Panics when the lengths differ.
    fn write(&mut self, v: Value, host: &[f32]) -> Result<()>;

    /// Copies `v` to the host.
    fn read(&mut self, v: Value) -> Result<Vec<f32>>;

    /// Runs the steps of one stage, in order. May return before the device is done.
    fn run(&mut self, stage: Stage) -> Result<()>;
}

/// Whether `device` can be used. `auto` falls to the CPU; a device that is asked for by name and
/// is not there is an error, never another device.
pub fn check(device: Device) -> Result<()> {
    match device {
        Device::Auto | Device::Cpu => Ok(()),
        Device::Cuda(_) => Err(Error::Device(format!(
            "--device {device} was asked for, but this version computes on the CPU alone: use \
             --device cpu or --device auto"
        ))),
    }
}

/// What computes, in words.
pub fn describe() -> String {
    format!("CPU, {} threads", rayon::current_num_threads())
}
