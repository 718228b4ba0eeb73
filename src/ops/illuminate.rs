//! Exit waves: each probe mode times the object patch, pixel by pixel.
//!
//! ψ_bcp = P_{s(b) p} X_bc;  ∂L/∂X_bc = Σ_p conj(P_{s(b) p}) ∂L/∂ψ_bcp,
//! ∂L/∂P_sp = Σ_{b: s(b) = s} Σ_c conj(X_bc) ∂L/∂ψ_bcp, where s(b) is the scan of sample b.
//! Kernel twin: `kernels/illuminate.cu`.

use rayon::prelude::*;

use super::Operation;
use crate::backend::cpu::{Mem, Real, put};
use crate::graph::{Grad, Graph, Value};
use crate::launch::Launch;

#[derive(Clone, Debug)]
pub struct Illuminate {
    pub(super) object: Value,
    pub(super) probe: Value,
    scan: Value,
    pub(super) exit: Value,
    batch: usize,
    scans: usize,
    channels: usize,
    pub(super) modes: usize,
    pub(super) side: usize,
}

#[derive(Clone, Debug)]
pub struct IlluminateBackward {
    forward: Illuminate,
    dexit: Value,
    dobject: Option<Grad>,
    dprobe: Option<Grad>,
}

/// [B, C, N, N, 2] object patches, [S, P, N, N, 2] probes of S scans and [B] index of the scan that
/// each sample belongs to → [B, C, P, N, N, 2] exit waves.
pub fn illuminate(g: &mut Graph, object: Value, probe: Value, scan: Value) -> Value {
    let illuminate = Illuminate::new(g, "exit wave", object, probe, scan);
    let exit = illuminate.exit;
    g.push(illuminate);
    exit
}

impl Illuminate {
    pub(super) fn new(
        g: &mut Graph,
        name: &str,
        object: Value,
        probe: Value,
        scan: Value,
    ) -> Illuminate {
        let [batch, channels, side, w, re_im] = g.dims(object);
        let [scans, modes, ph, pw, _] = g.dims(probe);
        assert!(
            (w, ph, pw, re_im) == (side, side, side, 2),
            "probe and object have one square shape"
        );
        assert_eq!(g.dims(scan), [batch], "one scan index for each sample");
        let exit = g.work(name, &[batch, channels, modes, side, side, 2]);
        Illuminate { object, probe, scan, exit, batch, scans, channels, modes, side }
    }

    /// From the gradient of the exit waves to those of object and probe.
    pub(super) fn adjoint(
        &self,
        dexit: Value,
        dobject: Option<Grad>,
        dprobe: Option<Grad>,
    ) -> IlluminateBackward {
        IlluminateBackward { forward: self.clone(), dexit, dobject, dprobe }
    }

    /// Numbers in one complex plane.
    fn plane(&self) -> usize {
        2 * self.side * self.side
    }
}

impl Operation for Illuminate {
    fn reads(&self) -> Vec<Value> {
        vec![self.object, self.probe, self.scan]
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.exit]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dexit) = g.grad_of(self.exit) else { return };
        let (dobject, dprobe) = (g.grad_into(self.object), g.grad_into(self.probe));
        g.push(self.adjoint(dexit, dobject, dprobe));
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        let [object, probe, scan, exit] = mem.get([self.object, self.probe, self.scan, self.exit]);
        let (object, probe, scan, n) = (&*object, &*probe, &*scan, self.plane());
        exit.par_chunks_mut(n).enumerate().for_each(|(i, exit)| {
            let (patch, mode) = (i / self.modes, i % self.modes);
            let bank = scan_of(scan, patch / self.channels) * self.modes + mode;
            let pairs = pairs(&probe[bank * n..][..n], &object[patch * n..][..n]);
            for (psi, (p, x)) in exit.chunks_exact_mut(2).zip(pairs) {
                psi[0] = p[0] * x[0] - p[1] * x[1];
                psi[1] = p[0] * x[1] + p[1] * x[0];
            }
        });
    }

    fn launches(&self) -> Vec<Launch> {
        let Illuminate { object, probe, scan, exit, batch, channels, modes, side, .. } = *self;
        let (pixels, total) = (side * side, batch * channels * modes * side * side);
        let launch = Launch::elements("illuminate_forward", total)
            .buffers([object, probe, scan, exit])
            .ints([channels, modes, pixels, total]);
        vec![launch]
    }
}

impl Operation for IlluminateBackward {
    fn reads(&self) -> Vec<Value> {
        let Illuminate { object, probe, scan, .. } = self.forward;
        vec![object, probe, scan, self.dexit]
    }

    fn writes(&self) -> Vec<Value> {
        self.dobject.iter().chain(&self.dprobe).map(|d| d.value).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        if let Some(d) = self.dobject {
            self.cpu_object(mem, d);
        }
        if let Some(d) = self.dprobe {
            self.cpu_probe(mem, d);
        }
    }

    fn launches(&self) -> Vec<Launch> {
        let Illuminate { object, probe, scan, batch, scans, channels, modes, side, .. } =
            self.forward;
        let pixels = side * side;
        let to_object = self.dobject.map(|d| {
            let total = batch * channels * pixels;
            Launch::elements("illuminate_backward_object", total)
                .buffers([probe, scan, self.dexit, d.value])
                .ints([channels, modes, pixels, total, d.accumulate.into()])
        });
        let to_probe = self.dprobe.map(|d| {
            let total = scans * modes * pixels;
            Launch::elements("illuminate_backward_probe", total)
                .buffers([object, scan, self.dexit, d.value])
                .ints([batch, channels, modes, pixels, total, d.accumulate.into()])
        });
        to_object.into_iter().chain(to_probe).collect()
    }
}

impl IlluminateBackward {
    fn cpu_object<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let Illuminate { probe, scan, channels, modes, .. } = self.forward;
        let [probe, scan, dexit, dobject] = mem.get([probe, scan, self.dexit, d.value]);
        let (probe, scan, dexit, n) = (&*probe, &*scan, &*dexit, self.forward.plane());
        dobject.par_chunks_mut(n).enumerate().for_each(|(patch, dobject)| {
            let bank = scan_of(scan, patch / channels) * modes;
            for mode in 0..modes {
                let probe = &probe[(bank + mode) * n..][..n];
                let dexit = &dexit[(patch * modes + mode) * n..][..n];
                put_conjugate_product(dobject, d.accumulate || mode > 0, probe, dexit);
            }
        });
    }

    /// One row of one mode at a time; samples and channels are summed in their order.
    fn cpu_probe<T: Real>(&self, mem: &mut Mem<T>, d: Grad) {
        let Illuminate { object, scan, channels, modes, side, .. } = self.forward;
        let [object, scan, dexit, dprobe] = mem.get([object, scan, self.dexit, d.value]);
        let (object, scan, dexit, n) = (&*object, &*scan, &*dexit, self.forward.plane());
        let width = 2 * side;
        dprobe.par_chunks_mut(width).enumerate().for_each(|(i, dprobe)| {
            let (bank, row) = (i / side, i % side * width);
            if !d.accumulate {
                dprobe.fill(T::zero());
            }
            let samples = (0..scan.len()).filter(|&b| scan_of(scan, b) == bank / modes);
            for patch in samples.flat_map(|b| b * channels..(b + 1) * channels) {
                let object = &object[patch * n + row..][..width];
                let dexit = &dexit[(patch * modes + bank % modes) * n + row..][..width];
                put_conjugate_product(dprobe, true, object, dexit);
            }
        });
    }
}

/// Index of the scan that sample `b` belongs to.
fn scan_of<T: Real>(scan: &[T], b: usize) -> usize {
    scan[b].wide() as usize
}

fn pairs<'a, T>(a: &'a [T], b: &'a [T]) -> impl Iterator<Item = (&'a [T], &'a [T])> {
    a.chunks_exact(2).zip(b.chunks_exact(2))
}

/// Sets `dst` to conj(a) b, or adds it.
fn put_conjugate_product<T: Real>(dst: &mut [T], accumulate: bool, a: &[T], b: &[T]) {
    for (dst, (a, b)) in dst.chunks_exact_mut(2).zip(pairs(a, b)) {
        put(&mut dst[0], accumulate, a[0] * b[0] + a[1] * b[1]);
        put(&mut dst[1], accumulate, a[0] * b[1] - a[1] * b[0]);
    }
}
