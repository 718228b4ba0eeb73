//! The transforms of F(2×2, 3×3) and the filters in the order that the matrix products read.
//!
//! Bᵀ takes four pixels of the input and G three of the filter to four places, Aᵀ leads from there to two
//! pixels of the result. All of them work along both axes of a tile, and turn it on the way: transformed
//! tiles are [column][row].

use std::marker::PhantomData;

use rayon::prelude::*;

use super::unit::{Portable, Unit};
use super::{LANES, Lane, PLACES};
use crate::backend::cpu::Real;

/// One transform of a row: N numbers to M.
trait Row<V, const N: usize, const M: usize> {
    fn of(row: [V; N]) -> [V; M];
}

/// `R` along the rows of a tile, then along its columns; turned.
#[inline(always)]
fn both<V: Copy, R: Row<V, N, M>, const N: usize, const M: usize>(
    tile: [[V; N]; N],
) -> [[V; M]; M] {
    let mut rows = [R::of(tile[0]); N];
    for n in 1..N {
        rows[n] = R::of(tile[n]);
    }
    let mut out = [[rows[0][0]; M]; M];
    for m in 0..M {
        let mut column = [rows[0][m]; N];
        for n in 1..N {
            column[n] = rows[n][m];
        }
        out[m] = R::of(column);
    }
    out
}

/// Declares a transform of tiles by what it does to a row. (No closure: it would not be compiled for
/// the vector unit.)
macro_rules! transform {
    ($(#[$doc:meta])* $visible:vis $name:ident, $row:ident: $n:literal to $m:literal, $of:pat => $to:expr) => {
        struct $row<T, U>(PhantomData<(T, U)>);

        impl<T: Real, U: Unit<T>> Row<U::V, $n, $m> for $row<T, U> {
            #[inline(always)]
            fn of($of: [U::V; $n]) -> [U::V; $m] {
                $to
            }
        }

        $(#[$doc])*
        #[inline(always)]
        $visible fn $name<T: Real, U: Unit<T>>(tile: [[U::V; $n]; $n]) -> [[U::V; $m]; $m] {
            both::<U::V, $row<T, U>, $n, $m>(tile)
        }
    };
}

transform!(
    /// Bᵀ d B of 4×4 pixels.
    pub input, Input: 4 to 4,
    [a, b, c, d] => [U::sub(a, c), U::add(b, c), U::sub(c, b), U::sub(b, d)]
);

transform!(
    /// Aᵀ m A: 2×2 results of the products in all places.
    pub output, Output: 4 to 2,
    [a, b, c, d] => [U::add(U::add(a, b), c), U::sub(U::sub(b, c), d)]
);

transform!(
    /// G g Gᵀ of a filter.
    filter, Filter: 3 to 4,
    [a, b, c] => {
        let half = U::splat(T::of(0.5));
        let (outer, inner) = (U::mul(half, U::add(a, c)), U::mul(half, b));
        [a, U::add(outer, inner), U::sub(outer, inner), c]
    }
);

/// Transformed filters: [⌈O/16⌉][16 places][I][16] of `weight(o, i, tap)`, zeros past O.
pub fn pack<T: Real>(
    outputs: usize,
    inputs: usize,
    weight: impl Fn(usize, usize, usize) -> T + Sync,
    packed: &mut [Lane<T>],
) {
    packed.par_chunks_mut(PLACES * inputs).enumerate().for_each(|(group, packed)| {
        for i in 0..inputs {
            let mut taps = [[[T::zero(); LANES]; 3]; 3];
            for (l, o) in (group * LANES..outputs).take(LANES).enumerate() {
                for (tap, lane) in taps.as_flattened_mut().iter_mut().enumerate() {
                    lane[l] = weight(o, i, tap);
                }
            }
            for (place, lane) in filter::<T, Portable>(taps).as_flattened().iter().enumerate() {
                packed[place * inputs + i] = *lane;
            }
        }
    });
}
