//! Every op of a device against the CPU in double precision, and a few training steps against those
//! of the CPU.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::cases::{Case, Planned, Size, all};
use crate::backend::{Backend, Chosen, cpu::Cpu};
use crate::config::{Architecture, LossConfig, ModelConfig, OptimiserConfig};
use crate::graph::{Precision, Role, Stage, Value};
use crate::models::plans::{self, Sizes, Training};
use crate::plan::Padding;
use crate::random::{Purpose, Stream};
use crate::{Error, Result};

/// Relative L2 error against double precision that an op may have in single precision.
const OP_BOUND: f64 = 1e-5;

/// The same of a convolution by tensor cores. A factor rounded to 11 significant bits is off by 2^-10 /
/// √12 / m, for m the number over the power of two below it, in [1, 2): 2.0e-4 in the mean square. A sum
/// of products of two such factors, whose terms cancel as noise does, is off by √2 of that, 2.8e-4.
const TF32_BOUND: f64 = 5e-4;

/// The same with factors of 8 significant bits, off by 1.6e-3 each.
const BF16_BOUND: f64 = 4e-3;

/// Steps of the training that is compared, and how far their losses may be apart.
const STEPS: usize = 10;
const STEP_BOUND: f64 = 1e-3;

/// The same where the device computes in TF32 or bfloat16, and the CPU in single precision.
const TF32_STEP_BOUND: f64 = 5e-3;
const BF16_STEP_BOUND: f64 = 4e-2;

/// Steps of the networks that differ from the first in their ops alone.
const FEW_STEPS: usize = 2;

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub what: String,
    /// Relative L2 error of the worst buffer; of losses the largest relative difference.
    pub error: f64,
    pub bound: f64,
    /// The same bits in a second run.
    pub repeats: bool,
    /// A buffer past whose end something was written.
    pub overrun: Option<String>,
    /// SHA-256 of the device's results, to compare runs by.
    pub sha256: String,
}

impl Check {
    /// The device gave up.
    fn failed(what: &str, error: &Error) -> Check {
        log::error!("{what}: {error}");
        let (error, bound) = (f64::INFINITY, OP_BOUND);
        let (repeats, overrun, sha256) = (false, None, String::new());
        Check { what: what.into(), error, bound, repeats, overrun, sha256 }
    }

    pub fn passed(&self) -> bool {
        self.error <= self.bound && self.repeats && self.overrun.is_none()
    }
}

/// What lies between the buffers of a backend's plan, by its bits, before it runs.
pub struct Margins(Vec<(Padding, Vec<u32>)>);

impl Margins {
    pub fn of(backend: &mut dyn Backend) -> Result<Margins> {
        let paddings = backend.plan().padding();
        let with_bits = |padding: Padding| {
            let bits = backend.peek(padding.range.clone())?.into_iter().map(f32::to_bits).collect();
            Ok((padding, bits))
        };
        paddings.into_iter().map(with_bits).collect::<Result<_>>().map(Margins)
    }

    /// The first buffer past whose end something was written since.
    pub fn overrun(&self, backend: &mut dyn Backend) -> Result<Option<String>> {
        for ((padding, before), (_, now)) in self.0.iter().zip(Margins::of(backend)?.0) {
            if *before != now {
                return Ok(Some(backend.plan().slots[padding.after.0].name.clone()));
            }
        }
        Ok(None)
    }
}

/// Checks every op at small sizes and, if wanted, training steps, as far as their names contain
/// `filter`; `seen` is told of each as it is done.
pub fn run(
    device: &Chosen,
    filter: &str,
    trainings: bool,
    mut seen: impl FnMut(&Check),
) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut done = |check: Check| {
        seen(&check);
        checks.push(check);
    };
    for case in all().iter().filter(|case| case.name.contains(filter)) {
        done(op(case, device).unwrap_or_else(|error| Check::failed(case.name, &error)));
    }
    let kinds = [
        ("training, gridsize 1", narrow(1), STEPS, Precision::Fp32),
        ("training, gridsize 2", narrow(2), STEPS, Precision::Fp32),
        ("training, ffno", spectral(Architecture::Ffno), FEW_STEPS, Precision::Fp32),
        ("training, fno", spectral(Architecture::Fno), FEW_STEPS, Precision::Fp32),
        ("training, tf32", narrow(1), FEW_STEPS, Precision::Tf32),
        ("training, bf16", narrow(1), FEW_STEPS, Precision::Bf16),
    ];
    // A CPU would be held against itself.
    let able =
        |precision: &Precision| *precision == Precision::Fp32 || matches!(device, Chosen::Cuda(_));
    let kinds = kinds.iter().filter(|(what, ..)| trainings && what.contains(filter));
    for (what, model, steps, precision) in kinds.filter(|(.., precision)| able(precision)) {
        let check = training(what, model, *steps, *precision, device);
        done(check.unwrap_or_else(|error| Check::failed(what, &error)));
    }
    checks
}

fn op(case: &Case, device: &Chosen) -> Result<Check> {
    let planned = case.plan(&Size::SMALL);
    let mut reference = Cpu::<f64>::new(planned.plan.clone());
    let want = results(&planned, &mut reference)?;
    let mut backend = device.open(planned.plan.clone())?;
    let margins = Margins::of(backend.as_mut())?;
    let got = results(&planned, backend.as_mut())?;
    let again = results(&planned, backend.as_mut())?;
    let errors = got.iter().zip(&want).map(|(got, want)| relative(got, want));
    Ok(Check {
        what: case.name.into(),
        error: errors.fold(0.0, f64::max),
        bound: match case.precision {
            Precision::Fp32 => OP_BOUND,
            Precision::Tf32 => TF32_BOUND,
            Precision::Bf16 => BF16_BOUND,
        },
        repeats: bits(&got) == bits(&again),
        overrun: margins.overrun(backend.as_mut())?,
        sha256: digest(&got),
    })
}

/// Everything that the op leaves, after a forward, a backward and an update.
fn results(planned: &Planned, backend: &mut dyn Backend) -> Result<Vec<Vec<f32>>> {
    for (v, numbers) in planned.filling() {
        backend.write(v, &numbers)?;
    }
    for stage in [Stage::Forward, Stage::Backward, Stage::Update] {
        backend.run(stage)?;
    }
    planned.results().into_iter().map(|v| backend.read(v)).collect()
}

fn bits(results: &[Vec<f32>]) -> Vec<u8> {
    results.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

fn digest(results: &[Vec<f32>]) -> String {
    Sha256::digest(bits(results)).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// ‖got − want‖ / ‖want‖; infinite where one of them is not a number.
fn relative(got: &[f32], want: &[f32]) -> f64 {
    let (mut off, mut size) = (0.0, 0.0);
    for (&g, &w) in got.iter().zip(want) {
        off += (f64::from(g) - f64::from(w)).powi(2);
        size += f64::from(w).powi(2);
    }
    let error = if size > 0.0 { (off / size).sqrt() } else { off.sqrt() };
    if error.is_nan() { f64::INFINITY } else { error }
}

/// A network that is quickly trained, with attention.
fn narrow(gridsize: usize) -> ModelConfig {
    ModelConfig {
        n: 64,
        gridsize,
        n_filters_scale: 1,
        cbam_encoder: true,
        ..ModelConfig::default()
    }
}

/// A narrow network of another architecture.
fn spectral(architecture: Architecture) -> ModelConfig {
    ModelConfig { architecture, width: 4, fourier_modes: 4, blocks: 1, ..ModelConfig::default() }
}

fn training(
    what: &str,
    model: &ModelConfig,
    steps: usize,
    precision: Precision,
    device: &Chosen,
) -> Result<Check> {
    let sizes = Sizes { batch: 2, frames: 8, scans: 1, modes: 1, reach: 4.0, typical: 1.0 };
    let optimiser = OptimiserConfig { probe_trainable: true, ..OptimiserConfig::default() };
    let step = plans::training_in(precision, model, &LossConfig::default(), &optimiser, &sizes);
    let want = losses(&step, steps, &mut Cpu::<f32>::new(step.plan.clone()))?;
    let mut backend = device.open(step.plan.clone())?;
    let margins = Margins::of(backend.as_mut())?;
    let got = losses(&step, steps, backend.as_mut())?;
    let again = losses(&step, steps, device.open(step.plan.clone())?.as_mut())?;
    let apart = got.iter().zip(&want).map(|(g, w)| relative(&[*g], &[*w]));
    Ok(Check {
        what: what.into(),
        error: apart.fold(0.0, f64::max),
        bound: match precision {
            Precision::Fp32 => STEP_BOUND,
            Precision::Tf32 => TF32_STEP_BOUND,
            Precision::Bf16 => BF16_STEP_BOUND,
        },
        repeats: bits(std::slice::from_ref(&got)) == bits(&[again]),
        overrun: margins.overrun(backend.as_mut())?,
        sha256: digest(&[got]),
    })
}

/// The losses of so many steps on noise.
fn losses(step: &Training, steps: usize, backend: &mut dyn Backend) -> Result<Vec<f32>> {
    for initial in &step.initial {
        let len = step.plan.slots[initial.value.0].len();
        backend.write(initial.value, &initial.numbers(0, len))?;
    }
    for role in [Role::Moment1, Role::Moment2] {
        for (v, slot) in step.plan.of_role(role) {
            backend.write(v, &vec![0.0; slot.len()])?;
        }
    }
    let frames = step.plan.slots[step.inputs.frames.0].shape[0];
    let inputs = step.plan.of_role(Role::Input).into_iter().map(|(v, _)| v);
    for v in inputs.chain([step.inputs.probe]) {
        let slot = &step.plan.slots[v.0];
        backend.write(v, &host(v, &slot.name, slot.len(), frames))?;
    }
    (1..=steps)
        .map(|t| {
            for &(_, control) in &step.controls.rates {
                let bias = |beta: f64| (1.0 - beta.powi(t as i32)) as f32;
                backend.write(control, &[1e-3, bias(0.9), bias(0.999)])?;
            }
            backend.run_stages(Stage::Forward..=Stage::Update)?;
            Ok(backend.read(step.loss)?[0])
        })
        .collect()
}

/// What the host writes before a step.
fn host(v: Value, name: &str, len: usize, frames: usize) -> Vec<f32> {
    let mut stream = Stream::new(2, Purpose::Noise, v.0 as u32);
    (0..len)
        .map(|i| {
            let u = stream.uniform();
            match name {
                "index" => (i % frames) as f32,
                "scan" => 0.0,
                "offsets" => (6.0 * u - 3.0) as f32,
                "probe" => (u - 0.5) as f32,
                "frames" => u as f32,
                "merge weight" => (0.1 + u) as f32,
                _ => 1.0,
            }
        })
        .collect()
}
