//! A layer's input and what the layer makes of it, added; the second through a learned gate.
//!
//! y = x + g u, one number g for all, 1 where there is none;
//! ∂L/∂x = ∂L/∂y, ∂L/∂u = g ∂L/∂y, ∂L/∂g = Σ u ∂L/∂y.
//! Kernel twin: `kernels/residual.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::{TILE, sum_pairs};
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::{BLOCK, Launch};

/// Partial sums of the gradient of the gate.
const PARTS: usize = BLOCK as usize;

#[derive(Clone, Debug)]
pub struct Residual {
    pub(crate) x: Value,
    pub(crate) update: Value,
    pub(crate) gate: Option<Value>,
    pub(crate) y: Value,
    total: usize,
}

#[derive(Clone, Debug)]
pub struct ResidualBackward {
    forward: Residual,
    dy: Value,
    dx: Option<Grad>,
    dupdate: Option<Grad>,
    dgate: Option<Grad>,
    /// Σ u ∂L/∂y in parts.
    partial: Value,
}

/// `x` + `gate`·`update`, two arrays of any shape; the gate is one number.
pub fn residual(g: &mut Graph, x: Value, update: Value, gate: Option<Value>) -> Value {
    assert_eq!(g.shape(x), g.shape(update), "arrays of one shape are added");
    assert!(gate.is_none_or(|gate| g.len(gate) == 1), "one gate for all");
    let shape = g.shape(x).to_vec();
    let y = g.work("residual", &shape);
    g.push(Residual { x, update, gate, y, total: g.len(x) });
    y
}

impl Operation for Residual {
    fn reads(&self) -> Vec<Value> {
        [self.x, self.update].into_iter().chain(self.gate).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let (dx, dupdate) = (g.grad_into(self.x), g.grad_into(self.update));
        let dgate = self.gate.and_then(|gate| g.grad_into(gate));
        let partial = g.work("gate partial sums", &[PARTS]);
        g.push(ResidualBackward { forward: self.clone(), dy, dx, dupdate, dgate, partial });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let gate = gate_of(mem, self.gate);
        let [x, update, y] = mem.get([self.x, self.update, self.y]);
        let tiles = x.par_chunks(TILE).zip(update.par_chunks(TILE));
        y.par_chunks_mut(TILE).zip(tiles).for_each(|(y, (x, u))| {
            y.iter_mut().zip(x.iter().zip(u)).for_each(|(y, (&x, &u))| *y = x + gate * u);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Residual { x, update, gate, y, total } = *self;
        let launch = Launch::elements("residual_forward", total)
            .buffers([x, update, gate.unwrap_or(x), y])
            .ints([gate.is_some().into(), total]);
        vec![launch]
    }
}

fn gate_of<T: Real>(mem: &mut Mem<T>, gate: Option<Value>) -> T {
    gate.map_or(T::one(), |gate| mem.get([gate])[0][0])
}

impl Operation for ResidualBackward {
    fn reads(&self) -> Vec<Value> {
        [self.forward.update, self.dy].into_iter().chain(self.forward.gate).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let grads = [self.dx, self.dupdate, self.dgate].into_iter().flatten();
        grads.map(|d| d.value).chain([self.partial]).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let gate = gate_of(mem, self.forward.gate);
        for (d, factor) in [(self.dx, T::one()), (self.dupdate, gate)] {
            let Some(d) = d else { continue };
            let [dy, grad] = mem.get([self.dy, d.value]);
            let tiles = grad.par_chunks_mut(TILE).zip(dy.par_chunks(TILE));
            tiles.for_each(|(grad, dy)| {
                let pairs = grad.iter_mut().zip(dy);
                pairs.for_each(|(grad, &dy)| put(grad, d.accumulate, factor * dy));
            });
        }
        if let Some(d) = self.dgate {
            let [update, dy, grad] = mem.get([self.forward.update, self.dy, d.value]);
            let tiles = update.par_chunks(TILE).zip(dy.par_chunks(TILE));
            let sums = tiles.map(|(u, dy)| sum_pairs(u, dy, |u, dy| u.wide() * dy.wide()));
            // Gathered before they are added: in one order on any number of threads.
            let sums: Vec<f64> = sums.collect();
            put(&mut grad[0], d.accumulate, T::of(sums.into_iter().sum()));
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Residual { update, gate, total, .. } = self.forward;
        let share = |d: Grad, gate: Option<Value>| {
            Launch::elements("residual_backward", total)
                .buffers([self.dy, gate.unwrap_or(self.dy), d.value])
                .ints([gate.is_some().into(), total, d.accumulate.into()])
        };
        let to_x = self.dx.map(|d| share(d, None));
        let to_update = self.dupdate.map(|d| share(d, gate));
        let to_gate = self.dgate.into_iter().flat_map(|d| {
            let partial = Launch::blocks("residual_backward_gate_partial", PARTS)
                .buffers([update, self.dy, self.partial])
                .ints([total]);
            let sum = Launch::blocks("residual_backward_gate", 1)
                .buffers([self.partial, d.value])
                .ints([d.accumulate.into()]);
            [partial, sum]
        });
        to_x.into_iter().chain(to_update).chain(to_gate).collect()
    }
}
