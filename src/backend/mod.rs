//! Where a plan runs. Chosen once, when a job starts.

pub mod cpu;

use crate::Result;
use crate::graph::{Stage, Value};
use crate::plan::Plan;

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
