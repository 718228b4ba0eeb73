//! Activation functions, element by element.
//!
//! y = f(x);  ∂L/∂x = f′(x) ∂L/∂y, with f′ computed from x and ReLU′(0) = 0.
//! Kernel twin: `kernels/activate.cu`.

use std::f64::consts::PI;

use num_traits::Float;
use rayon::prelude::*;

use super::Operation;
use super::reduce::TILE;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// ln(e − 1): softplus of it is 1.
pub(crate) const SOFTPLUS_ONE: f64 = 0.541_324_854_612_918_1;

/// The kernels know each by its place in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// x σ(x)
    Silu,
    /// σ(x) = 1 / (1 + e^{−x})
    Sigmoid,
    /// ln(1 + e^{x + ln(e − 1)}): positive, and 1 at x = 0.
    SoftplusOne,
    /// π tanh x
    PiTanh,
    /// x Φ(x), Φ the distribution function of the standard normal distribution.
    Gelu,
}

#[derive(Clone, Debug)]
pub struct Activate {
    pub(crate) x: Value,
    pub(crate) y: Value,
    pub(crate) activation: Activation,
    /// Elements of `x`.
    total: usize,
}

#[derive(Clone, Debug)]
pub struct ActivateBackward {
    forward: Activate,
    dy: Value,
    dx: Grad,
}

/// `activation` of every element; any shape.
pub fn activate(g: &mut Graph, x: Value, activation: Activation) -> Value {
    let shape = g.shape(x).to_vec();
    let y = g.work("activate", &shape);
    g.push(Activate { x, y, activation, total: g.len(x) });
    y
}

/// σ(x); 0 and 1 at the ends, without overflow.
#[inline(always)]
pub fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

/// ln(1 + e^z) without overflow.
#[inline(always)]
fn softplus<T: Real>(z: T) -> T {
    z.max(T::zero()) + (-Float::abs(z)).exp().ln_1p()
}

/// `kept` where x > 0, otherwise 0.
#[inline(always)]
fn rectify<T: Real>(x: T, kept: T) -> T {
    if x > T::zero() { kept } else { T::zero() }
}

impl Operation for Activate {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(ActivateBackward { forward: self.clone(), dy, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y] = mem.get([self.x, self.y]);
        let (pi, offset) = (T::of(PI), T::of(SOFTPLUS_ONE));
        match self.activation {
            Activation::Relu => map(x, y, |x| rectify(x, x)),
            Activation::Silu => map(x, y, |x| x * sigmoid(x)),
            Activation::Sigmoid => map(x, y, sigmoid),
            Activation::SoftplusOne => map(x, y, |x| softplus(x + offset)),
            Activation::PiTanh => map(x, y, |x| pi * x.tanh()),
            Activation::Gelu => map(x, y, |x| x * x.gaussian()[0]),
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Activate { x, y, activation, total } = *self;
        let launch = Launch::elements("activate_forward", total)
            .buffers([x, y])
            .ints([activation as usize, total]);
        vec![launch]
    }
}

fn map<T: Real>(x: &[T], y: &mut [T], f: impl Fn(T) -> T + Sync) {
    x.par_chunks(TILE).zip(y.par_chunks_mut(TILE)).for_each(|(x, y)| {
        x.iter().zip(y).for_each(|(&x, y)| *y = f(x));
    });
}

impl Operation for ActivateBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.x, self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let one = T::one();
        let (pi, offset) = (T::of(PI), T::of(SOFTPLUS_ONE));
        match self.forward.activation {
            Activation::Relu => self.chain(mem, |x, dy| rectify(x, dy)),
            Activation::Silu => self.chain(mem, |x, dy| {
                let s = sigmoid(x);
                dy * s * (one + x * (one - s))
            }),
            Activation::Sigmoid => self.chain(mem, |x, dy| {
                let s = sigmoid(x);
                dy * s * (one - s)
            }),
            Activation::SoftplusOne => self.chain(mem, |x, dy| dy * sigmoid(x + offset)),
            Activation::PiTanh => self.chain(mem, |x, dy| {
                let t = x.tanh();
                dy * pi * (one - t * t)
            }),
            Activation::Gelu => self.chain(mem, |x, dy| {
                let [below, density] = x.gaussian();
                dy * (below + x * density)
            }),
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Activate { x, activation, total, .. } = self.forward;
        let Grad { value, accumulate } = self.dx;
        let launch = Launch::elements("activate_backward", total)
            .buffers([x, self.dy, value])
            .ints([activation as usize, total, accumulate.into()]);
        vec![launch]
    }
}

impl ActivateBackward {
    /// ∂L/∂x = f(x, ∂L/∂y).
    fn chain<T: Real>(&self, mem: &mut Mem<T>, f: impl Fn(T, T) -> T + Sync) {
        let [x, dy, dx] = mem.get([self.forward.x, self.dy, self.dx.value]);
        let tiles = dx.par_chunks_mut(TILE).zip(x.par_chunks(TILE)).zip(dy.par_chunks(TILE));
        tiles.for_each(|((dx, x), dy)| {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                put(dx, self.dx.accumulate, f(x, dy));
            }
        });
    }
}
