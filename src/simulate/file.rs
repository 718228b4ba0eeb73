//! Simulated scans as files and as scans in memory.

use std::path::Path;

use num_complex::{Complex32, Complex64};
use serde_json::{Value, json};

use super::{Patterns, SimulatedScan};
use crate::Result;
use crate::data::{
    self, Dose, DoseOrigin, Instrument, Rejected, Scan, ScanFile, Source, write_scan,
};

impl SimulatedScan {
    /// What the loader would make of the written file.
    pub fn to_scan(&self) -> Scan {
        let (amplitude, origin) = match &self.patterns {
            Patterns::Counts(counts) => (counts.mapv(|n| (n as f32).sqrt()), DoseOrigin::Counts),
            Patterns::Expected(mean) => (mean.mapv(f32::sqrt), DoseOrigin::Metadata),
        };
        Scan {
            amplitude: amplitude.into(),
            dose: Dose { kappa: 1.0, origin },
            probe: self.probe.map(narrow),
            positions: self.positions.clone(),
            nominal: None,
            mask: None,
            object: Some(self.object.map(narrow)),
            labels: None,
            instrument: Instrument::default(),
            rejected: Rejected::default(),
            source: Source { path: "simulated".into(), sha256: String::new() },
        }
    }

    /// Mean photons of a recorded pattern.
    pub fn mean_photons(&self) -> f64 {
        let (sum, patterns): (f64, usize) = match &self.patterns {
            Patterns::Counts(counts) => {
                (counts.iter().map(|&n| f64::from(n)).sum(), counts.dim().0)
            }
            Patterns::Expected(mean) => (mean.iter().map(|&n| f64::from(n)).sum(), mean.dim().0),
        };
        sum / patterns as f64
    }

    /// Recipe, dose and units, as written beside the arrays.
    pub fn metadata(&self) -> Value {
        let domain = match &self.patterns {
            Patterns::Counts(_) => "count_intensity",
            Patterns::Expected(_) => "amplitude",
        };
        json!({
            "schema_version": "1.0.0",
            "creation_info": { "program": "ptycho-gpu", "version": env!("CARGO_PKG_VERSION") },
            "measurement_domain": domain,
            "probe_gauge": "physical_calibrated",
            "object_units": "absolute",
            "physics_parameters": { "nphotons": self.mean_photons(), "N": self.recipe.side },
            "probe_calibration": { "dose_intensity_scale": self.dose_factor },
            "recipe": self.recipe,
        })
    }

    /// Writes counts (u16 where they fit, else u32) or the amplitudes of a noiseless scan, with
    /// probe, true object, positions and metadata. The same recipe gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let scan = self.to_scan();
        let base = ScanFile { metadata: Some(self.metadata()), ..ScanFile::new(&scan) };
        match &self.patterns {
            Patterns::Expected(_) => write_scan(path, &base),
            Patterns::Counts(counts) if counts.iter().all(|&n| n <= u16::MAX.into()) => {
                let short = counts.mapv(|n| n as u16);
                write_scan(
                    path,
                    &ScanFile { patterns: data::Patterns::Counts16(short.view()), ..base },
                )
            }
            Patterns::Counts(counts) => write_scan(
                path,
                &ScanFile { patterns: data::Patterns::Counts32(counts.view()), ..base },
            ),
        }
    }
}

fn narrow(z: &Complex64) -> Complex32 {
    Complex32::new(z.re as f32, z.im as f32)
}
