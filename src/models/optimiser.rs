//! From gradients to a step: accumulation, norm, and the update, which clips as it goes. Beside the norm
//! it is the one pass over gradients, parameters and moments; clipping tensor by tensor alone has its own.

use crate::config::{ClipAlgorithm, Optimiser, OptimiserConfig};
use crate::graph::{Graph, Group, Role, Stage, Value};
use crate::ops::accumulate::accumulate;
use crate::ops::adam::{Constants, adam};
use crate::ops::clip::{Bound, clip};
use crate::ops::global_norm::global_norm;
use crate::ops::sgd::sgd;

/// What the host writes before a step, and reads after it.
#[derive(Clone, Debug)]
pub struct Controls {
    /// [learning rate, 1 − β₁ᵗ, 1 − β₂ᵗ] of each parameter group.
    pub rates: Vec<(Group, Value)>,
    /// 0 on the first batch of a step, 1 on the others; only where gradients are accumulated.
    pub keep: Option<Value>,
    /// L2 norm of the gradient before clipping; NaN where the loss is not finite.
    pub norm: Value,
}

/// Appends the update of every parameter by the gradient of `loss` [1], which is left out where either is
/// not finite. Call after [`Graph::differentiate`].
pub fn attach(g: &mut Graph, config: &OptimiserConfig, mut loss: Value) -> Controls {
    let params = g.of_role(Role::Param);
    let mut groups: Vec<Group> = params.iter().map(|&p| g.group(p)).collect();
    groups.sort();
    groups.dedup();
    let mut gradients: Vec<Value> =
        params.iter().map(|&p| g.grad_of(p).expect("every parameter has a gradient")).collect();
    let mut role = Role::ParamGrad;
    let mut keep = None;
    if config.accumulate_grad_batches > 1 {
        role = Role::GradSum;
        gradients = params.iter().map(|&p| g.mirror(p, role, "sum of d ")).collect();
        let flag = g.input("keep", &[1]);
        for &group in &groups {
            let (from, to) = (g.region(Role::ParamGrad, group), g.region(role, group));
            accumulate(g, from, to, flag);
        }
        // One batch without a finite loss is enough for the step to be left out.
        let losses = g.output("sum of losses", &[1]);
        accumulate(g, std::mem::replace(&mut loss, losses), losses, flag);
        keep = Some(flag);
    }
    g.enter(Stage::Update);
    let regions: Vec<Value> = groups.iter().map(|&group| g.region(role, group)).collect();
    let norm = global_norm(g, &regions, Some(loss));
    let bound = match config.gradient_clip_val.map(|limit| (config.gradient_clip_algorithm, limit))
    {
        None => Bound::None,
        Some((ClipAlgorithm::Norm, limit)) => Bound::Norm(limit),
        Some((ClipAlgorithm::Value, limit)) => Bound::Value(limit),
        Some((ClipAlgorithm::Agc, limit)) => {
            clip(g, &params, &gradients, limit);
            Bound::None
        }
    };
    for &p in &params {
        g.mirror(p, Role::Moment1, "moment1 ");
        if config.kind != Optimiser::Sgd {
            g.mirror(p, Role::Moment2, "moment2 ");
        }
    }
    let rates = groups
        .iter()
        .zip(regions)
        .map(|(&group, gradient)| (group, update(g, config, group, gradient, (norm, bound))));
    let rates = rates.collect();
    Controls { rates, keep, norm }
}

/// Appends the update of one group, which is left out where the norm of all gradients is not finite, and
/// returns its control buffer.
fn update(
    g: &mut Graph,
    config: &OptimiserConfig,
    group: Group,
    gradient: Value,
    (norm, bound): (Value, Bound),
) -> Value {
    let control = g.input(&format!("rate of {group:?}"), &[3]);
    let p = g.region(Role::Param, group);
    let m = g.region(Role::Moment1, group);
    // The probe is a measured thing with a size of its own: decay would shrink it.
    let weight_decay = if group == Group::Probe { 0.0 } else { config.weight_decay };
    if config.kind == Optimiser::Sgd {
        let constants = [config.momentum, weight_decay];
        sgd(g, [p, gradient, m], control, Some(norm), bound, constants);
        return control;
    }
    let v = g.region(Role::Moment2, group);
    let constants = Constants {
        beta1: config.adam_beta1,
        beta2: config.adam_beta2,
        epsilon: config.adam_epsilon,
        weight_decay,
        decoupled: config.kind == Optimiser::AdamW,
    };
    adam(g, [p, gradient, m, v], control, Some(norm), bound, constants);
    control
}
