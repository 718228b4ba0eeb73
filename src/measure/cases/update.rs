//! Updates of parameters, and what bounds them.

use super::{Case, Size, named};
use crate::config::ClipAlgorithm;
use crate::graph::{Graph, Group, Role, Stage, Value};
use crate::ops::accumulate::accumulate;
use crate::ops::adam::{Constants, adam};
use crate::ops::clip::{Bound, clip};
use crate::ops::global_norm::global_norm;
use crate::ops::limit_modulus::limit_modulus;
use crate::ops::modulate::{grids, modulate, modulate_backward};
use crate::ops::sgd::sgd;

/// Two parameters with gradients and moments, as regions.
fn regions(g: &mut Graph, s: &Size) -> [Value; 4] {
    for param in [g.param("weights", &[s.weights]), g.param("biases", &[s.channels])] {
        g.mirror(param, Role::ParamGrad, "d ");
        g.mirror(param, Role::Moment1, "moment1 ");
        let second = g.mirror(param, Role::Moment2, "");
        g.slots[second.0].name = "of second".into();
    }
    [Role::Param, Role::ParamGrad, Role::Moment1, Role::Moment2]
        .map(|role| g.region(role, Group::Network))
}

/// The norm of all gradients, and a bound of 0.5 by it, by value, or none.
fn bound(g: &mut Graph, gradient: Value, kind: Option<ClipAlgorithm>) -> (Option<Value>, Bound) {
    match kind {
        Some(ClipAlgorithm::Norm) => (Some(global_norm(g, &[gradient], None)), Bound::Norm(0.5)),
        Some(_) => (None, Bound::Value(0.5)),
        None => (None, Bound::None),
    }
}

fn adam_with(
    g: &mut Graph,
    s: &Size,
    [weight_decay, decoupled]: [f64; 2],
    clipped: Option<ClipAlgorithm>,
) -> Option<Value> {
    let (regions, control) = (regions(g, s), g.input("control", &[3]));
    let (norm, bound) = bound(g, regions[1], clipped);
    let (beta1, beta2, epsilon, decoupled) = (0.9, 0.999, 1e-8, decoupled > 0.0);
    let constants = Constants { beta1, beta2, epsilon, weight_decay, decoupled };
    adam(g, regions, control, norm, bound, constants);
    None
}

fn sgd_with(g: &mut Graph, s: &Size, clipped: Option<ClipAlgorithm>) -> Option<Value> {
    let ([param, gradient, moment, _], control) = (regions(g, s), g.input("control", &[3]));
    let (norm, bound) = bound(g, gradient, clipped);
    sgd(g, [param, gradient, moment], control, norm, bound, [0.9, 0.01]);
    None
}

pub(super) fn all() -> Vec<Case> {
    named([
        ("accumulate", |g, s| {
            let [_, gradient, sum, _] = regions(g, s);
            let keep = g.input("keep", &[1]);
            accumulate(g, gradient, sum, keep);
            None
        }),
        ("adam", |g, s| adam_with(g, s, [0.0, 0.0], None)),
        ("adam with decay", |g, s| adam_with(g, s, [0.01, 0.0], None)),
        ("adam clipped by norm", |g, s| adam_with(g, s, [0.0, 0.0], Some(ClipAlgorithm::Norm))),
        ("adamw", |g, s| adam_with(g, s, [0.01, 1.0], None)),
        ("clip adaptively", |g, s| {
            regions(g, s);
            let (params, gradients) = (g.of_role(Role::Param), g.of_role(Role::ParamGrad));
            clip(g, &params, &gradients, 0.01);
            None
        }),
        ("global_norm", |g, s| {
            let [_, gradient, ..] = regions(g, s);
            let loss = g.input("loss", &[1]);
            global_norm(g, &[gradient], Some(loss));
            None
        }),
        ("limit_modulus", |g, s| {
            let (z, limit) = (g.param("z", &[s.weights, 2]), g.input("control", &[1]));
            limit_modulus(g, z, limit);
            None
        }),
        ("modulate", |g, s| {
            // No whole number of nodes.
            let (height, width, spacing) = (4 * s.side + 3, 4 * s.side, (s.side / 8).max(3));
            let canvas = g.param("z", &[height, width, 2]);
            let gradient = g.grad_buffer(canvas);
            g.set_grad(canvas, gradient);
            let grids = grids(height, width, spacing).map(|shape| g.param("grid", &shape));
            modulate(g, canvas, grids, spacing);
            g.enter(Stage::Backward);
            modulate_backward(g, canvas, grids, spacing);
            None
        }),
        ("sgd", |g, s| sgd_with(g, s, None)),
        ("sgd clipped by value", |g, s| sgd_with(g, s, Some(ClipAlgorithm::Value))),
    ])
}
