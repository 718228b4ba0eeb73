//! How fast the engine is: every op, and whole steps.
//!
//! Figures are medians of repeats after a warm-up; a rate is set beside the roof that was measured
//! on the same device in the same run: copying for ops that move numbers, a large convolution's
//! multiply-adds for those that multiply.

use std::time::Instant;

use serde::Serialize;

use super::cases::{Case, Size, all};
use crate::Result;
use crate::backend::{Backend, Chosen};
use crate::config::{Architecture, LossConfig, ModelConfig, OptimiserConfig};
use crate::graph::{Graph, Role, Stage, Value};
use crate::models::Initial;
use crate::models::plans::{self, Sizes};
use crate::ops::conv2d::conv2d;
use crate::ops::scale::scale;
use crate::plan::Plan;

/// Runs of one measurement after the first, which warms up.
const REPEATS: usize = 7;

/// Least seconds of one measurement: short ones are run several times in a row.
const LEAST: f64 = 0.01;

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
    /// Multiply-adds counted twice; convolutions alone.
    pub gflop_per_s: Option<f64>,
    /// Per cent of the measured roof.
    pub of_roof: f64,
}

/// What the device reached at best.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roofs {
    /// Copying a large array.
    pub gb_per_s: f64,
    /// A convolution of 256 channels.
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
    pub threads: usize,
    /// Bytes of the plan.
    pub bytes: usize,
}

/// Measures the roofs.
pub fn roofs(device: &Chosen) -> Result<Roofs> {
    let mut g = Graph::default();
    let x = g.input("x", &[1, 1 << 24]);
    let gain = g.input("gain", &[1]);
    let y = scale(&mut g, x, gain);
    g.keep(y);
    let seconds = time(open(device, Plan::new(g))?.as_mut(), &[Stage::Forward])?;
    let gb_per_s = 2.0 * ((1 << 24) * size_of::<f32>()) as f64 / seconds * 1e-9;
    let (batch, channels, side) = (16, 256, 16);
    let mut g = Graph::default();
    let x = g.input("x", &[batch, channels, side, side]);
    let w = g.param("w.weight", &[channels, channels, 3, 3]);
    let y = conv2d(&mut g, x, w, None, false);
    g.keep(y);
    let seconds = time(open(device, Plan::new(g))?.as_mut(), &[Stage::Forward])?;
    let flop = 2.0 * 9.0 * (batch * channels * channels * side * side) as f64;
    Ok(Roofs { gb_per_s, gflop_per_s: flop / seconds * 1e-9 })
}

/// Measures every op whose name contains `filter`, forward and backward, at production sizes.
pub fn ops(
    device: &Chosen,
    filter: &str,
    roofs: &Roofs,
    mut seen: impl FnMut(&OpTime),
) -> Result<Vec<OpTime>> {
    let mut times = Vec::new();
    for case in all().iter().filter(|case| case.name.contains(filter)) {
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
    let mut backend = device.open(plan.clone())?;
    for (v, numbers) in planned.filling() {
        backend.write(v, &numbers)?;
    }
    let shape = plan.slots[0].shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let mut times = Vec::new();
    for stage in [Stage::Forward, Stage::Backward] {
        let steps: Vec<_> = plan.stage(stage).collect();
        if steps.is_empty() {
            continue;
        }
        let touched = steps.iter().flat_map(|s| [s.op.reads(), s.op.writes()].concat());
        let bytes: usize = touched.map(|v| bytes(plan, v)).sum();
        let seconds = time(backend.as_mut(), &[stage])?;
        let gb_per_s = bytes as f64 / seconds * 1e-9;
        let flop = flop(case, plan, stage);
        let gflop_per_s = flop.map(|flop| flop / seconds * 1e-9);
        let of_roof = match gflop_per_s {
            Some(rate) => 100.0 * rate / roofs.gflop_per_s,
            None => 100.0 * gb_per_s / roofs.gb_per_s,
        };
        times.push(OpTime {
            op: case.name.into(),
            stage: if stage == Stage::Forward { "forward" } else { "backward" }.into(),
            shape: shape.clone(),
            microseconds: 1e6 * seconds,
            gb_per_s,
            gflop_per_s,
            of_roof,
        });
    }
    Ok(times)
}

/// Bytes of a buffer that an op needs: of a scan only the patterns of the batch, of a workspace
/// nothing, because it is the backend's own affair.
fn bytes(plan: &Plan, v: Value) -> usize {
    let Size { batch, group, side, .. } = Size::PRODUCTION;
    let slot = &plan.slots[v.0];
    let elements = match slot.name.as_str() {
        "frames" => batch * group * side * side,
        name if name.starts_with("padded") => 0,
        _ => plan.range(v).len(),
    };
    elements * size_of::<f32>()
}

/// Floating-point operations of a convolution: forward one product, backward two.
fn flop(case: &Case, plan: &Plan, stage: Stage) -> Option<f64> {
    if !case.name.starts_with("conv2d") {
        return None;
    }
    let shape = |name: &str| &plan.slots[plan.find(name).expect("as the case names it").0].shape;
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
) -> Result<[StepTime; 2]> {
    let model = ModelConfig { n, architecture, ..ModelConfig::default() };
    let (loss, optimiser) = (LossConfig::default(), OptimiserConfig::default());
    let frames = 4 * batch;
    let sizes = Sizes { batch, frames, scans: 1, modes: 1, reach: 0.0, typical: 1.0 };
    let train = plans::training(&model, &loss, &optimiser, &sizes);
    let infer = plans::inference(&model, batch, None);
    let step = |what, plan: Plan, initial: &[Initial]| -> Result<StepTime> {
        let bytes = plan.bytes();
        let mut backend = open(device, plan)?;
        for first in initial {
            let len = backend.plan().range(first.value).len();
            backend.write(first.value, &first.numbers(0, len))?;
        }
        let all = [Stage::Forward, Stage::Backward, Stage::Update];
        let seconds = time(backend.as_mut(), &all)?;
        Ok(StepTime {
            what,
            architecture,
            batch,
            n,
            ms: 1e3 * seconds,
            patterns_per_s: batch as f64 / seconds,
            device: device.to_string(),
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
fn time(backend: &mut dyn Backend, stages: &[Stage]) -> Result<f64> {
    let mut repeat = |times: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            stages.iter().try_for_each(|&stage| backend.run(stage))?;
        }
        backend.wait()?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    };
    repeat(1)?;
    let in_a_row = (LEAST / repeat(1)?).clamp(1.0, 1000.0) as usize;
    let mut times = (0..REPEATS).map(|_| repeat(in_a_row)).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}
