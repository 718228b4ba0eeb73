//! AVX2 and FMA: 16 registers of 8 lanes.

use std::arch::x86_64::*;

use super::{
    BLOCK, Correlation, FULL, Kernels, LANES, OUTPUTS, Rows, TILE, VECTORS, weight_rows_portable,
};
use crate::ops::conv2d::winograd::Winograd;

pub const KERNELS: Kernels<f32> = Kernels { tile, weight_rows, chains, winograd: Winograd::AVX2 };

/// Vectors of one register tile: 6 output channels by 2 vectors are 12 accumulators, which leave 4
/// of the 16 registers for inputs and weights. (4 by 3 needs all 16, and the compiler then keeps
/// one accumulator in memory.)
const PAIR: usize = 2;

fn tile(c: &Correlation<f32>, offsets: &[usize; VECTORS], tile: &mut [f32; TILE]) {
    c.check(offsets);
    let tiles = tile.chunks_exact_mut(OUTPUTS * VECTORS * LANES);
    for (w, tile) in c.w.chunks_exact(c.block_len()).zip(tiles) {
        for (pair, offsets) in offsets.chunks_exact(PAIR).enumerate() {
            let offsets = [offsets[0], offsets[1]];
            // SAFETY: this function is chosen only where AVX2 and FMA are detected; `check` holds
            // the reads of x, and `w` is one whole block.
            unsafe { register_tile(c, w, &offsets, &mut tile[pair * PAIR * LANES..]) }
        }
    }
}

/// Two of the vectors of one block; `tile` begins at the first of them, rows of 4 vectors.
// SAFETY: see `tile`, the only caller.
#[target_feature(enable = "avx2,fma")]
unsafe fn register_tile(
    c: &Correlation<f32>,
    w: &[f32],
    offsets: &[usize; PAIR],
    tile: &mut [f32],
) {
    let (x, channels, mut w) = (c.x.as_ptr(), c.channels(), w.as_ptr());
    for block in (0..channels).step_by(BLOCK) {
        let mut sums = [[_mm256_setzero_ps(); PAIR]; OUTPUTS];
        for channel in block..channels.min(block + BLOCK) {
            for &tap in c.taps {
                // SAFETY: `tile` has checked the reach of every offset, tap and weight.
                unsafe {
                    let x = x.add(channel * c.plane + tap);
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
        for (o, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let to = &mut tile[(o * VECTORS + v) * LANES..][..LANES];
                // The first block sets, later ones add.
                // SAFETY: `to` holds one vector.
                unsafe {
                    let before = _mm256_loadu_ps(to.as_ptr());
                    let before = if block == 0 { _mm256_setzero_ps() } else { before };
                    _mm256_storeu_ps(to.as_mut_ptr(), _mm256_add_ps(before, sum));
                }
            }
        }
    }
}

/// Output channels of one register tile of the weight gradient: 3 by 3 taps are 9 accumulators.
const GRADIENTS: usize = 3;

fn weight_rows(rows: &Rows<f32>, lanes: &mut [f32]) {
    // Filters of these sides do nearly all the work.
    match rows.side {
        3 => rows_of_taps::<3>(rows, lanes),
        1 => rows_of_taps::<1>(rows, lanes),
        _ => weight_rows_portable(rows, lanes),
    }
}

fn rows_of_taps<const SIDE: usize>(rows: &Rows<f32>, lanes: &mut [f32]) {
    rows.check(lanes);
    for u in 0..SIDE {
        for first in (0..rows.outputs).step_by(GRADIENTS) {
            let lanes = &mut lanes[u * SIDE * OUTPUTS * LANES..];
            // SAFETY: `weight_rows` is chosen only where AVX2 and FMA are detected; `check` holds
            // the last vector of the farthest row of both arrays, and the size of the sums.
            unsafe { row_of_taps::<SIDE>(rows, u, first, lanes) }
        }
    }
}

/// Row `u` of the taps for three output channels from `first` on; `lanes` begins at that row.
// SAFETY: see `rows_of_taps`, the only caller.
#[target_feature(enable = "avx2,fma")]
unsafe fn row_of_taps<const SIDE: usize>(
    rows: &Rows<f32>,
    u: usize,
    first: usize,
    lanes: &mut [f32],
) {
    let place = |v: usize, o: usize| (v * OUTPUTS + first + o) * LANES;
    let mut sums = [[_mm256_setzero_ps(); GRADIENTS]; SIDE];
    for (v, sums) in sums.iter_mut().enumerate() {
        for (o, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the slice holds one vector.
            *sum = unsafe { _mm256_loadu_ps(lanes[place(v, o)..][..LANES].as_ptr()) };
        }
    }
    let channels: [usize; GRADIENTS] = std::array::from_fn(|o| rows.channels[first + o]);
    for (p, q) in rows.lines.iter() {
        for n in 0..rows.vectors {
            // SAFETY: `rows_of_taps` has checked the reach of the farthest row.
            unsafe {
                let x = rows.x.as_ptr().add(q + u * rows.stride + n * LANES);
                let x: [_; SIDE] = std::array::from_fn(|v| _mm256_loadu_ps(x.add(v)));
                let dz = rows.dz.as_ptr().add(p + n * LANES);
                let dz = channels.map(|channel| _mm256_loadu_ps(dz.add(channel)));
                for (sums, &x) in sums.iter_mut().zip(&x) {
                    for (sum, &dz) in sums.iter_mut().zip(&dz) {
                        *sum = _mm256_fmadd_ps(dz, x, *sum);
                    }
                }
            }
        }
    }
    for (v, sums) in sums.iter().enumerate() {
        for (o, &sum) in sums.iter().enumerate() {
            // SAFETY: the slice holds one vector.
            unsafe { _mm256_storeu_ps(lanes[place(v, o)..][..LANES].as_mut_ptr(), sum) }
        }
    }
}

fn chains(x: &mut [f32], a: f32, b: f32, steps: usize) {
    // SAFETY: this function is chosen only where AVX2 and FMA are detected.
    unsafe { fused_chains(x, a, b, steps) }
}

#[target_feature(enable = "avx2,fma")]
fn fused_chains(x: &mut [f32], a: f32, b: f32, steps: usize) {
    super::chains::<f32, { FULL / 2 }>(x, steps, |x| a.mul_add(x, b));
}
