//! `ptycho-gpu simulate`: a scan with known object and probe.

use std::path::PathBuf;

use serde_json::json;

use super::stdout::print;
use crate::simulate::objects::ObjectKind;
use crate::simulate::probes::ProbeKind;
use crate::simulate::{DoseSpec, ObjectSpec, ProbeSpec, Recipe, ScanSpec, simulate};
use crate::{Result, report};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write the scan, an .npz file
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
    /// Seed of object, positions, probe and noise, each with its own stream
    #[arg(long, default_value_t = Recipe::default().seed)]
    pub seed: u64,
    /// Side of a pattern and of the probe in pixels, even
    #[arg(long, value_name = "PIXELS", default_value_t = Recipe::default().side)]
    pub side: usize,
    /// Number of patterns
    #[arg(long, default_value_t = ScanSpec::default().patterns)]
    pub patterns: usize,
    /// Step of the square grid in object pixels
    #[arg(long, value_name = "PIXELS", default_value_t = ScanSpec::default().step)]
    pub step: f64,
    /// Standard deviation of the positions about the grid in object pixels
    #[arg(long, value_name = "PIXELS", default_value_t = ScanSpec::default().jitter)]
    pub jitter: f64,
    /// What the sample looks like
    #[arg(long, value_enum, default_value_t = ObjectSpec::default().kind)]
    pub object: ObjectKind,
    /// Smallest amplitude of the object
    #[arg(long, value_name = "A", default_value_t = ObjectSpec::default().amplitude_min)]
    pub amplitude_min: f64,
    /// Largest amplitude of the object
    #[arg(long, value_name = "A", default_value_t = ObjectSpec::default().amplitude_max)]
    pub amplitude_max: f64,
    /// The object's phase covers plus and minus this
    #[arg(long, value_name = "RADIANS", default_value_t = ObjectSpec::default().phase)]
    pub phase: f64,
    /// Spokes of the Siemens star
    #[arg(long, value_name = "COUNT", default_value_t = ObjectSpec::default().spokes)]
    pub spokes: usize,
    /// Shape of the illumination
    #[arg(long, value_enum, default_value_t = ProbeSpec::default().kind)]
    pub probe: ProbeKind,
    /// Diameter of the illumination in object pixels (of a Gaussian: half maximum)
    #[arg(long, value_name = "PIXELS", default_value_t = ProbeSpec::default().diameter)]
    pub probe_diameter: f64,
    /// Phase curvature of the illumination at the edge of the detector
    #[arg(long, value_name = "RADIANS", allow_negative_numbers = true, default_value_t = ProbeSpec::default().defocus)]
    pub defocus: f64,
    /// Central stop of the zone plate as a part of its diameter
    #[arg(long, value_name = "PART", default_value_t = ProbeSpec::default().central_stop)]
    pub central_stop: f64,
    /// Standard deviation of random astigmatism, coma and spherical aberration
    #[arg(long, value_name = "RADIANS", default_value_t = ProbeSpec::default().aberration)]
    pub aberration: f64,
    /// Power of each incoherent probe mode, as in 6,3,1
    #[arg(long, value_name = "POWERS", value_delimiter = ',', default_value = "1")]
    pub modes: Vec<f64>,
    /// Mean photons in a pattern [default: 1e6]
    #[arg(long, conflicts_with = "mean_count")]
    pub photons: Option<f64>,
    /// Mean photons in a pixel
    #[arg(long)]
    pub mean_count: Option<f64>,
    /// Keep the expected intensities (written as amplitudes) instead of drawing counts
    #[arg(long)]
    pub noiseless: bool,
    /// Print one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// The recipe that these flags describe.
    pub fn recipe(&self) -> Recipe {
        let dose = match (self.photons, self.mean_count) {
            (Some(photons), _) => DoseSpec::Photons(photons),
            (None, Some(count)) => DoseSpec::MeanCount(count),
            (None, None) => Recipe::default().dose,
        };
        Recipe {
            side: self.side,
            scan: ScanSpec { patterns: self.patterns, step: self.step, jitter: self.jitter },
            object: ObjectSpec {
                kind: self.object,
                amplitude_min: self.amplitude_min,
                amplitude_max: self.amplitude_max,
                phase: self.phase,
                spokes: self.spokes,
            },
            probe: ProbeSpec {
                kind: self.probe,
                diameter: self.probe_diameter,
                defocus: self.defocus,
                central_stop: self.central_stop,
                aberration: self.aberration,
                powers: self.modes.clone(),
            },
            dose,
            noise: !self.noiseless,
            seed: self.seed,
        }
    }
}

/// Simulates, writes, and says what was written.
pub fn run(args: Args) -> Result<()> {
    let scan = simulate(&args.recipe())?;
    scan.write(&args.output)?;
    let (height, width) = scan.object.dim();
    let (modes, side, _) = scan.probe.dim();
    let (patterns, photons) = (scan.positions.len(), scan.mean_photons());
    if args.json {
        return report::print_json(&json!({
            "file": args.output,
            "patterns": patterns,
            "side": side,
            "photons_per_pattern": photons,
            "object": [height, width],
            "probe_modes": modes,
            "seed": args.seed,
        }));
    }
    print(format!(
        "{}: {patterns} patterns of {side}×{side} pixels, {photons:.4e} photons each; object \
         {height}×{width}; {modes} probe mode{}\n",
        args.output.display(),
        if modes == 1 { "" } else { "s" },
    ))
}
