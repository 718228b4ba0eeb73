//! Where the patterns are relative to each other, to the probe and to the object.

use ndarray::Array3;
use num_complex::Complex32;
use serde::Serialize;

use super::check::Problem;
use super::scan::Position;

/// No scan in pixels is this small; every scan in metres is.
const METRES: f64 = 1e-3;
/// Pixels by which a patch may leave the object before it is counted: positions that were refined
/// against an object often overstep its rim by a fraction.
const RIM: f64 = 0.5;
/// Full width at half maximum of a Gaussian in units of its standard deviation, 2 √(2 ln 2).
const FWHM: f64 = 2.354_820_045_030_949;
/// Below this overlap of neighbouring probes, reconstruction is known to suffer.
const ENOUGH_OVERLAP: f64 = 0.5;
/// Neighbours over which overlap is averaged.
const OVERLAP_NEIGHBOURS: usize = 6;

/// How far apart neighbouring patterns are, in pixels and in probe diameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// Probe diameter in pixels: full width at half maximum of the Gaussian that has the second
    /// moment of the probe's intensity.
    pub probe_diameter: f64,
    /// Distance to the nearest neighbour: smallest, median, largest, in pixels.
    pub step: [f64; 3],
    /// Shared area of discs of that diameter, 0 to 1, median over nearest neighbours.
    pub nearest: f64,
    /// The same, averaged over the six nearest neighbours of every pattern.
    pub six_nearest: f64,
}

/// Neighbour search on a uniform grid. Ties in distance go to the lower index.
#[derive(Debug)]
pub struct Neighbours<'a> {
    positions: &'a [Position],
    origin: Position,
    /// Side of a cell in pixels.
    cell: f64,
    columns: usize,
    rows: usize,
    /// [columns·rows + 1] where the patterns of a cell begin in `order`.
    starts: Vec<usize>,
    order: Vec<usize>,
}

impl<'a> Neighbours<'a> {
    /// Positions must be finite.
    pub fn new(positions: &'a [Position]) -> Neighbours<'a> {
        let (low, high) = bounds(positions);
        let (width, height) = (high.x - low.x, high.y - low.y);
        let n = positions.len().max(1) as f64;
        // About one pattern per cell, and never more than n cells along an axis.
        let cell = (width * height / n).sqrt().max(width.max(height) / n);
        let cell = if cell > 0.0 { cell } else { 1.0 };
        let columns = (width / cell) as usize + 1;
        let rows = (height / cell) as usize + 1;
        let mut grid = Neighbours {
            positions,
            origin: low,
            cell,
            columns,
            rows,
            starts: vec![0; columns * rows + 1],
            order: vec![0; positions.len()],
        };
        grid.fill();
        grid
    }

    /// Sorts the patterns by cell (counting sort, so indices ascend within a cell).
    fn fill(&mut self) {
        let cells: Vec<usize> = (0..self.positions.len())
            .map(|i| {
                let (column, row) = self.cell_of(i);
                row * self.columns + column
            })
            .collect();
        for &cell in &cells {
            self.starts[cell + 1] += 1;
        }
        for cell in 1..self.starts.len() {
            self.starts[cell] += self.starts[cell - 1];
        }
        let mut next = self.starts.clone();
        for (i, &cell) in cells.iter().enumerate() {
            self.order[next[cell]] = i;
            next[cell] += 1;
        }
    }

    fn cell_of(&self, i: usize) -> (usize, usize) {
        let Position { x, y } = self.positions[i];
        let column = ((x - self.origin.x) / self.cell) as usize;
        let row = ((y - self.origin.y) / self.cell) as usize;
        (column.min(self.columns - 1), row.min(self.rows - 1))
    }

    /// The `k` nearest neighbours of pattern `i`, itself excluded, as (index, distance), nearest
    /// first; all others if there are fewer.
    pub fn nearest(&self, i: usize, k: usize) -> Vec<(usize, f64)> {
        let (column, row) = self.cell_of(i);
        let mut found: Vec<(usize, f64)> = Vec::new();
        for ring in 0..self.columns.max(self.rows) {
            self.visit_ring(column, row, ring, |j| {
                if j != i {
                    found.push((j, distance(self.positions[i], self.positions[j])));
                }
            });
            // Rings 0..=ring hold everything closer than `ring` cells.
            let certain = ring as f64 * self.cell;
            if found.iter().filter(|&&(_, d)| d < certain).count() >= k {
                break;
            }
        }
        found.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        found.truncate(k);
        found
    }

    /// Calls `visit` for the patterns of all cells at Chebyshev distance `ring`.
    fn visit_ring(&self, column: usize, row: usize, ring: usize, mut visit: impl FnMut(usize)) {
        let left = column.saturating_sub(ring);
        let right = (column + ring).min(self.columns - 1);
        for y in row.saturating_sub(ring)..=(row + ring).min(self.rows - 1) {
            let whole_row = y.abs_diff(row) == ring;
            let mut x = left;
            while x <= right {
                if whole_row || x.abs_diff(column) == ring {
                    let cell = y * self.columns + x;
                    self.order[self.starts[cell]..self.starts[cell + 1]]
                        .iter()
                        .for_each(|&j| visit(j));
                    x += 1;
                } else {
                    // From the left side of the ring to its right side.
                    x = (column + ring).max(x + 1);
                }
            }
        }
    }
}

/// Euclidean, in pixels.
pub fn distance(a: Position, b: Position) -> f64 {
    (a.x - b.x).hypot(a.y - b.y)
}

/// Lowest and highest x and y; the origin for no positions.
pub fn bounds(positions: &[Position]) -> (Position, Position) {
    let Some(&first) = positions.first() else {
        return (Position { x: 0.0, y: 0.0 }, Position { x: 0.0, y: 0.0 });
    };
    positions.iter().fold((first, first), |(low, high), p| {
        let low = Position { x: low.x.min(p.x), y: low.y.min(p.y) };
        (low, Position { x: high.x.max(p.x), y: high.y.max(p.y) })
    })
}

/// Diameter in pixels of a probe [P, N, N] from the second moment of its intensity.
pub fn probe_diameter(probe: &Array3<Complex32>) -> f64 {
    let moments = probe.indexed_iter().fold([0.0f64; 5], |m, ((_, y, x), p)| {
        let weight = f64::from(p.norm_sqr());
        let (x, y) = (x as f64, y as f64);
        [
            m[0] + weight,
            m[1] + weight * x,
            m[2] + weight * y,
            m[3] + weight * x * x,
            m[4] + weight * y * y,
        ]
    });
    let [total, x, y, xx, yy] = moments;
    let variance = (xx / total - (x / total).powi(2) + yy / total - (y / total).powi(2)) / 2.0;
    FWHM * variance.max(0.0).sqrt()
}

/// Shared fraction of two discs of `diameter` whose centres are `distance` apart.
pub fn disc_overlap(distance: f64, diameter: f64) -> f64 {
    let t = if diameter > 0.0 { (distance / diameter).min(1.0) } else { 1.0 };
    (2.0 * t.acos() - 2.0 * t * (1.0 - t * t).sqrt()) / std::f64::consts::PI
}

/// Steps and overlap; `None` for fewer than two positions.
pub fn overlap(positions: &[Position], probe: &Array3<Complex32>) -> Option<Overlap> {
    if positions.len() < 2 {
        return None;
    }
    let neighbours = Neighbours::new(positions);
    let diameter = probe_diameter(probe);
    let (mut steps, mut sum, mut pairs) = (Vec::with_capacity(positions.len()), 0.0, 0usize);
    for i in 0..positions.len() {
        let near = neighbours.nearest(i, OVERLAP_NEIGHBOURS);
        steps.push(near[0].1);
        sum += near.iter().map(|&(_, d)| disc_overlap(d, diameter)).sum::<f64>();
        pairs += near.len();
    }
    steps.sort_by(f64::total_cmp);
    let median = steps[steps.len() / 2];
    Some(Overlap {
        probe_diameter: diameter,
        step: [steps[0], median, steps[steps.len() - 1]],
        nearest: disc_overlap(median, diameter),
        six_nearest: sum / pairs as f64,
    })
}

/// Problems of the positions alone: unit, number, repeats.
pub fn check_positions(positions: &[Position]) -> Vec<Problem> {
    if positions.len() == 1 {
        return vec![Problem::SinglePosition];
    }
    let mut problems = Vec::new();
    let largest = positions.iter().fold(0.0f64, |most, p| most.max(p.x.abs()).max(p.y.abs()));
    if largest > 0.0 && largest < METRES {
        problems.push(Problem::Metres { largest });
    }
    let mut sorted: Vec<(f64, f64)> = positions.iter().map(|p| (p.x, p.y)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let count = sorted.windows(2).filter(|pair| pair[0] == pair[1]).count();
    if count > 0 {
        problems.push(Problem::DuplicatePositions { count });
    }
    problems
}

/// Patches of `side` pixels that reach outside an object of (height, width), and whether exchanged
/// axes would explain them.
pub fn check_object(positions: &[Position], side: usize, object: (usize, usize)) -> Vec<Problem> {
    let (height, width) = object;
    let half = side as f64 / 2.0;
    let inside = |c: f64, length: usize| c >= half - RIM && c <= length as f64 - half + RIM;
    let outside = positions.iter().filter(|p| !(inside(p.x, width) && inside(p.y, height))).count();
    let swapped = positions.iter().filter(|p| !(inside(p.y, width) && inside(p.x, height))).count();
    let mut problems = Vec::new();
    if outside > 0 {
        let positions = positions.len();
        problems.push(Problem::OutsideObject { count: outside, positions, height, width });
    }
    if 2 * swapped < outside {
        problems.push(Problem::SwappedAxes { outside, outside_if_swapped: swapped });
    }
    problems
}

/// A warning where neighbouring probes hardly overlap.
pub fn check_overlap(overlap: &Overlap) -> Option<Problem> {
    (overlap.nearest < ENOUGH_OVERLAP)
        .then(|| Problem::LittleOverlap { percent: 100.0 * overlap.nearest })
}
