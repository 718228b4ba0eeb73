//! Sum of the two paths of a head: the inner one covers the central quarter of the patch.
//!
//! y = pad(inner) + m · outer, with H/4 and W/4 zeros on each side, and m = 0 in the central
//! H/2 × W/2 pixels when the outer path serves the border alone, m = 1 elsewhere;
//! ∂L/∂inner = crop(∂L/∂y), ∂L/∂outer = m · ∂L/∂y.
//! Kernel twin: `kernels/head_sum.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct HeadSum {
    pub(crate) inner: Value,
    pub(crate) outer: Value,
    pub(crate) y: Value,
    /// The outer path is masked in the centre.
    pub(crate) border: bool,
    /// Height and width of `y`.
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Elements of `y`.
    total: usize,
}

#[derive(Clone, Debug)]
pub struct HeadSumBackward {
    forward: HeadSum,
    dy: Value,
    dinner: Option<Grad>,
    douter: Option<Grad>,
}

/// [B, K, H/2, W/2] and [B, K, H, W] → [B, K, H, W]; `border` masks the centre of `outer`.
pub fn head_sum(g: &mut Graph, inner: Value, outer: Value, border: bool) -> Value {
    let [b, k, h, w] = g.dims(inner);
    assert!(h % 2 == 0 && w % 2 == 0, "the same margin on both sides of {h}×{w} pixels");
    let shape = [b, k, 2 * h, 2 * w];
    assert_eq!(g.shape(outer), shape, "the outer path is twice as large as the inner one");
    let y = g.work("head_sum", &shape);
    let total = g.len(y);
    g.push(HeadSum { inner, outer, y, border, height: 2 * h, width: 2 * w, total });
    y
}

impl HeadSum {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// First pixel of every row of the centre.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let (height, width) = (self.height, self.width);
        (height / 4..3 * height / 4).map(move |y| y * width + width / 4)
    }
}

impl Operation for HeadSum {
    fn reads(&self) -> Vec<Value> {
        vec![self.inner, self.outer]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let dinner = g.grad_into(self.inner);
        let douter = g.grad_into(self.outer);
        g.push(HeadSumBackward { forward: self.clone(), dy, dinner, douter });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let (n, half) = (self.pixels(), self.width / 2);
        let [inner, outer, y] = mem.get([self.inner, self.outer, self.y]);
        let paths = outer.par_chunks(n).zip(inner.par_chunks(n / 4));
        y.par_chunks_mut(n).zip(paths).for_each(|(y, (outer, inner))| {
            y.copy_from_slice(outer);
            for (row, inner) in self.rows().zip(inner.chunks_exact(half)) {
                let pixels = y[row..][..half].iter_mut().zip(inner);
                pixels.for_each(|(y, &inner)| put(y, !self.border, inner));
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let HeadSum { inner, outer, y, border, height, width, total } = *self;
        let sizes = [border.into(), height, width, total];
        let launch = Launch::elements("head_sum_forward", total);
        vec![launch.buffers([inner, outer, y]).ints(sizes)]
    }
}

impl Operation for HeadSumBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.dy]
    }

    fn writes(&self) -> Vec<Value> {
        self.dinner.iter().chain(&self.douter).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dinner {
            self.cpu_inner(mem, d);
        }
        if let Some(d) = self.douter {
            self.cpu_outer(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let HeadSum { border, height, width, total, .. } = self.forward;
        let to_inner = self.dinner.map(|d| {
            let sizes = [height, width, total, d.accumulate.into()];
            let launch = Launch::elements("head_sum_backward_inner", total);
            launch.buffers([self.dy, d.value]).ints(sizes)
        });
        let to_outer = self.douter.map(|d| {
            let sizes = [border.into(), height, width, total, d.accumulate.into()];
            let launch = Launch::elements("head_sum_backward_outer", total);
            launch.buffers([self.dy, d.value]).ints(sizes)
        });
        to_inner.into_iter().chain(to_outer).collect()
    }
}

impl HeadSumBackward {
    fn cpu_inner<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let (n, half) = (self.forward.pixels(), self.forward.width / 2);
        let [dy, dinner] = mem.get([self.dy, d.value]);
        dy.par_chunks(n).zip(dinner.par_chunks_mut(n / 4)).for_each(|(dy, dinner)| {
            for (row, dinner) in self.forward.rows().zip(dinner.chunks_exact_mut(half)) {
                let pixels = dinner.iter_mut().zip(&dy[row..][..half]);
                pixels.for_each(|(dinner, &dy)| put(dinner, d.accumulate, dy));
            }
        });
    }

    fn cpu_outer<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let HeadSum { height, width, border, .. } = self.forward;
        let n = height * width;
        let [dy, douter] = mem.get([self.dy, d.value]);
        dy.par_chunks(n).zip(douter.par_chunks_mut(n)).for_each(|(dy, douter)| {
            let rows = dy.chunks_exact(width).zip(douter.chunks_exact_mut(width));
            for (y, (dy, douter)) in rows.enumerate() {
                let masked = border && (height / 4..3 * height / 4).contains(&y);
                let hidden = if masked { width / 4..3 * width / 4 } else { 0..0 };
                for (x, (douter, &dy)) in douter.iter_mut().zip(dy).enumerate() {
                    let share = if hidden.contains(&x) { T::zero() } else { dy };
                    put(douter, d.accumulate, share);
                }
            }
        });
    }
}
