//! Two groups of channels of one image.
//!
//! low = x[:, ..at], high = x[:, at..];  ∂L/∂x is the two gradients side by side, 0 for a group
//! that the loss does not depend on.
//! Kernel twin: `kernels/split.cu`.

use std::ops::Range;

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Split {
    pub(crate) x: Value,
    pub(crate) low: Value,
    pub(crate) high: Value,
    samples: usize,
    pub(crate) channels: usize,
    /// First channel of `high`.
    pub(crate) at: usize,
    pixels: usize,
}

#[derive(Clone, Debug)]
pub struct SplitBackward {
    forward: Split,
    dlow: Option<Value>,
    dhigh: Option<Value>,
    dx: Grad,
}

/// [B, C, H, W] → [B, at, H, W] and [B, C − at, H, W], with 0 < at < C.
pub fn split(g: &mut Graph, x: Value, at: usize) -> (Value, Value) {
    let [samples, channels, h, w] = g.dims(x);
    assert!(0 < at && at < channels, "both sides of channel {at} of {channels} hold something");
    let low = g.work("split low", &[samples, at, h, w]);
    let high = g.work("split high", &[samples, channels - at, h, w]);
    g.push(Split { x, low, high, samples, channels, at, pixels: h * w });
    (low, high)
}

impl Operation for Split {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.low, self.high]
    }

    fn backward(&self, g: &mut Graph) {
        let (dlow, dhigh) = (g.grad_of(self.low), g.grad_of(self.high));
        if dlow.or(dhigh).is_none() {
            return;
        }
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(SplitBackward { forward: self.clone(), dlow, dhigh, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, low, high] = mem.get([self.x, self.low, self.high]);
        let (n, at, channels) = (self.pixels, self.at, self.channels);
        let samples = x.par_chunks(channels * n);
        let halves = low.par_chunks_mut(at * n).zip(high.par_chunks_mut((channels - at) * n));
        samples.zip(halves).for_each(|(x, (low, high))| {
            low.copy_from_slice(&x[..at * n]);
            high.copy_from_slice(&x[at * n..]);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Split { x, low, high, samples, channels, at, pixels } = *self;
        let stride = channels * pixels;
        let launch = Launch::elements("split_forward", samples * stride)
            .buffers([x, low, high])
            .ints([stride, at * pixels, samples * stride]);
        vec![launch]
    }
}

impl Operation for SplitBackward {
    fn reads(&self) -> Vec<Value> {
        self.dlow.into_iter().chain(self.dhigh).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Split { channels, at, .. } = self.forward;
        self.cpu_half(mem, self.dlow, 0..at);
        self.cpu_half(mem, self.dhigh, at..channels);
    }

    fn launches(&self) -> Vec<Launch> {
        let Split { channels, at, .. } = self.forward;
        let low = self.launch(self.dlow, 0..at);
        low.into_iter().chain(self.launch(self.dhigh, at..channels)).collect()
    }
}

impl SplitBackward {
    /// The launch for one group, if there is anything to write.
    fn launch(&self, dgroup: Option<Value>, part: Range<usize>) -> Option<Launch> {
        let Split { samples, channels, pixels: n, .. } = self.forward;
        let Grad { value, accumulate } = self.dx;
        let (stride, first, len) = (channels * n, part.start * n, part.len() * n);
        let total = samples * len;
        let sizes = [stride, first, len, total];
        match dgroup {
            Some(dgroup) => {
                let launch = Launch::elements("split_backward", total).buffers([dgroup, value]);
                Some(launch.ints(sizes).ints([accumulate.into()]))
            }
            None if accumulate => None,
            None => {
                let launch = Launch::elements("split_backward_clear", total).buffers([value]);
                Some(launch.ints(sizes))
            }
        }
    }

    fn cpu_half<T: Real>(&self, mem: &mut Mem<T>, dhalf: Option<Value>, part: Range<usize>) {
        let Split { channels, pixels: n, .. } = self.forward;
        let (dx, accumulate) = (self.dx.value, self.dx.accumulate);
        let part = part.start * n..part.end * n;
        if let Some(dhalf) = dhalf {
            let [dhalf, dx] = mem.get([dhalf, dx]);
            let samples = dx.par_chunks_mut(channels * n).zip(dhalf.par_chunks(part.len()));
            samples.for_each(|(dx, dhalf)| {
                let pairs = dx[part.clone()].iter_mut().zip(dhalf);
                pairs.for_each(|(dx, &dhalf)| put(dx, accumulate, dhalf));
            });
        } else if !accumulate {
            let [dx] = mem.get([dx]);
            dx.par_chunks_mut(channels * n).for_each(|dx| dx[part.clone()].fill(T::zero()));
        }
    }
}
