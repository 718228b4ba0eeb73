//! Stitching where the canvas does not fit in memory: by bands of rows.
//!
//! The crops of the patches go to a scratch file as they come. Then the canvas is made band by band: each
//! takes the crops that touch it, in the order in which they came, and goes to files in turn. A pixel
//! gets the same numbers in the same order as from [`Stitcher`](super::Stitcher), so the bits are the
//! same; only the disk limits the canvas.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array2, ArrayView3, s};
use num_complex::Complex32;

use super::{Canvas, Cell, Lists, Options, Placement, Rule, Stitched};
use crate::data::Scratch;
use crate::data::scan::Position;
use crate::{Error, Result};

/// A canvas of so many times the pixels of all crops is one with a stray position.
const EMPTY: u64 = 64;

/// Numbers of crops that are read at once.
const PART: usize = 1 << 18;

/// Bytes of a canvas pixel while its band is made: the sums and the results.
const BAND_BYTES: u64 = (size_of::<Cell>() + 16) as u64;

/// Stitches patches as they come onto a canvas of any size.
#[derive(Debug)]
pub struct BandStitcher {
    rule: Rule,
    placements: Vec<Placement>,
    /// [M, crop, crop] complex numbers.
    crops: Scratch,
    folder: PathBuf,
    /// Rows of a band.
    rows: usize,
}

impl BandStitcher {
    /// An empty canvas, of which `bytes` are in memory at once and the rest in files in `folder`.
    ///
    /// # Errors
    /// As of [`Stitcher::new`](super::Stitcher::new) but for the memory, a canvas that patches hardly
    /// cover, a folder that cannot be written to.
    pub fn new(
        canvas: &Canvas,
        options: &Options,
        patches: usize,
        bytes: u64,
        folder: &Path,
    ) -> Result<BandStitcher> {
        let rule = Rule::new(canvas, options)?;
        check_coverage(canvas, options.crop, patches)?;
        let rows = bytes / BAND_BYTES.saturating_mul(canvas.width as u64);
        let rows = (rows as usize).clamp(1, canvas.height);
        let crops = Scratch::create(folder)?;
        let folder = folder.to_path_buf();
        Ok(BandStitcher { rule, placements: Vec::new(), crops, folder, rows })
    }

    /// Adds the next patches, [B, N, N], at their positions. Errors: as of
    /// [`Stitcher::add`](super::Stitcher::add), or the disk is full.
    pub fn add(&mut self, patches: ArrayView3<Complex32>, positions: &[Position]) -> Result<()> {
        self.placements.extend(self.rule.accept(&patches, positions)?);
        let crop = self.rule.crop;
        for patch in patches.outer_iter() {
            let margin = (patch.dim().0 - crop) / 2;
            let inner = patch.slice(s![margin..margin + crop, margin..margin + crop]);
            let numbers: Vec<f32> = inner.iter().flat_map(|z| [z.re, z.im]).collect();
            self.crops.append(&numbers)?;
        }
        Ok(())
    }

    /// The weighted mean of everything that was added, in files.
    ///
    /// # Errors
    /// Nothing was added, or less than a canvas of this size is made of; the disk is full.
    pub fn finish(self) -> Result<Banded> {
        let BandStitcher { rule, placements, crops, folder, rows } = self;
        let negligible = rule.negligible()?;
        check_coverage(&rule.canvas, rule.crop, placements.len())?;
        let Canvas { height, width, .. } = rule.canvas;
        let side = rule.crop;
        let crops = Raster { height: placements.len(), ..Raster::of(crops, side * side, 2)? };
        let bands = height.div_ceil(rows);
        let touched = placements.iter().map(|placement| {
            let Range { start, end } = placement.rows.pixels();
            start / rows..(end - 1) / rows + 1
        });
        let lists = Lists::new(touched, 0..bands);
        let create = || Scratch::create(&folder);
        let (mut object, mut weights, mut consistency) = (create()?, create()?, create()?);
        let part = (PART / (2 * side * side)).max(1);
        let mut cells = Vec::new();
        for band in 0..bands {
            let within = band * rows..((band + 1) * rows).min(height);
            cells.clear();
            cells.resize(within.len() * width, Cell::default());
            for indices in lists.of(band).chunks(part) {
                let mut pixels = Vec::with_capacity(indices.len() * side * side);
                for &index in indices {
                    pixels.extend(complex(&crops.read(index, 0..side * side)?));
                }
                let placements: Vec<Placement> = indices.iter().map(|&i| placements[i]).collect();
                rule.add_rows(&mut cells, within.clone(), (&pixels, side), &placements);
            }
            let done = Stitched::of_sums(&cells, (within.len(), width), negligible);
            for row in 0..within.len() {
                let numbers: Vec<f32> =
                    done.object.row(row).iter().flat_map(|z| [z.re, z.im]).collect();
                object.append(&numbers)?;
                weights.append(&done.weights.row(row).to_vec())?;
                consistency.append(&done.consistency.row(row).to_vec())?;
            }
        }
        let raster = |scratch, parts| -> Result<Raster> {
            Ok(Raster { height, ..Raster::of(scratch, width, parts)? })
        };
        Ok(Banded {
            canvas: rule.canvas,
            object: raster(object, 2)?,
            weights: raster(weights, 1)?,
            consistency: raster(consistency, 1)?,
            rows,
        })
    }
}

/// An error if so many crops cannot fill the canvas.
fn check_coverage(canvas: &Canvas, crop: usize, patches: usize) -> Result<()> {
    let covered = (patches as u64).saturating_mul((crop as u64).pow(2));
    if canvas.pixels() == 0 || canvas.pixels() / EMPTY > covered {
        return Err(canvas.too_large("its patches cover next to nothing of it"));
    }
    Ok(())
}

/// A stitched object in files, as [`Stitched`] has it in memory.
#[derive(Clone, Debug)]
pub struct Banded {
    pub canvas: Canvas,
    object: Raster,
    weights: Raster,
    consistency: Raster,
    rows: usize,
}

impl Banded {
    /// The rows of the canvas by as many as are in memory at once, from the top.
    pub fn bands(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (height, rows) = (self.canvas.height, self.rows);
        (0..height).step_by(rows).map(move |first| first..(first + rows).min(height))
    }

    /// All arrays for some rows.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn band(&self, rows: Range<usize>) -> Result<Stitched> {
        let shape = (rows.len(), self.canvas.width);
        let whole = |raster: &Raster| raster.rows(rows.clone());
        let array = |numbers| Array2::from_shape_vec(shape, numbers).expect("whole rows");
        let object = complex(&whole(&self.object)?).collect();
        Ok(Stitched {
            object: Array2::from_shape_vec(shape, object).expect("whole rows"),
            weights: array(whole(&self.weights)?),
            consistency: array(whole(&self.consistency)?),
        })
    }

    /// A rectangle of the object from (row, column) on; 0 outside of the canvas. Errors as of
    /// [`Banded::band`].
    pub fn window(&self, corner: [i64; 2], shape: (usize, usize)) -> Result<Array2<Complex32>> {
        let mut window = Array2::zeros(shape);
        let inside = |first: i64, count: usize, size: usize| {
            let clamp = |at: i64| at.clamp(0, size as i64);
            clamp(first) as usize..clamp(first.saturating_add(count as i64)) as usize
        };
        let columns = inside(corner[1], shape.1, self.canvas.width);
        for row in inside(corner[0], shape.0, self.canvas.height) {
            if columns.is_empty() {
                break;
            }
            let numbers = self.object.read(row, columns.clone())?;
            let at = (row as i64 - corner[0]) as usize;
            let left = (columns.start as i64 - corner[1]) as usize;
            let mut cells = window.slice_mut(s![at, left..left + columns.len()]);
            cells.iter_mut().zip(complex(&numbers)).for_each(|(cell, value)| *cell = value);
        }
        Ok(window)
    }
}

fn complex(numbers: &[f32]) -> impl Iterator<Item = Complex32> {
    numbers.chunks_exact(2).map(|z| Complex32::new(z[0], z[1]))
}

/// Rows of numbers in a scratch file.
#[derive(Clone, Debug)]
struct Raster {
    file: Arc<File>,
    path: PathBuf,
    height: usize,
    /// Pixels of a row.
    width: usize,
    /// Numbers of a pixel.
    parts: usize,
}

impl Raster {
    fn of(scratch: Scratch, width: usize, parts: usize) -> Result<Raster> {
        let path = scratch.path().to_path_buf();
        Ok(Raster { file: Arc::new(scratch.finish()?), path, height: 0, width, parts })
    }

    /// Some columns of a row.
    fn read(&self, row: usize, columns: Range<usize>) -> Result<Vec<f32>> {
        self.numbers(row * self.width + columns.start, columns.len())
    }

    fn rows(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        self.numbers(rows.start * self.width, rows.len() * self.width)
    }

    fn numbers(&self, first: usize, pixels: usize) -> Result<Vec<f32>> {
        let size = self.parts * size_of::<f32>();
        if first.saturating_add(pixels) > self.height * self.width {
            return Err(Error::Config(format!(
                "pixels {first} to {first} + {pixels} are asked for, but the canvas has {}",
                self.height * self.width
            )));
        }
        let mut bytes = vec![0; pixels * size];
        let read = self.file.read_exact_at(&mut bytes, (first * size) as u64);
        read.map_err(Error::io("read the scratch file", &self.path))?;
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(bytes.chunks_exact(4).map(number).collect())
    }
}
