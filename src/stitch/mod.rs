//! Many overlapping patches → one object on one canvas.
//!
//! With p the position of patch i relative to the canvas origin, crop pixel (j, k) of the patch lies
//! at canvas point (p_y − c/2 + j, p_x − c/2 + k) and is shared out bilinearly among its four
//! neighbours. Written as a gather: a canvas pixel looks back into every patch that covers it,
//! interpolates w·O and w there (zero outside the crop), and the object is Σ wO / Σ w.
//!
//! Sums are kept in f64. A canvas row belongs to one thread, which walks the patches of that row in
//! ascending index, so the bits depend neither on the number of threads nor on how the patches were
//! cut into batches.

use std::ops::Range;

use ndarray::{Array2, ArrayView3};
use num_complex::Complex32;
use rayon::prelude::*;

use crate::data::scan::Position;
use crate::ops::stitch::CELL;
use crate::{Error, Result};

mod bands;
mod canvas;
mod extract;
mod orientation;

pub use bands::{BandStitcher, Banded};
pub use canvas::{BYTES_PER_PIXEL, Canvas};
pub use extract::extract;
pub use orientation::Orientation;

/// Largest side of a patch, pixels: detectors have fewer.
pub const MOST_SIDE: usize = 1 << 13;

/// Below this fraction of the largest weight of a crop, Σw is the rounding of a coordinate rather
/// than coverage, and the pixel counts as empty.
const NEGLIGIBLE: f64 = 1e-9;

/// Which part of a patch is used, and how much each pixel of it counts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Side c of the centred square that is cut out of every patch, in pixels: even, at most N.
    pub crop: usize,
    pub weights: Weights,
}

/// The weight w of each pixel of the crop.
#[derive(Clone, Debug)]
pub enum Weights {
    /// 1 everywhere.
    Uniform,
    /// [crop, crop], finite and ≥ 0, in any unit: for example the probe's intensity Σ|P|², which
    /// trusts a patch where it was illuminated.
    Map(Array2<f32>),
}

/// The result of stitching; every array is [canvas height, canvas width].
#[derive(Clone, Debug)]
pub struct Stitched {
    /// Weighted mean of the patches; 0 where no patch reaches.
    pub object: Array2<Complex32>,
    /// Σw, 0 where no patch reaches.
    pub weights: Array2<f32>,
    /// Weighted standard deviation √(Σw|O_i − Ō|² / Σw) of the patches that cover a pixel, in units
    /// of the object; 0 where fewer than two do.
    pub consistency: Array2<f32>,
}

/// Stitches all patches at once.
///
/// `patches` is [M, N, N]; `positions` are the M patch centres in object pixels. Errors: as
/// [`Stitcher::new`], [`Stitcher::add`] and [`Stitcher::finish`].
///
/// ```
/// use ndarray::Array2;
/// use num_complex::Complex32;
/// use ptycho_gpu::data::Position;
/// use ptycho_gpu::stitch::{Canvas, Options, Weights, extract, stitch};
///
/// # fn main() -> ptycho_gpu::Result<()> {
/// // Patches of a known object, taken 4 pixels apart, give it back.
/// let object = Array2::from_shape_fn((40, 40), |(y, x)| Complex32::new(y as f32, x as f32));
/// let at = |i: usize| Position { x: 12.0 + 4.0 * (i % 5) as f64, y: 12.0 + 4.0 * (i / 5) as f64 };
/// let positions: Vec<Position> = (0..25).map(at).collect();
/// let patches = extract(object.view(), [0, 0], &positions, 16)?;
/// let options = Options { crop: 8, weights: Weights::Uniform };
/// let canvas = Canvas::around(&positions, options.crop)?;
/// let stitched = stitch(patches.view(), &positions, &canvas, &options)?;
/// assert_eq!((stitched.object.dim(), canvas.origin_yx), ((24, 24), [8, 8]));
/// assert_eq!(stitched.object[[0, 0]], object[[8, 8]]);
/// # Ok(())
/// # }
/// ```
pub fn stitch(
    patches: ArrayView3<Complex32>,
    positions: &[Position],
    canvas: &Canvas,
    options: &Options,
) -> Result<Stitched> {
    let mut stitcher = Stitcher::new(canvas, options)?;
    stitcher.add(patches, positions)?;
    stitcher.finish()
}

/// Stitches patches as they come, in batches of any size, without holding them.
#[derive(Debug)]
pub struct Stitcher {
    rule: Rule,
    /// [height, width], row-major.
    cells: Vec<Cell>,
}

/// What is asked of patches, and what has been seen of them.
#[derive(Debug)]
struct Rule {
    canvas: Canvas,
    crop: usize,
    /// [crop, crop], row-major.
    weights: Vec<f32>,
    added: usize,
}

/// What a canvas pixel remembers of the patches seen so far.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Σw.
    weight: f64,
    /// Σ w Re O and Σ w Im O.
    sum: [f64; 2],
    /// Σ w|O|².
    square: f64,
    /// How many patches had a weight here.
    cover: u32,
}

impl Stitcher {
    /// An empty canvas.
    ///
    /// Errors: an odd or empty crop, weights of another shape, negative, not finite or all zero, a
    /// canvas without pixels or larger than the memory.
    pub fn new(canvas: &Canvas, options: &Options) -> Result<Stitcher> {
        check_crop(options.crop)?;
        canvas.check_size()?;
        let mut cells = Vec::new();
        cells
            .try_reserve_exact(canvas.height * canvas.width)
            .map_err(|_| canvas.too_large("more than this machine gives"))?;
        cells.resize(canvas.height * canvas.width, Cell::default());
        Ok(Stitcher { rule: Rule::new(canvas, options)?, cells })
    }

    /// Adds the next patches, [B, N, N], at their B positions (object pixels).
    ///
    /// Batches are added in the order of the patch index. After an error nothing of the batch has
    /// been added. Errors, with the index of the patch counted over all batches: another number of
    /// positions than patches, patches that are not square, of odd side or smaller than the crop, a
    /// patch or position that is not finite, a patch that does not lie on the canvas entirely.
    pub fn add(&mut self, patches: ArrayView3<Complex32>, positions: &[Position]) -> Result<()> {
        let placements = self.rule.accept(&patches, positions)?;
        let (patches, side) = (patches.as_standard_layout(), patches.dim().1);
        let pixels = patches.as_slice().expect("a standard layout is contiguous");
        let rows = 0..self.rule.canvas.height;
        self.rule.add_rows(&mut self.cells, rows, (pixels, side), &placements);
        Ok(())
    }

    /// The weighted mean of everything that was added.
    ///
    /// Error: nothing was added.
    pub fn finish(self) -> Result<Stitched> {
        let negligible = self.rule.negligible()?;
        let Canvas { height, width, .. } = self.rule.canvas;
        Ok(Stitched::of_sums(&self.cells, (height, width), negligible))
    }
}

impl Rule {
    /// Errors: as [`Stitcher::new`], but for the memory.
    fn new(canvas: &Canvas, options: &Options) -> Result<Rule> {
        let weights = weight_map(&options.weights, options.crop)?;
        Ok(Rule { canvas: *canvas, crop: options.crop, weights, added: 0 })
    }

    /// Where the next patches lie, which are counted as added. Errors: as [`Stitcher::add`].
    fn accept(
        &mut self,
        patches: &ArrayView3<Complex32>,
        positions: &[Position],
    ) -> Result<Vec<Placement>> {
        self.check_shape(patches, positions)?;
        let placements = (self.added..)
            .zip(positions)
            .map(|(index, position)| place(&self.canvas, self.crop, index, *position))
            .collect::<Result<Vec<_>>>()?;
        self.check_finite(patches)?;
        self.added += positions.len();
        Ok(placements)
    }

    /// Adds what patches of a side hold for `rows` of the canvas to the cells of these rows.
    fn add_rows(
        &self,
        cells: &mut [Cell],
        rows: Range<usize>,
        (pixels, side): (&[Complex32], usize),
        placements: &[Placement],
    ) {
        let lists = Lists::new(placements.iter().map(|p| p.rows.pixels()), rows.clone());
        let (crop, weights) = (self.crop, &self.weights);
        cells.par_chunks_mut(self.canvas.width).zip(rows).for_each(|(cells, y)| {
            for &i in lists.of(y) {
                let patch = &pixels[i * side * side..(i + 1) * side * side];
                Crop { patch, side, weights, crop }.add_row(cells, y, &placements[i]);
            }
        });
    }

    /// Σw that is no coverage. Error: nothing was added.
    fn negligible(&self) -> Result<f64> {
        if self.added == 0 {
            return Err(Error::Run("there are no patches to stitch".into()));
        }
        let largest = self.weights.iter().copied().fold(0.0, f32::max);
        Ok(NEGLIGIBLE * f64::from(largest))
    }

    fn check_shape(&self, patches: &ArrayView3<Complex32>, positions: &[Position]) -> Result<()> {
        let (frames, height, width) = patches.dim();
        if frames != positions.len() {
            let found = positions.len();
            return Err(Error::Run(format!(
                "{frames} patches come with {found} positions: one each is needed"
            )));
        }
        if frames > 0 && (height != width || height % 2 != 0) {
            return Err(Error::Run(format!(
                "patches of {height} × {width} pixels: they must be square and of even side"
            )));
        }
        if frames > 0 && height < self.crop {
            let crop = self.crop;
            return Err(Error::Config(format!(
                "the stitching crop of {crop} pixels exceeds the patch of {height}"
            )));
        }
        Ok(())
    }

    fn check_finite(&self, patches: &ArrayView3<Complex32>) -> Result<()> {
        let patches: Vec<_> = patches.outer_iter().collect();
        let bad = patches.par_iter().position_first(|patch| !patch.iter().all(|z| z.is_finite()));
        match bad {
            None => Ok(()),
            Some(i) => {
                let index = self.added + i;
                Err(Error::Run(format!(
                    "patch {index} holds NaN or infinity, so there is nothing to stitch there"
                )))
            }
        }
    }
}

/// Where the crop of the patch with this index lies; an error if any of it leaves the canvas.
fn place(canvas: &Canvas, crop: usize, index: usize, position: Position) -> Result<Placement> {
    let Position { x, y } = position;
    if !(x.is_finite() && y.is_finite()) {
        return Err(Error::Run(format!(
            "the position of patch {index} is (x {x}, y {y}): not finite"
        )));
    }
    let [origin_y, origin_x] = canvas.origin_yx;
    let rows = Span::new(y - origin_y as f64, crop, canvas.height);
    let columns = Span::new(x - origin_x as f64, crop, canvas.width);
    match (rows, columns) {
        (Some(rows), Some(columns)) => Ok(Placement { rows, columns }),
        _ => {
            let Canvas { height, width, .. } = canvas;
            Err(Error::Run(format!(
                "patch {index} at (x {x}, y {y}) with a crop of {crop} pixels leaves the canvas of \
                 {height} × {width} pixels that starts at (x {origin_x}, y {origin_y})"
            )))
        }
    }
}

/// Where each crop begins on the canvas: row and column, whole and fraction, as the op
/// [`stitch`](crate::ops::stitch::stitch) wants it. Errors: as [`Stitcher::add`].
pub fn places(canvas: &Canvas, crop: usize, positions: &[Position]) -> Result<Vec<[f32; 4]>> {
    let one = |(index, position): (usize, &Position)| {
        let Placement { rows, columns } = place(canvas, crop, index, *position)?;
        let (row, column) = (rows.first as f32, columns.first as f32);
        Ok([row, column, rows.fraction as f32, columns.fraction as f32])
    };
    positions.iter().enumerate().map(one).collect()
}

impl Stitched {
    /// Of the sums of all patches, [height, width].
    fn of_sums(cells: &[Cell], shape: (usize, usize), negligible: f64) -> Stitched {
        let mut result = Stitched {
            object: Array2::zeros(shape),
            weights: Array2::zeros(shape),
            consistency: Array2::zeros(shape),
        };
        let pixels = result.object.iter_mut().zip(&mut result.weights).zip(&mut result.consistency);
        for (cell, ((object, weight), deviation)) in cells.iter().zip(pixels) {
            if cell.weight <= negligible {
                continue;
            }
            let [re, im] = cell.sum.map(|sum| sum / cell.weight);
            *object = Complex32::new(re as f32, im as f32);
            *weight = cell.weight as f32;
            if cell.cover > 1 {
                let variance = cell.square / cell.weight - (re * re + im * im);
                *deviation = variance.max(0.0).sqrt() as f32;
            }
        }
        result
    }

    /// From the canvas that the op [`stitch`](crate::ops::stitch::stitch) leaves, [H, W, 5]. Object
    /// and consistency are multiplied by `gauge`; `weights` is what the patches were weighted with.
    ///
    /// Errors: another number of cells than the canvas has, a patch that was not finite.
    pub fn of_cells(
        cells: &[f32],
        canvas: &Canvas,
        weights: &[f32],
        gauge: f32,
    ) -> Result<Stitched> {
        let shape = (canvas.height, canvas.width);
        if canvas.pixels().checked_mul(CELL as u64) != Some(cells.len() as u64) {
            return Err(Error::Run(format!(
                "{} numbers for a canvas of {} × {} pixels: {CELL} each are needed",
                cells.len(),
                canvas.height,
                canvas.width
            )));
        }
        let negligible = NEGLIGIBLE as f32 * weights.iter().copied().fold(0.0, f32::max);
        let mut result = Stitched {
            object: Array2::zeros(shape),
            weights: Array2::zeros(shape),
            consistency: Array2::zeros(shape),
        };
        let pixels = result.object.iter_mut().zip(&mut result.weights).zip(&mut result.consistency);
        for (cell, ((object, weight), deviation)) in cells.chunks_exact(CELL).zip(pixels) {
            if !cell.iter().all(|x| x.is_finite()) {
                return Err(Error::Run(
                    "a patch holds NaN or infinity, so there is nothing to stitch".into(),
                ));
            }
            if cell[0] <= negligible {
                continue;
            }
            *object = Complex32::new(gauge * cell[1], gauge * cell[2]);
            *weight = cell[0];
            if cell[4] > 1.0 {
                *deviation = gauge * (cell[3] / cell[0]).max(0.0).sqrt();
            }
        }
        Ok(result)
    }
}

fn check_crop(crop: usize) -> Result<()> {
    if crop == 0 || !crop.is_multiple_of(2) || crop > MOST_SIDE {
        return Err(Error::Config(format!(
            "the stitching crop is {crop}: it must be even, at least 2, and at most {MOST_SIDE}"
        )));
    }
    Ok(())
}

/// The weights as numbers, [crop, crop]. Errors: as [`Stitcher::new`].
pub fn weight_map(weights: &Weights, crop: usize) -> Result<Vec<f32>> {
    check_crop(crop)?;
    let Weights::Map(map) = weights else { return Ok(vec![1.0; crop * crop]) };
    if map.dim() != (crop, crop) {
        let (height, width) = map.dim();
        return Err(Error::Config(format!(
            "stitching weights of {height} × {width} pixels for a crop of {crop} × {crop}"
        )));
    }
    if !map.iter().all(|w| w.is_finite() && *w >= 0.0) {
        return Err(Error::Config("stitching weights must be finite and not negative".into()));
    }
    if map.iter().all(|w| *w == 0.0) {
        return Err(Error::Config("stitching weights are zero everywhere in the crop".into()));
    }
    Ok(map.iter().copied().collect())
}

/// Where a crop lies on the canvas.
#[derive(Clone, Copy, Debug)]
struct Placement {
    rows: Span,
    columns: Span,
}

/// The canvas pixels that a crop touches along one axis.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: usize,
    /// The crop, plus one if it lies between pixels.
    len: usize,
    /// How far crop pixel 0 lies beyond canvas pixel `first`, in [0, 1).
    fraction: f64,
}

impl Span {
    fn pixels(&self) -> Range<usize> {
        self.first..self.first + self.len
    }

    /// `centre` is a canvas coordinate. None if the span leaves 0..size.
    fn new(centre: f64, crop: usize, size: usize) -> Option<Span> {
        let start = centre - (crop / 2) as f64;
        let first = start.floor();
        let fraction = start - first;
        let len = crop + usize::from(fraction > 0.0);
        let fits = first >= 0.0 && first + len as f64 <= size as f64;
        fits.then_some(Span { first: first as usize, len, fraction })
    }
}

/// For every place of a range the patches whose span touches it, in ascending index: what makes the
/// work linear in the number of patches.
struct Lists {
    first: usize,
    /// Place `first + k` owns `patches[starts[k]..starts[k + 1]]`.
    starts: Vec<usize>,
    patches: Vec<usize>,
}

impl Lists {
    fn new(spans: impl Iterator<Item = Range<usize>> + Clone, within: Range<usize>) -> Lists {
        let touched = |span: Range<usize>| {
            let (from, to) = (span.start.max(within.start), span.end.min(within.end));
            from - within.start..to.saturating_sub(within.start).max(from - within.start)
        };
        let mut starts = vec![0; within.len() + 1];
        spans.clone().flat_map(touched).for_each(|place| starts[place + 1] += 1);
        for place in 0..within.len() {
            starts[place + 1] += starts[place];
        }
        let mut next = starts.clone();
        let mut patches = vec![0; starts[within.len()]];
        for (i, span) in spans.enumerate() {
            for place in touched(span) {
                patches[next[place]] = i;
                next[place] += 1;
            }
        }
        Lists { first: within.start, starts, patches }
    }

    fn of(&self, place: usize) -> &[usize] {
        let at = place - self.first;
        &self.patches[self.starts[at]..self.starts[at + 1]]
    }
}

/// The centred crop of one patch, with its weights.
struct Crop<'a> {
    /// [side, side].
    patch: &'a [Complex32],
    side: usize,
    /// [crop, crop].
    weights: &'a [f32],
    crop: usize,
}

impl Crop<'_> {
    /// Adds what the patch holds for canvas row `y` to the cells of that row.
    fn add_row(&self, cells: &mut [Cell], y: usize, placement: &Placement) {
        let Span { first, len, fraction } = placement.columns;
        let row = y - placement.rows.first;
        let mut left = [0.0; 3];
        for (k, cell) in cells[first..first + len].iter_mut().enumerate() {
            let here = self.between_rows(row, k, placement.rows.fraction);
            let [weight, re, im] = blend(here, left, fraction);
            left = here;
            if weight > 0.0 {
                cell.weight += weight;
                cell.sum[0] += re;
                cell.sum[1] += im;
                // The patch's own value here is (re, im) / weight, and w|O|² is formed of that.
                cell.square += (re * re + im * im) / weight;
                cell.cover = cell.cover.saturating_add(1);
            }
        }
    }

    /// (w, w Re O, w Im O) at crop column `k`, `fraction` of a pixel above crop row `row`.
    fn between_rows(&self, row: usize, k: usize, fraction: f64) -> [f64; 3] {
        let above = if row > 0 { self.at(row - 1, k) } else { [0.0; 3] };
        blend(self.at(row, k), above, fraction)
    }

    /// (w, w Re O, w Im O) of one crop pixel; zero beyond the last row and column.
    fn at(&self, row: usize, k: usize) -> [f64; 3] {
        if row >= self.crop || k >= self.crop {
            return [0.0; 3];
        }
        let margin = (self.side - self.crop) / 2;
        let weight = f64::from(self.weights[row * self.crop + k]);
        let pixel = self.patch[(row + margin) * self.side + k + margin];
        [weight, weight * f64::from(pixel.re), weight * f64::from(pixel.im)]
    }
}

/// (1 − fraction) · here + fraction · before.
fn blend(here: [f64; 3], before: [f64; 3], fraction: f64) -> [f64; 3] {
    std::array::from_fn(|i| (1.0 - fraction) * here[i] + fraction * before[i])
}
