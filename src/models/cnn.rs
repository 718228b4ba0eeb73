//! The convolutional autoencoder: diffraction pattern → amplitude and phase of the object patch.
//!
//! An encoder halves the image until 8×8 pixels are left; two decoders without shared weights
//! double it again, one for the amplitude and one for the phase. Each ends in a head of two paths:
//! path 1 sees most channels at half resolution and fills the central half of the patch, path 2
//! sees the rest, doubles once more and reaches the border.
//!
//! Layer names are those of the published network, so that its checkpoints can be compared.

use super::layers::{Layers, amplitude_activation};
use super::{Initial, Patch};
use crate::config::{Head, ModelConfig};
use crate::graph::{Graph, Value};
use crate::ops::activate::{Activation, activate};
use crate::ops::batch_norm::batch_norm;
use crate::ops::channel_gate::channel_gate;
use crate::ops::channel_pool::channel_pool;
use crate::ops::conv2d::conv2d;
use crate::ops::head_sum::head_sum;
use crate::ops::max_pool::max_pool;
use crate::ops::spatial_gate::spatial_gate;
use crate::ops::spatial_pool::spatial_pool;
use crate::ops::split::split;
use crate::ops::upsample::upsample;

/// Channels of a decoder's last block, before scaling.
const LAST: usize = 32;

/// Channels of path 2 in the heads `joint` and `full`, before scaling: an eighth of [`LAST`].
const OUTER: usize = LAST / 8;

/// Channels per hidden unit of the channel attention.
const REDUCTION: usize = 16;

/// Channels after each encoder block, before scaling, for side `n`.
fn encoder_channels(n: usize) -> Vec<usize> {
    let blocks = (n / 8).ilog2();
    (0..blocks).rev().map(|i| 128 >> i).collect()
}

/// Channels after each decoder block, before scaling, for side `n`.
fn decoder_channels(n: usize) -> Vec<usize> {
    let blocks = (n / 16).ilog2();
    (0..blocks).rev().map(|i| LAST << i).collect()
}

/// Appends the network. `x` is [B, C, N, N], the normalised amplitudes of groups of C patterns;
/// `training` is the [1] buffer that tells batch normalisation which statistics to use.
pub fn build(
    g: &mut Graph,
    config: &ModelConfig,
    x: Value,
    training: Value,
    initial: &mut Vec<Initial>,
) -> Patch {
    let mut net = Builder { layers: Layers { g, initial }, config, training };
    let scale = config.n_filters_scale;
    let mut h = x;
    for (i, channels) in encoder_channels(config.n).into_iter().enumerate() {
        h = net.encoder_block(&format!("encoder.blocks.{i}"), h, channels * scale);
    }
    let amplitude = net.decoder("decoder_amp", "amp", h, false);
    let phase = net.decoder("decoder_phase", "phase", h, true);
    Patch { amplitude, phase }
}

struct Builder<'a> {
    layers: Layers<'a>,
    config: &'a ModelConfig,
    training: Value,
}

impl Builder<'_> {
    /// Two convolutions, attention where configured, and a pool.
    fn encoder_block(&mut self, name: &str, x: Value, channels: usize) -> Value {
        let mut h = self.double_conv(name, x, channels, self.config.batch_norm);
        if self.config.cbam_encoder {
            h = self.attention(&format!("{name}.attention"), h);
        }
        max_pool(self.layers.g, h)
    }

    /// 3×3 convolution → [batch norm] → ReLU, twice.
    fn double_conv(&mut self, name: &str, x: Value, channels: usize, norm: bool) -> Value {
        let mut h = x;
        for i in 1..=2 {
            h = self.conv(&format!("{name}.conv{i}"), h, channels, 3, !norm);
            if norm {
                h = self.norm(&format!("{name}.bn{i}"), h);
                h = activate(self.layers.g, h, Activation::Relu);
            }
        }
        h
    }

    /// A tower from the code to one quantity of the patch.
    fn decoder(&mut self, tower: &str, quantity: &str, code: Value, phase: bool) -> Value {
        let norm = self.config.batch_norm && phase;
        let mut h = code;
        for (i, channels) in decoder_channels(self.config.n).into_iter().enumerate() {
            let channels = channels * self.config.n_filters_scale;
            h = self.double_conv(&format!("{tower}.blocks.{i}"), h, channels, norm);
            h = upsample(self.layers.g, h);
        }
        self.head(&format!("{tower}.{quantity}"), h, phase, norm)
    }

    /// The two paths and their activation.
    fn head(&mut self, name: &str, h: Value, phase: bool, norm: bool) -> Value {
        let ModelConfig { head, n_filters_scale: scale, .. } = *self.config;
        let channels = self.config.channels();
        // The head `full` has one amplitude for all patches of a group.
        let outputs = if head == Head::Full && !phase { 1 } else { channels };
        let outer = if head == Head::Border { outputs } else { OUTER * scale };
        let (inner, rest) = split(self.layers.g, h, LAST * scale - outer);
        let mut path1 = self.conv(&format!("{name}.conv1"), inner, outputs, 3, false);
        if norm {
            path1 = self.norm(&format!("{name}.bn1"), path1);
        }
        let up = self.double_conv(&format!("{name}.conv_up_block"), rest, LAST * scale, norm);
        let up = upsample(self.layers.g, up);
        let mut path2 = self.conv(&format!("{name}.conv2"), up, outputs, 3, false);
        if norm {
            path2 = self.norm(&format!("{name}.bn2"), path2);
        }
        let last = if phase { Activation::PiTanh } else { amplitude_activation(self.config) };
        if head == Head::Joint {
            let sum = head_sum(self.layers.g, path1, path2, false);
            return activate(self.layers.g, sum, last);
        }
        let path1 = activate(self.layers.g, path1, last);
        let path2 = activate(self.layers.g, path2, Activation::Silu);
        head_sum(self.layers.g, path1, path2, head == Head::Border)
    }

    /// Channel gate, then spatial gate (Woo et al., "CBAM: convolutional block attention module",
    /// 2018).
    fn attention(&mut self, name: &str, x: Value) -> Value {
        let [_, channels, _, _] = self.layers.g.dims(x);
        let pooled = channel_pool(self.layers.g, x);
        let mlp = format!("{name}.ChannelGate.mlp");
        let hidden = self.conv(&format!("{mlp}.1"), pooled, channels / REDUCTION, 1, true);
        let gate = self.conv(&format!("{mlp}.3"), hidden, channels, 1, false);
        let y = channel_gate(self.layers.g, x, gate);
        let pooled = spatial_pool(self.layers.g, y);
        let weight =
            self.layers.weight(&format!("{name}.SpatialGate.compress.weight"), &[1, 2, 7, 7]);
        let gate = conv2d(self.layers.g, pooled, weight, None, false);
        spatial_gate(self.layers.g, y, gate)
    }

    fn conv(&mut self, name: &str, x: Value, outputs: usize, side: usize, relu: bool) -> Value {
        self.layers.conv(name, x, outputs, side, relu)
    }

    fn norm(&mut self, name: &str, x: Value) -> Value {
        let [_, channels, _, _] = self.layers.g.dims(x);
        let gamma = self.layers.g.param(&format!("{name}.weight"), &[channels]);
        let beta = self.layers.g.param(&format!("{name}.bias"), &[channels]);
        let mean = self.layers.g.state(&format!("{name}.running_mean"), &[channels]);
        let variance = self.layers.g.state(&format!("{name}.running_var"), &[channels]);
        for (value, start) in [(gamma, 1.0), (beta, 0.0), (mean, 0.0), (variance, 1.0)] {
            self.layers.initial.push(Initial::constant(value, start));
        }
        batch_norm(self.layers.g, x, gamma, beta, mean, variance, self.training)
    }
}
