//! The rectangle of object pixels that a set of patches covers.

use crate::data::scan::Position;
use crate::memory::Budget;
use crate::{Error, Result};

/// What stitching holds per canvas pixel: the running sums and the three result arrays.
pub const BYTES_PER_PIXEL: u64 = 56;

/// Largest square around a position: that of a patch, with room for the position to move.
const MOST_CROP: usize = 2 * super::MOST_SIDE;

const GIB: f64 = (1u64 << 30) as f64;

/// Coordinates beyond this no longer have a fraction in f64.
const LARGEST_COORDINATE: f64 = (1u64 << 52) as f64;

/// A rectangle of object pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Canvas {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Object pixel (row, column) of canvas pixel (0, 0); negative where the scan starts before the
    /// object's own first pixel.
    pub origin_yx: [i64; 2],
}

impl Canvas {
    /// The smallest canvas that holds a `crop` × `crop` square around every position, with the
    /// neighbours that bilinear shares reach at fractional positions.
    ///
    /// One position, or many equal ones, give a canvas of the crop alone. Errors: no positions, a
    /// position that is not finite, a canvas larger than the memory.
    pub fn around(positions: &[Position], crop: usize) -> Result<Canvas> {
        let canvas = Canvas::of_any_size(positions, crop)?;
        canvas.check_size()?;
        Ok(canvas)
    }

    /// The same, larger than the memory too, for [`BandStitcher`](super::BandStitcher). Errors: no
    /// positions, or one that is not finite; a crop that no patch can have.
    pub fn of_any_size(positions: &[Position], crop: usize) -> Result<Canvas> {
        if positions.is_empty() {
            return Err(Error::Run("a canvas needs at least one position".into()));
        }
        for (index, Position { x, y }) in positions.iter().enumerate() {
            if !(x.abs() <= LARGEST_COORDINATE && y.abs() <= LARGEST_COORDINATE) {
                return Err(Error::Run(format!(
                    "position {index} is (x {x}, y {y}): a canvas needs finite coordinates in object pixels"
                )));
            }
        }
        if crop > MOST_CROP {
            return Err(Error::Config(format!(
                "squares of {crop} pixels are asked for, but at most {MOST_CROP} can be placed"
            )));
        }
        let (top, height) = extent(positions.iter().map(|p| p.y), crop);
        let (left, width) = extent(positions.iter().map(|p| p.x), crop);
        Ok(Canvas { height, width, origin_yx: [top, left] })
    }

    pub fn pixels(&self) -> u64 {
        (self.height as u64).saturating_mul(self.width as u64)
    }

    /// An error if the canvas has no pixels, or more than the free memory can stitch.
    pub fn check_size(&self) -> Result<()> {
        if self.height == 0 || self.width == 0 {
            return Err(Error::Run(format!(
                "a canvas of {} × {} pixels holds nothing",
                self.height, self.width
            )));
        }
        let free = Budget::new(None).bytes as f64;
        if self.bytes() > free {
            return Err(self.too_large(&format!("{:.1} GiB are free", free / GIB)));
        }
        Ok(())
    }

    pub(super) fn too_large(&self, limit: &str) -> Error {
        Error::Run(format!(
            "a canvas of {} × {} pixels takes {:.1} GiB to stitch ({limit}): are the coordinates in object pixels, \
             and is there a stray one?",
            self.height,
            self.width,
            self.bytes() / GIB
        ))
    }

    fn bytes(&self) -> f64 {
        self.height as f64 * self.width as f64 * BYTES_PER_PIXEL as f64
    }
}

/// First pixel and number of pixels along one axis.
fn extent(coordinates: impl Iterator<Item = f64>, crop: usize) -> (i64, usize) {
    let (low, high) =
        coordinates.fold((f64::MAX, f64::MIN), |(low, high), c| (low.min(c), high.max(c)));
    let (first, last) = (low.floor() as i64, high.ceil() as i64);
    (first - (crop / 2) as i64, (last - first) as usize + crop)
}
