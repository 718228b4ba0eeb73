//! One factor for each sample.
//!
//! y_b = s_b x_b;  ∂L/∂x_b = s_b ∂L/∂y_b,  ∂L/∂s_b = Σ x_b ∂L/∂y_b, in double precision.
//! Kernel twin: `kernels/scale.cu`.

use rayon::prelude::*;

use super::Operation;
use super::reduce::sum_pairs;
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
    dx: Option<Grad>,
    dgain: Option<Grad>,
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
        let (dx, dgain) = (g.grad_into(self.x), g.grad_into(self.gain));
        if dx.is_some() || dgain.is_some() {
            g.push(ScaleBackward { forward: self.clone(), dy, dx, dgain });
        }
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
        let x = self.dgain.map(|_| self.forward.x);
        [self.dy, self.forward.gain].into_iter().chain(x).collect()
    }

    fn writes(&self) -> Vec<Value> {
        self.dx.iter().chain(&self.dgain).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dx {
            self.forward.run(mem.get([self.dy, self.forward.gain, d.value]), d.accumulate);
        }
        if let Some(d) = self.dgain {
            let [x, dy, dgain] = mem.get([self.forward.x, self.dy, d.value]);
            let stride = self.forward.stride;
            let samples = x.par_chunks(stride).zip(dy.par_chunks(stride));
            samples.zip(dgain).for_each(|((x, dy), dgain)| {
                let sum = sum_pairs(x, dy, |x, dy| x.wide() * dy.wide());
                put(dgain, d.accumulate, T::of(sum));
            });
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Scale { x, gain, samples, stride, .. } = self.forward;
        let to_x = self.dx.map(|d| {
            Launch::elements("scale_backward", samples * stride)
                .buffers([self.dy, gain, d.value])
                .ints([stride, samples * stride, d.accumulate.into()])
        });
        let to_gain = self.dgain.map(|d| {
            Launch::blocks("scale_backward_gain", samples)
                .buffers([x, self.dy, d.value])
                .ints([stride, d.accumulate.into()])
        });
        to_x.into_iter().chain(to_gain).collect()
    }
}
