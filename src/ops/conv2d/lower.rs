//! What the convolutions of a finished graph get for tensor cores.
//!
//! It comes last, because the first weights of a network are drawn by the number of their buffer: more
//! buffers before them would give every precision a network of its own.

use super::pack::{Filters, Pack};
use super::tensor::{self, Family};
use super::{Conv2d, Conv2dBackward, words};
use crate::graph::{Graph, Group, Role, Stage, Step, Value};
use crate::ops::Op;

/// Changes nothing where the graph is in single precision.
pub fn lower(g: &mut Graph) {
    if let Some(family) = Family::of(g.precision()) {
        pack_weights(g, family);
        if family.in_words() {
            words::make(g);
            words::store(g);
        }
    }
}

/// Gives each product by tensor cores its packed weights. Those of parameters are packed when the host
/// has written the parameters and when an update has changed them, all by one launch; those that ops
/// compute, before the product.
fn pack_weights(g: &mut Graph, family: &Family) {
    let mut known: Vec<(Filters, Value, usize)> = Vec::new();
    for i in 0..g.steps.len() {
        let Some(filters) = wanted(&g.steps[i].op) else { continue };
        let found = known.iter().find(|(known, ..)| *known == filters).map(|&(_, v, _)| v);
        let v = found.unwrap_or_else(|| {
            let (name, len) = (format!("packed {}", g.name(filters.weight)), filters.len(family));
            let lasts = is_trained(g, filters.weight);
            let v = if lasts { g.packed(&name, len) } else { g.work(&name, &[len]) };
            known.push((filters, v, i));
            v
        });
        match &mut g.steps[i].op {
            Op::Conv2d(op) => op.packed = Some(v),
            Op::Conv2dBackward(op) => op.packed = Some(v),
            op => panic!("{} takes no packed weights", op.name()),
        }
    }
    let (lasting, computed): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|(filters, ..)| is_trained(g, filters.weight));
    for &(filters, v, user) in computed.iter().rev() {
        let op = Pack::new(g, filters.weight, v, &[(filters, v)]).into();
        let stage = g.steps[user].stage;
        g.steps.insert(user, Step { op, stage });
    }
    if lasting.is_empty() {
        return;
    }
    let regions = [Role::Param, Role::Packed].map(|role| g.region(role, Group::Network));
    let layers: Vec<_> = lasting.into_iter().map(|(filters, v, _)| (filters, v)).collect();
    let pack = Pack::new(g, regions[0], regions[1], &layers);
    let updated = g.steps.iter().any(|step| step.stage == Stage::Update);
    if updated {
        g.steps.push(Step { op: pack.clone().into(), stage: Stage::Update });
    }
    g.steps.insert(0, Step { op: pack.into(), stage: Stage::Prepare });
}

/// Whether `weight` is a parameter of the network, and not computed from some.
fn is_trained(g: &Graph, weight: Value) -> bool {
    let slot = &g.slots[weight.0];
    slot.role == Role::Param && slot.group == Group::Network
}

/// The packed weights that an op needs.
fn wanted(op: &Op) -> Option<Filters> {
    let (Conv2d { weight, sizes, .. }, turned) = match op {
        Op::Conv2d(op) => (op, false),
        Op::Conv2dBackward(Conv2dBackward { forward, dx: Some(_), .. }) => (forward, true),
        _ => return None,
    };
    let pays = if turned { tensor::gradient_pays(sizes) } else { tensor::pays(sizes) };
    let (weight, inputs, outputs) = (*weight, sizes.inputs, sizes.outputs);
    pays.then_some(Filters { weight, inputs, outputs, turned })
}
