//! Dense matrix products of a few dozen rows, on the inner loops of the convolution: a product is a
//! convolution by filters of one tap, and runs as fast.

use super::conv2d::layout::{LANES, OUTPUTS};
use super::conv2d::simd::{BLOCKS, Correlation, TILE, VECTORS};
use crate::backend::cpu::Real;

/// Rows that are computed at once.
pub const ROWS: usize = BLOCKS * OUTPUTS;

/// Columns that are computed at once.
const COLUMNS: usize = VECTORS * LANES;

/// `columns` and what is added so that a product can read whole vectors.
pub fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// Numbers of a packed matrix.
pub fn packed_len(rows: usize, terms: usize) -> usize {
    rows.next_multiple_of(OUTPUTS) * terms
}

/// Packs the matrix `entry(row, term)` as [⌈rows/6⌉, terms, 6], zeros after the last row.
pub fn pack<T: Real>(
    rows: usize,
    terms: usize,
    packed: &mut [T],
    entry: impl Fn(usize, usize) -> T,
) {
    for (block, packed) in packed.chunks_exact_mut(terms * OUTPUTS).enumerate() {
        for (term, packed) in packed.chunks_exact_mut(OUTPUTS).enumerate() {
            for (r, packed) in packed.iter_mut().enumerate() {
                let row = block * OUTPUTS + r;
                *packed = if row < rows { entry(row, term) } else { T::zero() };
            }
        }
    }
}

/// Right factor of a product: row (i, t) begins at `first` + i·`plane` + `taps[t]`, and has
/// `columns` numbers, a multiple of 8.
#[derive(Clone, Copy)]
pub struct Factor<'a, T> {
    pub x: &'a [T],
    pub plane: usize,
    pub taps: &'a [usize],
    pub first: usize,
    pub columns: usize,
}

impl<'a, T> Factor<'a, T> {
    /// A plain matrix of `columns` columns.
    pub fn matrix(x: &'a [T], columns: usize) -> Factor<'a, T> {
        Factor { x, plane: columns, taps: &[0], first: 0, columns }
    }
}

/// Calls `store(row, column, numbers)` for every row of `packed` · `factor` and up to 32 columns
/// from `column`.
pub fn product<T: Real>(
    rows: usize,
    packed: &[T],
    factor: &Factor<T>,
    mut store: impl FnMut(usize, usize, &[T]),
) {
    let Factor { x, plane, taps, first, columns } = *factor;
    let tile_len = BLOCKS * packed_len(1, x.len() / plane * taps.len());
    let mut tile = [T::zero(); TILE];
    for (w, above) in packed.chunks(tile_len).zip((0..rows).step_by(ROWS)) {
        let correlation = Correlation { x, plane, taps, w };
        for column in (0..columns).step_by(COLUMNS) {
            // A tile that would reach past the last vector computes it again.
            let offsets =
                std::array::from_fn(|v| first + (column + v * LANES).min(columns - LANES));
            (T::convolution().tile)(&correlation, &offsets, &mut tile);
            let valid = COLUMNS.min(columns - column);
            for (r, tile) in tile.chunks_exact(COLUMNS).take(rows - above).enumerate() {
                store(above + r, column, &tile[..valid]);
            }
        }
    }
}
