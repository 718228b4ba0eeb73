//! What a person says about a file that the file does not say itself.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::bad_frames::RejectFrames;
use super::frames::{Center, Flip, Turn};
use super::instrument::Instrument;
use crate::{Error, Result};

/// Layouts of scan files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Our own: arrays of NumPy in one .npz
    Npz,
    /// A folder of .npz files, the parts of one scan
    Folder,
    /// Product of ptychodus, or the pair _para and _dp of PtychoViT
    Ptychodus,
    /// The pair _para (ppX, ppY) and _dp of fold_slice and PtychoShelves
    FoldSlice,
    /// CXI 1.6
    Cxi,
    /// NXcxi_ptycho, or the master file of an Eiger
    Nexus,
    /// ptypy
    Ptyd,
}

/// What a position in a text file is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionUnit {
    /// Pixels of the object
    Px,
    Nm,
    Um,
    Mm,
    M,
}

impl PositionUnit {
    /// Metres; none for pixels.
    pub fn metres(self) -> Option<f64> {
        match self {
            PositionUnit::Px => None,
            PositionUnit::Nm => Some(1e-9),
            PositionUnit::Um => Some(1e-6),
            PositionUnit::Mm => Some(1e-3),
            PositionUnit::M => Some(1.0),
        }
    }
}

/// Flags about the files of a scan, of every command that reads one. All are optional: what is given
/// overrules the file.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct Reading {
    /// Layout of the scan files [default: told from their content]
    #[arg(long, value_enum, ignore_case = true, help_heading = "Files")]
    pub format: Option<Format>,
    /// Positions from another file, one a pattern: a text file of two columns, x (column) and y
    /// (row), or a scan
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub positions: Option<PathBuf>,
    /// Unit of the positions in a text file [default: px]
    #[arg(long, value_enum, ignore_case = true, requires = "positions", help_heading = "Files")]
    pub position_unit: Option<PositionUnit>,
    /// Energy of the photons
    #[arg(long, value_name = "EV", help_heading = "Files")]
    pub energy: Option<f64>,
    /// From the sample to the detector
    #[arg(long, value_name = "METRES", help_heading = "Files")]
    pub distance: Option<f64>,
    /// Side of a pixel of the detector, as it is in the file
    #[arg(long, value_name = "METRES", help_heading = "Files")]
    pub detector_pixel: Option<f64>,
    /// Side of a pixel of the object, of whole frames before --crop [default: from energy, distance and detector pixel]
    #[arg(long, value_name = "METRES", help_heading = "Files")]
    pub object_pixel: Option<f64>,

    /// Frames that are not used: auto for those that are found to be bad, a list such as 3,17,40-45, or a file
    /// with one in the first column of each line, such as the bad_frames.csv of a result
    #[arg(long, value_name = "auto|LIST|FILE", help_heading = "Frames")]
    pub reject_frames: Option<RejectFrames>,
    /// Pixel of every frame where the beam is (zero frequency), which is put into the middle:
    /// ROW,COLUMN, or auto for the centre of mass of the mean frame
    #[arg(long, value_name = "auto|ROW,COLUMN", help_heading = "Frames")]
    pub center: Option<Center>,
    /// Exchange rows and columns of every frame (the probe and the positions stay)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Frames")]
    pub transpose: Option<bool>,
    /// Mirror every frame about its middle: ud exchanges top and bottom, lr left and right
    #[arg(long, value_enum, ignore_case = true, help_heading = "Frames")]
    pub flip: Option<Flip>,
    /// Turn every frame counter-clockwise about its middle, after --transpose and --flip
    #[arg(long, value_enum, value_name = "DEGREES", help_heading = "Frames")]
    pub rotate: Option<Turn>,
    /// Side of the square around the middle of every frame that is kept, even
    #[arg(long, value_name = "PIXELS", help_heading = "Frames")]
    pub crop: Option<usize>,
    /// Add up squares of this many pixels a side, after --crop
    #[arg(long, value_name = "PIXELS", help_heading = "Frames")]
    pub bin: Option<usize>,
}

impl Reading {
    /// The instrument as far as it is given here.
    ///
    /// Error: a size that is not a positive number.
    pub fn instrument(&self) -> Result<Instrument> {
        let positive = |name: &str, value: Option<f64>| match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(Error::Config(format!("--{name} is {value}, expected a number above 0")))
            }
            value => Ok(value),
        };
        Ok(Instrument {
            energy_ev: positive("energy", self.energy)?,
            distance_m: positive("distance", self.distance)?,
            detector_pixel_m: positive("detector-pixel", self.detector_pixel)?.map(|p| [p; 2]),
            object_pixel_m: positive("object-pixel", self.object_pixel)?.map(|p| [p; 2]),
            origin_m: None,
        })
    }

    /// Whether frames are changed at all.
    pub fn changes_frames(&self) -> bool {
        self.center.is_some()
            || self.transpose == Some(true)
            || self.flip.is_some()
            || self.rotate.is_some_and(|turn| turn != Turn::None)
            || self.crop.is_some()
            || self.bin.is_some_and(|bin| bin != 1)
    }
}
