//! The members of a batch, out of a data set that stays where the op runs.
//!
//! Y[j] = X[index[j]];  ∂L/∂X[i] = Σ_{j: index[j] = i} ∂L/∂Y[j], where X is trained: a number for each
//! pattern, such as its position.
//! Kernel twin: `kernels/gather.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// Whole numbers up to here are exact in f32, and indices are stored so.
const EXACT: usize = 1 << 24;

#[derive(Clone, Debug)]
pub struct Gather {
    source: Value,
    index: Value,
    members: Value,
    /// Members of the batch.
    count: usize,
    /// Numbers in one member.
    stride: usize,
}

#[derive(Clone, Debug)]
pub struct GatherBackward {
    forward: Gather,
    dmembers: Value,
    dsource: Grad,
    /// Members of the data set.
    all: usize,
}

/// [M, ..] data set and [B, C] indices, or of any other shape → [B, C, ..] batch.
pub fn gather(g: &mut Graph, source: Value, index: Value) -> Value {
    assert!(g.shape(source)[0] <= EXACT, "every index of the data set is exact in f32");
    let stride = g.shape(source)[1..].iter().product();
    let shape = [g.shape(index), &g.shape(source)[1..]].concat();
    let (members, count) = (g.work("batch", &shape), g.len(index));
    g.push(Gather { source, index, members, count, stride });
    members
}

impl Operation for Gather {
    fn reads(&self) -> Vec<Value> {
        vec![self.source, self.index]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.members]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dmembers) = g.grad_of(self.members) else { return };
        let Some(dsource) = g.grad_into(self.source) else { return };
        let all = g.shape(self.source)[0];
        g.push(GatherBackward { forward: self.clone(), dmembers, dsource, all });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [source, index, members] = mem.get([self.source, self.index, self.members]);
        let source = &*source;
        members.par_chunks_mut(self.stride).zip(index).for_each(|(member, index)| {
            let at = index.wide() as usize * self.stride;
            member.copy_from_slice(&source[at..][..self.stride]);
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Gather { source, index, members, count, stride } = *self;
        let launch = Launch::elements("gather_forward", count * stride)
            .buffers([source, index, members])
            .ints([stride, count * stride]);
        vec![launch]
    }
}

impl Operation for GatherBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.index, self.dmembers]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dsource.value]
    }

    /// In the order of the batch.
    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let stride = self.forward.stride;
        let [index, dmembers, dsource] =
            mem.get([self.forward.index, self.dmembers, self.dsource.value]);
        if !self.dsource.accumulate {
            dsource.fill(T::zero());
        }
        for (index, dmember) in index.iter().zip(dmembers.chunks_exact(stride)) {
            let dsource = &mut dsource[index.wide() as usize * stride..][..stride];
            dsource.iter_mut().zip(dmember).for_each(|(d, &share)| put(d, true, share));
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Gather { index, count, stride, .. } = self.forward;
        let launch = Launch::elements("gather_backward", self.all * stride)
            .buffers([index, self.dmembers, self.dsource.value])
            .ints([count, stride, self.all * stride, self.dsource.accumulate.into()]);
        vec![launch]
    }
}
