//! The Fourier neural operator (Li et al. 2021): every block mixes a few frequencies of the whole
//! pattern beside a 3×3 convolution.
//!
//! lifter → blocks x + GELU(spectral(x) + conv(x)) → head; the cascaded one has a refiner of
//! convolutions between the blocks and the head.

use super::layers::Layers;
use super::{Initial, Patch};
use crate::config::{ModelConfig, RowModes};
use crate::graph::{Graph, Value};
use crate::ops::dft_axis::{self, Axis, Weights};
use crate::ops::dft_plane;
use crate::ops::mode_mix::mode_mix;
use crate::ops::residual::residual;

/// Convolutions of the refiner.
const REFINER: usize = 2;

/// Appends the network with its refiner; see [`super::build`].
pub fn build(g: &mut Graph, config: &ModelConfig, x: Value, initial: &mut Vec<Initial>) -> Patch {
    let mut net = Layers { g, initial };
    let h = body(&mut net, config, x);
    let mut h = net.conv("refiner.conv0", h, config.width, 1, false);
    for i in 1..=REFINER {
        h = net.conv(&format!("refiner.conv{i}"), h, config.width, 3, false);
        h = net.gelu(h);
    }
    net.head(config, h)
}

/// Appends the network without a refiner.
pub fn build_vanilla(
    g: &mut Graph,
    config: &ModelConfig,
    x: Value,
    initial: &mut Vec<Initial>,
) -> Patch {
    let mut net = Layers { g, initial };
    let h = body(&mut net, config, x);
    net.head(config, h)
}

/// Lifter and blocks.
fn body(net: &mut Layers, config: &ModelConfig, x: Value) -> Value {
    let mut h = net.lift(x, config.width);
    for i in 0..config.blocks {
        let name = format!("blocks.{i}");
        let seen = net.conv(&format!("{name}.conv"), h, config.width, 3, false);
        h = add_spectral(net, &name, config, h, seen);
    }
    h
}

/// x + GELU(spectral(x) + `seen`), what a convolution makes of x.
pub(super) fn add_spectral(
    net: &mut Layers,
    name: &str,
    config: &ModelConfig,
    x: Value,
    seen: Value,
) -> Value {
    let sum = spectral(net, &format!("{name}.spectral"), config, x, seen);
    let update = net.gelu(sum);
    residual(net.g, x, update, None)
}

/// Adds to the image `onto` what comes of `x` when its modes are mixed. Of a small image at most
/// the modes up to half its side are kept.
fn spectral(net: &mut Layers, name: &str, config: &ModelConfig, x: Value, onto: Value) -> Value {
    let shape = net.g.dims(x);
    let [samples, width, side, _] = shape;
    let count = config.fourier_modes.min(side / 2);
    let (first, rows) = match config.row_modes {
        RowModes::Low => (0, count),
        RowModes::Both => (side - count, 2 * count),
    };
    let outputs = width;
    let weight = net.mode_weight(&format!("{name}.weight"), &[rows * count, width, outputs, 2]);
    let g = &mut *net.g;
    let columns = dft_axis::analyse(g, x, Axis::Vertical, first, rows);
    let modes = dft_plane::analyse(g, columns, side, 0, count);
    let modes = mode_mix(g, modes, weight);
    let size = [samples, rows, side];
    let columns = dft_plane::synthesise(g, modes, size, 0, Weights::InverseReal);
    dft_axis::synthesise(g, columns, shape, Axis::Vertical, first, Weights::Inverse, Some(onto))
}
