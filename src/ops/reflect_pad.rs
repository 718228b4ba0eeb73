//! One pixel around an image, mirrored at its outermost pixels.
//!
//! y[r, c] = x[m(r − 1), m(c − 1)], m(−1) = 1, m(H) = H − 2, otherwise m(i) = i;
//! ∂L/∂x[r, c] = Σ ∂L/∂y over the one, two or four pixels that x[r, c] goes to.
//! Kernel twin: `kernels/reflect_pad.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct ReflectPad {
    pub(crate) x: Value,
    pub(crate) y: Value,
    /// Images, and height and width of `x`.
    planes: usize,
    height: usize,
    width: usize,
}

#[derive(Clone, Debug)]
pub struct ReflectPadBackward {
    forward: ReflectPad,
    dy: Value,
    dx: Grad,
}

/// [B, C, H, W] → [B, C, H + 2, W + 2]; H and W are at least 2.
pub fn reflect_pad(g: &mut Graph, x: Value) -> Value {
    let [b, c, height, width] = g.dims(x);
    assert!(height > 1 && width > 1, "something to mirror in {height}×{width} pixels");
    let y = g.work("reflect_pad", &[b, c, height + 2, width + 2]);
    g.push(ReflectPad { x, y, planes: b * c, height, width });
    y
}

/// Index into `side` pixels that index `i` of the `side` + 2 shows.
fn mirrored(i: usize, side: usize) -> usize {
    match i {
        0 => 1,
        i if i > side => side - 2,
        i => i - 1,
    }
}

/// The indices of the `side` + 2 that show index `i` of `side` pixels.
fn shown(i: usize, side: usize) -> impl Iterator<Item = usize> + Clone {
    let low = (i == 1).then_some(0);
    let high = (i + 2 == side).then_some(side + 1);
    std::iter::once(i + 1).chain(low).chain(high)
}

impl Operation for ReflectPad {
    fn reads(&self) -> Vec<Value> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let Some(dx) = g.grad_into(self.x) else { return };
        g.push(ReflectPadBackward { forward: self.clone(), dy, dx });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [x, y] = mem.get([self.x, self.y]);
        let (height, width) = (self.height, self.width);
        let images = x.par_chunks(height * width).zip(y.par_chunks_mut((height + 2) * (width + 2)));
        images.for_each(|(x, y)| {
            for (r, y) in y.chunks_exact_mut(width + 2).enumerate() {
                let x = &x[mirrored(r, height) * width..][..width];
                y[1..=width].copy_from_slice(x);
                (y[0], y[width + 1]) = (x[1], x[width - 2]);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ReflectPad { x, y, planes, height, width } = *self;
        let total = planes * (height + 2) * (width + 2);
        let launch = Launch::elements("reflect_pad_forward", total).buffers([x, y]);
        vec![launch.ints([height, width, total])]
    }
}

impl Operation for ReflectPadBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dx.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let ReflectPad { height, width, .. } = self.forward;
        let [dy, dx] = mem.get([self.dy, self.dx.value]);
        let padded = (height + 2) * (width + 2);
        dx.par_chunks_mut(height * width).zip(dy.par_chunks(padded)).for_each(|(dx, dy)| {
            for (r, dx) in dx.chunks_exact_mut(width).enumerate() {
                for (c, dx) in dx.iter_mut().enumerate() {
                    let rows = shown(r, height).map(|r| &dy[r * (width + 2)..]);
                    let sums = rows.map(|dy| shown(c, width).map(|c| dy[c]).sum::<T>());
                    put(dx, self.dx.accumulate, sums.sum());
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let ReflectPad { planes, height, width, .. } = self.forward;
        let total = planes * height * width;
        let launch = Launch::elements("reflect_pad_backward", total)
            .buffers([self.dy, self.dx.value])
            .ints([height, width, total, self.dx.accumulate.into()]);
        vec![launch]
    }
}
