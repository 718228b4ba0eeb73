//! What is computed: generators (pattern → object patch), the physics that all of them share, and
//! the plans that put them together.
//!
//! A new generator is one file with one `build` function, and one arm in [`build`].

pub mod cnn;
pub mod ffno;
pub mod fno;
mod layers;
pub mod object;
pub mod optimiser;
pub mod physics;
pub mod plans;
pub mod srunet;

use crate::config::{Architecture, ModelConfig};
use crate::graph::{Graph, Value};
use crate::ops::reshape::reshape;
use crate::random::{Purpose, Stream};

/// What a network makes of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// [B, A, N, N]; A = 1 for the head `full` of the convolutional network, C otherwise.
    pub amplitude: Value,
    /// [B, C, N, N], rad.
    pub phase: Value,
}

/// Appends the network that `config` chooses. `x` is [B, C, N, N], the normalised amplitudes of
/// groups of C patterns; `training` is the [1] buffer that tells batch normalisation which
/// statistics to use.
pub fn build(
    g: &mut Graph,
    config: &ModelConfig,
    x: Value,
    training: Value,
    initial: &mut Vec<Initial>,
) -> Patch {
    let (alone, shape) = (config.alone(), g.dims::<4>(x));
    let [b, c, n, _] = shape;
    if alone.channels() == c {
        return network(g, config, x, training, initial);
    }
    let x = reshape(g, x, &[b * c, 1, n, n]);
    let patch = network(g, &alone, x, training, initial);
    let [amplitude, phase] = [patch.amplitude, patch.phase].map(|v| reshape(g, v, &shape));
    Patch { amplitude, phase }
}

/// The chosen network; `x` has as many channels as it sees patterns at once.
fn network(
    g: &mut Graph,
    config: &ModelConfig,
    x: Value,
    training: Value,
    initial: &mut Vec<Initial>,
) -> Patch {
    match config.architecture {
        Architecture::Cnn => cnn::build(g, config, x, training, initial),
        Architecture::Ffno => ffno::build(g, config, x, initial),
        Architecture::Fno => fno::build(g, config, x, initial),
        Architecture::FnoVanilla => fno::build_vanilla(g, config, x, initial),
        Architecture::Srunet => srunet::build(g, config, x, initial),
    }
}

/// How a trained or kept buffer starts.
#[derive(Clone, Copy, Debug)]
pub struct Initial {
    pub value: Value,
    rule: Rule,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    Uniform(f64),
    Normal(f64),
    Constant(f32),
}

impl Initial {
    /// Uniform in ±1/√`fan_in`, for weights and biases alike (He et al. 2015 with a = √5).
    pub fn uniform(value: Value, fan_in: usize) -> Initial {
        // A layer without inputs has nothing to scale by.
        Initial { value, rule: Rule::Uniform(1.0 / (fan_in.max(1) as f64).sqrt()) }
    }

    /// The same rule, times `factor`.
    pub fn scaled(self, factor: f64) -> Initial {
        let rule = match self.rule {
            Rule::Uniform(bound) => Rule::Uniform(factor * bound),
            Rule::Normal(deviation) => Rule::Normal(factor * deviation),
            Rule::Constant(x) => Rule::Constant(factor as f32 * x),
        };
        Initial { rule, ..self }
    }

    /// Normal with standard deviation `deviation`.
    pub fn normal(value: Value, deviation: f64) -> Initial {
        Initial { value, rule: Rule::Normal(deviation) }
    }

    pub fn constant(value: Value, start: f32) -> Initial {
        Initial { value, rule: Rule::Constant(start) }
    }

    /// The first `len` numbers of the buffer; depends on `seed` and on which buffer it is.
    pub fn numbers(&self, seed: u64, len: usize) -> Vec<f32> {
        let mut stream = Stream::new(seed, Purpose::Weights, self.value.0 as u32);
        let mut number = || match self.rule {
            Rule::Constant(x) => x,
            Rule::Uniform(bound) => (bound * (2.0 * stream.uniform() - 1.0)) as f32,
            Rule::Normal(deviation) => (deviation * stream.normal()) as f32,
        };
        (0..len).map(|_| number()).collect()
    }
}
