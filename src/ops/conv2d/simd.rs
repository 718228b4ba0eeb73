//! Inner loops of the convolution: portable ones, and AVX2 + FMA for f32, chosen at run time.
//!
//! Both add in the same order. They differ in rounding: the fused multiply-add rounds once.

use super::layout::{GRADIENTS, LANES, OUTPUTS};
use crate::backend::cpu::Real;

/// Vectors of one register tile: 6 output channels by 2 vectors are 12 accumulators, which leave 4
/// of the 16 registers of AVX2 for inputs and weights. (4 by 3 needs all 16, and the
/// compiler then keeps one accumulator in memory.)
pub const VECTORS: usize = 2;

/// Elements of one register tile, [6][2][8].
pub const TILE: usize = OUTPUTS * VECTORS * LANES;

/// Input channels whose products are added in registers before they join the tile: shorter sums
/// round less. (With one long sum, f32 gradients of the reference cases were off by up to 7e-3
/// where a maximum tipped over; with this, by 4e-4.)
const BLOCK: usize = 16;

/// A register tile of the correlation, called as (x, plane, offsets, taps, w, tile):
///
/// tile[o][v][l] = Σ_i Σ_t w[i][t][o] · x[i · plane + offsets[v] + taps[t] + l]
pub type Tile<T> = fn(&[T], usize, &[usize; VECTORS], &[usize], &[T], &mut [T; TILE]);

/// Some rows of the weight gradient, called as (side, rows, lanes):
///
/// lanes[v][o][l] += Σ_{(p, q)} Σ_n dz[p + channels[o] + 8 n + l] · x[q + 8 n + l + v]
pub type WeightRows<T> = fn(usize, &Rows<T>, &mut [T]);

/// Rows of gradient and input that belong together.
pub struct Rows<'a, T> {
    dz: &'a [T],
    /// Where each of three output channels lies, from the place of a row.
    channels: [usize; GRADIENTS],
    x: &'a [T],
    places: &'a Places,
}

/// Where rows begin in `dz` and in `x`, and how far that reaches.
pub struct Places {
    starts: Vec<(usize, usize)>,
    farthest: (usize, usize),
    /// Vectors per row.
    vectors: usize,
}

impl Places {
    pub fn new(starts: Vec<(usize, usize)>, vectors: usize) -> Places {
        let farthest = starts.iter().fold((0, 0), |f, p| (f.0.max(p.0), f.1.max(p.1)));
        Places { starts, farthest, vectors }
    }
}

impl<'a, T> Rows<'a, T> {
    pub fn new(
        dz: &'a [T],
        channels: [usize; GRADIENTS],
        x: &'a [T],
        places: &'a Places,
    ) -> Rows<'a, T> {
        Rows { dz, channels, x, places }
    }
}

/// The inner loops for one element type on this machine.
pub struct Kernels<T> {
    pub tile: Tile<T>,
    pub weight_rows: WeightRows<T>,
}

/// Loops that any machine runs.
pub const fn kernels_portable<T: Real>() -> Kernels<T> {
    Kernels { tile: tile_portable, weight_rows: weight_rows_portable }
}

/// The fastest loops for f32 that this machine runs.
pub fn kernels_f32() -> Kernels<f32> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return Kernels { tile: avx2::tile, weight_rows: avx2::weight_rows };
    }
    kernels_portable()
}

fn tile_portable<T: Real>(
    x: &[T],
    plane: usize,
    offsets: &[usize; VECTORS],
    taps: &[usize],
    w: &[T],
    tile: &mut [T; TILE],
) {
    tile.fill(T::zero());
    let mut weights = w.chunks_exact(OUTPUTS);
    for block in x.chunks(BLOCK * plane) {
        let mut sums = [[[T::zero(); LANES]; VECTORS]; OUTPUTS];
        for x in block.chunks_exact(plane) {
            for (&tap, w) in taps.iter().zip(&mut weights) {
                for (v, &offset) in offsets.iter().enumerate() {
                    let x = &x[offset + tap..][..LANES];
                    for (o, &w) in w.iter().enumerate() {
                        let sums = &mut sums[o][v];
                        (0..LANES).for_each(|l| sums[l] += w * x[l]);
                    }
                }
            }
        }
        tile.iter_mut().zip(sums.as_flattened().as_flattened()).for_each(|(t, &s)| *t += s);
    }
}

fn weight_rows_portable<T: Real>(side: usize, rows: &Rows<T>, lanes: &mut [T]) {
    for &(p, q) in &rows.places.starts {
        for n in 0..rows.places.vectors {
            for v in 0..side {
                let x = &rows.x[q + n * LANES + v..][..LANES];
                for (o, &channel) in rows.channels.iter().enumerate() {
                    let dz = &rows.dz[p + channel + n * LANES..][..LANES];
                    let lanes = &mut lanes[(v * GRADIENTS + o) * LANES..][..LANES];
                    (0..LANES).for_each(|l| lanes[l] += dz[l] * x[l]);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{
        BLOCK, GRADIENTS, LANES, OUTPUTS, Places, Rows, TILE, VECTORS, weight_rows_portable,
    };

    pub fn tile(
        x: &[f32],
        plane: usize,
        offsets: &[usize; VECTORS],
        taps: &[usize],
        w: &[f32],
        tile: &mut [f32; TILE],
    ) {
        let channels = x.len() / plane;
        let reach = offsets.iter().max().unwrap_or(&0) + taps.iter().max().unwrap_or(&0) + LANES;
        assert!(reach <= plane && channels * taps.len() * OUTPUTS <= w.len());
        // SAFETY: this function is chosen only where AVX2 and FMA are detected. Every read of x
        // begins at most `reach − 8` into one of `channels` planes, and 6 weights are read for
        // each channel and tap: both are inside their slices by the assertion above.
        unsafe { tile_unchecked(x.as_ptr(), channels, plane, offsets, taps, w.as_ptr(), tile) }
    }

    // SAFETY: see `tile`, the only caller.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile_unchecked(
        x: *const f32,
        channels: usize,
        plane: usize,
        offsets: &[usize; VECTORS],
        taps: &[usize],
        mut w: *const f32,
        tile: &mut [f32; TILE],
    ) {
        tile.fill(0.0);
        for block in (0..channels).step_by(BLOCK) {
            let mut sums = [[_mm256_setzero_ps(); VECTORS]; OUTPUTS];
            for channel in block..channels.min(block + BLOCK) {
                for &tap in taps {
                    // SAFETY: `tile` has checked the reach of every offset, tap and weight.
                    unsafe {
                        let x = x.add(channel * plane + tap);
                        let x = offsets.map(|offset| _mm256_loadu_ps(x.add(offset)));
                        for (o, sums) in sums.iter_mut().enumerate() {
                            let w = _mm256_broadcast_ss(&*w.add(o));
                            for (sum, &x) in sums.iter_mut().zip(&x) {
                                *sum = _mm256_fmadd_ps(w, x, *sum);
                            }
                        }
                        w = w.add(OUTPUTS);
                    }
                }
            }
            for (&sum, to) in sums.as_flattened().iter().zip(tile.chunks_exact_mut(LANES)) {
                // SAFETY: each chunk of the tile holds one vector.
                unsafe {
                    _mm256_storeu_ps(
                        to.as_mut_ptr(),
                        _mm256_add_ps(_mm256_loadu_ps(to.as_ptr()), sum),
                    )
                }
            }
        }
    }

    /// Columns of taps that have their own loop: the 3×3 filters that do nearly all the work.
    const SIDE: usize = 3;

    pub fn weight_rows(side: usize, rows: &Rows<f32>, lanes: &mut [f32]) {
        if side != SIDE {
            return weight_rows_portable(side, rows, lanes);
        }
        let Places { farthest, vectors, .. } = rows.places;
        let channel = rows.channels.iter().max().unwrap_or(&0);
        assert!(farthest.0 + channel + vectors * LANES <= rows.dz.len());
        assert!(farthest.1 + vectors * LANES + SIDE - 1 <= rows.x.len());
        assert!(lanes.len() == SIDE * GRADIENTS * LANES);
        // SAFETY: this function is chosen only where AVX2 and FMA are detected; the assertions
        // hold the last vector of the farthest row of both arrays, and the size of the sums.
        unsafe { weight_rows_unchecked(rows, lanes) }
    }

    // SAFETY: see `weight_rows`, the only caller.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn weight_rows_unchecked(rows: &Rows<f32>, lanes: &mut [f32]) {
        let mut sums = [[_mm256_setzero_ps(); GRADIENTS]; SIDE];
        for (sum, from) in sums.as_flattened_mut().iter_mut().zip(lanes.chunks_exact(LANES)) {
            // SAFETY: each chunk holds one vector.
            *sum = unsafe { _mm256_loadu_ps(from.as_ptr()) };
        }
        for &(p, q) in &rows.places.starts {
            for n in 0..rows.places.vectors {
                // SAFETY: `weight_rows` has checked the reach of the farthest row.
                unsafe {
                    let x = rows.x.as_ptr().add(q + n * LANES);
                    let x: [_; SIDE] = [0, 1, 2].map(|v| _mm256_loadu_ps(x.add(v)));
                    let dz = rows.dz.as_ptr().add(p + n * LANES);
                    let dz = rows.channels.map(|channel| _mm256_loadu_ps(dz.add(channel)));
                    for (sums, &x) in sums.iter_mut().zip(&x) {
                        for (sum, &dz) in sums.iter_mut().zip(&dz) {
                            *sum = _mm256_fmadd_ps(dz, x, *sum);
                        }
                    }
                }
            }
        }
        for (&sum, to) in sums.as_flattened().iter().zip(lanes.chunks_exact_mut(LANES)) {
            // SAFETY: each chunk holds one vector.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) }
        }
    }
}
