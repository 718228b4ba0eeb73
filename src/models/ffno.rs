//! The factorised Fourier neural operator (Tran et al. 2023): every block sees the whole pattern
//! through a few frequencies of its rows and of its columns.
//!
//! lifter → blocks x + g · project(GELU(expand(norm(spectral(x))))) → refiners
//! x + conv(GELU(conv(x))) → head. The spectral layer and the gate g are shared by all blocks
//! unless the configuration gives each its own.

use super::layers::Layers;
use super::{Initial, Patch};
use crate::config::ModelConfig;
use crate::graph::{Graph, Value};
use crate::ops::dft_axis::{Axis, Weights, analyse, synthesise};
use crate::ops::mode_mix::mode_mix;
use crate::ops::residual::residual;

/// Channels inside of a block for each channel outside.
const EXPANSION: usize = 2;

/// g at the beginning: blocks begin as small changes.
const GATE: f32 = 0.1;

/// Matrices of a spectral layer: one for the rows' frequencies, one for the columns'.
#[derive(Clone, Copy)]
struct Spectral {
    rows: Value,
    columns: Value,
    gate: Value,
}

/// Appends the network; see [`super::build`].
pub fn build(g: &mut Graph, config: &ModelConfig, x: Value, initial: &mut Vec<Initial>) -> Patch {
    let mut net = Layers { g, initial };
    let mut h = net.lift(x, config.width);
    let shared = config.share_spectral_weights.then(|| spectral(&mut net, "spectral", config));
    for i in 0..config.blocks {
        let name = format!("blocks.{i}");
        let spectral =
            shared.unwrap_or_else(|| spectral(&mut net, &format!("{name}.spectral"), config));
        h = block(&mut net, &name, h, spectral);
    }
    for i in 0..config.refiners {
        let name = format!("refiners.{i}");
        let update = net.conv(&format!("{name}.conv1"), h, config.width, 3, false);
        let update = net.gelu(update);
        let update = net.conv(&format!("{name}.conv2"), update, config.width, 3, false);
        h = residual(net.g, h, update, None);
    }
    net.head(config, h)
}

fn spectral(net: &mut Layers, name: &str, config: &ModelConfig) -> Spectral {
    let shape = [config.fourier_modes, config.width, config.width, 2];
    let [rows, columns] =
        ["rows", "columns"].map(|axis| net.mode_weight(&format!("{name}.{axis}.weight"), &shape));
    Spectral { rows, columns, gate: net.gate(&format!("{name}.gate"), GATE) }
}

fn block(net: &mut Layers, name: &str, x: Value, spectral: Spectral) -> Value {
    let [_, width, ..] = net.g.dims::<4>(x);
    let h = apply(net.g, x, spectral);
    let h = net.instance_norm(&format!("{name}.norm"), h);
    let h = net.conv(&format!("{name}.expand"), h, EXPANSION * width, 1, false);
    let h = net.gelu(h);
    let update = net.conv(&format!("{name}.project"), h, width, 1, false);
    residual(net.g, x, update, Some(spectral.gate))
}

/// Mixes the modes of the rows and of the columns and adds what comes of them.
fn apply(g: &mut Graph, x: Value, spectral: Spectral) -> Value {
    let shape = g.dims(x);
    let mut y = None;
    for (axis, weight) in [(Axis::Horizontal, spectral.rows), (Axis::Vertical, spectral.columns)] {
        let [count, ..] = g.dims::<4>(weight);
        let modes = analyse(g, x, axis, 0, count);
        let modes = mode_mix(g, modes, weight);
        y = Some(synthesise(g, modes, shape, axis, 0, Weights::InverseReal, y));
    }
    y.expect("there are two axes")
}
