//! Where the beam goes, and how large the object must be for it.

use serde::Serialize;

use super::require;
use crate::Result;
use crate::data::scan::Position;
use crate::random::{Purpose, Stream};

/// A square grid with jitter, in no particular order of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScanSpec {
    /// M, the number of patterns.
    pub patterns: usize,
    /// Distance of neighbouring grid points in object pixels; 0 repeats one position.
    pub step: f64,
    /// Standard deviation of the displacement from the grid in object pixels; 0 for none.
    pub jitter: f64,
}

/// Displacements are clipped here, so that the object can be sized before they are drawn.
const LARGEST_JITTER: f64 = 3.0;

impl Default for ScanSpec {
    fn default() -> ScanSpec {
        ScanSpec { patterns: 400, step: 5.0, jitter: 1.0 }
    }
}

impl ScanSpec {
    pub(super) fn check(&self) -> Result<()> {
        require(self.patterns > 0, || "a scan needs at least one pattern".into())?;
        let fits_a_stream = u32::try_from(self.patterns).is_ok();
        require(fits_a_stream, || format!("{} patterns are too many", self.patterns))?;
        let sensible = |x: f64| x.is_finite() && x >= 0.0;
        require(sensible(self.step), || format!("the step must be at least 0, not {}", self.step))?;
        require(sensible(self.jitter), || {
            format!("the jitter must be at least 0, not {}", self.jitter)
        })
    }
}

impl ScanSpec {
    /// Side of the square grid.
    fn grid(&self) -> usize {
        (self.patterns as f64).sqrt().ceil() as usize
    }

    /// First position of the grid, in object pixels.
    fn start(&self, side: usize) -> f64 {
        (side / 2) as f64 + (LARGEST_JITTER * self.jitter).ceil()
    }

    /// Side of an object that holds all patches of `side` pixels, before it is made even.
    pub(super) fn object_side(&self, side: usize) -> f64 {
        let span = self.grid().saturating_sub(1) as f64 * self.step;
        // One pixel more than the last patch needs: its bilinear neighbours.
        (2.0 * self.start(side) + span).ceil() + 1.0
    }
}

/// [M] positions whose patches lie wholly inside an object of [size, size], and that size.
///
/// The grid is the smallest square one with at least M points; which of them are left out is
/// random, the order is row by row.
pub fn positions(spec: &ScanSpec, side: usize, seed: u64) -> (Vec<Position>, usize) {
    let grid = spec.grid();
    let mut stream = Stream::new(seed, Purpose::Positions, 0);
    let mut chosen = stream.permutation(grid * grid);
    chosen.truncate(spec.patterns);
    chosen.sort_unstable();
    let reach = LARGEST_JITTER * spec.jitter;
    let start = spec.start(side);
    let size = spec.object_side(side) as usize;
    let mut place = |cell: usize| {
        let jitter = (spec.jitter * stream.normal()).clamp(-reach, reach);
        start + cell as f64 * spec.step + jitter
    };
    let point = |cell: usize| Position { x: place(cell % grid), y: place(cell / grid) };
    (chosen.into_iter().map(point).collect(), size + size % 2)
}
