//! Layers that several networks are made of, with their first weights.

use super::{Initial, Patch};
use crate::config::{AmpActivation, ModelConfig, OutputMode};
use crate::graph::{Graph, Value};
use crate::ops::activate::{Activation, activate};
use crate::ops::cartesian::cartesian;
use crate::ops::conv2d::conv2d;
use crate::ops::instance_norm::instance_norm;
use crate::ops::split::split;

/// The last layer's weights begin at this share of the usual: a network begins near the amplitude
/// 1 and the phase 0 that its heads give for 0.
const LAST: f64 = 0.1;

/// Appends layers to a graph and notes how their weights begin.
pub struct Layers<'a> {
    pub g: &'a mut Graph,
    pub initial: &'a mut Vec<Initial>,
}

impl Layers<'_> {
    /// `side`×`side` convolution with bias, and ReLU if `relu`.
    pub fn conv(&mut self, name: &str, x: Value, outputs: usize, side: usize, relu: bool) -> Value {
        let [_, inputs, _, _] = self.g.dims(x);
        let weight = self.weight(&format!("{name}.weight"), &[outputs, inputs, side, side]);
        let bias = self.g.param(&format!("{name}.bias"), &[outputs]);
        self.initial.push(Initial::uniform(bias, inputs * side * side));
        conv2d(self.g, x, weight, Some(bias), relu)
    }

    /// [O, I, k, k] weights of a convolution.
    pub fn weight(&mut self, name: &str, shape: &[usize; 4]) -> Value {
        let weight = self.g.param(name, shape);
        self.initial.push(Initial::uniform(weight, shape[1] * shape[2] * shape[3]));
        weight
    }

    /// [K, I, O, 2] matrices of modes: complex normal with variance 1/I.
    pub fn mode_weight(&mut self, name: &str, shape: &[usize; 4]) -> Value {
        let weight = self.g.param(name, shape);
        let deviation = 1.0 / (2.0 * shape[1] as f64).sqrt();
        self.initial.push(Initial::normal(weight, deviation));
        weight
    }

    pub fn gelu(&mut self, x: Value) -> Value {
        activate(self.g, x, Activation::Gelu)
    }

    pub fn instance_norm(&mut self, name: &str, x: Value) -> Value {
        let [_, channels, _, _] = self.g.dims(x);
        let gamma = self.g.param(&format!("{name}.weight"), &[channels]);
        let beta = self.g.param(&format!("{name}.bias"), &[channels]);
        self.initial.extend([Initial::constant(gamma, 1.0), Initial::constant(beta, 0.0)]);
        instance_norm(self.g, x, gamma, beta)
    }

    /// A gate for updates, which begins at `start`.
    pub fn gate(&mut self, name: &str, start: f32) -> Value {
        let gate = self.g.param(name, &[1]);
        self.initial.push(Initial::constant(gate, start));
        gate
    }

    /// From C patterns to `width` feature maps: two 3×3 convolutions with GELU between them.
    pub fn lift(&mut self, x: Value, width: usize) -> Value {
        let h = self.conv("lifter.conv1", x, width, 3, false);
        let h = self.gelu(h);
        self.conv("lifter.conv2", h, width, 3, false)
    }

    /// From feature maps to amplitude and phase: a 1×1 convolution to 2C channels, the first C for
    /// amplitudes or real parts.
    pub fn head(&mut self, config: &ModelConfig, x: Value) -> Patch {
        let (channels, [_, inputs, _, _]) = (config.channels(), self.g.dims(x));
        let weight = self.g.param("head.weight", &[2 * channels, inputs, 1, 1]);
        let bias = self.g.param("head.bias", &[2 * channels]);
        let last = [weight, bias].map(|v| Initial::uniform(v, inputs).scaled(LAST));
        self.initial.extend(last);
        let y = conv2d(self.g, x, weight, Some(bias), false);
        let (amplitude, phase) = split(self.g, y, channels);
        if config.output_mode == OutputMode::RealImag {
            let (amplitude, phase) = cartesian(self.g, amplitude, phase);
            return Patch { amplitude, phase };
        }
        Patch {
            amplitude: activate(self.g, amplitude, amplitude_activation(config)),
            phase: activate(self.g, phase, Activation::PiTanh),
        }
    }
}

/// What makes an amplitude of the last layer's numbers.
pub fn amplitude_activation(config: &ModelConfig) -> Activation {
    match config.amp_activation {
        AmpActivation::Softplus => Activation::SoftplusOne,
        AmpActivation::Silu => Activation::Silu,
        AmpActivation::Sigmoid => Activation::Sigmoid,
    }
}
