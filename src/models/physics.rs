//! From object patches to the loss, shared by all generators.
//!
//! Far field of mode p: F_p = unitary FFT of P_p·O; intensity I = Σ_p |F_p|². The probes that the
//! engine holds carry the factor (−1)^(row+column): multiplying by it before the transform is the
//! same as shifting the spectrum by half its width, so that zero frequency comes out at (N/2, N/2),
//! where measured patterns have it, and nothing is ever shifted.

use ndarray::{Array2, Array3, ArrayView3};
use num_complex::Complex32;

use crate::graph::{Graph, Value};
use crate::ops::diffraction::{self, Source};
use crate::ops::extract::extract;
use crate::ops::fft2::fft2;
use crate::ops::illuminate::illuminate;
use crate::ops::intensity::intensity;
use crate::ops::merge::{MergeRule, merge};
use crate::ops::misfit::{Distance, Measured, Normalise, Upstream, misfit};

/// Groups of overlapping patches, merged before the physics.
#[derive(Clone, Copy, Debug)]
pub struct Overlap {
    /// [B, C, 2] displacement (x, y) of each patch from the centre of its group, pixels.
    pub offsets: Value,
    /// [N, N] weight of a patch's pixels.
    pub weight: Value,
    /// Side of the canvas that holds every group, pixels.
    pub side: usize,
    pub rule: MergeRule,
}

/// [B, C, N, N, 2] patches → the merged object of their group, which they are cut out of again.
pub fn merged(g: &mut Graph, patches: Value, overlap: &Overlap) -> Source {
    let Overlap { offsets, weight, side, rule } = *overlap;
    Source::Canvas(merge(g, patches, offsets, weight, side, rule), offsets)
}

/// [B, C, N, N, 2] patches, [S, P, N, N, 2] probes of S scans (with the checkerboard) and [B] scan
/// of each sample → [B, C, N, N] intensity, zero frequency at (N/2, N/2).
pub fn diffract(g: &mut Graph, patches: Value, probe: Value, scan: Value) -> Value {
    let exit = illuminate(g, patches, probe, scan);
    let field = fft2(g, exit);
    intensity(g, field)
}

/// [`diffract`] and a comparison with what was measured: [B, C, N, N] intensity, which nothing else
/// may be computed from, and [B] loss of each sample.
pub fn compare(
    g: &mut Graph,
    source: Source,
    probe: Value,
    measured: Measured,
    upstream: Upstream,
    distance: Distance,
    normalise: Normalise,
) -> [Value; 2] {
    let [_, _, n, _, _] = g.dims(probe);
    if diffraction::fits(n) {
        return diffraction::diffraction(g, source, probe, measured, upstream, distance, normalise);
    }
    let patches = match source {
        Source::Patches(patches) => patches,
        Source::Canvas(canvas, offsets) => extract(g, canvas, offsets, n),
    };
    let intensity = diffract(g, patches, probe, measured.scan);
    [intensity, misfit(g, distance, intensity, measured, upstream, normalise)]
}

/// [P, N, N] probe modes, times `gauge` and the checkerboard, as the engine holds them. Applying it
/// to its own result with 1/`gauge` gives the modes back.
pub fn checkerboard(probe: ArrayView3<Complex32>, gauge: f64) -> Array3<Complex32> {
    Array3::from_shape_fn(probe.dim(), |(p, r, c)| {
        let sign = if (r + c) % 2 == 0 { gauge } else { -gauge };
        probe[[p, r, c]] * sign as f32
    })
}

/// Σ_p |P_p|², [N, N].
pub fn probe_intensity(probe: ArrayView3<Complex32>) -> Array2<f32> {
    probe.map(|z| z.norm_sqr()).sum_axis(ndarray::Axis(0))
}

/// Side of a canvas that holds patches of side `n` displaced by at most `reach` pixels, one pixel
/// of interpolation included; even, so that the patches are centred.
pub fn canvas_side(n: usize, reach: f64) -> usize {
    n + 2 * (reach.ceil() as usize + 1)
}

/// 1 in the central N/2×N/2 pixels, 0 outside.
pub fn central_box(n: usize) -> Array2<f32> {
    let inside = |i: usize| (n / 4..n / 4 + n / 2).contains(&i);
    Array2::from_shape_fn((n, n), |(r, c)| if inside(r) && inside(c) { 1.0 } else { 0.0 })
}
