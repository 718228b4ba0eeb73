//! How fast the engine is: every op, and whole steps.
//!
//! Figures are medians of repeats after a warm-up, roofs the fastest repeat. Copies of an op's
//! buffers take turns, so that no run finds in a cache what the last one left there. What an op took
//! is set beside the roof that was measured on the same device in the same run: the time that its
//! bytes take to copy, or its multiply-adds in registers, whichever is longer.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cases::{Case, Planned, ROOF, Size, all};
use crate::Result;
use crate::backend::{Backend, Chosen};
use crate::config::{Architecture, LossConfig, ModelConfig, OptimiserConfig};
use crate::graph::{Graph, Precision, Role, Stage, Value};
use crate::models::Initial;
use crate::models::plans::{self, Sizes};
use crate::ops::multiply_add::STEPS;
use crate::ops::scale::scale;
use crate::plan::Plan;

/// Repeats of one measurement after the warm-up: no fewer, and as many as take a second, or
const FEWEST: usize = 7;
const ENOUGH: Duration = Duration::from_secs(1);

/// no more than these.
const MOST: usize = 50;

/// Least seconds of one measurement: short ones are run several times in a row.
const LEAST: f64 = 0.01;

/// Bytes that are read or written before a copy of an op's buffers has its turn again: twice the
/// largest cache of today's GPUs (126 MB on a B200), and eight times that of most processors.
const COLD: usize = 256 << 20;

/// Bytes of all copies together, and their number: what keeps the memory bounded. Ops on less than
/// 4 MB can then stay in a cache; they take the time of a launch.
const MOST_BYTES: usize = 1 << 30;
const MOST_COPIES: usize = 64;

/// One op in one direction.
#[derive(Clone, Debug, Serialize)]
pub struct OpTime {
    pub op: String,
    pub stage: String,
    /// Shape of the first buffer.
    pub shape: String,
    pub microseconds: f64,
    /// Bytes of every buffer that is read or written, once each, over the time.
    pub gb_per_s: f64,
    /// Multiply-adds counted twice; convolutions, and what measures the roof.
    pub gflop_per_s: Option<f64>,
    /// Per cent of the measured roofs: the time that they leave, over the time that was taken. None with
    /// tensor cores, whose roof is not measured.
    pub of_roof: Option<f64>,
}

/// What the device reached at best, tensor cores apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roofs {
    /// Copying an array that no cache holds, both ways counted.
    pub gb_per_s: f64,
    /// Independent multiply-adds in registers, in single precision, counted twice.
    pub gflop_per_s: f64,
}

/// One whole step.
#[derive(Clone, Debug, Serialize)]
pub struct StepTime {
    /// `train` or `infer`.
    pub what: &'static str,
    pub architecture: Architecture,
    pub batch: usize,
    #[serde(rename = "N")]
    pub n: usize,
    pub ms: f64,
    pub patterns_per_s: f64,
    pub device: String,
    /// Of the convolutions.
    pub precision: Precision,
    pub threads: usize,
    /// Bytes of the plan.
    pub bytes: usize,
}

/// Measures the roofs.
pub fn roofs(device: &Chosen) -> Result<Roofs> {
    // Half is read, half written; in as many parts as threads could want.
    let (parts, each) = (64, COLD / 2 / size_of::<f32>() / 64);
    let mut g = Graph::default();
    let (x, gain) = (g.input("x", &[parts, each]), g.input("gain", &[parts]));
    let y = scale(&mut g, x, gain);
    g.keep(y);
    let copy = times(&mut [open(device, Plan::new(g))?], Stage::Forward..=Stage::Forward)?[0];
    let case = all().into_iter().find(|case| case.name == ROOF).expect("it is one of them");
    let planned = case.plan(&Size::PRODUCTION);
    let flop = flop(&case, &planned.plan, Stage::Forward).expect("it does nothing else");
    let multiply = times(&mut copies(device, &planned, 1)?, Stage::Forward..=Stage::Forward)?[0];
    Ok(Roofs { gb_per_s: COLD as f64 / copy * 1e-9, gflop_per_s: flop / multiply * 1e-9 })
}

/// Measures every op whose name contains `filter`, forward and backward, at production sizes.
pub fn ops(
    device: &Chosen,
    filter: &str,
    roofs: &Roofs,
    mut seen: impl FnMut(&OpTime),
) -> Result<Vec<OpTime>> {
    let mut times = Vec::new();
    // A CPU has one precision, and would repeat itself.
    let able =
        |case: &&Case| case.precision == Precision::Fp32 || matches!(device, Chosen::Cuda(_));
    for case in all().iter().filter(|case| case.name.contains(filter)).filter(able) {
        for time in op(case, device, roofs)? {
            seen(&time);
            times.push(time);
        }
    }
    Ok(times)
}

fn op(case: &Case, device: &Chosen, roofs: &Roofs) -> Result<Vec<OpTime>> {
    let planned = case.plan(&Size::PRODUCTION);
    let plan = &planned.plan;
    let shape = plan.slots[0].shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let mut times = Vec::new();
    for stage in [Stage::Forward, Stage::Backward] {
        let bytes = touched(plan, stage);
        if bytes == 0 {
            continue;
        }
        let seconds = time(&mut copies(device, &planned, bytes)?, stage..=stage)?;
        let flop = flop(case, plan, stage);
        let copying = bytes as f64 / (roofs.gb_per_s * 1e9);
        let multiplying = flop.map_or(0.0, |flop| flop / (roofs.gflop_per_s * 1e9));
        times.push(OpTime {
            op: case.name.into(),
            stage: if stage == Stage::Forward { "forward" } else { "backward" }.into(),
            shape: shape.clone(),
            microseconds: 1e6 * seconds,
            gb_per_s: bytes as f64 / seconds * 1e-9,
            gflop_per_s: flop.map(|flop| flop / seconds * 1e-9),
            of_roof: (case.precision == Precision::Fp32)
                .then(|| 100.0 * copying.max(multiplying) / seconds),
        });
    }
    Ok(times)
}

/// Backends of the same op, as many as read and write [`COLD`] bytes if each does so with `bytes`.
fn copies(device: &Chosen, planned: &Planned, bytes: usize) -> Result<Vec<Box<dyn Backend>>> {
    let count = COLD.div_ceil(bytes).min(MOST_BYTES / planned.plan.bytes()).clamp(1, MOST_COPIES);
    let mut copies = device.open_copies(&planned.plan, count)?;
    let filling = planned.filling();
    for backend in &mut copies {
        filling.iter().try_for_each(|(v, numbers)| backend.write(*v, numbers))?;
    }
    Ok(copies)
}

/// Bytes that a stage reads and writes.
fn touched(plan: &Plan, stage: Stage) -> usize {
    let values = plan.stage(stage).flat_map(|s| [s.op.reads(), s.op.writes()].concat());
    values.map(|v| bytes(plan, v)).sum()
}

/// Bytes of a buffer that an op needs: of a scan only the patterns of the batch, of a workspace
/// nothing, because it is the backend's own affair.
fn bytes(plan: &Plan, v: Value) -> usize {
    let Size { batch, group, side, .. } = Size::PRODUCTION;
    let slot = &plan.slots[v.0];
    let elements = match slot.name.as_str() {
        "frames" => batch * group * side * side,
        name if name.starts_with("padded") || name.starts_with("scratch") => 0,
        _ => plan.range(v).len(),
    };
    elements * size_of::<f32>()
}

/// Floating-point operations: of a convolution forward one product, backward two.
fn flop(case: &Case, plan: &Plan, stage: Stage) -> Option<f64> {
    let shape = |name: &str| &plan.slots[plan.find(name).expect("as the case names it").0].shape;
    if case.name == ROOF {
        return Some(2.0 * (shape("x")[0] * Size::PRODUCTION.rounds * STEPS) as f64);
    }
    // Those that are applied twice have no rate.
    if !case.name.starts_with("conv2d") || case.name.contains("added") {
        return None;
    }
    let (x, w) = (shape("x"), shape("w.weight"));
    let products = (x[0] * x[2] * x[3] * w.iter().product::<usize>()) as f64;
    Some(if stage == Stage::Forward { 2.0 } else { 4.0 } * products)
}

/// Measures a training step and an inference batch of the network that is the default of its
/// architecture.
pub fn steps(
    device: &Chosen,
    architecture: Architecture,
    n: usize,
    batch: usize,
    precision: Precision,
) -> Result<[StepTime; 2]> {
    let model = ModelConfig { n, architecture, ..ModelConfig::default() };
    let (loss, optimiser) = (LossConfig::default(), OptimiserConfig::default());
    let frames = 4 * batch;
    let sizes = Sizes { batch, frames, scans: 1, modes: 1, reach: 0.0, typical: 1.0 };
    let train = plans::training_in(precision, &model, &loss, &optimiser, &sizes);
    let infer = plans::inference_in(precision, &model, batch, None);
    let step = |what, plan: Plan, initial: &[Initial]| -> Result<StepTime> {
        let bytes = plan.bytes();
        let mut backend = open(device, plan)?;
        for first in initial {
            let len = backend.plan().range(first.value).len();
            backend.write(first.value, &first.numbers(0, len))?;
        }
        let seconds = time(&mut [backend], Stage::Forward..=Stage::Update)?;
        Ok(StepTime {
            what,
            architecture,
            batch,
            n,
            ms: 1e3 * seconds,
            patterns_per_s: batch as f64 / seconds,
            device: device.to_string(),
            precision,
            threads: rayon::current_num_threads(),
            bytes,
        })
    };
    Ok([step("train", train.plan, &train.initial)?, step("infer", infer.plan, &infer.initial)?])
}

/// A backend whose inputs lie between 0 and 1, and are therefore 0 where an index is meant.
fn open(device: &Chosen, plan: Plan) -> Result<Box<dyn Backend>> {
    let mut backend = device.open(plan.clone())?;
    for role in [Role::Input, Role::Param] {
        for (v, slot) in plan.of_role(role) {
            let x: Vec<f32> = (0..slot.len()).map(|i| ((i * 7 % 17) as f32 + 0.5) / 17.0).collect();
            backend.write(v, &x)?;
        }
    }
    for (v, slot) in [Role::Moment1, Role::Moment2].iter().flat_map(|&role| plan.of_role(role)) {
        backend.write(v, &vec![0.0; slot.len()])?;
    }
    Ok(backend)
}

/// Median seconds of `stages` in a row.
fn time(backends: &mut [Box<dyn Backend>], stages: RangeInclusive<Stage>) -> Result<f64> {
    let times = times(backends, stages)?;
    Ok(times[times.len() / 2])
}

/// Seconds of `stages` in a row, repeat by repeat, the fastest first. The backends, each of which
/// waits for the others, take turns.
fn times(backends: &mut [Box<dyn Backend>], stages: RangeInclusive<Stage>) -> Result<Vec<f64>> {
    let count = backends.len();
    let mut turns = (0..count).cycle();
    let mut repeat = |times: usize| -> Result<f64> {
        let start = Instant::now();
        for turn in turns.by_ref().take(times) {
            backends[turn].run_stages(stages.clone())?;
        }
        backends[0].wait()?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    };
    repeat(count)?;
    let in_a_row = (LEAST / repeat(1)?).clamp(1.0, 1000.0) as usize;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < FEWEST || times.len() < MOST && start.elapsed() < ENOUGH {
        times.push(repeat(in_a_row)?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}
