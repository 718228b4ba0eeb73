//! Products of ptychodus, as its reader wants them: everything in metres, the object by its centre, and
//! `probe_position_indexes` the number of the pattern of each position. The patterns are in `/dp`.

use std::path::Path;

use ndarray::{Array2, ArrayView2, ArrayView3};
use num_complex::Complex32;
use serde_json::Value;

use super::{intensities, keep, metres, pixel};
use crate::Result;
use crate::data::geometry::bounds;
use crate::data::hdf5::Hdf5Writer;
use crate::data::instrument::Instrument;
use crate::data::scan::Scan;

/// On an object that is none: there has to be one.
pub(in crate::data) const PLACEHOLDER: &str = "placeholder";

/// The group of what the format has no place for.
pub(in crate::data) const KEPT: &str = "raw_data";

/// What a product says of an object, a probe and their positions.
pub(crate) struct Content<'a> {
    /// [H, W], and the object coordinates (row, column) of its pixel (0, 0).
    pub object: ArrayView2<'a, Complex32>,
    pub origin_yx: [f64; 2],
    /// [P, N, N]
    pub probe: ArrayView3<'a, Complex32>,
    /// (y, x) in metres, and the number of the pattern of each.
    pub positions: &'a [[f64; 2]],
    pub indices: &'a [usize],
    /// (y, x) of a pixel, metres.
    pub pixel: [f64; 2],
    pub instrument: Instrument,
    /// Photons are (κ a)².
    pub kappa: f64,
    pub name: &'a str,
    pub comments: &'a str,
}

pub(super) fn write(path: &Path, scan: &Scan, provenance: &Value) -> Result<Vec<String>> {
    let pixel = pixel(path, scan)?;
    let mut notes = Vec::new();
    let mut file = Hdf5Writer::create(path)?;
    header(&mut file, scan, pixel, provenance, &mut notes)?;
    intensities(&mut file, "dp", scan, &mut notes)?;
    keep(&mut file, KEPT, scan, &["objectGuess", "probeGuess"], &mut notes)?;
    file.finish()?;
    Ok(notes)
}

/// All but the patterns.
pub(super) fn header(
    file: &mut Hdf5Writer,
    scan: &Scan,
    pixel: [f64; 2],
    provenance: &Value,
    notes: &mut Vec<String>,
) -> Result<()> {
    let side = scan.side();
    let mut origin_yx = [0.0; 2];
    let ones;
    let object = match &scan.object {
        Some(object) => object.view(),
        None => {
            let (low, high) = bounds(&scan.positions);
            let span = |low: f64, high: f64| (high.ceil() - low.floor()) as usize + side;
            ones = Array2::from_elem((span(low.y, high.y), span(low.x, high.x)), Complex32::ONE);
            origin_yx = [low.y, low.x].map(|low| low.floor() - (side / 2) as f64);
            notes.push("the scan has no object: ones stand in for it".to_owned());
            ones.view()
        }
    };
    let (positions, indices) = (metres(scan), (0..scan.len()).collect::<Vec<usize>>());
    let name = scan.source.path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let content = Content {
        object,
        origin_yx,
        probe: scan.probe.view(),
        positions: &positions,
        indices: &indices,
        pixel,
        instrument: scan.instrument,
        kappa: scan.dose.kappa,
        name: name.as_deref().unwrap_or("scan"),
        comments: "",
    };
    content.write(file, scan.object.is_none())?;
    file.text("provenance", &provenance.to_string())
}

impl Content<'_> {
    pub(crate) fn write(&self, file: &mut Hdf5Writer, placeholder: bool) -> Result<()> {
        let ([height, width], instrument) = (self.pixel, &self.instrument);
        file.group_text("", "name", self.name)?;
        file.group_text("", "comments", self.comments)?;
        // Its reader wants numbers, known or not.
        file.file_number("detector_object_distance_m", instrument.distance_m.unwrap_or(0.0))?;
        file.file_number("probe_energy_eV", instrument.energy_ev.unwrap_or(0.0))?;
        file.file_number("exposure_time_s", 0.0)?;
        file.file_number("mass_attenuation_m2_kg", 0.0)?;
        file.file_number("tomography_angle_deg", 0.0)?;
        let photons: f64 = self.probe.iter().map(|z| f64::from(z.norm_sqr())).sum();
        file.file_number("probe_photon_count", self.kappa.powi(2) * photons)?;
        let [y, x] = instrument.origin_m.unwrap_or_default();
        let (rows, columns) = self.object.dim();
        let centre = |origin: f64, first: f64, count: usize, pixel: f64| {
            origin + (first + count as f64 / 2.0) * pixel
        };
        let object = file
            .complex("object", &[1, rows, columns], self.object)?
            .with_number("center_x_m", centre(x, self.origin_yx[1], columns, width))?
            .with_number("center_y_m", centre(y, self.origin_yx[0], rows, height))?
            .with_number("pixel_width_m", width)?
            .with_number("pixel_height_m", height)?;
        if placeholder {
            object.with_number(PLACEHOLDER, 1.0)?;
        }
        if !self.probe.is_empty() {
            let (modes, side, _) = self.probe.dim();
            file.complex("probe", &[1, modes, side, side], self.probe)?
                .with_number("pixel_width_m", width)?
                .with_number("pixel_height_m", height)?;
        }
        let column = |k: usize| self.positions.iter().map(|p| p[k]).collect::<Vec<f64>>();
        let indices: Vec<i64> = self.indices.iter().map(|&i| i as i64).collect();
        let count = [self.positions.len()];
        file.array("probe_position_indexes", &count, &indices)?;
        file.array("probe_position_x_m", &count, &column(1))?;
        file.array("probe_position_y_m", &count, &column(0))?;
        Ok(())
    }
}
