//! AVX2, whose vectors are pairs of registers, and AVX-512.

use std::arch::x86_64::*;

use ndarray::ArrayViewMut3;

use super::{
    Channels, Forward, Gradient, Lane, TURN, Tiles, Unit, Winograd, add_outer, block, multiply,
};

/// A unit that is compiled with features of its own. `$rows` are the rows of a product whose sums its
/// registers hold.
macro_rules! unit {
    (
        $name:ident, $table:ident, $features:literal, $vector:ty,
        $fewest:literal..=$most:literal: $($rows:literal)+,
        $($operation:ident($($x:ident: $kind:ty),+) $(-> $out:ty)? { $body:expr })+
    ) => {
        pub struct $name;

        impl $name {
            #[target_feature(enable = $features)]
            fn multiply_rows<const R: usize>(
                v: &[f32], stride: usize, u: &[Lane<f32>], m: &mut [Lane<f32>], first: bool,
            ) {
                multiply::<f32, $name, R>(v, stride, u, m, first);
            }

            #[target_feature(enable = $features)]
            fn add_outer_rows<const R: usize>(
                d: &[f32], stride: usize, v: &[Lane<f32>], sums: &mut [Lane<f32>],
            ) {
                add_outer::<f32, $name, R>(d, stride, v, sums);
            }

            #[target_feature(enable = $features)]
            fn forward(
                job: &Forward<f32>, tiles: Tiles, scratch: &mut [Lane<f32>],
                y: &mut ArrayViewMut3<f32>,
            ) {
                block::forward::<f32, $name>(job, tiles, scratch, y);
            }

            #[target_feature(enable = $features)]
            fn gradient(
                job: &Gradient<f32>, scratch: &mut [Lane<f32>], sums: &mut [Lane<f32>],
                bias: Option<&mut [Lane<f32>]>,
            ) {
                block::gradient::<f32, $name>(job, scratch, sums, bias);
            }
        }

        impl Unit<f32> for $name {
            type V = $vector;
            const FEWEST: usize = $fewest;
            const MOST: usize = $most;

            $(#[inline(always)]
            fn $operation($($x: $kind),+) $(-> $out)? {
                // SAFETY: this unit is chosen only where its features are detected, and a lane is one
                // vector.
                unsafe { $body }
            })+

            #[inline(always)]
            fn multiply(v: &[f32], stride: usize, u: &[Lane<f32>], m: &mut [Lane<f32>], first: bool) {
                // SAFETY: this unit is chosen only where its features are detected.
                unsafe {
                    match m.len() {
                        $($rows => Self::multiply_rows::<$rows>(v, stride, u, m, first),)+
                        rows => unreachable!("groups have no {rows} rows"),
                    }
                }
            }

            #[inline(always)]
            fn add_outer(
                d: &[f32], stride: usize, v: &[Lane<f32>], sums: &mut [Lane<f32>],
            ) {
                // SAFETY: this unit is chosen only where its features are detected.
                unsafe {
                    match sums.len() {
                        $($rows => Self::add_outer_rows::<$rows>(d, stride, v, sums),)+
                        rows => unreachable!("groups have no {rows} rows"),
                    }
                }
            }

            #[inline(always)]
            fn turn(channels: &Channels<f32>, at: usize, pixels: &mut [Lane<f32>; TURN]) {
                // SAFETY: both units have AVX2.
                unsafe { turn(channels, at, pixels) }
            }

            #[inline(always)]
            fn turn_back(pixels: &[Lane<f32>; TURN], channels: &mut [f32], stride: usize) {
                // SAFETY: both units have AVX2.
                unsafe { turn_back(pixels, channels, stride) }
            }
        }

        impl Winograd<f32> {
            /// To be used only where the features of this unit are detected.
            pub const $table: Winograd<f32> = Winograd {
                // SAFETY: by the word of whoever chooses this table.
                forward: |job, tiles, scratch, y| unsafe { $name::forward(job, tiles, scratch, y) },
                // SAFETY: as above.
                gradient: |job, scratch, sums, bias| unsafe {
                    $name::gradient(job, scratch, sums, bias)
                },
                padded: <$name as Unit<f32>>::padded,
            };
        }
    };
}

type Pair = [__m256; 2];

// Six rows of two registers are 12 of the 16; fewer than five leave the unit waiting for its own sums.
unit!(
    Avx2, AVX2, "avx2,fma", Pair, 5..=6: 5 6,
    load(lane: &Lane<f32>) -> Pair {
        [_mm256_loadu_ps(lane.as_ptr()), _mm256_loadu_ps(lane[8..].as_ptr())]
    }
    store(v: Pair, lane: &mut Lane<f32>) {
        {
            _mm256_storeu_ps(lane.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(lane[8..].as_mut_ptr(), v[1]);
        }
    }
    splat(x: f32) -> Pair { [_mm256_set1_ps(x); 2] }
    add(a: Pair, b: Pair) -> Pair { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    sub(a: Pair, b: Pair) -> Pair { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    mul(a: Pair, b: Pair) -> Pair { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    max(a: Pair, b: Pair) -> Pair { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    multiply_add(a: Pair, b: Pair, c: Pair) -> Pair {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }
);

// Twelve of the 32 registers: enough sums under way for both multipliers.
unit!(
    Avx512, AVX512, "avx2,fma,avx512f,avx512dq", __m512, 6..=12: 6 7 8 9 10 11 12,
    load(lane: &Lane<f32>) -> __m512 { _mm512_loadu_ps(lane.as_ptr()) }
    store(v: __m512, lane: &mut Lane<f32>) { _mm512_storeu_ps(lane.as_mut_ptr(), v) }
    splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
    add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
    sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
    mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
    max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
    multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
);

/// Eight rows of eight, turned.
#[target_feature(enable = "avx2")]
fn eight(r: [__m256; 8]) -> [__m256; 8] {
    let low = |a, b| _mm256_unpacklo_ps(a, b);
    let high = |a, b| _mm256_unpackhi_ps(a, b);
    let (a, b) = (low(r[0], r[1]), high(r[0], r[1]));
    let (c, d) = (low(r[2], r[3]), high(r[2], r[3]));
    let (e, f) = (low(r[4], r[5]), high(r[4], r[5]));
    let (g, h) = (low(r[6], r[7]), high(r[6], r[7]));
    let first = |a, b| _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
    let second = |a, b| _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
    let upper = [first(a, c), second(a, c), first(b, d), second(b, d)];
    let lower = [first(e, g), second(e, g), first(f, h), second(f, h)];
    let left = |k: usize| _mm256_permute2f128_ps::<0x20>(upper[k], lower[k]);
    let right = |k: usize| _mm256_permute2f128_ps::<0x31>(upper[k], lower[k]);
    [left(0), left(1), left(2), left(3), right(0), right(1), right(2), right(3)]
}

/// One vector of `values`.
#[target_feature(enable = "avx2")]
fn vector(values: &[f32], at: usize) -> __m256 {
    // SAFETY: the slice is checked to hold one vector.
    unsafe { _mm256_loadu_ps(values[at..][..TURN].as_ptr()) }
}

#[target_feature(enable = "avx2")]
fn turn(channels: &Channels<f32>, at: usize, pixels: &mut [Lane<f32>; TURN]) {
    for half in [0, 8] {
        let mut turned = [_mm256_setzero_ps(); 8];
        let count = channels.count.saturating_sub(half).min(8);
        for (l, turned) in turned.iter_mut().enumerate().take(count) {
            let place = at + (half + l) * channels.stride;
            *turned = vector(channels.values, place);
            if let Some(positive) = channels.positive {
                let y = vector(positive, place);
                let counts = _mm256_cmp_ps::<_CMP_GT_OQ>(y, _mm256_setzero_ps());
                *turned = _mm256_and_ps(*turned, counts);
            }
        }
        for (pixel, turned) in pixels.iter_mut().zip(eight(turned)) {
            // SAFETY: half of a pixel's channels are one vector.
            unsafe { _mm256_storeu_ps(pixel[half..][..8].as_mut_ptr(), turned) };
        }
    }
}

#[target_feature(enable = "avx2")]
fn turn_back(pixels: &[Lane<f32>; TURN], channels: &mut [f32], stride: usize) {
    for half in [0, 8] {
        let mut turned = [_mm256_setzero_ps(); 8];
        for (turned, pixel) in turned.iter_mut().zip(pixels) {
            *turned = vector(pixel, half);
        }
        for (l, turned) in eight(turned).into_iter().enumerate() {
            let to = &mut channels[(half + l) * stride..][..TURN];
            // SAFETY: the slice is checked to hold one vector.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), turned) };
        }
    }
}
