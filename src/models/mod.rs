//! What is computed: generators (pattern → object patch), the physics that all of them share, and
//! the plans that put them together.
//!
//! A new generator is one file with one `build` function, and one arm in [`plans`].

pub mod cnn;
pub mod object;
pub mod optimiser;
pub mod physics;
pub mod plans;

use crate::graph::Value;
use crate::random::{Purpose, Stream};

/// How a trained or kept buffer starts.
#[derive(Clone, Copy, Debug)]
pub struct Initial {
    pub value: Value,
    rule: Rule,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    Uniform(f64),
    Constant(f32),
}

impl Initial {
    /// Uniform in ±1/√`fan_in`, for weights and biases alike (He et al. 2015 with a = √5).
    pub fn uniform(value: Value, fan_in: usize) -> Initial {
        // A layer without inputs has nothing to scale by.
        Initial { value, rule: Rule::Uniform(1.0 / (fan_in.max(1) as f64).sqrt()) }
    }

    pub fn constant(value: Value, start: f32) -> Initial {
        Initial { value, rule: Rule::Constant(start) }
    }

    /// The first `len` numbers of the buffer; depends on `seed` and on which buffer it is.
    pub fn numbers(&self, seed: u64, len: usize) -> Vec<f32> {
        match self.rule {
            Rule::Constant(x) => vec![x; len],
            Rule::Uniform(bound) => {
                let mut stream = Stream::new(seed, Purpose::Weights, self.value.0 as u32);
                (0..len).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect()
            }
        }
    }
}
