//! Two equal ops that do not need each other, in one launch of each of their kernels.
//!
//! The decoders of a network have the same layers one by one, too small for a GPU each. Which ops are
//! twins follows from the finished graph: their launches differ by the buffers alone, and no chain of
//! buffers leads from one to the other. The CPU computes one after the other.
//! Kernel twin: `second` in `kernels/common.cuh`.

use super::{Op, Operation};
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Role, Step, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Twins {
    ops: Box<[Op; 2]>,
}

impl Operation for Twins {
    fn reads(&self) -> Vec<Value> {
        self.ops.iter().flat_map(Op::reads).collect()
    }

    fn writes(&self) -> Vec<Value> {
        self.ops.iter().flat_map(Op::writes).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        self.ops.iter().for_each(|op| op.cpu(mem));
    }

    fn launches(&self) -> Vec<Launch> {
        together(&self.ops[0], &self.ops[1]).expect("they were joined because they can be")
    }
}

/// One launch for each two of the ops; none if one of them has none.
fn together(first: &Op, second: &Op) -> Option<Vec<Launch>> {
    let (first, second) = (first.launches(), second.launches());
    if first.len() != second.len() || first.is_empty() {
        return None;
    }
    first.iter().zip(&second).map(|(first, second)| first.with(second)).collect()
}

/// Joins each op of a finished graph with the nearest later one that can be its twin. What that one
/// needs is moved before it, and runs in the order in which it was.
pub fn join(g: &mut Graph) {
    let mut i = 0;
    while i < g.steps.len() {
        let twin = (i + 1..g.steps.len()).find_map(|j| {
            let (first, second) = (&g.steps[i], &g.steps[j]);
            let equal = first.op.name() == second.op.name() && first.stage == second.stage;
            let possible = equal && together(&first.op, &second.op).is_some();
            possible.then(|| needed(g, i, j).map(|before| (j, before))).flatten()
        });
        if let Some((j, before)) = twin {
            let second = g.steps.remove(j).op;
            let before: Vec<Step> = before.into_iter().rev().map(|k| g.steps.remove(k)).collect();
            let Step { op, stage } = g.steps[i].clone();
            g.steps[i] = Step { op: Twins { ops: Box::new([op, second]) }.into(), stage };
            for step in before.into_iter().rev() {
                g.steps.insert(i, step);
                i += 1;
            }
        }
        i += 1;
    }
}

/// The steps between `i` and `j`, of one stage, that must come before `j`; none if that of `i` is one of
/// them.
fn needed(g: &Graph, i: usize, j: usize) -> Option<Vec<usize>> {
    let mut before: Vec<usize> = Vec::new();
    for k in (i..j).rev() {
        let follows = |&n: &usize| must_follow(g, &g.steps[n].op, &g.steps[k].op);
        if before.iter().chain([&j]).any(follows) {
            before.insert(0, k);
        }
    }
    (!before.contains(&i)).then_some(before)
}

/// Whether `later` must stay behind `earlier`, because of a buffer that one of them writes. Regions
/// have many, so ops with regions stay where they are.
fn must_follow(g: &Graph, later: &Op, earlier: &Op) -> bool {
    let touched = |op: &Op| [op.reads(), op.writes()].concat();
    let region = |v: &Value| g.slots[v.0].role == Role::Region;
    if touched(later).iter().chain(&touched(earlier)).any(region) {
        return true;
    }
    let meets = |written: Vec<Value>, other: &Op| {
        let other = touched(other);
        written.iter().any(|v| other.contains(v))
    };
    meets(later.writes(), earlier) || meets(earlier.writes(), later)
}
