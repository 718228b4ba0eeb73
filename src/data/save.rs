//! Writing scans in the canonical form: one name per array, frames first, pixels as units.

use std::ops::Range;
use std::path::Path;

use ndarray::{Array1, Array3, ArrayView2, ArrayView3, Axis, Slice};
use num_complex::Complex32;
use serde_json::{Value, json};

use super::npz::NpzWriter;
use super::scan::{DoseOrigin, Position, Scan};
use crate::Result;

/// [M, N, N] patterns in the unit that they are written in, zero frequency at (N/2, N/2).
#[derive(Clone, Copy, Debug)]
pub enum Patterns<'a> {
    Amplitude(ArrayView3<'a, f32>),
    Counts16(ArrayView3<'a, u16>),
    Counts32(ArrayView3<'a, u32>),
}

/// What [`write_scan`] writes; shapes as in [`Scan`].
#[derive(Clone, Debug)]
pub struct ScanFile<'a> {
    pub patterns: Patterns<'a>,
    pub probe: ArrayView3<'a, Complex32>,
    pub positions: &'a [Position],
    pub nominal: Option<&'a [Position]>,
    pub mask: Option<ArrayView2<'a, f32>>,
    pub object: Option<ArrayView2<'a, Complex32>>,
    pub labels: Option<ArrayView3<'a, Complex32>>,
    /// JSON; `physics_parameters.nphotons` is the dose of normalised amplitudes.
    pub metadata: Option<Value>,
}

impl<'a> ScanFile<'a> {
    /// All of a scan, its patterns as amplitudes, its dose in the metadata where the amplitudes do
    /// not carry it themselves.
    ///
    /// # Panics
    /// Where the patterns are in a file ([`Stack::in_memory`](super::Stack::in_memory)); [`save_scan`]
    /// has an error for that.
    pub fn new(scan: &'a Scan) -> ScanFile<'a> {
        // Whole numbers of photons say so themselves.
        let own = CountedPatterns::of(scan).is_some();
        let mut metadata = json!({});
        if !own {
            let (photons, kappa) = (scan.mean_photons(), scan.dose.kappa);
            metadata["physics_parameters"] = json!({ "nphotons": photons, "kappa": kappa });
        }
        if !scan.instrument.is_unknown() {
            metadata["instrument"] = json!(scan.instrument);
        }
        ScanFile {
            patterns: Patterns::Amplitude(scan.amplitude.held().view()),
            probe: scan.probe.view(),
            positions: &scan.positions,
            nominal: scan.nominal.as_deref(),
            mask: scan.mask.as_ref().map(|mask| mask.view()),
            object: scan.object.as_ref().map(|object| object.view()),
            labels: scan.labels.as_ref().map(|labels| labels.view()),
            metadata: Some(metadata).filter(|metadata| *metadata != json!({})),
        }
    }

    /// The patterns of `range` with all that belongs to them; what they share stays.
    ///
    /// # Panics
    /// On a range outside the scan.
    pub fn part(&self, range: Range<usize>) -> ScanFile<'_> {
        fn cut<'a, T>(all: &'a ArrayView3<T>, range: &Range<usize>) -> ArrayView3<'a, T> {
            all.slice_axis(Axis(0), Slice::from(range.clone()))
        }
        ScanFile {
            patterns: match &self.patterns {
                Patterns::Amplitude(all) => Patterns::Amplitude(cut(all, &range)),
                Patterns::Counts16(all) => Patterns::Counts16(cut(all, &range)),
                Patterns::Counts32(all) => Patterns::Counts32(cut(all, &range)),
            },
            labels: self.labels.as_ref().map(|all| cut(all, &range)),
            nominal: self.nominal.map(|all| &all[range.clone()]),
            positions: &self.positions[range],
            ..self.clone()
        }
    }
}

/// Counts above this are not recovered exactly from the square root in f32.
const EXACT_COUNT: f32 = 4_194_304.0;

/// [M, N, N] counts of a scan.
#[derive(Debug)]
pub enum CountedPatterns {
    Short(Array3<u16>),
    Long(Array3<u32>),
}

impl CountedPatterns {
    /// The counts that a scan's amplitudes are the roots of, as large as they need to be; none where
    /// the amplitudes are something else, or would not come back with the same bits.
    pub fn of(scan: &Scan) -> Option<CountedPatterns> {
        let counted = matches!(scan.dose.origin, DoseOrigin::Counts | DoseOrigin::WholeSquares);
        let brightest = scan.amplitude.held().iter().fold(0f32, |max, &a| max.max(a * a));
        if !counted || scan.dose.kappa != 1.0 || brightest > EXACT_COUNT {
            return None;
        }
        let count = |a: f32| (a * a).round();
        if !scan.amplitude.held().iter().all(|&a| count(a).sqrt() == a) {
            return None;
        }
        Some(match brightest.round() <= f32::from(u16::MAX) {
            true => CountedPatterns::Short(scan.amplitude.held().mapv(|a| count(a) as u16)),
            false => CountedPatterns::Long(scan.amplitude.held().mapv(|a| count(a) as u32)),
        })
    }

    pub fn view(&self) -> Patterns<'_> {
        match self {
            CountedPatterns::Short(counts) => Patterns::Counts16(counts.view()),
            CountedPatterns::Long(counts) => Patterns::Counts32(counts.view()),
        }
    }
}

/// Writes all of a scan in our own layout: counts stay counts, amplitudes stay amplitudes with their
/// dose.
///
/// # Errors
/// The file cannot be written, or the patterns are not in memory.
pub fn save_scan(path: impl AsRef<Path>, scan: &Scan) -> Result<()> {
    scan.amplitude.in_memory()?;
    let file = ScanFile::new(scan);
    match &counts_to_keep(scan) {
        Some(counts) => write_scan(path, &ScanFile { patterns: counts.view(), ..file }),
        None => write_scan(path, &file),
    }
}

/// The counts of a scan that came as counts.
pub(super) fn counts_to_keep(scan: &Scan) -> Option<CountedPatterns> {
    (scan.dose.origin == DoseOrigin::Counts).then(|| CountedPatterns::of(scan)).flatten()
}

/// Writes a scan file, atomically; the same scan gives the same bytes.
pub fn write_scan(path: impl AsRef<Path>, scan: &ScanFile) -> Result<()> {
    let mut writer = NpzWriter::create(path)?;
    match &scan.patterns {
        Patterns::Amplitude(patterns) => writer.f32("diffraction", patterns)?,
        Patterns::Counts16(patterns) => writer.u16("diffraction", patterns)?,
        Patterns::Counts32(patterns) => writer.u32("diffraction", patterns)?,
    }
    match scan.probe.dim().0 {
        0 => {}
        1 => writer.c64("probeGuess", &scan.probe.index_axis(Axis(0), 0))?,
        _ => writer.c64("probeGuess", &scan.probe)?,
    }
    if let Some(object) = &scan.object {
        writer.c64("objectGuess", object)?;
    }
    write_positions(&mut writer, ["xcoords", "ycoords"], scan.positions)?;
    if let Some(nominal) = scan.nominal {
        write_positions(&mut writer, ["xcoords_start", "ycoords_start"], nominal)?;
    }
    if let Some(mask) = &scan.mask {
        writer.f32("mask", mask)?;
    }
    if let Some(labels) = &scan.labels {
        writer.c64("Y", labels)?;
    }
    if let Some(metadata) = &scan.metadata {
        writer.text("_metadata", &metadata.to_string())?;
    }
    writer.finish()
}

fn write_positions(writer: &mut NpzWriter, keys: [&str; 2], positions: &[Position]) -> Result<()> {
    writer.f64(keys[0], &positions.iter().map(|p| p.x).collect::<Array1<f64>>())?;
    writer.f64(keys[1], &positions.iter().map(|p| p.y).collect::<Array1<f64>>())
}
