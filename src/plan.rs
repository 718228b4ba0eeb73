//! Memory plan: every buffer of a graph gets one offset in one arena, before anything is allocated.

use std::ops::Range;

use crate::graph::{Graph, Role, Slot, Stage, Step, Value};

/// Offsets are multiples of 64 elements: 256 bytes, enough for any vector load.
const ALIGN: usize = 64;

/// Roles that live for the whole run, in arena order.
const LASTING: [Role; 8] = [
    Role::Param,
    Role::ParamGrad,
    Role::GradSum,
    Role::Moment1,
    Role::Moment2,
    Role::State,
    Role::Input,
    Role::Output,
];

/// The steps of a graph and the place of every buffer.
#[derive(Clone, Debug)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub slots: Vec<Slot>,
    /// Elements of the arena.
    pub arena: usize,
    ranges: Vec<Range<usize>>,
}

impl Plan {
    /// Lasting roles lie one after the other, gradients and moments in the order of the parameters
    /// that they belong to; `Work` buffers share the rest, first fit over their lifetimes.
    pub fn new(graph: Graph) -> Plan {
        Plan::build(graph, true)
    }

    /// Like [`Plan::new`], but no memory is used twice: the yardstick for the planner's tests.
    pub fn without_reuse(graph: Graph) -> Plan {
        Plan::build(graph, false)
    }

    fn build(graph: Graph, reuse: bool) -> Plan {
        let mut ranges = vec![0..0; graph.slots.len()];
        let mut end = 0;
        for role in LASTING {
            let mut members = graph.of_role(role);
            members.sort_by_key(|&v| {
                let slot = &graph.slots[v.0];
                (slot.group, slot.of.unwrap_or(v))
            });
            for v in members {
                let len = graph.slots[v.0].len();
                ranges[v.0] = end..end + len;
                end += len.next_multiple_of(ALIGN);
            }
        }
        let arena = place_work(&graph, reuse, &mut ranges, end);
        for i in 0..ranges.len() {
            if graph.slots[i].role == Role::Region {
                ranges[i] = region(&graph.slots, &ranges, i);
            }
        }
        Plan { steps: graph.steps, slots: graph.slots, arena, ranges }
    }

    /// Where `v` lies in the arena, in elements.
    pub fn range(&self, v: Value) -> Range<usize> {
        self.ranges[v.0].clone()
    }

    /// The buffer called `name`.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.slots.iter().position(|s| s.name == name).map(Value)
    }

    /// Every buffer of `role` with its description, in arena order.
    pub fn of_role(&self, role: Role) -> Vec<(Value, &Slot)> {
        let mut all: Vec<_> =
            self.slots.iter().enumerate().filter(|(_, s)| s.role == role).collect();
        all.sort_by_key(|&(i, _)| self.ranges[i].start);
        all.into_iter().map(|(i, s)| (Value(i), s)).collect()
    }

    /// Elements of all buffers of `role`, padding excluded.
    pub fn elements(&self, role: Role) -> usize {
        self.of_role(role).iter().map(|(_, s)| s.len()).sum()
    }

    /// The steps of one stage, in order.
    pub fn stage(&self, stage: Stage) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |s| s.stage == stage)
    }
}

/// Places every `Work` buffer at or above `floor`; returns the end of the arena.
fn place_work(graph: &Graph, reuse: bool, ranges: &mut [Range<usize>], floor: usize) -> usize {
    let (first, last) = lifetimes(graph);
    let mut end = floor;
    let mut placed: Vec<usize> = Vec::new();
    let mut work = graph.of_role(Role::Work);
    work.retain(|v| first[v.0] != usize::MAX);
    // Large buffers first: small ones then fit into the gaps between them.
    work.sort_by_key(|v| (std::cmp::Reverse(graph.slots[v.0].len()), *v));
    for Value(i) in work {
        let len = graph.slots[i].len();
        let overlaps = |j: usize| first[j] <= last[i] && first[i] <= last[j];
        let mut busy: Vec<_> =
            placed.iter().filter(|&&j| !reuse || overlaps(j)).map(|&j| ranges[j].clone()).collect();
        busy.sort_by_key(|r| r.start);
        let mut at = floor;
        for r in busy {
            if at + len <= r.start {
                break;
            }
            at = at.max(r.end.next_multiple_of(ALIGN));
        }
        ranges[i] = at..at + len;
        end = end.max((at + len).next_multiple_of(ALIGN));
        placed.push(i);
    }
    end
}

/// First and last step that touches each buffer.
fn lifetimes(graph: &Graph) -> (Vec<usize>, Vec<usize>) {
    let n = graph.slots.len();
    let (mut first, mut last) = (vec![usize::MAX; n], vec![0; n]);
    for (i, step) in graph.steps.iter().enumerate() {
        for v in step.op.reads().into_iter().chain(step.op.writes()) {
            first[v.0] = first[v.0].min(i);
            last[v.0] = last[v.0].max(i);
        }
    }
    (first, last)
}

/// From the first to the last buffer of the role and group that slot `i` spans.
fn region(slots: &[Slot], ranges: &[Range<usize>], i: usize) -> Range<usize> {
    let wanted = (slots[i].region, slots[i].group);
    let members = (0..slots.len()).filter(|&j| (Some(slots[j].role), slots[j].group) == wanted);
    members
        .map(|j| ranges[j].clone())
        .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
        .unwrap_or(0..0)
}
