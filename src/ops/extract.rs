//! The patches of a group, out of its canvas.
//!
//! X_c(p) = K(p + pad + d_c), bilinear and zero outside: the window of each patch lies in the middle
//! of the canvas, moved by its offset d_c. The adjoint is K̄(q) = Σ_c X̄_c(q − pad − d_c).
//! Kernel twin: `kernels/extract.cu`.

use rayon::prelude::*;

use super::Operation;
use super::bilinear::Shift2;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Extract {
    pub(super) canvas: Value,
    pub(super) offsets: Value,
    pub(super) patches: Value,
    batch: usize,
    channels: usize,
    side: usize,
    pub(super) canvas_side: usize,
}

#[derive(Clone, Debug)]
pub struct ExtractBackward {
    forward: Extract,
    dpatches: Value,
    dcanvas: Grad,
}

/// [B, S, S, 2] canvas and [B, C, 2] offsets (x, y) in pixels → [B, C, N, N, 2] patches, N = `side`.
pub fn extract(g: &mut Graph, canvas: Value, offsets: Value, side: usize) -> Value {
    let extract = Extract::new(g, canvas, offsets, side);
    let patches = extract.patches;
    g.push(extract);
    patches
}

impl Extract {
    pub(super) fn new(g: &mut Graph, canvas: Value, offsets: Value, side: usize) -> Extract {
        let [batch, canvas_side, w, re_im] = g.dims(canvas);
        let [ob, channels, xy] = g.dims(offsets);
        assert_eq!((w, re_im), (canvas_side, 2), "a canvas is square and complex");
        assert_eq!((ob, xy), (batch, 2), "one offset for each patch");
        assert!(
            canvas_side >= side && (canvas_side - side).is_multiple_of(2),
            "a patch has a place in the middle of the canvas"
        );
        let patches = g.work("patches", &[batch, channels, side, side, 2]);
        Extract { canvas, offsets, patches, batch, channels, side, canvas_side }
    }

    fn pad(&self) -> usize {
        (self.canvas_side - self.side) / 2
    }
}

impl Operation for Extract {
    fn reads(&self) -> Vec<Value> {
        vec![self.canvas, self.offsets]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.patches]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dpatches) = g.grad_of(self.patches) else { return };
        let Some(dcanvas) = g.grad_into(self.canvas) else { return };
        g.push(ExtractBackward { forward: self.clone(), dpatches, dcanvas });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Extract { channels, side: n, canvas_side, .. } = *self;
        let [canvas, offsets, patches] = mem.get([self.canvas, self.offsets, self.patches]);
        let (canvas, offsets, plane) = (&*canvas, &*offsets, 2 * canvas_side * canvas_side);
        patches.par_chunks_mut(2 * n).enumerate().for_each(|(i, patch)| {
            let (c, y) = (i / n, i % n);
            let canvas = &canvas[c / channels * plane..][..plane];
            let shift = Shift2::onto(&offsets[2 * c..], self.pad());
            let rows = shift.rows(canvas, 2 * canvas_side, y);
            for (x, pixel) in patch.chunks_exact_mut(2).enumerate() {
                pixel.copy_from_slice(&rows.sample::<2>(x));
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Extract { canvas, offsets, patches, batch, channels, side, canvas_side } = *self;
        let total = batch * channels * side * side;
        let launch = Launch::elements("extract_forward", total)
            .buffers([canvas, offsets, patches])
            .ints([channels, side, canvas_side, total]);
        vec![launch]
    }
}

impl Operation for ExtractBackward {
    fn reads(&self) -> Vec<Value> {
        vec![self.forward.offsets, self.dpatches]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dcanvas.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Extract { offsets, channels, side: n, canvas_side, .. } = self.forward;
        let [offsets, dpatches, dcanvas] = mem.get([offsets, self.dpatches, self.dcanvas.value]);
        let (offsets, dpatches, plane) = (&*offsets, &*dpatches, 2 * n * n);
        dcanvas.par_chunks_mut(2 * canvas_side).enumerate().for_each(|(i, dcanvas)| {
            let (b, y) = (i / canvas_side, i % canvas_side);
            if !self.dcanvas.accumulate {
                dcanvas.fill(T::zero());
            }
            for c in b * channels..(b + 1) * channels {
                let shift = Shift2::back(&offsets[2 * c..], self.forward.pad());
                let rows = shift.rows(&dpatches[c * plane..][..plane], 2 * n, y);
                for (x, dk) in dcanvas.chunks_exact_mut(2).enumerate() {
                    let [re, im] = rows.sample(x);
                    put(&mut dk[0], true, re);
                    put(&mut dk[1], true, im);
                }
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Extract { offsets, batch, channels, side, canvas_side, .. } = self.forward;
        let (d, total) = (self.dcanvas, batch * canvas_side * canvas_side);
        let launch = Launch::elements("extract_backward", total)
            .buffers([offsets, self.dpatches, d.value])
            .ints([channels, side, canvas_side, total, d.accumulate.into()]);
        vec![launch]
    }
}
