//! The members of a batch, out of a data set that stays where the op runs.
//!
//! Y[j] = X[index[j]]. The data set is measured, not trained: there is no gradient.
//! Kernel twin: `kernels/gather.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
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
