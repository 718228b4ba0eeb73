//! Memory plan: every buffer of a graph gets one offset in one arena, before anything is allocated.

use std::ops::{Range, RangeInclusive};

use crate::graph::{Graph, Role, Slot, Stage, Step, Value};
use crate::ops::{conv2d, twins};

/// Offsets are multiples of 64 elements: 256 bytes, enough for any vector load.
pub(crate) const ALIGN: usize = 64;

/// Roles that live for the whole run, in arena order.
pub(crate) const LASTING: [Role; 10] = [
    Role::Param,
    Role::ParamGrad,
    Role::GradSum,
    Role::Moment1,
    Role::Moment2,
    Role::State,
    Role::Input,
    Role::Output,
    Role::Packed,
    Role::Table,
];

/// Bytes of an element in the arena of a run.
const ELEMENT: usize = size_of::<f32>();

/// The part of the arena that one role takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub role: Role,
    /// Buffers that lie there; those that no step touches are left out.
    pub buffers: usize,
    /// Elements of these buffers; of [`Role::Work`], those that share memory counted each.
    pub elements: usize,
    /// Bytes of the arena, padding included.
    pub bytes: usize,
}

/// A part of the arena that belongs to no buffer. Steps leave it as it is: a change is a write past
/// the end of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padding {
    pub range: Range<usize>,
    /// The buffer that ends where it begins.
    pub after: Value,
    /// Whether it lies inside of a region, which ops take for one flat buffer: it then holds 0, that
    /// the region can be summed. Elsewhere it is NaN, like every buffer that nobody has written, so
    /// that a read past the end shows.
    pub flat: bool,
}

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
    pub fn new(mut graph: Graph) -> Plan {
        conv2d::lower(&mut graph);
        twins::join(&mut graph);
        Plan::build(graph.steps, graph.slots, true)
    }

    /// The same steps with no memory used twice: the yardstick for the planner.
    pub fn without_reuse(&self) -> Plan {
        Plan::build(self.steps.clone(), self.slots.clone(), false)
    }

    fn build(steps: Vec<Step>, slots: Vec<Slot>, reuse: bool) -> Plan {
        let mut ranges = vec![0..0; slots.len()];
        let mut end = 0;
        for role in LASTING {
            let mut members: Vec<usize> =
                (0..slots.len()).filter(|&i| slots[i].role == role).collect();
            members.sort_by_key(|&i| (slots[i].group, slots[i].of.unwrap_or(Value(i))));
            for i in members {
                let len = slots[i].len();
                ranges[i] = end..end + len;
                end += len.next_multiple_of(ALIGN);
            }
        }
        let arena = place_work(&steps, &slots, reuse, &mut ranges, end);
        for i in 0..ranges.len() {
            if slots[i].role == Role::Region {
                ranges[i] = region(&slots, &ranges, i);
            }
        }
        Plan { steps, slots, arena, ranges }
    }

    /// Bytes of the whole arena.
    pub fn bytes(&self) -> usize {
        self.arena * ELEMENT
    }

    /// What the arena is made of, in its order; roles without buffers are left out.
    pub fn parts(&self) -> Vec<Part> {
        let mut lasting = 0;
        let mut parts: Vec<Part> =
            LASTING.into_iter().chain([Role::Work]).map(|role| self.part(role)).collect();
        for part in &mut parts {
            match part.role {
                Role::Work => part.bytes = self.bytes() - lasting,
                _ => lasting += part.bytes,
            }
        }
        parts.retain(|part| part.buffers > 0);
        parts
    }

    /// The buffers of `role`, as if none shared memory with another.
    fn part(&self, role: Role) -> Part {
        let members: Vec<usize> = self
            .of_role(role)
            .into_iter()
            .filter(|&(v, slot)| role != Role::Work || slot.is_empty() || !self.range(v).is_empty())
            .map(|(_, slot)| slot.len())
            .collect();
        let padded: usize = members.iter().map(|len| len.next_multiple_of(ALIGN)).sum();
        let (buffers, elements) = (members.len(), members.iter().sum());
        Part { role, buffers, elements, bytes: padded * ELEMENT }
    }

    /// Bytes that the work buffers would take if none shared memory with another.
    pub fn work_without_reuse(&self) -> usize {
        self.part(Role::Work).bytes
    }

    /// What the tables hold, and where.
    pub fn tables(&self) -> impl Iterator<Item = (Range<usize>, &[f32])> {
        let tables = self.slots.iter().zip(&self.ranges);
        tables.filter_map(|(slot, range)| Some((range.clone(), slot.content.as_deref()?)))
    }

    /// Where `v` lies in the arena, in elements.
    pub fn range(&self, v: Value) -> Range<usize> {
        self.ranges[v.0].clone()
    }

    /// Every part of the arena between two buffers or after the last one, in arena order.
    pub fn padding(&self) -> Vec<Padding> {
        let is_region = |i: usize| self.slots[i].role == Role::Region;
        let (regions, mut buffers): (Vec<usize>, Vec<usize>) = (0..self.slots.len())
            .filter(|&i| !self.ranges[i].is_empty())
            .partition(|&i| is_region(i));
        buffers.sort_by_key(|&i| self.ranges[i].start);
        let mut found = Vec::new();
        // The buffer that reaches farthest so far: those that share memory may end before it.
        let mut farthest: Option<usize> = None;
        let starts = buffers.iter().map(|&i| (self.ranges[i].start, Some(i)));
        for (start, next) in starts.chain([(self.arena, None)]) {
            if let Some(last) = farthest {
                let range = self.ranges[last].end..start;
                let inside = |&i: &usize| {
                    self.ranges[i].start <= range.start && range.end <= self.ranges[i].end
                };
                if !range.is_empty() {
                    let flat = regions.iter().any(inside);
                    found.push(Padding { range, after: Value(last), flat });
                }
            }
            farthest = farthest.into_iter().chain(next).max_by_key(|&i| self.ranges[i].end);
        }
        found
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

    /// The steps of several stages, in order.
    pub fn stages(&self, stages: &RangeInclusive<Stage>) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |s| stages.contains(&s.stage))
    }
}

/// Places every `Work` buffer at or above `floor`; returns the end of the arena.
fn place_work(
    steps: &[Step],
    slots: &[Slot],
    reuse: bool,
    ranges: &mut [Range<usize>],
    floor: usize,
) -> usize {
    let (first, last) = lifetimes(steps, slots.len());
    let mut end = floor;
    let mut placed: Vec<usize> = Vec::new();
    let used = |&i: &usize| slots[i].role == Role::Work && first[i] != usize::MAX;
    let mut work: Vec<usize> = (0..slots.len()).filter(used).collect();
    // Large buffers first: small ones then fit into the gaps between them.
    work.sort_by_key(|&i| (std::cmp::Reverse(slots[i].len()), i));
    for i in work {
        let len = slots[i].len();
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
fn lifetimes(steps: &[Step], slots: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut first, mut last) = (vec![usize::MAX; slots], vec![0; slots]);
    for (i, step) in steps.iter().enumerate() {
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
