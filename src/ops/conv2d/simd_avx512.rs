//! AVX-512: 32 registers of 16 lanes, each of which holds two vectors of 8. The sums are those of
//! AVX2, two at a time, and have the same bits.

use std::arch::x86_64::*;

use super::{
    BLOCK, BLOCKS, Correlation, FULL, Kernels, LANES, OUTPUTS, Rows, TILE, VECTORS,
    weight_rows_portable,
};
use crate::ops::conv2d::winograd::Winograd;

pub const KERNELS: Kernels<f32> = Kernels { tile, weight_rows, chains, winograd: Winograd::AVX512 };

/// Registers that hold the vectors of a tile. By 12 output channels they are 24 accumulators.
const PAIRS: usize = VECTORS / 2;

/// Lanes of a register.
const WIDE: usize = 2 * LANES;

fn tile(c: &Correlation<f32>, offsets: &[usize; VECTORS], tile: &mut [f32; TILE]) {
    c.check(offsets);
    let adjacent = offsets.chunks_exact(2).all(|pair| pair[1] == pair[0] + LANES);
    // SAFETY: this function is chosen only where AVX-512F and DQ are detected; `check` holds the
    // reads of x, and the number of blocks is that of `w`.
    unsafe {
        match (c.w.len() / c.block_len() == BLOCKS, adjacent) {
            (true, true) => register_tile::<BLOCKS, true>(c, offsets, tile),
            (true, false) => register_tile::<BLOCKS, false>(c, offsets, tile),
            (false, true) => register_tile::<1, true>(c, offsets, tile),
            (false, false) => register_tile::<1, false>(c, offsets, tile),
        }
    }
}

// SAFETY: see `tile`, the only caller.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn register_tile<const B: usize, const ADJACENT: bool>(
    c: &Correlation<f32>,
    offsets: &[usize; VECTORS],
    tile: &mut [f32; TILE],
) {
    let (x, channels) = (c.x.as_ptr(), c.channels());
    let mut w: [*const f32; B] = std::array::from_fn(|b| c.w[b * c.block_len()..].as_ptr());
    for block in (0..channels).step_by(BLOCK) {
        let mut sums = [[[_mm512_setzero_ps(); PAIRS]; OUTPUTS]; B];
        for channel in block..channels.min(block + BLOCK) {
            for &tap in c.taps {
                // SAFETY: `tile` has checked the reach of every offset, tap and weight.
                unsafe {
                    let x = x.add(channel * c.plane + tap);
                    let x: [__m512; PAIRS] = std::array::from_fn(|pair| {
                        let at = x.add(offsets[2 * pair]);
                        if ADJACENT {
                            return _mm512_loadu_ps(at);
                        }
                        join(at, x.add(offsets[2 * pair + 1]))
                    });
                    for (sums, w) in sums.iter_mut().zip(&mut w) {
                        for (o, sums) in sums.iter_mut().enumerate() {
                            let w = _mm512_set1_ps(*w.add(o));
                            for (sum, &x) in sums.iter_mut().zip(&x) {
                                *sum = _mm512_fmadd_ps(w, x, *sum);
                            }
                        }
                        *w = w.add(OUTPUTS);
                    }
                }
            }
        }
        let sums = sums.as_flattened().as_flattened();
        for (&sum, to) in sums.iter().zip(tile.chunks_exact_mut(WIDE)) {
            // The first block sets, later ones add.
            // SAFETY: each chunk of the tile holds one register.
            unsafe {
                let before = _mm512_loadu_ps(to.as_ptr());
                let before = if block == 0 { _mm512_setzero_ps() } else { before };
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_add_ps(before, sum));
            }
        }
    }
}

/// Two vectors of 8 in one register.
// SAFETY: 8 elements must be readable from both pointers.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn join(low: *const f32, high: *const f32) -> __m512 {
    // SAFETY: by the caller's word.
    unsafe {
        _mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high))
    }
}

/// Registers of output channels, two channels each. By 9 taps they are 27 accumulators.
const CHANNEL_PAIRS: usize = OUTPUTS / 2;

fn weight_rows(rows: &Rows<f32>, lanes: &mut [f32]) {
    rows.check(lanes);
    // SAFETY: this function is chosen only where AVX-512F and DQ are detected; `check` holds the
    // last vector of the farthest row of both arrays, and the size of the sums.
    unsafe {
        match rows.side {
            3 => all_taps::<3>(rows, lanes),
            1 => all_taps::<1>(rows, lanes),
            _ => weight_rows_portable(rows, lanes),
        }
    }
}

/// Filters of these sides do nearly all the work.
// SAFETY: see `weight_rows`, the only caller.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn all_taps<const SIDE: usize>(rows: &Rows<f32>, lanes: &mut [f32]) {
    // [u][v][pair]
    let mut sums = [[[_mm512_setzero_ps(); CHANNEL_PAIRS]; SIDE]; SIDE];
    let flat = sums.as_flattened_mut().as_flattened_mut();
    for (sum, from) in flat.iter_mut().zip(lanes.chunks_exact(WIDE)) {
        // SAFETY: each chunk holds one register.
        *sum = unsafe { _mm512_loadu_ps(from.as_ptr()) };
    }
    for (p, q) in rows.lines.iter() {
        for n in 0..rows.vectors {
            // SAFETY: `weight_rows` has checked the reach of the farthest row.
            unsafe {
                let dz = rows.dz.as_ptr().add(p + n * LANES);
                let dz: [__m512; CHANNEL_PAIRS] = std::array::from_fn(|pair| {
                    let channel = |c: usize| dz.add(rows.channels[2 * pair + c]);
                    join(channel(0), channel(1))
                });
                let x = rows.x.as_ptr().add(q + n * LANES);
                for (u, sums) in sums.iter_mut().enumerate() {
                    for (v, sums) in sums.iter_mut().enumerate() {
                        let x = _mm256_loadu_ps(x.add(u * rows.stride + v));
                        let x = _mm512_broadcast_f32x8(x);
                        for (sum, &dz) in sums.iter_mut().zip(&dz) {
                            *sum = _mm512_fmadd_ps(dz, x, *sum);
                        }
                    }
                }
            }
        }
    }
    let flat = sums.as_flattened().as_flattened();
    for (&sum, to) in flat.iter().zip(lanes.chunks_exact_mut(WIDE)) {
        // SAFETY: each chunk holds one register.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) }
    }
}

fn chains(x: &mut [f32], a: f32, b: f32, steps: usize) {
    // SAFETY: this function is chosen only where AVX-512F and DQ are detected.
    unsafe { fused_chains(x, a, b, steps) }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn fused_chains(x: &mut [f32], a: f32, b: f32, steps: usize) {
    super::chains::<f32, FULL>(x, steps, |x| a.mul_add(x, b));
}
