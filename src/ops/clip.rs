//! Gradient clipping.
//!
//! Norm: g ← g · min(1, limit / (‖g‖ + 10⁻⁶)) with the norm over all gradients.
//! Value: each element is clamped to ±limit.
//! Both are a [`Bound`] on what an update takes in: no pass over the gradients is theirs.
//! Adaptive (Brock et al., "High-performance large-scale image recognition without normalization",
//! 2021, per tensor): where ‖g‖ > limit · max(‖p‖, 10⁻³), g is scaled down to that bound, in place,
//! by the op of this module.
//! Kernel twins: `kernels/bound.cuh`, `kernels/clip.cu`.

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

/// What an update makes of a gradient that is too large.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    None,
    /// By the norm of all of them.
    Norm(f64),
    /// Element by element.
    Value(f64),
}

impl Bound {
    /// The buffer of the norm; `control` where there is none, which is always finite.
    pub(super) fn norm(self, norm: Option<Value>, control: Value) -> Value {
        assert!(norm.is_some() || !matches!(self, Bound::Norm(_)), "a bound by the norm needs it");
        norm.unwrap_or(control)
    }

    /// What an update takes in of an element of the gradient, to the bit itself where nothing bounds it;
    /// none where the `norm` is not finite, and nothing is to change.
    pub(super) fn taken<T: Real>(self, norm: T) -> Option<impl Fn(T) -> T + Sync> {
        let (factor, limit) = match self {
            Bound::None => (1.0, None),
            Bound::Norm(limit) => ((limit / (norm.wide() + NORM_FLOOR)).min(1.0), None),
            Bound::Value(limit) => (1.0, Some(T::of(limit))),
        };
        let factor = T::of(factor);
        norm.is_finite().then_some(move |g: T| match limit {
            Some(limit) => g.max(-limit).min(limit),
            None => factor * g,
        })
    }

    /// `launch` with the arguments `bound` and `limit`.
    pub(super) fn ints_and_floats(self, launch: Launch) -> Launch {
        let (index, limit) = match self {
            Bound::None => (0, 0.0),
            Bound::Norm(limit) => (1, limit),
            Bound::Value(limit) => (2, limit),
        };
        launch.ints([index]).floats([limit])
    }
}

#[derive(Clone, Debug)]
pub struct Clip {
    params: Vec<Value>,
    gradients: Vec<Value>,
    limit: f64,
    /// Elements of each gradient.
    totals: Vec<usize>,
    /// Partial sums of the kernels, of one tensor after the other.
    partial: Value,
}

/// Clips `gradients`, tensor by tensor, relative to their parameters, in place.
pub fn clip(g: &mut Graph, params: &[Value], gradients: &[Value], limit: f64) {
    let totals: Vec<usize> = gradients.iter().map(|&v| g.flat_len(v)).collect();
    let partials = totals.iter().map(|total| total.div_ceil(CHUNK)).max().unwrap_or(0);
    let partial = g.work("partial sums of norms", &[2 * WIDE * partials]);
    let (params, gradients) = (params.to_vec(), gradients.to_vec());
    g.push(Clip { params, gradients, limit, totals, partial });
}

impl Operation for Clip {
    fn reads(&self) -> Vec<Value> {
        self.gradients.iter().chain(&self.params).copied().collect()
    }

    fn writes(&self) -> Vec<Value> {
        self.gradients.iter().copied().chain([self.partial]).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        for (&gradient, &param) in self.gradients.iter().zip(&self.params) {
            let [gradient, param] = mem.get([gradient, param]);
            let bound = self.limit * sum_of_squares(param).sqrt().max(PARAM_FLOOR);
            scale(gradient, (bound / sum_of_squares(gradient).sqrt()).min(1.0));
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let tensors = self.gradients.iter().zip(&self.params).zip(&self.totals);
        let tensors = tensors.filter(|&(_, &total)| total > 0);
        tensors.flat_map(|((&g, &p), &total)| self.launch(g, p, total)).collect()
    }
}

impl Clip {
    /// The sums of one tensor, then its clipping.
    fn launch(&self, gradient: Value, param: Value, total: usize) -> [Launch; 2] {
        let partials = total.div_ceil(CHUNK);
        let sums = Launch::blocks("clip_adaptive_partial", partials)
            .buffers([gradient, param, self.partial])
            .ints([CHUNK, total]);
        let shrink = Launch::elements("clip_adaptive", total)
            .buffers([self.partial, gradient])
            .ints([partials, total])
            .floats([self.limit]);
        [sums, shrink]
    }
}

fn scale<T: Real>(x: &mut [T], factor: f64) {
    // A zero gradient has no norm to divide by; it stays as it is.
    if factor < 1.0 {
        let factor = T::of(factor);
        x.par_iter_mut().for_each(|x| *x = *x * factor);
    }
}
