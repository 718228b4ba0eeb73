//! The plan in which the object itself is the parameter: no network, the same physics.
//!
//! One canvas holds the object, and every pattern of a batch sees its patch of it:
//!
//! Î = g_b Σ_p |F(P_p · cut(O, corner_b + shift_b))|² + r²
//!
//! with the probe modes P, and where they are asked for a gain g and a shift for each pattern and a
//! background r². Canvas and probe are in the engine's gauge: an object of modulus 1 explains the
//! mean energy of a pattern, and the probe carries the checkerboard of [`physics`](super::physics).
//!
//! A pixel hears of its surroundings through overlapping patterns alone, so that errors wider than a
//! probe take many epochs to go. Smooth factors of the object can therefore have steps of their own
//! ([`modulate`](crate::ops::modulate)).

use super::physics::{compare, diffract};
use crate::graph::{Graph, Group, Role, Stage, Value};
use crate::ops::adam::{Constants, adam};
use crate::ops::background::background;
use crate::ops::clip::Bound;
use crate::ops::complex_variation::complex_variation;
use crate::ops::cut::cut;
use crate::ops::diffraction::Source;
use crate::ops::gather::gather;
use crate::ops::limit_modulus::limit_modulus;
use crate::ops::misfit::{Distance, Measured, Normalise, Upstream, misfit};
use crate::ops::modulate::{grids, modulate, modulate_backward};
use crate::ops::record::record;
use crate::ops::scale::scale;
use crate::ops::weighted_sum::{Term, weighted_sum};
use crate::plan::Plan;

use super::plans::RING;

/// Decay of Adam's moments. The second is shorter than a network's: an object is solved in a few
/// hundred steps.
pub const BETAS: [f64; 2] = [0.9, 0.99];

/// Added to the root of Adam's second moment. Gradients of pixels that the beam hardly reaches are
/// tiny; they still deserve their step.
const EPSILON: f64 = 1e-12;

/// Distance between measured and predicted pattern.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Loss {
    /// Squared error of the amplitudes.
    #[default]
    Amplitude,
    /// Negative log-likelihood of the photon counts.
    Poisson,
}

/// Light that no object shapes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum BackgroundKind {
    /// There is none.
    #[default]
    None,
    /// One number for the whole detector.
    Constant,
    /// A number for each pixel.
    Pixels,
}

/// What is solved for beside the object, and how it is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Design {
    pub loss: Loss,
    /// ε of the Poisson loss, photons per pixel.
    pub epsilon_photons: f64,
    pub probe: bool,
    pub positions: bool,
    /// A gain for each pattern.
    pub gains: bool,
    pub background: BackgroundKind,
    /// Weight of the total variation of a patch in the loss; 0: none.
    pub tv: f64,
    /// Keep the modulus of the object below a limit.
    pub amplitude_limit: bool,
    /// Move the smooth parts of the object on grids of their own.
    pub smooth: bool,
}

/// Sizes of the data.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Patterns per batch.
    pub batch: usize,
    /// Patterns of the scan, and how many of them the device holds at once.
    pub frames: usize,
    pub held: usize,
    /// N.
    pub side: usize,
    /// P.
    pub modes: usize,
    /// Height and width of the canvas.
    pub canvas: [usize; 2],
    /// Mean photons of a valid pixel, which the loss is divided by.
    pub typical: f64,
}

impl Sizes {
    /// Pixels between the nodes of the finer grid of the smooth parts: an 8th of a pattern.
    fn spacing(&self) -> usize {
        (self.side / 8).max(2)
    }
}

/// The plan of one step, and what the host writes and reads.
#[derive(Clone, Debug)]
pub struct Solver {
    pub plan: Plan,
    pub buffers: Buffers,
    /// [1]: most modulus of the object.
    pub limit: Option<Value>,
    /// [η, 1 − β₁ᵗ, 1 − β₂ᵗ] of each group that is solved for.
    pub rates: Vec<(Group, Value)>,
    /// [[`RING`]] losses of the last steps.
    pub losses: Value,
}

/// What goes into a step. Canvas, probe, shifts, gains and background are parameters where they are
/// solved for.
#[derive(Clone, Debug)]
pub struct Buffers {
    /// [M, N, N] measured amplitudes, of all patterns or of those that are held.
    pub frames: Value,
    /// [B, 1] which of the patterns that are held make up the batch.
    pub index: Value,
    /// [B] which patterns of the scan they are.
    pub member: Value,
    /// [B] κ.
    pub dose: Value,
    /// [B] zeros: there is one scan.
    pub scan: Value,
    /// [1, N, N] weight of each detector pixel.
    pub mask: Value,
    /// [B] weight of each sample in the loss, 0 for padding.
    pub weight: Value,
    /// [1] ∂L/∂L, 1.
    pub seed: Value,
    /// [1] where the loss of this step is noted.
    pub slot: Value,
    /// [M, 2] column and row of each patch's pixel (0, 0) on the canvas.
    pub corners: Value,
    /// [M, 2] what the position adds to that.
    pub shifts: Value,
    /// [H, W, 2].
    pub canvas: Value,
    /// [1, P, N, N, 2].
    pub probe: Value,
    /// [M].
    pub gains: Option<Value>,
    /// [1] or [N, N]: the root of the background.
    pub background: Option<Value>,
}

/// Builds the step: forward, loss, adjoint, update.
pub fn solver(design: &Design, sizes: &Sizes) -> Solver {
    let mut g = Graph::default();
    let buffers = buffers(&mut g, design, sizes);
    let loss = loss(&mut g, design, sizes, &buffers);
    g.differentiate(loss, buffers.seed);
    let smooth = design.smooth.then(|| smooth(&mut g, sizes, buffers.canvas));
    let losses = record(&mut g, "losses", loss, buffers.slot, RING);
    let rates = update(&mut g);
    if let Some(grids) = smooth {
        modulate(&mut g, buffers.canvas, grids, sizes.spacing());
    }
    let limit = design.amplitude_limit.then(|| {
        let limit = g.input("limit of the modulus", &[1]);
        limit_modulus(&mut g, buffers.canvas, limit);
        limit
    });
    Solver { plan: Plan::new(g), buffers, limit, rates, losses }
}

fn buffers(g: &mut Graph, design: &Design, sizes: &Sizes) -> Buffers {
    let (b, m, n) = (sizes.batch, sizes.frames, sizes.side);
    let [height, width] = sizes.canvas;
    let root = match design.background {
        BackgroundKind::None => None,
        BackgroundKind::Constant => Some(vec![1]),
        BackgroundKind::Pixels => Some(vec![n, n]),
    };
    let solved = |g: &mut Graph, group, name: &str, shape: &[usize], solved| match solved {
        true => g.param_of(group, name, shape),
        false => g.input(name, shape),
    };
    Buffers {
        frames: g.input("frames", &[sizes.held, n, n]),
        index: g.input("index", &[b, 1]),
        member: g.input("member", &[b]),
        dose: g.input("dose", &[b]),
        scan: g.input("scan", &[b]),
        mask: g.input("mask", &[1, n, n]),
        weight: g.input("weight", &[b]),
        seed: g.input("seed", &[1]),
        slot: g.input("slot", &[1]),
        corners: g.input("corners", &[m, 2]),
        shifts: solved(g, Group::Positions, "shifts", &[m, 2], design.positions),
        canvas: g.param_of(Group::Object, "object", &[height, width, 2]),
        probe: solved(g, Group::Probe, "probe", &[1, sizes.modes, n, n, 2], design.probe),
        gains: design.gains.then(|| g.param_of(Group::Exposure, "gains", &[m])),
        background: root.map(|shape| g.param_of(Group::Background, "background", &shape)),
    }
}

/// From the canvas to the loss of a batch.
fn loss(g: &mut Graph, design: &Design, sizes: &Sizes, buffers: &Buffers) -> Value {
    let Buffers { member, dose, scan, mask, .. } = *buffers;
    let measured = gather(g, buffers.frames, buffers.index);
    let (corner, shift) = (gather(g, buffers.corners, member), gather(g, buffers.shifts, member));
    let patches = cut(g, buffers.canvas, corner, shift, sizes.side);
    let seen = Measured { amplitude: measured, dose, mask, scan };
    let (weight, coefficient) = (buffers.weight, 1.0 / sizes.typical);
    let (upstream, mean) = (Upstream { weight, factor: coefficient }, Normalise::ValidPixels);
    let distance = match design.loss {
        Loss::Amplitude => Distance::Amplitude,
        Loss::Poisson => Distance::Poisson(design.epsilon_photons),
    };
    // One op does all where nothing stands between field and misfit, and no other term of the loss
    // looks at the patches.
    let plain = !design.gains && design.background == BackgroundKind::None && design.tv == 0.0;
    let value = if plain {
        compare(g, Source::Patches(patches), buffers.probe, seen, upstream, distance, mean)[1]
    } else {
        let intensity = seen_by_the_detector(g, patches, buffers);
        misfit(g, distance, intensity, seen, upstream, mean)
    };
    let mut terms = vec![Term { value, weight, coefficient }];
    if design.tv > 0.0 {
        // Per pixel, so that the weight does not depend on the side of a pattern.
        let coefficient = design.tv / (sizes.side * sizes.side) as f64;
        terms.push(Term { value: complex_variation(g, patches), weight, coefficient });
    }
    weighted_sum(g, terms)
}

/// The intensity of the patches, times the gain of each pattern, with the background.
fn seen_by_the_detector(g: &mut Graph, patches: Value, buffers: &Buffers) -> Value {
    let mut intensity = diffract(g, patches, buffers.probe, buffers.scan);
    if let Some(gains) = buffers.gains {
        let gain = gather(g, gains, buffers.member);
        intensity = scale(g, intensity, gain);
    }
    if let Some(root) = buffers.background {
        intensity = background(g, intensity, root);
    }
    intensity
}

/// The grids of the object's smooth parts, with their gradients.
fn smooth(g: &mut Graph, sizes: &Sizes, canvas: Value) -> [Value; 2] {
    let [height, width] = sizes.canvas;
    let [fine, coarse] = grids(height, width, sizes.spacing());
    let grids = [("smooth part", fine), ("smoother part", coarse)]
        .map(|(name, shape)| g.param_of(Group::Smooth, name, &shape));
    modulate_backward(g, canvas, grids, sizes.spacing());
    grids
}

/// Appends a step of Adam for each group.
fn update(g: &mut Graph) -> Vec<(Group, Value)> {
    g.enter(Stage::Update);
    let params = g.of_role(Role::Param);
    for &p in &params {
        assert!(g.grad_of(p).is_some(), "the loss depends on {}", g.name(p));
        g.mirror(p, Role::Moment1, "moment1 ");
        g.mirror(p, Role::Moment2, "moment2 ");
    }
    let mut groups: Vec<Group> = params.iter().map(|&p| g.group(p)).collect();
    groups.sort();
    groups.dedup();
    let rule = Constants {
        beta1: BETAS[0],
        beta2: BETAS[1],
        epsilon: EPSILON,
        weight_decay: 0.0,
        decoupled: false,
    };
    let mut rates = Vec::with_capacity(groups.len());
    for group in groups {
        let control = g.input(&format!("rate of {group:?}"), &[3]);
        let roles = [Role::Param, Role::ParamGrad, Role::Moment1, Role::Moment2];
        let regions = roles.map(|role| g.region(role, group));
        adam(g, regions, control, Bound::None, rule);
        rates.push((group, control));
    }
    rates
}
