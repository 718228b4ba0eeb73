//! One canvas out of the overlapping patches of a group.
//!
//! K = Σ_c w_c T_c O_c / (Σ_c w_c + floor), and 0 where Σ_c w_c ≤ threshold; w_c = T_c w.
//! (T_c O)(p) = O(p − pad − d_c), bilinear and zero outside: a patch goes to the middle of the
//! canvas and from there by its offset d_c. The adjoint is Ō_c = T_cᴴ (w_c s K̄) with s = 1 / (Σ_c w_c +
//! floor) or 0; there is no gradient through w.
//! Kernel twin: `kernels/merge.cu`.

use rayon::prelude::*;

use super::Operation;
use super::bilinear::Shift2;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

/// How the weighted mean ends where little is known, in units of the weight map, whose largest
/// value is meant to be 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeRule {
    /// Sums of weights up to here count as nothing.
    pub threshold: f64,
    /// Added to the sum of weights.
    pub floor: f64,
}

impl Default for MergeRule {
    fn default() -> MergeRule {
        MergeRule { threshold: 1e-6, floor: 0.0 }
    }
}

#[derive(Clone, Debug)]
pub struct Merge {
    patches: Value,
    offsets: Value,
    weight: Value,
    canvas: Value,
    /// s at each pixel of the canvas, kept for the gradient: [B, S, S].
    share: Value,
    rule: MergeRule,
    batch: usize,
    channels: usize,
    side: usize,
    canvas_side: usize,
}

#[derive(Clone, Debug)]
pub struct MergeBackward {
    forward: Merge,
    dcanvas: Value,
    dpatches: Grad,
}

/// [B, C, N, N, 2] patches, [B, C, 2] offsets (x, y) in pixels and [N, N] weight map
/// → [B, S, S, 2] canvas, S = `canvas_side`.
pub fn merge(
    g: &mut Graph,
    patches: Value,
    offsets: Value,
    weight: Value,
    canvas_side: usize,
    rule: MergeRule,
) -> Value {
    let [batch, channels, side, w, re_im] = g.dims(patches);
    assert_eq!((w, re_im), (side, 2), "patches are square and complex");
    assert_eq!(g.dims(offsets), [batch, channels, 2], "one offset for each patch");
    assert_eq!(g.dims(weight), [side, side], "one weight for each pixel of a patch");
    assert!(
        canvas_side >= side && (canvas_side - side).is_multiple_of(2),
        "a patch has a place in the middle of the canvas"
    );
    let canvas = g.work("canvas", &[batch, canvas_side, canvas_side, 2]);
    let share = g.work("share of canvas", &[batch, canvas_side, canvas_side]);
    g.push(Merge {
        patches,
        offsets,
        weight,
        canvas,
        share,
        rule,
        batch,
        channels,
        side,
        canvas_side,
    });
    canvas
}

impl Merge {
    fn pad(&self) -> usize {
        (self.canvas_side - self.side) / 2
    }

    /// s where the weights sum to `sum`.
    fn share<T: Real>(&self, sum: T) -> T {
        let MergeRule { threshold, floor } = self.rule;
        if sum > T::of(threshold) { (sum + T::of(floor)).recip() } else { T::zero() }
    }
}

impl Operation for Merge {
    fn reads(&self) -> Vec<Value> {
        vec![self.patches, self.offsets, self.weight]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.canvas, self.share]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dcanvas) = g.grad_of(self.canvas) else { return };
        let Some(dpatches) = g.grad_into(self.patches) else { return };
        g.push(MergeBackward { forward: self.clone(), dcanvas, dpatches });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Merge { channels, side: n, canvas_side, .. } = *self;
        let [patches, offsets, weight, canvas, share] =
            mem.get([self.patches, self.offsets, self.weight, self.canvas, self.share]);
        let (patches, offsets, weight) = (&*patches, &*offsets, &*weight);
        let rows = canvas.par_chunks_mut(2 * canvas_side).zip(share.par_chunks_mut(canvas_side));
        rows.enumerate().for_each(|(i, (canvas, share))| {
            let (b, y) = (i / canvas_side, i % canvas_side);
            canvas.fill(T::zero());
            share.fill(T::zero());
            for c in b * channels..(b + 1) * channels {
                let shift = Shift2::back(&offsets[2 * c..], self.pad());
                let patch = shift.rows(&patches[c * 2 * n * n..][..2 * n * n], 2 * n, y);
                let weight = shift.rows(weight, n, y);
                for (x, (k, sum)) in canvas.chunks_exact_mut(2).zip(&mut *share).enumerate() {
                    let ([w], [re, im]) = (weight.sample(x), patch.sample(x));
                    k[0] += w * re;
                    k[1] += w * im;
                    *sum += w;
                }
            }
            for (k, s) in canvas.chunks_exact_mut(2).zip(share) {
                *s = self.share(*s);
                k.iter_mut().for_each(|k| *k = *k * *s);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Merge { patches, offsets, weight, canvas, share, rule, .. } = *self;
        let Merge { batch, channels, side, canvas_side, .. } = *self;
        let total = batch * canvas_side * canvas_side;
        let launch = Launch::elements("merge_forward", total)
            .buffers([patches, offsets, weight, canvas, share])
            .ints([channels, side, canvas_side, total])
            .floats([rule.threshold, rule.floor]);
        vec![launch]
    }
}

impl Operation for MergeBackward {
    fn reads(&self) -> Vec<Value> {
        let Merge { offsets, weight, share, .. } = self.forward;
        vec![offsets, weight, share, self.dcanvas]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.dpatches.value]
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let Merge { offsets, weight, share, channels, side: n, canvas_side, .. } = self.forward;
        let [offsets, weight, share, dcanvas, dpatches] =
            mem.get([offsets, weight, share, self.dcanvas, self.dpatches.value]);
        let (offsets, weight, share, dcanvas) = (&*offsets, &*weight, &*share, &*dcanvas);
        let pad = self.forward.pad();
        dpatches.par_chunks_mut(2 * n).enumerate().for_each(|(i, dpatch)| {
            let (c, y) = (i / n, i % n);
            let offset = &offsets[2 * c..];
            let (onto, back) = (Shift2::onto(offset, pad), Shift2::back(offset, pad));
            // The rows of the canvas that this row of the patch went to.
            let rows = || {
                onto.row_taps(y, canvas_side).map(|(row, part)| {
                    let at = (c / channels * canvas_side + row) * canvas_side;
                    let (share, dk) =
                        (&share[at..][..canvas_side], &dcanvas[2 * at..][..2 * canvas_side]);
                    (part, share, dk, back.rows(weight, n, row))
                })
            };
            for (x, d) in dpatch.chunks_exact_mut(2).enumerate() {
                let mut sum = [T::zero(); 2];
                for (part, share, dk, weight) in rows() {
                    for (at, across) in onto.column_taps(x, canvas_side) {
                        let [w] = weight.sample(at);
                        let scale = part * across * w * share[at];
                        sum[0] += scale * dk[2 * at];
                        sum[1] += scale * dk[2 * at + 1];
                    }
                }
                put(&mut d[0], self.dpatches.accumulate, sum[0]);
                put(&mut d[1], self.dpatches.accumulate, sum[1]);
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Merge { offsets, weight, share, batch, channels, side, canvas_side, .. } = self.forward;
        let (d, total) = (self.dpatches, batch * channels * side * side);
        let launch = Launch::elements("merge_backward", total)
            .buffers([offsets, weight, share, self.dcanvas, d.value])
            .ints([channels, side, canvas_side, total, d.accumulate.into()]);
        vec![launch]
    }
}
