//! The pictures of a result folder, and what its file holds for the report.

use std::path::Path;

use ndarray::{Array1, Array2, Array3, Axis, stack};

use crate::Result;
use crate::data::npz::NpzWriter;
use crate::data::scan::{Position, Scan};
use crate::metrics::data_space::typical_frames;
use crate::metrics::{DataSpace, Shown};
use crate::reconstruct::{maps, modes};
use crate::reconstruction::Reconstruction;
use crate::report::{
    self, Colormap, ComplexPicture, Picture, Places, Range, write_complex, write_positions,
};

/// What all pictures of a result have in common.
pub(super) struct Pictures<'a> {
    pub result: &'a Reconstruction,
    pub folder: &'a Path,
    /// [H, W] where the object is shown.
    pub shown: Array2<bool>,
    /// [H, W] what decides the ranges of the colours.
    pub trusted: Array2<bool>,
    /// Height and width of an object pixel, m.
    pub pixel_m: Option<[f64; 2]>,
}

impl<'a> Pictures<'a> {
    /// Of the object where it is `shown`.
    pub fn new(
        result: &'a Reconstruction,
        scan: &Scan,
        shown: Array2<bool>,
        folder: &'a Path,
    ) -> Pictures<'a> {
        let (trusted, pixel_m) = (result.trusted(), scan.instrument.pixel_m(scan.side()));
        Pictures { result, folder, shown, trusted, pixel_m }
    }

    /// Amplitude, phase and both at once.
    pub fn object(&self) -> Result<()> {
        let object = &self.result.stitched.object;
        self.map("amplitude.png", &object.mapv(|z| z.norm()), ("Amplitude", ""))?;
        self.map("phase.png", &object.mapv(|z| z.arg()), ("Phase", "rad"))?;
        let picture = ComplexPicture {
            title: "Object",
            mask: Some(&self.shown),
            trusted: Some(&self.trusted),
            pixel_m: self.pixel_m,
            brightest: None,
        };
        write_complex(self.folder.join("complex.png"), object, &picture)
    }

    /// An array of the canvas with its title and unit; what is in rad is an angle.
    pub fn map(&self, file: &str, values: &Array2<f32>, (title, unit): (&str, &str)) -> Result<()> {
        let colormap = if unit == "rad" { Colormap::Cyclic } else { Colormap::Sequential };
        let picture = Picture {
            title,
            colormap,
            range: Range::default(),
            mask: Some(&self.shown),
            trusted: Some(&self.trusted),
            unit,
            pixel_m: self.pixel_m,
        };
        report::write_image(self.folder.join(file), values, &picture)
    }

    /// A picture of plain numbers on the canvas, gray where they are NaN.
    pub fn plain(&self, file: &str, values: &Array2<f32>, title: &str) -> Result<()> {
        let picture = Picture { title, pixel_m: self.pixel_m, ..Picture::default() };
        report::write_image(self.folder.join(file), values, &picture)
    }

    /// Modes of the probe, each relative to its own largest modulus.
    pub fn probe(&self) -> Result<()> {
        let probe = &self.result.probe;
        let powers = modes::powers(probe.view());
        let title = format!("Probe modes, {}", modes::in_percent(&powers));
        let (title, pixel_m) = (title.as_str(), self.pixel_m);
        let picture = ComplexPicture { title, pixel_m, brightest: Some(1.0), ..Default::default() };
        write_complex(self.folder.join("probe.png"), &maps::modes(probe), &picture)
    }

    /// Where the patterns are, and where they were `commanded` to be; that may be empty.
    pub fn positions(&self, commanded: &[Position]) -> Result<()> {
        let result = self.result;
        let [top, left] = result.canvas.origin_yx.map(|o| o as f64);
        let on_canvas = |p: &Position| (p.x - left, p.y - top);
        let used: Vec<_> = result.positions.iter().map(on_canvas).collect();
        let commanded: Vec<_> = commanded.iter().map(on_canvas).collect();
        let picture = Picture {
            title: "Positions",
            mask: Some(&self.shown),
            trusted: Some(&self.trusted),
            pixel_m: self.pixel_m,
            ..Picture::default()
        };
        let places = Places { used: &used, commanded: &commanded };
        let amplitude = result.stitched.object.mapv(|z| z.norm());
        write_positions(self.folder.join("positions.png"), &amplitude, &places, &picture)
    }

    /// The residual of each pattern over the scan.
    pub fn residual(&self, figures: &DataSpace) -> Result<()> {
        let residuals = residuals(figures);
        let map = maps::over_scan(&self.result.positions, &residuals, &self.result.canvas);
        self.plain("residual.png", &map, "Residual of each pattern")
    }

    /// Patterns as they were measured, and as they follow from the result.
    pub fn patterns(&self, frames: &[Shown]) -> Result<()> {
        let (values, (low, high)) = maps::patterns(frames);
        let indices: Vec<String> = frames.iter().map(|f| f.index.to_string()).collect();
        let title = format!("Photons in patterns {}: measured, predicted", indices.join(", "));
        let picture = Picture {
            title: &title,
            unit: "log10",
            range: Range::Fixed(low, high),
            ..Picture::default()
        };
        report::write_image(self.folder.join("patterns.png"), &values, &picture)
    }
}

/// The patterns that the report shows.
pub(super) fn frames(
    result: &Reconstruction,
    scan: &Scan,
    figures: &DataSpace,
) -> Result<Vec<Shown>> {
    typical_frames(&result.explained(scan), figures)
}

fn residuals(figures: &DataSpace) -> Vec<f64> {
    figures.per_frame.iter().map(|f| f.residual).collect()
}

/// What of a result is in its file for the report: the residual of each pattern, and some patterns.
pub(super) fn write_frames(
    file: &mut NpzWriter,
    figures: &DataSpace,
    frames: &[Shown],
) -> Result<()> {
    file.f64("frame_residual", &Array1::from(residuals(figures)))?;
    let all = |pick: fn(&Shown) -> &Array2<f32>| -> Array3<f32> {
        let images: Vec<_> = frames.iter().map(|f| pick(f).view()).collect();
        stack(Axis(0), &images).expect("all patterns have one shape")
    };
    let indices: Array1<i64> = frames.iter().map(|f| f.index as i64).collect();
    file.i64("shown_indices", &indices)?;
    file.f32("shown_measured", &all(|f| &f.measured))?;
    file.f32("shown_predicted", &all(|f| &f.predicted))
}
