//! Tiles of pixels, as `kernels/tensor_tile.cuh` has them in shared memory.

use super::Sizes;
use super::tensor::{PIXELS, STAGE_PIXELS};

/// Of the filters that the kernels know.
const SIDE: usize = 3;

/// Words before and after a row in shared memory, for the border: four each, so that rows stay aligned.
const BORDER: usize = 8;

/// A tile of pixels of some samples: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    columns: usize,
    rows: usize,
    samples: usize,
    /// Words of a plane in shared memory, one of `banks` more than a multiple of 32.
    pub plane: usize,
}

impl Tile {
    /// `pixels` pixels of results of height × width, at most `widest` in a row. The kernels store and
    /// multiply eight in a row; fewer than four rows would be mostly border.
    fn new(pixels: usize, widest: usize, [height, width]: [usize; 2], banks: &[usize]) -> Tile {
        let columns = width.next_power_of_two().clamp(8, widest);
        let rows = height.next_power_of_two().clamp(4, pixels / columns);
        let samples = pixels / columns / rows;
        let used = samples * (rows + SIDE - 1) * (columns + BORDER);
        let fits = |words: &usize| banks.contains(&(words % 32));
        let plane = (used..used + 32).find(fits).expect("one of 32 in a row has any remainder");
        Tile { columns, rows, samples, plane }
    }

    /// How many cover the results of a batch.
    pub fn count(&self, batch: usize, [height, width]: [usize; 2]) -> usize {
        let image = height.div_ceil(self.rows) * width.div_ceil(self.columns);
        batch.div_ceil(self.samples) * image
    }

    /// As the kernels take it.
    pub fn numbers(&self) -> [usize; 4] {
        [self.columns.ilog2() as usize, self.rows.ilog2() as usize, self.samples, self.plane]
    }

    /// The tile of a product with a result of this size.
    pub fn of_image(result: [usize; 2]) -> Tile {
        Tile::new(PIXELS, 32, result, &[8])
    }

    /// The tile of a stage of the weight gradient.
    pub fn of_gradient(sizes: &Sizes) -> Tile {
        Tile::new(STAGE_PIXELS, 16, [sizes.height, sizes.width], &[4, 12, 20, 28])
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::tensor::{GRADIENT_PITCH, ROWS};
    use super::*;

    pub fn sizes() -> impl Iterator<Item = [usize; 2]> {
        let sides = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 32, 33, 64, 65, 128, 256];
        sides.into_iter().flat_map(move |height| sides.map(|width| [height, width]))
    }

    pub fn sized([height, width]: [usize; 2]) -> Sizes {
        Sizes { batch: 3, inputs: 64, outputs: 64, height, width, side: 3, pad: 1 }
    }

    /// The banks that the 32 lanes meet whose numbers lie at `place(g, t)`.
    fn banks(place: impl Fn(usize, usize) -> usize) -> usize {
        let all = (0..32).map(|lane| place(lane / 4, lane % 4) % 32);
        all.collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn lanes_of_a_warp_meet_in_no_bank() {
        for size in sizes() {
            let (image, weight) =
                (Tile::of_image(size).plane, Tile::of_gradient(&sized(size)).plane);
            assert_eq!(banks(|g, t| t * image + g), 32, "{size:?}");
            assert_eq!(banks(|g, t| g * weight + t), 32, "{size:?}");
            assert!(image % 4 == 0 && weight % 4 == 0, "{size:?}: fours stay aligned");
        }
        assert_eq!(banks(|g, t| g * GRADIENT_PITCH + t), 32);
        // Four numbers at once: eight lanes at a time, two values of g.
        for first in (0..8).step_by(2) {
            let place = |g: usize, t: usize| t * ROWS + ((4 * (first + g % 2)) ^ (8 * t));
            let all = (0..8).flat_map(|lane| (0..4).map(move |i| place(lane / 4, lane % 4) + i));
            let met: std::collections::HashSet<_> = all.map(|at| at % 32).collect();
            assert_eq!(met.len(), 32);
        }
    }

    #[test]
    fn tiles_cover_a_batch() {
        for size in sizes() {
            let tile = Tile::of_image(size);
            assert_eq!(tile.columns * tile.rows * tile.samples, PIXELS, "{size:?}");
            let whole = Tile { columns: 8, rows: 4, samples: 4, plane: tile.plane };
            assert_eq!(whole.count(5, [4, 8]), 2);
            assert!(tile.count(5, size) * PIXELS >= 5 * size[0] * size[1], "{size:?}");
        }
    }
}
