//! `ptycho-gpu infer`.

use std::path::PathBuf;

use super::train::Compat;
use crate::config::{Checkpoint, Device, FrameOrder, InputDomain, PatchWeighting};
use crate::{Error, Result};

#[derive(Clone, Debug, Default, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Trained network: a checkpoint file, a run folder, or its checkpoints folder
    #[arg(long, value_name = "PATH")]
    pub model_path: PathBuf,
    /// Scan to reconstruct
    #[arg(long, value_name = "SCAN.npz")]
    pub test_data: PathBuf,
    /// Folder for the reconstruction and its pictures
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub checkpoint: Checkpoint,
    /// Where to compute: auto, cpu, cuda or cuda:INDEX
    #[arg(long, visible_alias = "accelerator", value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// Groups computed at once
    #[arg(
        long,
        visible_alias = "inference-batch-size",
        value_name = "GROUPS",
        default_value_t = 16
    )]
    pub batch_size: usize,

    /// Patterns used, from the first [default: all]
    #[arg(long, value_name = "PATTERNS", help_heading = "Data")]
    pub n_images: Option<usize>,
    /// Mean photons per pattern of data that are not in counts [default: the file's, else 1e9]
    #[arg(long, visible_alias = "n-photons", value_name = "PHOTONS", help_heading = "Data")]
    pub nphotons: Option<f64>,
    /// What the numbers in the file are
    #[arg(long, value_enum, ignore_case = true, default_value_t, help_heading = "Data")]
    pub input_domain: InputDomain,
    /// Which axis of the pattern array counts the frames
    #[arg(long, value_enum, ignore_case = true, default_value_t, help_heading = "Data")]
    pub order: FrameOrder,
    /// Scale the patterns by their own mean instead of by the training scan's
    #[arg(long, help_heading = "Data")]
    pub recompute_normalisation: bool,

    /// Weight of a patch's pixels on the canvas
    #[arg(long, value_enum, ignore_case = true, default_value_t, help_heading = "Stitching")]
    pub patch_weighting: PatchWeighting,
    /// Side of the central square of each patch that is used, even [default: N/2]
    #[arg(long, value_name = "PIXELS", help_heading = "Stitching")]
    pub stitch_crop_size: Option<usize>,
    /// Mirror the x coordinates of the scan
    #[arg(long, help_heading = "Stitching")]
    pub flip_x: bool,
    /// Mirror the y coordinates of the scan
    #[arg(long, help_heading = "Stitching")]
    pub flip_y: bool,
    /// Exchange rows and columns of the patterns and the probe
    #[arg(long, help_heading = "Stitching")]
    pub transpose: bool,
    /// Exchange the x and y coordinates of the scan
    #[arg(long, help_heading = "Stitching")]
    pub swap_xy: bool,
    /// Factor on the coordinates of the scan
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Stitching")]
    pub coord_scale: f64,

    /// End with one line of JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    pub compat: Compat,
}

impl Args {
    /// Whether every value lies in its range. What depends on the patch side is left to stitching.
    pub fn validate(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::Config(text));
        if self.batch_size == 0 {
            return refuse("--batch-size is 0, but must be at least 1; 16 is the default".into());
        }
        if self.n_images == Some(0) {
            return refuse("--n-images is 0, but must be at least 1; leave it out for all".into());
        }
        if let Some(photons) = self.nphotons.filter(|p| !(p.is_finite() && *p > 0.0)) {
            return refuse(format!(
                "--nphotons is {photons}, but must be above 0: the mean photons per pattern"
            ));
        }
        if let Some(side) = self.stitch_crop_size.filter(|side| *side == 0 || side % 2 == 1) {
            return refuse(format!(
                "--stitch-crop-size is {side}, but must be even and at least 2, at most the side \
                 of a patch; leave it out for half of it"
            ));
        }
        if !(self.coord_scale.is_finite() && self.coord_scale > 0.0) {
            return refuse(format!(
                "--coord-scale is {}, but must be above 0; mirror with --flip-x and --flip-y",
                self.coord_scale
            ));
        }
        Ok(())
    }
}

/// Checks the flags.
pub fn run(args: Args) -> Result<()> {
    args.validate()
}
