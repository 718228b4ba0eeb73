//! One case for every op, at any size: what the self-test checks and the benchmarks time.

mod physics;
mod spectral;
mod update;

use crate::graph::{Graph, Precision, Role, Value};
use crate::ops::activate::{Activation, activate};
use crate::ops::batch_norm::batch_norm;
use crate::ops::channel_gate::channel_gate;
use crate::ops::channel_pool::channel_pool;
use crate::ops::conv2d::{conv2d, conv2d_valid};
use crate::ops::cut::cut;
use crate::ops::extract::extract;
use crate::ops::head_sum::head_sum;
use crate::ops::max_pool::max_pool;
use crate::ops::merge::{MergeRule, merge};
use crate::ops::misfit::{Measured, Upstream};
use crate::ops::polar::polar;
use crate::ops::spatial_gate::spatial_gate;
use crate::ops::spatial_pool::spatial_pool;
use crate::ops::split::split;
use crate::ops::stitch::stitch;
use crate::ops::upsample::upsample;
use crate::plan::{LASTING, Plan};
use crate::random::{Purpose, Stream};

/// Sizes of the arrays that the cases are made of.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub batch: usize,
    /// Feature maps.
    pub channels: usize,
    /// Patterns in a group.
    pub group: usize,
    /// Side of a pattern, even.
    pub side: usize,
    /// Patterns of a scan.
    pub frames: usize,
    /// Numbers that an optimiser updates.
    pub weights: usize,
    /// Rounds of [`multiply_add`].
    pub rounds: usize,
}

impl Size {
    /// As in the training of a network for 64×64 pixels; and so many rounds that loading and
    /// storing take no time beside them.
    pub const PRODUCTION: Size = Size {
        batch: 16,
        channels: 64,
        group: 4,
        side: 64,
        frames: 1000,
        weights: 2_300_000,
        rounds: 128,
    };

    /// Small, and with no number that a tile divides evenly; after so few rounds the start shows.
    pub const SMALL: Size =
        Size { batch: 3, channels: 7, group: 2, side: 20, frames: 5, weights: 3001, rounds: 2 };

    /// Side of the canvas that holds a group.
    fn canvas(&self) -> usize {
        self.side + 12
    }
}

/// The case that does nothing but multiply and add.
pub const ROOF: &str = "multiply_add";

/// An op in a graph of its own.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// Of the convolutions.
    pub precision: Precision,
    build: fn(&mut Graph, &Size) -> Option<Value>,
}

/// A case at one size.
pub struct Planned {
    pub plan: Plan,
    /// What is differentiated; none for an op without adjoint.
    pub output: Option<Value>,
    /// Parameters are whole eighths. See [`eighths`].
    coarse: bool,
}

impl Case {
    pub fn plan(&self, size: &Size) -> Planned {
        let mut g = Graph::with_precision(self.precision);
        let output = (self.build)(&mut g, size);
        if let Some(y) = output {
            g.keep(y);
            let shape = g.shape(y).to_vec();
            let seed = g.find("seed").unwrap_or_else(|| g.input("seed", &shape));
            g.differentiate(y, seed);
        }
        let coarse = self.precision != Precision::Fp32 && self.name.contains("relu");
        Planned { plan: Plan::new(g), output, coarse }
    }
}

impl Planned {
    /// What fills each buffer that the op may read before it is written, the same on every machine:
    /// noise in [−1, 1), but where that means nothing.
    pub fn filling(&self) -> Vec<(Value, Vec<f32>)> {
        let moments = [Role::ParamGrad, Role::GradSum, Role::Moment1, Role::Moment2];
        let roles = [Role::Param, Role::Input, Role::State].into_iter().chain(moments);
        let slots: Vec<_> = roles.flat_map(|role| self.plan.of_role(role)).collect();
        // What is added to, or changed in part.
        let kept = ["canvas", "ring"].into_iter().filter_map(|name| self.plan.find(name));
        let kept = kept.filter(|v| self.plan.slots[v.0].role == Role::Output);
        let kept = kept.map(|v| (v, &self.plan.slots[v.0]));
        let slots = slots.into_iter().chain(kept);
        let filled = slots.map(|(v, slot)| {
            let mut numbers = numbers(v, &slot.name, slot.len());
            if self.coarse && slot.role == Role::Param {
                eighths(&slot.name, &mut numbers);
            }
            (v, numbers)
        });
        filled.collect()
    }

    /// What the op leaves: its output, and all that lasts.
    pub fn results(&self) -> Vec<Value> {
        let others = [Role::Input, Role::Packed, Role::Table];
        let kept = LASTING.into_iter().filter(|role| !others.contains(role));
        kept.flat_map(|role| self.plan.of_role(role)).map(|(v, _)| v).collect()
    }
}

/// Rounds to numbers whose products any precision has exactly. A ReLU is then open at the same pixels in
/// each, and no pixel lies at its kink: with noise, those next to it would differ, and with them whole
/// terms of a gradient.
fn eighths(name: &str, numbers: &mut [f32]) {
    let from_zero = if name == "bias" { 1.0 / 128.0 } else { 0.0 };
    numbers.iter_mut().for_each(|x| *x = (8.0 * *x).floor() / 8.0 + from_zero);
}

fn numbers(v: Value, name: &str, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(1, Purpose::Noise, v.0 as u32);
    (0..len)
        .map(|i| {
            let u = stream.uniform();
            match name {
                "index" => (3 * i % 5) as f32,
                "scan" => (i % 2) as f32,
                "slot" => 3.0,
                "training" | "keep" => 1.0,
                "corner" => (20.0 * u - 3.0).floor() as f32,
                "offsets" => (10.0 * u - 5.0) as f32,
                "mask" => f32::from(u > 0.1),
                "canvas" => 0.0,
                "grid" => 0.2 * (u - 0.5) as f32,
                // Few different numbers, so that maxima are shared.
                "ties" => (4.0 * u).floor() as f32,
                // So few that their sums are small whole numbers.
                "few" => f32::from(u < 0.03),
                // The last one is no patch.
                "places" if i % 4 == 0 && i + 4 == len => -1.0,
                "places" if i % 4 < 2 => (12.0 * u).floor() as f32,
                "places" => u as f32,
                "intensity" | "dose" | "weight" | "variance" | "control" | "of second" => {
                    (0.1 + u) as f32
                }
                _ => (2.0 * u - 1.0) as f32,
            }
        })
        .collect()
}

fn maps(g: &mut Graph, s: &Size, name: &str) -> Value {
    g.param(name, &[s.batch, s.channels, s.side, s.side])
}

fn real(g: &mut Graph, s: &Size, name: &str) -> Value {
    g.param(name, &[s.batch, s.group, s.side, s.side])
}

fn complex(g: &mut Graph, s: &Size, name: &str) -> Value {
    g.param(name, &[s.batch, s.group, s.side, s.side, 2])
}

fn measured(g: &mut Graph, s: &Size) -> Measured {
    Measured {
        amplitude: g.input("amplitude", &[s.batch, s.group, s.side, s.side]),
        dose: g.input("dose", &[s.batch]),
        mask: g.input("mask", &[2, s.side, s.side]),
        scan: g.input("scan", &[s.batch]),
    }
}

/// A misfit gives its gradient before the total is differentiated.
fn upstream(g: &mut Graph, s: &Size) -> Upstream {
    Upstream { weight: g.input("seed", &[s.batch]), factor: 1.0 }
}

/// All cases: ops on feature maps, on patches and patterns, on all parameters at once.
pub fn all() -> Vec<Case> {
    let networks = [convolutions(), tensor_cores(), network(), attention()];
    let spectral = [spectral::convolutions(), spectral::layers(), spectral::transforms()];
    let others = [physics::patterns(), physics::losses(), groups(), update::all()];
    networks.into_iter().chain(spectral).chain(others).flatten().collect()
}

type Build = fn(&mut Graph, &Size) -> Option<Value>;

fn named<const N: usize>(cases: [(&'static str, Build); N]) -> Vec<Case> {
    cases.map(|(name, build)| Case { name, precision: Precision::Fp32, build }).to_vec()
}

/// k×k, `inputs` → `outputs` channels, at half the side.
fn filter(g: &mut Graph, s: &Size, [inputs, outputs, k]: [usize; 3], relu: bool) -> Option<Value> {
    let x = g.param("x", &[s.batch, inputs, s.side / 2, s.side / 2]);
    let weight = g.param("w.weight", &[outputs, inputs, k, k]);
    let bias = g.param("bias", &[outputs]);
    Some(conv2d(g, x, weight, Some(bias), relu))
}

/// Two towers of layers that are equal one by one, on the same image.
fn towers(g: &mut Graph, s: &Size, channels: usize) -> Option<Value> {
    let x = g.param("x", &[s.batch, channels, s.side / 2, s.side / 2]);
    let [inner, outer] = ["inner", "outer"].map(|name| {
        let mut layer = |i: usize, x, relu| {
            let weight = g.param(&format!("{name}.{i}.weight"), &[channels, channels, 3, 3]);
            let bias = g.param("bias", &[channels]);
            conv2d(g, x, weight, Some(bias), relu)
        };
        let y = layer(1, x, true);
        layer(2, y, false)
    });
    let outer = upsample(g, outer);
    Some(head_sum(g, inner, outer, false))
}

fn convolutions() -> Vec<Case> {
    named([
        ("conv2d 3x3 relu", |g, s| filter(g, s, [s.channels, s.channels, 3], true)),
        ("conv2d 3x3 wide", |g, s| {
            // Sides that neither tiles nor slices divide.
            let (c, [h, w]) = (3 * s.channels, [s.side / 2 + 1, s.side / 2 - 1]);
            let x = g.param("x", &[s.batch, c, h, w]);
            let (weight, bias) = (g.param("w.weight", &[c, c, 3, 3]), g.param("bias", &[c]));
            Some(conv2d(g, x, weight, Some(bias), true))
        }),
        ("conv2d 3x3 narrowing", |g, s| filter(g, s, [2 * s.channels, 1, 3], false)),
        ("conv2d 3x3 from one", |g, s| filter(g, s, [1, s.channels, 3], true)),
        ("conv2d 1x1", |g, s| filter(g, s, [s.channels, 2 * s.channels, 1], false)),
        ("conv2d 7x7", |g, s| filter(g, s, [2, 1, 7], false)),
        ("conv2d towers", |g, s| towers(g, s, s.channels)),
        ("conv2d towers wide", |g, s| towers(g, s, 2 * s.channels + 9)),
    ])
}

/// Convolutions that are given to tensor cores, at the sizes of the largest layers.
fn tensor_cores() -> Vec<Case> {
    // `channels` times those of the size, at the side over `part`, from and to as many.
    fn layer(g: &mut Graph, s: &Size, channels: usize, part: usize, relu: bool) -> Option<Value> {
        let (c, n) = ((channels * s.channels).max(5 * channels + 30), s.side / part);
        let x = g.param("x", &[s.batch, c, n, n]);
        let (weight, bias) = (g.param("w.weight", &[c, c, 3, 3]), g.param("bias", &[c]));
        Some(conv2d(g, x, weight, Some(bias), relu))
    }
    let cases: [([&'static str; 2], Build); 9] = [
        (["conv2d tf32 3x3", "conv2d bf16 3x3"], |g, s| layer(g, s, 1, 1, false)),
        (["conv2d tf32 3x3 relu", "conv2d bf16 3x3 relu"], |g, s| layer(g, s, 1, 2, true)),
        (["conv2d tf32 3x3 relu 128", "conv2d bf16 3x3 relu 128"], |g, s| layer(g, s, 2, 2, true)),
        (["conv2d tf32 3x3 relu 256", "conv2d bf16 3x3 relu 256"], |g, s| layer(g, s, 4, 4, true)),
        (["conv2d tf32 twice relu", "conv2d bf16 twice relu"], |g, s| {
            // So many channels that their sums are cut into slices where the image is small.
            let (c, n) = (s.channels.max(99), s.side / 2);
            let x = g.param("x", &[s.batch, c, n, n]);
            let (weight, bias) = (g.param("w.weight", &[c, c, 3, 3]), g.param("bias", &[c]));
            let between = conv2d(g, x, weight, Some(bias), true);
            let (weight, bias) = (g.param("v.weight", &[c, c, 3, 3]), g.param("bias 2", &[c]));
            Some(conv2d(g, between, weight, Some(bias), false))
        }),
        (["conv2d tf32 towers relu", "conv2d bf16 towers relu"], |g, s| {
            towers(g, s, s.channels.max(66))
        }),
        (["conv2d tf32 pooled", "conv2d bf16 pooled"], |g, s| {
            // Whole numbers, so that equal maxima are equal in every precision.
            let (c, n) = (s.channels.max(35), s.side / 2);
            let x = g.param("ties", &[s.batch, c, n, n]);
            let [w, v] = ["few", "v.weight"].map(|name| g.param(name, &[c, c, 3, 3]));
            let y = conv2d(g, x, w, None, false);
            let y = max_pool(g, y);
            Some(conv2d(g, y, v, None, false))
        }),
        (["conv2d tf32 added", "conv2d bf16 added"], |g, s| {
            // Image and weights are used twice.
            let x = g.param("x", &[s.batch, 40, s.side / 2, s.side / 2]);
            let weight = g.param("w.weight", &[40, 40, 3, 3]);
            let inner = conv2d(g, x, weight, None, false);
            let up = upsample(g, x);
            let outer = conv2d(g, up, weight, None, false);
            Some(head_sum(g, inner, outer, false))
        }),
        (["conv2d tf32 valid", "conv2d bf16 valid"], |g, s| {
            let x = g.param("x", &[s.batch, 33, s.side / 2 + 2, s.side / 2 - 1]);
            let (weight, bias) = (g.param("w.weight", &[70, 33, 3, 3]), g.param("bias", &[70]));
            Some(conv2d_valid(g, x, weight, Some(bias)))
        }),
    ];
    let both = [Precision::Tf32, Precision::Bf16];
    let case = |(names, build): ([&'static str; 2], Build)| {
        both.into_iter().zip(names).map(move |(precision, name)| Case { name, precision, build })
    };
    cases.into_iter().flat_map(case).collect()
}

fn network() -> Vec<Case> {
    named([
        ("gradients added", |g, s| {
            // Image and weights are used twice: the second share is added to the first.
            let x = g.param("x", &[s.batch, s.channels, s.side / 2, s.side / 2]);
            let weight = g.param("weight", &[s.channels, s.channels, 3, 3]);
            let y = activate(g, x, Activation::Silu);
            let [a, b] = [x, y].map(|x| conv2d(g, x, weight, None, false));
            Some(polar(g, a, b))
        }),
        ("activate relu", |g, s| {
            let x = maps(g, s, "x");
            Some(activate(g, x, Activation::Relu))
        }),
        ("activate silu", |g, s| {
            let x = maps(g, s, "x");
            Some(activate(g, x, Activation::Silu))
        }),
        ("activate sigmoid", |g, s| {
            let x = maps(g, s, "x");
            Some(activate(g, x, Activation::Sigmoid))
        }),
        ("activate softplus", |g, s| {
            let x = maps(g, s, "x");
            Some(activate(g, x, Activation::SoftplusOne))
        }),
        ("activate pi tanh", |g, s| {
            let x = maps(g, s, "x");
            Some(activate(g, x, Activation::PiTanh))
        }),
        ("batch_norm", |g, s| {
            let x = maps(g, s, "x");
            let [gamma, beta] = ["gamma", "beta"].map(|name| g.param(name, &[s.channels]));
            let [mean, variance] = ["mean", "variance"].map(|name| g.state(name, &[s.channels]));
            let training = g.input("training", &[1]);
            Some(batch_norm(g, x, gamma, beta, mean, variance, training))
        }),
        ("head_sum", |g, s| {
            let inner = g.param("inner", &[s.batch, s.group, s.side / 2, s.side / 2]);
            let outer = real(g, s, "outer");
            Some(head_sum(g, inner, outer, false))
        }),
        ("head_sum of the border", |g, s| {
            let inner = g.param("inner", &[s.batch, s.group, s.side / 2, s.side / 2]);
            let outer = real(g, s, "outer");
            Some(head_sum(g, inner, outer, true))
        }),
        ("max_pool", |g, s| {
            let x = maps(g, s, "ties");
            Some(max_pool(g, x))
        }),
        ("split", |g, s| {
            let x = maps(g, s, "x");
            let (low, high) = split(g, x, s.channels - s.channels / 3);
            g.keep(high);
            Some(low)
        }),
        ("upsample", |g, s| {
            let x = g.param("x", &[s.batch, s.channels, s.side / 2, s.side / 2]);
            Some(upsample(g, x))
        }),
    ])
}

fn attention() -> Vec<Case> {
    named([
        ("channel_gate", |g, s| {
            let x = maps(g, s, "x");
            let gate = g.param("gate", &[2 * s.batch, s.channels, 1, 1]);
            Some(channel_gate(g, x, gate))
        }),
        ("channel_pool", |g, s| {
            let x = maps(g, s, "ties");
            Some(channel_pool(g, x))
        }),
        ("spatial_gate", |g, s| {
            let y = maps(g, s, "y");
            let gate = g.param("gate", &[s.batch, 1, s.side, s.side]);
            Some(spatial_gate(g, y, gate))
        }),
        ("spatial_pool", |g, s| {
            let x = maps(g, s, "ties");
            Some(spatial_pool(g, x))
        }),
    ])
}

fn stitched(g: &mut Graph, s: &Size, transpose: bool) -> Option<Value> {
    let patches = g.input("patches", &[s.batch * s.group, s.side, s.side, 2]);
    let places = g.input("places", &[s.batch * s.group, 4]);
    let weight = g.input("weight", &[s.side / 2, s.side / 2]);
    stitch(g, patches, places, weight, [s.canvas(), s.canvas() + 3], transpose);
    None
}

fn groups() -> Vec<Case> {
    named([
        ("stitch", |g, s| stitched(g, s, false)),
        ("stitch transposed", |g, s| stitched(g, s, true)),
        ("cut", |g, s| {
            let canvas = g.param("canvas of all", &[2 * s.side, 3 * s.side, 2]);
            let corner = g.input("corner", &[s.batch, 2]);
            let shift = g.param("shift", &[s.batch, 2]);
            Some(cut(g, canvas, corner, shift, s.side))
        }),
        ("extract", |g, s| {
            let canvas = g.param("canvas", &[s.batch, s.canvas(), s.canvas(), 2]);
            let offsets = g.input("offsets", &[s.batch, s.group, 2]);
            Some(extract(g, canvas, offsets, s.side))
        }),
        ("merge", |g, s| {
            let patches = complex(g, s, "patches");
            let offsets = g.input("offsets", &[s.batch, s.group, 2]);
            let weight = g.input("weight", &[s.side, s.side]);
            Some(merge(g, patches, offsets, weight, s.canvas(), MergeRule::default()))
        }),
    ])
}
