//! The op list of one network, and its reverse-mode differentiation.
//!
//! A graph holds no data. It is built once from the configuration, planned into memory offsets by
//! [`Plan`](crate::plan::Plan), and then replayed by a [`Backend`](crate::backend::Backend).
//!
//! Shapes are row-major. A complex array carries a last axis of 2 (real, imaginary), and its
//! gradient is ∂L/∂Re z + i ∂L/∂Im z, so that the adjoint of y = A x is x̄ = Aᴴ ȳ everywhere.

use std::collections::{HashMap, HashSet};

use crate::ops::Op;
use crate::plan::ALIGN;

/// A buffer of the graph, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub usize);

/// How long a buffer lives, and which region of the arena holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Trained by the optimiser, saved in the checkpoint.
    Param,
    /// Gradient of a [`Role::Param`].
    ParamGrad,
    /// Sum of the gradients of several batches, when they are accumulated.
    GradSum,
    /// First moment of the optimiser.
    Moment1,
    /// Second moment of the optimiser.
    Moment2,
    /// Kept from step to step and saved in the checkpoint, but not trained (running statistics).
    State,
    /// Written by the host; kept until it is written again.
    Input,
    /// Read back by the host, so never overwritten by a later op.
    Output,
    /// Lives from its first to its last use; its memory is then reused.
    Work,
    /// All buffers of one role and group, seen as one flat buffer.
    Region,
}

/// Parameters that share a learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    Network,
    Probe,
    /// The object itself, where no network makes it.
    Object,
    /// Its smooth parts.
    Smooth,
    /// Shift of each pattern from where the scan says that it was taken.
    Positions,
    /// Brightness of each pattern.
    Exposure,
    /// Light that no object shapes.
    Background,
}

/// When an op runs. A training step runs all three; a validation step the first alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Forward,
    Backward,
    Update,
}

/// To what the factors of a convolution's products are rounded on a GPU. Sums are in single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 significant bits: not at all.
    #[default]
    Fp32,
    /// 11 significant bits, where tensor cores pay (`ops/conv2d/tensor.rs`).
    Tf32,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(if *self == Precision::Tf32 { "TF32" } else { "single precision" })
    }
}

/// What the graph knows of a buffer.
#[derive(Clone, Debug)]
pub struct Slot {
    pub name: String,
    pub shape: Vec<usize>,
    pub role: Role,
    pub group: Group,
    /// The parameter that a gradient or a moment belongs to; for a region, the role that it spans.
    pub of: Option<Value>,
    pub region: Option<Role>,
}

impl Slot {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where one op puts its share of a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Grad {
    pub value: Value,
    /// False for the first contribution (overwrite), true for every later one (add).
    pub accumulate: bool,
}

/// One op and when it runs.
#[derive(Clone, Debug)]
pub struct Step {
    pub op: Op,
    pub stage: Stage,
}

/// The buffers and ops of one network, in the order in which they run.
#[derive(Debug)]
pub struct Graph {
    pub(crate) slots: Vec<Slot>,
    pub(crate) steps: Vec<Step>,
    stage: Stage,
    precision: Precision,
    differentiable: HashSet<Value>,
    grads: HashMap<Value, Value>,
}

impl Default for Graph {
    fn default() -> Graph {
        let (slots, steps) = (Vec::new(), Vec::new());
        let (differentiable, grads) = (HashSet::new(), HashMap::new());
        let (stage, precision) = (Stage::Forward, Precision::default());
        Graph { slots, steps, stage, precision, differentiable, grads }
    }
}

impl Graph {
    /// A graph whose convolutions have this precision.
    pub fn with_precision(precision: Precision) -> Graph {
        Graph { precision, ..Graph::default() }
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn input(&mut self, name: &str, shape: &[usize]) -> Value {
        self.slot(name, shape, Role::Input)
    }

    /// A trained buffer of the network.
    pub fn param(&mut self, name: &str, shape: &[usize]) -> Value {
        self.param_of(Group::Network, name, shape)
    }

    /// A trained buffer with the learning rate of `group`.
    pub fn param_of(&mut self, group: Group, name: &str, shape: &[usize]) -> Value {
        let v = self.slot(name, shape, Role::Param);
        self.slots[v.0].group = group;
        self.differentiable.insert(v);
        v
    }

    pub fn state(&mut self, name: &str, shape: &[usize]) -> Value {
        self.slot(name, shape, Role::State)
    }

    pub fn output(&mut self, name: &str, shape: &[usize]) -> Value {
        self.slot(name, shape, Role::Output)
    }

    pub fn work(&mut self, name: &str, shape: &[usize]) -> Value {
        self.slot(name, shape, Role::Work)
    }

    fn slot(&mut self, name: &str, shape: &[usize], role: Role) -> Value {
        let (name, shape, group) = (name.into(), shape.to_vec(), Group::Network);
        self.slots.push(Slot { name, shape, role, group, of: None, region: None });
        Value(self.slots.len() - 1)
    }

    /// A buffer of `role` shaped like `param`, at the same place in its own region.
    pub fn mirror(&mut self, param: Value, role: Role, prefix: &str) -> Value {
        let Slot { name, shape, group, .. } = self.slots[param.0].clone();
        let v = self.slot(&format!("{prefix}{name}"), &shape, role);
        self.slots[v.0].group = group;
        self.slots[v.0].of = Some(param);
        v
    }

    /// Every buffer of `role` and `group` as one flat buffer, padding included. The regions of
    /// parameters, gradients and moments of one group have the same layout.
    pub fn region(&mut self, role: Role, group: Group) -> Value {
        let v = self.slot(&format!("{role:?} of {group:?}"), &[], Role::Region);
        self.slots[v.0].group = group;
        self.slots[v.0].region = Some(role);
        v
    }

    /// Appends an op. What it writes needs a gradient if anything that it reads does.
    pub fn push(&mut self, op: impl Into<Op>) {
        let op = op.into();
        if op.reads().iter().any(|v| self.differentiable.contains(v)) {
            self.differentiable.extend(op.writes());
        }
        self.steps.push(Step { op, stage: self.stage });
    }

    /// Appends an op that writes a gradient itself: one that ends the graph, or that adds a parameter
    /// to it after [`Graph::differentiate`]. Nothing has to come back to it, and what it writes needs no
    /// gradient.
    pub fn push_last(&mut self, op: impl Into<Op>) {
        self.steps.push(Step { op: op.into(), stage: self.stage });
    }

    /// Ops pushed from now on run in `stage`.
    pub fn enter(&mut self, stage: Stage) {
        assert!(stage >= self.stage, "stages follow one another");
        self.stage = stage;
    }

    /// Keeps a work buffer until the end of the step, so that the host can read it.
    pub fn keep(&mut self, v: Value) {
        if self.slots[v.0].role == Role::Work {
            self.slots[v.0].role = Role::Output;
        }
    }

    /// Every buffer of `role`, in creation order.
    pub fn of_role(&self, role: Role) -> Vec<Value> {
        (0..self.slots.len()).filter(|&i| self.slots[i].role == role).map(Value).collect()
    }

    /// The buffer called `name`.
    pub fn find(&self, name: &str) -> Option<Value> {
        self.slots.iter().position(|s| s.name == name).map(Value)
    }

    /// Number of buffers; they are `Value(0)` to `Value(slot_count() − 1)`.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    pub fn name(&self, v: Value) -> &str {
        &self.slots[v.0].name
    }

    pub fn shape(&self, v: Value) -> &[usize] {
        &self.slots[v.0].shape
    }

    pub fn group(&self, v: Value) -> Group {
        self.slots[v.0].group
    }

    pub fn len(&self, v: Value) -> usize {
        self.slots[v.0].len()
    }

    /// Elements of `v`; of a region, which must be complete, padding between its buffers included.
    pub fn flat_len(&self, v: Value) -> usize {
        let region = &self.slots[v.0];
        if region.role != Role::Region {
            return self.len(v);
        }
        let wanted = (region.region, region.group);
        let of = |slot: &Slot| (Some(slot.role), slot.group) == wanted;
        let mut members: Vec<usize> =
            (0..self.slots.len()).filter(|&i| of(&self.slots[i])).collect();
        members.sort_by_key(|&i| self.slots[i].of.unwrap_or(Value(i)));
        members.iter().fold(0, |end, &i| end.next_multiple_of(ALIGN) + self.slots[i].len())
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The shape of `v` as an array. Panics when the rank is not D: an op was given another array
    /// than it is defined for.
    pub fn dims<const D: usize>(&self, v: Value) -> [usize; D] {
        let shape = self.shape(v);
        let name = self.name(v);
        shape.try_into().unwrap_or_else(|_| panic!("{name} has shape {shape:?}, not {D} axes"))
    }

    /// Appends the backward ops of everything pushed so far; `of` is a single number.
    ///
    /// Each op pushes its adjoint as ordinary ops. `seed` holds ∂L/∂`of`, usually 1.
    pub fn differentiate(&mut self, of: Value, seed: Value) {
        self.enter(Stage::Backward);
        self.grads.insert(of, seed);
        for i in (0..self.steps.len()).rev() {
            self.steps[i].op.clone().backward(self);
        }
    }

    /// The finished gradient of `v`, or `None` when the loss does not depend on it.
    pub fn grad_of(&self, v: Value) -> Option<Value> {
        self.grads.get(&v).copied()
    }

    /// Whether anything that is trained goes into `v`.
    pub fn is_differentiable(&self, v: Value) -> bool {
        self.differentiable.contains(&v)
    }

    /// The first contribution to the gradient of `v` is in `gradient`, a [`Graph::grad_buffer`] that
    /// an op of [`Graph::push_last`] writes. Panics when there is one already.
    pub fn set_grad(&mut self, v: Value, gradient: Value) {
        let before = self.grads.insert(v, gradient);
        assert!(before.is_none(), "{} has a gradient already", self.name(v));
    }

    /// Where to put a contribution to the gradient of `v`; `None` if nobody needs it.
    pub fn grad_into(&mut self, v: Value) -> Option<Grad> {
        if !self.is_differentiable(v) {
            return None;
        }
        if let Some(&value) = self.grads.get(&v) {
            return Some(Grad { value, accumulate: true });
        }
        let value = self.grad_buffer(v);
        self.grads.insert(v, value);
        Some(Grad { value, accumulate: false })
    }

    /// A buffer for the gradient of `v`, which is nobody's yet.
    pub fn grad_buffer(&mut self, v: Value) -> Value {
        if self.slots[v.0].role == Role::Param {
            return self.mirror(v, Role::ParamGrad, "d ");
        }
        let Slot { name, shape, .. } = self.slots[v.0].clone();
        self.work(&format!("d {name}"), &shape)
    }
}
