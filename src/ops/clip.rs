//! Gradient clipping, in place.
//!
//! Norm: g ← g · min(1, limit / (‖g‖ + 10⁻⁶)) with the norm over all gradients.
//! Value: each element is clamped to ±limit.
//! Adaptive (Brock et al., "High-performance large-scale image recognition without normalization",
//! 2021, per tensor): where ‖g‖ > limit · max(‖p‖, 10⁻³), g is scaled down to that bound.
//! Kernel twin: `kernels/clip.cu`.

use rayon::prelude::*;

use super::Operation;
use super::global_norm::{CHUNK, WIDE, sum_of_squares};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

/// Keeps the factor finite when all gradients are 0.
const NORM_FLOOR: f64 = 1e-6;

/// Smallest parameter norm that the adaptive rule goes by, so that zero weights can move.
const PARAM_FLOOR: f64 = 1e-3;

/// How gradients are bounded.
#[derive(Clone, Debug)]
pub enum Rule {
    /// By the norm of all of them, a buffer of one number.
    Norm(Value),
    /// Element by element.
    Value,
    /// Tensor by tensor, relative to these parameters (in the order of the gradients).
    Adaptive(Vec<Value>),
}

#[derive(Clone, Debug)]
pub struct Clip {
    rule: Rule,
    gradients: Vec<Value>,
    limit: f64,
    /// Elements of each gradient.
    totals: Vec<usize>,
    /// Partial sums of the kernels of the adaptive rule, of one tensor after the other.
    partial: Option<Value>,
}

/// Clips `gradients` (flat regions, or tensors for [`Rule::Adaptive`]) in place.
pub fn clip(g: &mut Graph, rule: Rule, gradients: &[Value], limit: f64) {
    let totals: Vec<usize> = gradients.iter().map(|&v| g.flat_len(v)).collect();
    let partials = totals.iter().map(|total| total.div_ceil(CHUNK)).max().unwrap_or(0);
    let adaptive = matches!(rule, Rule::Adaptive(_));
    let partial = adaptive.then(|| g.work("partial sums of norms", &[2 * WIDE * partials]));
    g.push(Clip { rule, gradients: gradients.to_vec(), limit, totals, partial });
}

impl Operation for Clip {
    fn reads(&self) -> Vec<Value> {
        let more = match &self.rule {
            Rule::Norm(norm) => vec![*norm],
            Rule::Value => vec![],
            Rule::Adaptive(params) => params.clone(),
        };
        self.gradients.iter().copied().chain(more).collect()
    }

    fn writes(&self) -> Vec<Value> {
        self.gradients.iter().copied().chain(self.partial).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        for (i, &gradient) in self.gradients.iter().enumerate() {
            match &self.rule {
                Rule::Norm(norm) => {
                    let [gradient, norm] = mem.get([gradient, *norm]);
                    scale(gradient, (self.limit / (norm[0].wide() + NORM_FLOOR)).min(1.0));
                }
                Rule::Value => {
                    let limit = T::of(self.limit);
                    let [gradient] = mem.get([gradient]);
                    gradient.par_iter_mut().for_each(|g| *g = g.max(-limit).min(limit));
                }
                Rule::Adaptive(params) => {
                    let [gradient, param] = mem.get([gradient, params[i]]);
                    let bound = self.limit * sum_of_squares(param).sqrt().max(PARAM_FLOOR);
                    scale(gradient, (bound / sum_of_squares(gradient).sqrt()).min(1.0));
                }
            }
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let mut launches = Vec::new();
        for (i, (&gradient, &total)) in self.gradients.iter().zip(&self.totals).enumerate() {
            if total == 0 {
                continue;
            }
            let finish = |l: Launch| l.buffers([gradient]).ints([total]).floats([self.limit]);
            match &self.rule {
                Rule::Norm(norm) => {
                    let launch = Launch::elements("clip_norm", total).buffers([*norm]);
                    launches.push(finish(launch));
                }
                Rule::Value => launches.push(finish(Launch::elements("clip_value", total))),
                Rule::Adaptive(params) => {
                    let partial = self.partial.expect("the adaptive rule has partial sums");
                    launches.extend(adaptive(gradient, params[i], partial, total, self.limit));
                }
            }
        }
        launches
    }
}

/// The sums of one tensor, then its clipping.
fn adaptive(
    gradient: Value,
    param: Value,
    partial: Value,
    total: usize,
    limit: f64,
) -> [Launch; 2] {
    let partials = total.div_ceil(CHUNK);
    let sums = Launch::blocks("clip_adaptive_partial", partials)
        .buffers([gradient, param, partial])
        .ints([CHUNK, total]);
    let shrink = Launch::elements("clip_adaptive", total)
        .buffers([partial, gradient])
        .ints([partials, total])
        .floats([limit]);
    [sums, shrink]
}

fn scale<T: Real>(x: &mut [T], factor: f64) {
    // A zero gradient has no norm to divide by; it stays as it is.
    if factor < 1.0 {
        let factor = T::of(factor);
        x.par_iter_mut().for_each(|x| *x = *x * factor);
    }
}
