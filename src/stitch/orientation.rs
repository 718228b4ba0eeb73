//! Adapters for scans whose coordinates or patches follow another convention.

use ndarray::ArrayView3;
use num_complex::Complex32;

use crate::data::scan::Position;
use crate::{Error, Result};

/// How a scan's frame differs from ours: x the column to the right, y the row downwards, both in
/// object pixels.
///
/// The coordinates are adapted in this order: `swap_xy`, `flip_x` and `flip_y`, `coord_scale`.
/// Flips and the scale touch coordinates alone, never the content of a patch, because it is the
/// stage that had the other sign; the stitched object then lies in the adapted frame, and so does
/// the origin that is written with it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Orientation {
    /// x → −x: the stage counted columns to the left.
    pub flip_x: bool,
    /// y → −y: the stage counted rows upwards.
    pub flip_y: bool,
    /// Rows and columns of every patch change places: the detector was read out column by column.
    /// Belongs with `swap_xy`, else the patches turn over where they stand.
    pub transpose: bool,
    /// (x, y) → (y, x): the file names the row x.
    pub swap_xy: bool,
    /// Object pixels per unit of the file's coordinates, finite and > 0.
    pub coord_scale: f64,
}

impl Default for Orientation {
    /// Our own convention: nothing is changed.
    fn default() -> Orientation {
        Orientation {
            flip_x: false,
            flip_y: false,
            transpose: false,
            swap_xy: false,
            coord_scale: 1.0,
        }
    }
}

impl Orientation {
    /// The positions in our convention, object pixels. Warns when `transpose` and `swap_xy` are not
    /// set together.
    ///
    /// Error: a scale that is not a positive number.
    pub fn apply_positions(&self, positions: &[Position]) -> Result<Vec<Position>> {
        let scale = self.coord_scale;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::Config(format!(
                "coord_scale is {scale}: it must be a positive number"
            )));
        }
        if self.transpose != self.swap_xy {
            log::warn!(
                "transpose is {}, swap_xy is {}: patches and coordinates then disagree about the axes",
                self.transpose,
                self.swap_xy
            );
        }
        let sign = |flip: bool| if flip { -scale } else { scale };
        let adapt = |p: &Position| {
            let (x, y) = if self.swap_xy { (p.y, p.x) } else { (p.x, p.y) };
            Position { x: sign(self.flip_x) * x, y: sign(self.flip_y) * y }
        };
        Ok(positions.iter().map(adapt).collect())
    }

    /// The patches, [M, N, N], in our convention: a view with rows and columns exchanged if
    /// `transpose` is set.
    pub fn apply_patches<'a>(
        &self,
        patches: ArrayView3<'a, Complex32>,
    ) -> ArrayView3<'a, Complex32> {
        if self.transpose { patches.permuted_axes([0, 2, 1]) } else { patches }
    }
}
