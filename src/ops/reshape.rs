//! The same numbers under another shape.
//!
//! y = x;  ∂L/∂x = ∂L/∂y.
//! Kernel twin: `kernels/reshape.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::TILE;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Reshape {
    x: Value,
    y: Value,
    total: usize,
}

#[derive(Clone, Debug)]
pub struct ReshapeBackward {
    dy: Value,
    dx: Grad,
    total: usize,
}

/// `x` with the axes `shape`, which have as many elements.
pub fn reshape(g: &mut Graph, x: Value, shape: &[usize]) -> Value {
    let total = g.len(x);
    assert_eq!(total, shape.iter().product::<usize>(), "{} has other elements", g.name(x));
    let y = g.work("reshaped", shape);
    g.push(Reshape { x, y, total });
    y
}

fn copy<T: Real>([from, to]: [&mut [T]; 2], accumulate: bool) {
    to.par_chunks_mut(TILE).zip(from.par_chunks(TILE)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, &from)| put(to, accumulate, from));
    });
}

impl Operation for Reshape {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        if let Some(dx) = g.grad_into(self.x) {
            g.push(ReshapeBackward { dy, dx, total: self.total });
        }
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        copy(mem.get([self.x, self.y]), false);
    }

    fn launches(&self) -> Vec<Launch> {
        let Reshape { x, y, total } = *self;
        let launch = Launch::elements("reshape_forward", total).buffers([x, y]).ints([total]);
        vec![launch]
    }
}

impl Operation for ReshapeBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        copy(mem.get([self.dy, self.dx.value]), self.dx.accumulate);
    }

    fn launches(&self) -> Vec<Launch> {
        let ReshapeBackward { dy, dx, total } = *self;
        let launch = Launch::elements("reshape_backward", total)
            .buffers([dy, dx.value])
            .ints([total, dx.accumulate.into()]);
        vec![launch]
    }
}
