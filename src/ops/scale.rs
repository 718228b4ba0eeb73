//! One factor for each sample.
//!
//! y_b = s_b x_b;  ∂L/∂x_b = s_b ∂L/∂y_b. The factors are given, not trained.
//! Kernel twin: `kernels/scale.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Scale {
    x: Value,
    gain: Value,
    y: Value,
    samples: usize,
    /// Numbers in one sample.
    stride: usize,
}

#[derive(Clone, Debug)]
pub struct ScaleBackward {
    forward: Scale,
    dy: Value,
    dx: Grad,
}

/// [B, ..] samples and [B] gains → [B, ..].
pub fn scale(g: &mut Graph, x: Value, gain: Value) -> Value {
    let shape = g.shape(x).to_vec();
    let [samples] = g.dims(gain);
    assert_eq!(shape[0], samples, "one gain for each sample");
    let y = g.work("scaled", &shape);
    g.push(Scale { x, gain, y, samples, stride: shape[1..].iter().product() });
    y
}

impl Scale {
    fn run<T: Real>(&self, [x, gain, y]: [&mut [T]; 3], accumulate: bool) {
        let samples = x.par_chunks(self.stride).zip(y.par_chunks_mut(self.stride));
        samples.zip(gain).for_each(|((x, y), &mut gain)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| put(y, accumulate, gain * x));
        });
    }
}

impl Operation for Scale {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.gain]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(ScaleBackward { forward: self.clone(), dy, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        self.run(mem.get([self.x, self.gain, self.y]), false);
    }

    fn launches(&self) -> Vec<Launch> {
        let Scale { x, gain, y, samples, stride } = *self;
        let launch = Launch::elements("scale_forward", samples * stride)
            .buffers([x, gain, y])
            .ints([stride, samples * stride]);
        vec![launch]
    }
}

impl Operation for ScaleBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.dy, self.forward.gain]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let buffers = mem.get([self.dy, self.forward.gain, self.dx.value]);
        self.forward.run(buffers, self.dx.accumulate);
    }

    fn launches(&self) -> Vec<Launch> {
        let Scale { gain, samples, stride, .. } = self.forward;
        let launch = Launch::elements("scale_backward", samples * stride)
            .buffers([self.dy, gain, self.dx.value])
            .ints([stride, samples * stride, self.dx.accumulate.into()]);
        vec![launch]
    }
}
