//! A residual U-shaped network whose encoder is spectral: Fourier blocks while the image is halved
//! twice, residual blocks of convolutions at a quarter of its side, and transposed convolutions back.
//!
//! lifter → [x + GELU(spectral(x) + conv(x)) → 2×2 convolution of stride 2 to twice the channels]
//! twice → two more such blocks → 6 × [x + g · norm(conv(GELU(norm(conv(x)))))] → [transposed 4×4
//! convolution of stride 2 to half the channels → norm → GELU] twice → head. 3×3 convolutions behind
//! the lifter mirror the image at its border. Those whose bias a norm would take away have none.

use super::fno::add_spectral;
use super::layers::Layers;
use super::{Initial, Patch};
use crate::config::ModelConfig;
use crate::graph::{Graph, Value};
use crate::ops::conv2d::{conv2d, conv2d_valid};
use crate::ops::reflect_pad::reflect_pad;
use crate::ops::residual::residual;
use crate::ops::shuffle::{gather_blocks, spread_blocks};
use crate::ops::transposed_filter::transposed_filter;

/// Times that the image is halved.
const LEVELS: usize = 2;

/// Spectral blocks, and residual blocks behind them.
const ENCODER: usize = 4;
const RESIDUALS: usize = 6;

/// g at the beginning: residual blocks begin as small changes.
const GATE: f32 = 0.1;

/// Pixels of a block that is halved to one.
const BLOCK: usize = 4;

/// Appends the network; see [`super::build`].
pub fn build(g: &mut Graph, config: &ModelConfig, x: Value, initial: &mut Vec<Initial>) -> Patch {
    let mut net = Layers { g, initial };
    let mut h = net.lift(x, config.width);
    for i in 0..ENCODER {
        let name = format!("encoder.{i}");
        let [_, channels, ..] = net.g.dims::<4>(h);
        let seen = mirrored_conv(&mut net, &format!("{name}.conv"), h, true);
        h = add_spectral(&mut net, &name, config, h, seen);
        if i < LEVELS {
            // [O, 4I, 1, 1] holds the [O, I, 2, 2] weights of a 2×2 convolution.
            h = gather_blocks(net.g, h);
            h = net.conv(&format!("{name}.down"), h, 2 * channels, 1, false);
        }
    }
    let gate = net.gate("residual.gate", GATE);
    for i in 0..RESIDUALS {
        h = residual_block(&mut net, &format!("residual.{i}"), h, gate);
    }
    for i in 0..LEVELS {
        h = up(&mut net, &format!("decoder.{i}"), h);
    }
    net.head(config, h)
}

/// x + g · norm(conv(GELU(norm(conv(x))))).
fn residual_block(net: &mut Layers, name: &str, x: Value, gate: Value) -> Value {
    let h = mirrored_conv(net, &format!("{name}.conv1"), x, false);
    let h = net.instance_norm(&format!("{name}.norm1"), h);
    let h = net.gelu(h);
    let h = mirrored_conv(net, &format!("{name}.conv2"), h, false);
    let update = net.instance_norm(&format!("{name}.norm2"), h);
    residual(net.g, x, update, Some(gate))
}

/// 3×3 convolution that mirrors the image at its border, as many channels out as in.
fn mirrored_conv(net: &mut Layers, name: &str, x: Value, biased: bool) -> Value {
    let [_, channels, ..] = net.g.dims::<4>(x);
    let padded = reflect_pad(net.g, x);
    let shape = [channels, channels, 3, 3];
    let weight = net.weight(&format!("{name}.weight"), &shape);
    let bias = biased.then(|| {
        let bias = net.g.param(&format!("{name}.bias"), &[channels]);
        net.initial.push(Initial::uniform(bias, shape[1] * shape[2] * shape[3]));
        bias
    });
    conv2d_valid(net.g, padded, weight, bias)
}

/// Twice the side, half the channels.
fn up(net: &mut Layers, name: &str, x: Value) -> Value {
    let [_, channels, ..] = net.g.dims::<4>(x);
    let weight = net.g.param(&format!("{name}.up.weight"), &[channels, channels / 2, 4, 4]);
    // Of the 16 taps a pixel of the result sees 4.
    net.initial.push(Initial::uniform(weight, BLOCK * channels));
    let filter = transposed_filter(net.g, weight);
    let h = conv2d(net.g, x, filter, None, false);
    let h = spread_blocks(net.g, h);
    let h = net.instance_norm(&format!("{name}.norm"), h);
    net.gelu(h)
}
