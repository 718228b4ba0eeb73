//! Where a plan runs. Chosen once, when a job starts.

pub mod cpu;
pub mod cuda;
mod description;

use std::fmt;
use std::ops::{Range, RangeInclusive};

use cpu::Cpu;
use cuda::Cuda;
pub use description::Description;

use crate::config::{self, Device};
use crate::graph::{Precision, Stage, Value};
use crate::plan::Plan;
use crate::{Error, Result};

/// Holds the arena of one plan and runs its steps.
pub trait Backend {
    fn plan(&self) -> &Plan;

    /// Copies `host` into `v`. Panics when the lengths differ.
    fn write(&mut self, v: Value, host: &[f32]) -> Result<()>;

    /// Copies `v` to the host.
    fn read(&mut self, v: Value) -> Result<Vec<f32>>;

    /// Copies a part of the arena to the host, whatever lies there: for checks.
    fn peek(&mut self, range: Range<usize>) -> Result<Vec<f32>>;

    /// Copies `host` into one `half` (0 or 1) of each value, for the next steps that are run. The
    /// halves take turns, so that the copy does not wait for the work that reads the other one.
    fn upload(&mut self, half: usize, parts: &[(Value, &[f32])]) -> Result<()>;

    /// Runs the steps of these stages, in order, as one piece of work. May return before the device
    /// is done.
    fn run_stages(&mut self, stages: RangeInclusive<Stage>) -> Result<()>;

    /// Runs the steps of one stage.
    fn run(&mut self, stage: Stage) -> Result<()> {
        self.run_stages(stage..=stage)
    }

    /// Waits until the device is done.
    fn wait(&mut self) -> Result<()>;

    /// Steps after which it is time to look at the losses: each look waits for the device.
    fn patience(&self) -> usize;
}

/// A device that was looked for and found.
#[derive(Clone, Debug)]
pub enum Chosen {
    Cpu,
    Cuda(cuda::Device),
}

impl Chosen {
    /// Bytes that a plan may take, at most `limit`; `None` if nothing but the machine limits it.
    pub fn budget(&self, limit: Option<usize>) -> Result<Option<usize>> {
        match self {
            Chosen::Cpu => Ok(limit),
            Chosen::Cuda(device) => {
                let free = device.free_memory()?;
                Ok(Some(limit.map_or(free, |limit| limit.min(free))))
            }
        }
    }

    /// The precision that `asked` means here: `auto` is `good` where there are tensor cores.
    ///
    /// # Errors
    /// A precision of tensor cores on the CPU.
    pub fn precision(&self, asked: config::Precision, good: Precision) -> Result<Precision> {
        match (asked, self) {
            (config::Precision::Tf32 | config::Precision::Bf16, Chosen::Cpu) => {
                let asked = if asked == config::Precision::Tf32 { "tf32" } else { "bf16" };
                Err(Error::Config(format!(
                    "--precision {asked} is that of a GPU's tensor cores, but the CPU computes: use \
                     --device cuda, or --precision fp32"
                )))
            }
            (config::Precision::Tf32, Chosen::Cuda(_)) => Ok(Precision::Tf32),
            (config::Precision::Bf16, Chosen::Cuda(_)) => Ok(Precision::Bf16),
            (config::Precision::Auto, Chosen::Cuda(device)) if device.has_tensor_cores() => {
                Ok(good)
            }
            (config::Precision::Auto | config::Precision::Fp32, _) => Ok(Precision::Fp32),
        }
    }

    /// What a record of a run says about it.
    pub fn describe(&self) -> Description {
        match self {
            Chosen::Cpu => Description::cpu(),
            Chosen::Cuda(device) => device.describe(),
        }
    }

    /// Allocates `plan` there.
    ///
    /// # Errors
    /// [`Error::Device`] where there is too little memory for it.
    pub fn open(&self, plan: Plan) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Chosen::Cpu => {
                // Asked for and given back: where it is refused for good, the program would end.
                let asked = Vec::<f32>::new().try_reserve_exact(plan.arena);
                asked.map_err(|_| {
                    Error::Device(format!(
                        "the buffers need {:.0} MB, which this machine does not give: use a smaller \
                         --batch-size or a smaller network",
                        plan.bytes() as f64 * 1e-6
                    ))
                })?;
                Box::new(Cpu::<f32>::new(plan))
            }
            Chosen::Cuda(device) => Box::new(Cuda::new(device, plan)?),
        })
    }

    /// Allocates `count` arenas for `plan`: what one is told to run begins after what another was
    /// told before.
    pub fn open_copies(&self, plan: &Plan, count: usize) -> Result<Vec<Box<dyn Backend>>> {
        let Chosen::Cuda(device) = self else {
            return (0..count).map(|_| self.open(plan.clone())).collect();
        };
        let first = Cuda::new(device, plan.clone())?;
        let mut copies: Vec<Box<dyn Backend>> = Vec::with_capacity(count);
        for _ in 1..count {
            copies.push(Box::new(first.another(device)?));
        }
        copies.push(Box::new(first));
        Ok(copies)
    }
}

impl fmt::Display for Chosen {
    /// What computes, in words.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.describe().fmt(f)
    }
}

/// Finds `device`. `auto` falls to the CPU; a device that is asked for by name and cannot be used
/// is an error, never another device.
pub fn choose(device: Device) -> Result<Chosen> {
    match device {
        Device::Cpu => Ok(Chosen::Cpu),
        Device::Cuda(index) => match cuda::Device::find(index) {
            Ok(found) => Ok(Chosen::Cuda(found)),
            Err(why) => Err(Error::Device(format!("--device {device} cannot be used: {why}"))),
        },
        Device::Auto => Ok(match cuda::Device::find(0) {
            Ok(device) => Chosen::Cuda(device),
            Err(why) => {
                log::debug!("computing on the CPU: {why}");
                Chosen::Cpu
            }
        }),
    }
}
