//! Notes a number down in a ring, so that the host can look at many steps at once.
//!
//! ring[slot] = x; the rest of the ring stays. No adjoint.
//! Kernel twin: `kernels/record.cu`.

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Record {
    x: Value,
    slot: Value,
    ring: Value,
}

/// [1] number and [1] place in the ring → the [R] ring, which is returned.
pub fn record(g: &mut Graph, name: &str, x: Value, slot: Value, len: usize) -> Value {
    assert!(g.len(x) == 1 && g.len(slot) == 1, "one number in one place");
    let ring = g.output(name, &[len]);
    g.push(Record { x, slot, ring });
    ring
}

impl Operation for Record {
    fn reads(&self) -> Vec<Value> {
        vec![self.x, self.slot]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.ring]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, slot, ring] = mem.get([self.x, self.slot, self.ring]);
        ring[slot[0].wide() as usize] = x[0];
    }

    fn launches(&self) -> Vec<Launch> {
        vec![Launch::blocks("record_forward", 1).buffers([self.x, self.slot, self.ring])]
    }
}
