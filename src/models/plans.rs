//! The two plans of a network: one that trains it and one that applies it.
//!
//! # Panics
//! These functions belong to the engine: they assert what
//! [`TrainConfig::validate`](crate::config::TrainConfig::validate) and
//! [`ModelConfig::validate`] check, and that no size is 0.

use super::optimiser::{self, Controls};
use super::physics::{self, Overlap, canvas_side, merged};
use super::{Initial, Patch};
use crate::config::{Loss, LossConfig, MergeWeights, Mode, ModelConfig, OptimiserConfig};
use crate::graph::{Graph, Group, Precision, Role, Slot, Value};
use crate::ops::absolute_error::{absolute_error, absolute_phase_error};
use crate::ops::diffraction::Source;
use crate::ops::gather::gather;
use crate::ops::mean_deviation::mean_deviation;
use crate::ops::merge::MergeRule;
use crate::ops::misfit::{Distance, Measured, Normalise, Upstream};
use crate::ops::polar::polar;
use crate::ops::record::record;
use crate::ops::scale::scale;
use crate::ops::stitch::stitch;
use crate::ops::total_variation::total_variation;
use crate::ops::weighted_sum::{Term, weighted_sum};
use crate::plan::Plan;

/// Weights of amplitude and phase errors in supervised training.
const SUPERVISED: [f64; 2] = [2.0, 4.0];

/// Pixels of a merged canvas that carry less than this share of the largest weight are empty.
const MERGE_THRESHOLD: f64 = 1e-6;

/// Steps whose losses and gradient norms are kept on the device.
pub const RING: usize = 32;

/// Sizes of the data that a training plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Groups per batch.
    pub batch: usize,
    /// Patterns that are held at once: all of them, or two batches of those that are streamed.
    pub frames: usize,
    pub scans: usize,
    /// Probe modes.
    pub modes: usize,
    /// Largest displacement of a patch from the centre of its group, pixels.
    pub reach: f64,
    /// What the loss of the data is divided by: mean photons per pixel for the Poisson loss, mean
    /// √photons for the amplitude loss.
    pub typical: f64,
}

/// Buffers that the host writes; all of them are [`Role::Input`](crate::graph::Role::Input) but
/// the probe, when it is trained.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// [M, N, N] amplitudes of the patterns that are held.
    pub frames: Value,
    /// What the patches are compared with, where true ones are learned from.
    pub labels: Option<Labels>,
    /// [B, C] which of them make up the batch.
    pub index: Value,
    /// [B] factor that normalises the amplitudes for the network.
    pub gain: Value,
    /// [B] κ in counts = (κ a)².
    pub dose: Value,
    /// [B] index of the scan that a sample belongs to.
    pub scan: Value,
    /// [B] weight of each sample in the loss, 0 for padding.
    pub weight: Value,
    /// [B] the part of it that the measured patterns have; where nothing else is learned from, this
    /// is `weight`.
    pub physics_weight: Value,
    /// [S, N, N] weight of each detector pixel.
    pub mask: Value,
    /// [S, P, N, N, 2] probes in the engine's gauge, with the checkerboard.
    pub probe: Value,
    pub overlap: Option<Overlap>,
    /// What `overlap.weight` is to hold.
    pub merge: MergeWeights,
    /// [1] 1 while training, 0 while validating.
    pub training: Value,
    /// [1] ∂L/∂L, 1.
    pub seed: Value,
}

/// True patches.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// [M, N, N].
    pub amplitude: Value,
    /// [M, N, N], rad.
    pub phase: Value,
    /// [N, N] weight of each pixel of a patch, 1 on average.
    pub pixels: Value,
    /// [B] the part of the samples' weight that the true patches have; where nothing else is learned
    /// from, this is `Inputs::weight`.
    pub weight: Value,
}

/// Everything of one training step.
#[derive(Clone, Debug)]
pub struct Training {
    pub plan: Plan,
    pub inputs: Inputs,
    pub controls: Controls,
    /// [1] total loss of the batch.
    pub loss: Value,
    /// [1] where the loss and the norm of this step are noted.
    pub slot: Value,
    /// [[`RING`]] losses of the last batches, and gradient norms of the last steps.
    pub losses: Value,
    pub norms: Value,
    /// [B, C, N, N] measured amplitude of the batch.
    pub amplitude: Value,
    /// [B, C, N, N] predicted intensity; none in supervised training.
    pub intensity: Option<Value>,
    /// [B, A, N, N] amplitude and [B, C, N, N] phase (rad) of the patches.
    pub patch: [Value; 2],
    pub initial: Vec<Initial>,
}

/// Everything of one inference batch.
#[derive(Clone, Debug)]
pub struct Inference {
    pub plan: Plan,
    /// [B, C, N, N] measured amplitudes.
    pub amplitude: Value,
    /// [B] factor that normalises them.
    pub gain: Value,
    /// [1] always 0: batch normalisation uses its running statistics.
    pub training: Value,
    /// [B, C, N, N, 2] patches.
    pub object: Value,
    /// Where they are stitched, if that is a part of the plan.
    pub stitched: Option<Stitched>,
    pub initial: Vec<Initial>,
}

/// Sizes of a canvas that patches are stitched on.
#[derive(Clone, Copy, Debug)]
pub struct Canvas {
    /// Height and width, pixels.
    pub size: [usize; 2],
    /// Side of the central square of each patch that is used.
    pub crop: usize,
    /// Rows and columns of the patches change places.
    pub transpose: bool,
}

/// Buffers of the stitching.
#[derive(Clone, Copy, Debug)]
pub struct Stitched {
    /// [B·C, 4] where each patch goes: see [`stitch`].
    pub places: Value,
    /// [c, c] weight of a patch's pixels.
    pub weight: Value,
    /// [H, W, 5], set to 0 before the first batch.
    pub canvas: Value,
}

/// Most groups of a batch that the kernels can count, who have 31 bits for the numbers of a buffer; with `modes` of
/// the probe, and patches at most `reach` pixels from the middle of their group.
pub fn most_groups(model: &ModelConfig, modes: usize, reach: f64) -> usize {
    let one = inference(model, 1, None).plan;
    let grows = |slot: &&Slot| matches!(slot.role, Role::Work | Role::Input | Role::Output);
    let maps = one.slots.iter().filter(grows).map(Slot::len).max().unwrap_or(1);
    let exits = 2 * model.channels() * modes * model.n.pow(2);
    let canvas = 2 * model.channels() * canvas_side(model.n, reach).pow(2);
    i32::MAX as usize / maps.max(exits).max(canvas)
}

/// [`training_in`] single precision.
pub fn training(
    model: &ModelConfig,
    loss: &LossConfig,
    optimiser: &OptimiserConfig,
    sizes: &Sizes,
) -> Training {
    training_in(Precision::Fp32, model, loss, optimiser, sizes)
}

/// The plan that trains: network, physics, loss, their adjoints, and the update.
pub fn training_in(
    precision: Precision,
    model: &ModelConfig,
    loss: &LossConfig,
    optimiser: &OptimiserConfig,
    sizes: &Sizes,
) -> Training {
    let mut g = Graph::with_precision(precision);
    let mut initial = Vec::new();
    let inputs = inputs(&mut g, model, loss, optimiser, sizes);
    let amplitude = gather(&mut g, inputs.frames, inputs.index);
    let x = scale(&mut g, amplitude, inputs.gain);
    let patch = super::build(&mut g, model, x, inputs.training, &mut initial);
    let mut terms = Vec::new();
    let intensity = loss.mode.sees_patterns().then(|| {
        let (predicted, term) = compare(&mut g, loss, &inputs, amplitude, patch, sizes);
        terms.push(term);
        predicted
    });
    if let Some(labels) = &inputs.labels {
        terms.extend(supervised(&mut g, labels, inputs.index, patch, sizes.batch));
    }
    terms.extend(regularisers(&mut g, loss, &inputs, patch));
    let total = weighted_sum(&mut g, terms);
    g.differentiate(total, inputs.seed);
    // After the network: the draw of its first weights depends on the buffers before them.
    let slot = g.input("slot", &[1]);
    let losses = record(&mut g, "losses", total, slot, RING);
    let controls = optimiser::attach(&mut g, optimiser, total);
    let norms = record(&mut g, "norms", controls.norm, slot, RING);
    let patch = [patch.amplitude, patch.phase];
    patch.into_iter().chain([amplitude]).chain(intensity).for_each(|v| g.keep(v));
    let plan = Plan::new(g);
    let loss = total;
    Training {
        plan,
        inputs,
        controls,
        loss,
        slot,
        losses,
        norms,
        amplitude,
        intensity,
        patch,
        initial,
    }
}

fn inputs(
    g: &mut Graph,
    model: &ModelConfig,
    loss: &LossConfig,
    optimiser: &OptimiserConfig,
    sizes: &Sizes,
) -> Inputs {
    let (n, c, b) = (model.n, model.channels(), sizes.batch);
    let probe_shape = [sizes.scans, sizes.modes, n, n, 2];
    let mode = loss.mode;
    let trained = optimiser.probe_trainable && mode.sees_patterns();
    let probe = if trained {
        g.param_of(Group::Probe, "probe", &probe_shape)
    } else {
        g.input("probe", &probe_shape)
    };
    let weight = g.input("weight", &[b]);
    let mut part = |name| if mode == Mode::Mixed { g.input(name, &[b]) } else { weight };
    let [physics_weight, label_weight] = ["physics weight", "label weight"].map(&mut part);
    let labels = mode.sees_labels().then(|| Labels {
        amplitude: g.input("label amplitude", &[sizes.frames, n, n]),
        phase: g.input("label phase", &[sizes.frames, n, n]),
        pixels: g.input("label pixels", &[n, n]),
        weight: label_weight,
    });
    let overlap = (c > 1 && mode.sees_patterns()).then(|| Overlap {
        offsets: g.input("offsets", &[b, c, 2]),
        weight: g.input("merge weight", &[n, n]),
        side: canvas_side(n, sizes.reach),
        rule: MergeRule { threshold: MERGE_THRESHOLD, ..MergeRule::default() },
    });
    Inputs {
        frames: g.input("frames", &[sizes.frames, n, n]),
        labels,
        index: g.input("index", &[b, c]),
        gain: g.input("gain", &[b]),
        dose: g.input("dose", &[b]),
        scan: g.input("scan", &[b]),
        weight,
        physics_weight,
        mask: g.input("mask", &[sizes.scans, n, n]),
        probe,
        overlap,
        merge: model.merge_weights,
        training: g.input("training", &[1]),
        seed: g.input("seed", &[1]),
    }
}

/// The intensity that the patches predict, and its misfit to the measured patterns.
fn compare(
    g: &mut Graph,
    loss: &LossConfig,
    inputs: &Inputs,
    amplitude: Value,
    patch: Patch,
    sizes: &Sizes,
) -> (Value, Term) {
    let Inputs { probe, dose, mask, scan, physics_weight: weight, .. } = *inputs;
    let object = polar(g, patch.amplitude, patch.phase);
    let source = match &inputs.overlap {
        Some(overlap) => merged(g, object, overlap),
        None => Source::Patches(object),
    };
    let measured = Measured { amplitude, dose, mask, scan };
    let coefficient = 1.0 / sizes.typical;
    let (upstream, mean) = (Upstream { weight, factor: coefficient }, Normalise::ValidPixels);
    let distance = match loss.kind {
        Loss::Poisson => Distance::Poisson(loss.epsilon_photons),
        Loss::Mae => Distance::Mae,
    };
    let [intensity, value] = physics::compare(g, source, probe, measured, upstream, distance, mean);
    (intensity, Term { value, weight, coefficient })
}

/// The mean absolute error of amplitude and phase against the true patches.
fn supervised(
    g: &mut Graph,
    labels: &Labels,
    index: Value,
    patch: Patch,
    batch: usize,
) -> [Term; 2] {
    let Labels { amplitude, phase, pixels, weight } = *labels;
    let [amplitude, phase] = [amplitude, phase].map(|all| gather(g, all, index));
    let per_pixel = batch as f64 / g.len(amplitude) as f64;
    let errors = [
        absolute_error(g, patch.amplitude, amplitude, pixels),
        absolute_phase_error(g, patch.phase, phase, pixels),
    ];
    let [amplitude, phase] = SUPERVISED.map(|share| share * per_pixel);
    [
        Term { value: errors[0], weight, coefficient: amplitude },
        Term { value: errors[1], weight, coefficient: phase },
    ]
}

/// Terms that prefer smooth patches, with their weights.
fn regularisers(g: &mut Graph, loss: &LossConfig, inputs: &Inputs, patch: Patch) -> Vec<Term> {
    type Rule = fn(&mut Graph, Value) -> Value;
    let rules: [(f64, Rule, Value); 4] = [
        (loss.tv_amplitude, total_variation, patch.amplitude),
        (loss.tv_phase, total_variation, patch.phase),
        (loss.md_amplitude, mean_deviation, patch.amplitude),
        (loss.md_phase, mean_deviation, patch.phase),
    ];
    let weight = inputs.weight;
    let wanted = rules.into_iter().filter(|&(coefficient, ..)| coefficient > 0.0);
    wanted.map(|(coefficient, rule, of)| Term { value: rule(g, of), weight, coefficient }).collect()
}

/// [`inference_in`] single precision.
pub fn inference(model: &ModelConfig, batch: usize, canvas: Option<Canvas>) -> Inference {
    inference_in(Precision::Fp32, model, batch, canvas)
}

/// The plan that applies the network to `batch` groups, and stitches their patches on `canvas`.
pub fn inference_in(
    precision: Precision,
    model: &ModelConfig,
    batch: usize,
    canvas: Option<Canvas>,
) -> Inference {
    let mut g = Graph::with_precision(precision);
    let mut initial = Vec::new();
    let (n, c) = (model.n, model.channels());
    let amplitude = g.input("amplitude", &[batch, c, n, n]);
    let gain = g.input("gain", &[batch]);
    let training = g.input("training", &[1]);
    let x = scale(&mut g, amplitude, gain);
    let patch = super::build(&mut g, model, x, training, &mut initial);
    let object = polar(&mut g, patch.amplitude, patch.phase);
    g.keep(object);
    let stitched = canvas.map(|Canvas { size, crop, transpose }| {
        let places = g.input("places", &[batch * c, 4]);
        let weight = g.input("stitching weight", &[crop, crop]);
        let canvas = stitch(&mut g, object, places, weight, size, transpose);
        Stitched { places, weight, canvas }
    });
    Inference { plan: Plan::new(g), amplitude, gain, training, object, stitched, initial }
}
