//! The one loader: reads a scan file of any accepted layout, checks everything, and says what it
//! found, what it decided, and why.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use log::{info, warn};
use ndarray::{Array2, Array3, ArrayD, Ix2};
use num_complex::Complex32;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::archive::{Archive, Member};
use super::check::{Problem, Severity};
use super::formats;
use super::geometry::{self, Overlap};
use super::instrument::Instrument;
use super::layout::{self, Frames};
use super::scan::{self, Dose, DoseOrigin, Position, Scan};
use super::units::{self, Hints, InputDomain};
use super::values::{self, negative, non_finite};
use crate::{Error, Result};

pub use super::layout::FrameOrder;

/// Normalised amplitudes are of order 1; a file that reaches this is worth a second look.
const LARGE_AMPLITUDE: f32 = 10.0;

/// How to read a scan file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LoadOptions {
    /// What the patterns hold: amplitudes or photon counts
    #[arg(long, value_enum, default_value_t)]
    pub input_domain: InputDomain,
    /// Photons per pattern, for normalised amplitudes [default: the file's metadata, else 1e9]
    #[arg(long, value_name = "PHOTONS")]
    pub nphotons: Option<f64>,
    /// Which axis of the patterns counts them: first is (M,N,N), last is (N,N,M)
    #[arg(long, value_enum, default_value_t)]
    pub order: FrameOrder,
    /// Take a file without a probe too: [`Scan::probe`] then has no modes.
    #[arg(skip)]
    pub without_probe: bool,
}

/// Everything that one reading of a file brought to light.
#[derive(Debug)]
pub struct Survey {
    /// The arrays of the file.
    pub members: Vec<Member>,
    /// Everything that is wrong, errors and warnings.
    pub problems: Vec<Problem>,
    /// Decisions and conversions, one sentence each.
    pub notes: Vec<String>,
    /// What the numbers are and how that was decided; `None` when it did not come to that.
    pub units: Option<String>,
    /// `None` for fewer than two positions.
    pub overlap: Option<Overlap>,
    /// `None` exactly when a problem is an error.
    pub scan: Option<Scan>,
}

/// Loads a scan; warnings and decisions go to the log. Fails with the first error and the number of
/// the others.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Scan> {
    let survey = survey(path, options)?;
    let (errors, warnings): (Vec<_>, Vec<_>) =
        survey.problems.iter().partition(|problem| problem.severity() == Severity::Error);
    if let Some(scan) = survey.scan {
        survey.notes.iter().for_each(|note| info!("{}: {note}", path.display()));
        for problem in warnings {
            warn!("{}: {problem}: {}", path.display(), problem.remedy());
        }
        return Ok(scan);
    }
    let described: Vec<_> =
        errors.iter().map(|problem| format!("{problem}: {}", problem.remedy())).collect();
    Err(Error::input(path, described.join("; ")))
}

/// Reads and checks a scan without giving up at the first problem. Fails only when the file cannot
/// be read, is no archive, or an option is out of range.
pub fn survey(path: &Path, options: &LoadOptions) -> Result<Survey> {
    if let Some(photons) = options.nphotons
        && !(photons.is_finite() && photons > 0.0)
    {
        return Err(Error::Config(format!("--nphotons is {photons}, expected a number above 0")));
    }
    let archive = formats::open(path)?;
    let origin = scan::Source { path: path.into(), sha256: identity(&archive.files())? };
    let (members, notes) = (archive.members().to_vec(), archive.notes().to_vec());
    let mut reader = Reader { archive, problems: vec![], notes, units: None, overlap: None };
    let scan = reader.scan(options, origin);
    let Reader { problems, notes, units, overlap, .. } = reader;
    let usable = problems.iter().all(|problem| problem.severity() == Severity::Warning);
    Ok(Survey { members, problems, notes, units, overlap, scan: scan.filter(|_| usable) })
}

/// The SHA-256 of a file; of several that of their digests.
fn identity(files: &[PathBuf]) -> Result<String> {
    let digests = files.iter().map(|file| sha256(file)).collect::<Result<Vec<String>>>()?;
    match digests.as_slice() {
        [one] => Ok(one.clone()),
        all => Ok(hexadecimal(&Sha256::digest(all.concat()))),
    }
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of the whole file, in lower-case hexadecimal digits.
fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// A reading in progress. Its methods return `None` after they recorded a problem.
struct Reader {
    archive: Box<dyn Archive>,
    problems: Vec<Problem>,
    notes: Vec<String>,
    units: Option<String>,
    overlap: Option<Overlap>,
}

impl Reader {
    fn scan(&mut self, options: &LoadOptions, source: scan::Source) -> Option<Scan> {
        let key = self.pattern_key(options.without_probe);
        let probe = match self.archive.find("probeGuess") {
            None if options.without_probe => self.no_probe(key?),
            _ => self.probe(),
        };
        let positions = self.positions("xcoords", "ycoords");
        let (key, probe, positions) = (key?, probe?, positions?);
        self.problems.extend(geometry::check_positions(&positions));
        let side = probe.dim().1;
        let (mut values, frames) = self.patterns(key, side, positions.len(), options.order)?;
        let mask = self.mask(side)?;
        if let Some(mask) = &mask {
            values::silence(&mut values, mask);
        }
        self.check_values(key, &values)?;
        let metadata = self.metadata();
        let (amplitude, dose) = self.resolve_units(key, values, options, &metadata);
        let instrument = self.instrument(&metadata);
        if !probe.is_empty() {
            self.overlap = geometry::overlap(&positions, &probe);
        }
        self.problems.extend(self.overlap.as_ref().and_then(geometry::check_overlap));
        let object = self.object();
        if let Some(object) = &object {
            self.problems.extend(geometry::check_object(&positions, side, object.dim()));
        }
        let nominal = self.nominal(positions.len());
        let labels = self.labels(amplitude.dim(), frames);
        Some(Scan {
            amplitude,
            dose,
            probe,
            positions,
            nominal,
            mask,
            object,
            labels,
            instrument,
            source,
        })
    }

    /// What the file calls `key`, for messages.
    fn shown(&self, key: &str) -> String {
        let at = self.archive.find(key).and_then(|member| member.at.clone());
        at.unwrap_or_else(|| key.to_owned())
    }

    /// Records the error and returns `None`.
    fn fail<T>(&mut self, problem: Problem) -> Option<T> {
        self.problems.push(problem);
        None
    }

    /// Unwraps what the archive read; an unreadable member becomes a problem.
    fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut dyn Archive) -> Result<T>,
    ) -> Option<T> {
        match read(self.archive.as_mut()) {
            Ok(value) => Some(value),
            Err(Error::Input { problem, .. }) => {
                self.fail(Problem::Unreadable { key: self.shown(key), reason: problem })
            }
            Err(other) => {
                self.fail(Problem::Unreadable { key: self.shown(key), reason: other.to_string() })
            }
        }
    }

    /// The key of the patterns, after a check that nothing required is missing.
    fn pattern_key(&mut self, without_probe: bool) -> Option<&'static str> {
        let found: Vec<String> = self.archive.members().iter().map(|m| m.name.clone()).collect();
        let has = |key: &str| found.iter().any(|name| name == key);
        let key = ["diffraction", "diff3d"].into_iter().find(|key| has(key));
        let mut missing: Vec<String> = ["probeGuess", "xcoords", "ycoords"]
            .into_iter()
            .filter(|key| !(has(key) || without_probe && *key == "probeGuess"))
            .map(str::to_owned)
            .collect();
        if key.is_none() {
            missing.insert(0, "diffraction".to_owned());
        }
        if !missing.is_empty() {
            let alias = layout::suggest(&missing, &found);
            self.problems.push(Problem::MissingKeys { missing, found: found.clone(), alias });
        }
        if has("diffraction") && has("diff3d") {
            let first = self.read("diffraction", |archive| archive.f32("diffraction"))?;
            let second = self.read("diff3d", |archive| archive.f32("diff3d"))?;
            if first != second {
                return self.fail(Problem::TwoDiffractions);
            }
            self.notes.push("`diff3d` repeats `diffraction` and is not used".to_owned());
        }
        key
    }

    fn complex(&mut self, key: &str) -> Option<ArrayD<Complex32>> {
        let array = self.read(key, |archive| archive.c64(key))?;
        self.note_rounding(key);
        Some(array)
    }

    fn note_rounding(&mut self, key: &str) {
        if let Some(member) = self.archive.find(key).filter(|member| member.is_double()) {
            let to = if member.is_complex() { "complex64" } else { "float32" };
            self.notes.push(format!("`{key}` is rounded from {} to {to}", member.dtype));
        }
    }

    /// [P, N, N] from (N,N), (N,N,1) or (P,N,N).
    fn probe(&mut self) -> Option<Array3<Complex32>> {
        let key = "probeGuess";
        self.archive.find(key)?;
        let array = self.complex(key)?;
        let shape = array.shape().to_vec();
        let Some(probe) = layout::probe_modes(array) else {
            let expected = "(N,N), (N,N,1) or (P,N,N)".to_owned();
            return self.fail(Problem::WrongShape { key: self.shown(key), shape, expected });
        };
        if let Some(problem) =
            non_finite(key, probe.indexed_iter().map(|((p, y, x), v)| ([p, y, x], v.re + v.im)))
        {
            return self.fail(problem);
        }
        if probe.iter().all(|p| p.norm_sqr() == 0.0) {
            return self.fail(Problem::DarkProbe);
        }
        if probe.dim().0 > 1 {
            self.notes.push(format!("the probe has {} modes", probe.dim().0));
        }
        Some(probe)
    }

    /// A probe without modes, of the side that two axes of the patterns share.
    fn no_probe(&mut self, patterns: &str) -> Option<Array3<Complex32>> {
        let shape: Vec<usize> = self.archive.find(patterns)?.shape.clone();
        let shape: Vec<usize> = shape.into_iter().filter(|&side| side != 1).collect();
        let side = match *shape.as_slice() {
            [_, b, c] if b == c => c,
            [a, b, ..] if a == b => a,
            _ => 0,
        };
        self.notes.push("there is no `probeGuess`".to_owned());
        Some(Array3::zeros((0, side, side)))
    }

    fn positions(&mut self, x_key: &str, y_key: &str) -> Option<Vec<Position>> {
        let (x, y) = (self.coordinates(x_key), self.coordinates(y_key));
        let (x, y) = (x?, y?);
        if x.len() != y.len() {
            let (shape, expected) = (vec![y.len()], format!("({},) as `{x_key}`", x.len()));
            return self.fail(Problem::WrongShape { key: y_key.to_owned(), shape, expected });
        }
        if x.is_empty() {
            return self.fail(Problem::Empty);
        }
        Some(x.into_iter().zip(y).map(|(x, y)| Position { x, y }).collect())
    }

    /// A list of numbers; axes of length 1 around it do no harm.
    fn coordinates(&mut self, key: &str) -> Option<Vec<f64>> {
        let shape = self.archive.find(key)?.shape.clone();
        if shape.iter().filter(|&&side| side != 1).count() > 1 {
            let (key, expected) = (self.shown(key), "(M,)".to_owned());
            return self.fail(Problem::WrongShape { key, shape, expected });
        }
        let values = self.read(key, |archive| archive.f64(key))?;
        let bad: Vec<usize> =
            values.iter().enumerate().filter(|(_, v)| !v.is_finite()).map(|(i, _)| i).collect();
        match bad.first() {
            Some(&first) => self.fail(Problem::NonFinite {
                key: self.shown(key),
                count: bad.len(),
                first: vec![first],
            }),
            None => Some(values.into_iter().collect()),
        }
    }

    /// [M, N, N] values as in the file, and the order that they were stored in.
    fn patterns(
        &mut self,
        key: &str,
        side: usize,
        coordinates: usize,
        order: FrameOrder,
    ) -> Option<(Array3<f32>, Frames)> {
        let shape = self.archive.find(key)?.shape.clone();
        let frames = match layout::frames(&self.shown(key), &shape, side, coordinates, order) {
            Ok(frames) => frames,
            Err(problem) => return self.fail(problem),
        };
        let values = self.read(key, |archive| archive.f32(key))?;
        self.note_rounding(key);
        let values = layout::three_axes(values)?;
        let frames = match frames {
            Frames::Unknown => match layout::by_energy(&values) {
                Some(frames) => frames,
                None => return self.fail(Problem::AmbiguousOrder { side }),
            },
            known => known,
        };
        if frames == Frames::Last {
            self.notes
                .push(format!("`{key}` {shape:?} has the patterns along its last axis: reordered"));
        }
        Some((layout::frames_first(values, frames), frames))
    }

    /// `None` after an error; `Some(None)` for a file without mask.
    fn mask(&mut self, side: usize) -> Option<Option<Array2<f32>>> {
        let key = "mask";
        let Some(member) = self.archive.find(key) else { return Some(None) };
        let shape = member.shape.clone();
        if shape != [side, side] {
            let expected = format!("({side}, {side}), as the patterns");
            return self.fail(Problem::WrongShape { key: self.shown(key), shape, expected });
        }
        let mask = self.read(key, |archive| archive.f32(key))?.into_dimensionality::<Ix2>().ok()?;
        let indexed = || mask.indexed_iter().map(|((y, x), &v)| ([y, x], v));
        if let Some(problem) = non_finite(key, indexed()).or_else(|| negative(key, indexed())) {
            return self.fail(problem);
        }
        if mask.iter().all(|&weight| weight == 0.0) {
            return self.fail(Problem::MaskedOut);
        }
        Some(Some(mask))
    }

    /// `None` after an error.
    fn check_values(&mut self, key: &str, values: &Array3<f32>) -> Option<()> {
        let limit = self.archive.find(key).and_then(Member::unsigned_limit);
        let problems = values::check(&self.shown(key), values, limit);
        let usable = problems.iter().all(|problem| problem.severity() == Severity::Warning);
        self.problems.extend(problems);
        usable.then_some(())
    }

    fn resolve_units(
        &mut self,
        key: &str,
        values: Array3<f32>,
        options: &LoadOptions,
        metadata: &serde_json::Value,
    ) -> (Array3<f32>, Dose) {
        let photons = metadata.pointer("/physics_parameters/nphotons").and_then(|v| v.as_f64());
        let domain = metadata.get("measurement_domain").and_then(|v| v.as_str());
        let hints = Hints {
            domain: options.input_domain,
            integer: self.archive.find(key).is_some_and(Member::is_integer),
            metadata_counts: domain == Some("count_intensity"),
            format_counts: self.archive.intensities(),
            flag_photons: options.nphotons,
            metadata_photons: photons.filter(|photons| photons.is_finite() && *photons > 0.0),
        };
        let resolved = units::resolve(values, hints);
        let (amplitude, dose) = (resolved.amplitude.0, resolved.dose);
        let known = matches!(dose.origin, DoseOrigin::Counts | DoseOrigin::WholeSquares);
        if known && options.nphotons.is_some() {
            self.problems.push(Problem::PhotonsIgnored);
        }
        let largest = amplitude.iter().fold(0.0f32, |most, &a| most.max(a));
        let unsaid =
            options.input_domain == InputDomain::Auto && dose.origin == DoseOrigin::Default;
        if unsaid && largest >= LARGE_AMPLITUDE {
            self.problems.push(Problem::SuspiciousUnits { largest });
        }
        self.notes.push(format!("`{}` holds {}", self.shown(key), resolved.reason));
        self.units = Some(resolved.reason);
        (amplitude, dose)
    }

    /// What the format says, else what the metadata do.
    fn instrument(&mut self, metadata: &serde_json::Value) -> Instrument {
        let stated = self.archive.instrument();
        let Some(more) = metadata.get("instrument").filter(|_| stated.is_unknown()) else {
            return stated;
        };
        match Instrument::deserialize(more) {
            Ok(instrument) => instrument,
            Err(error) => {
                let reason = format!("its `instrument` is not understood: {error}");
                self.problems.push(Problem::Metadata { reason });
                stated
            }
        }
    }

    /// The metadata, or null; a pickled string is read, any other pickle is passed over.
    fn metadata(&mut self) -> serde_json::Value {
        if self.archive.find("_metadata").is_none() {
            return serde_json::Value::Null;
        }
        let reason = match self.archive.text("_metadata") {
            Ok(Some(text)) => match serde_json::from_str(&text) {
                Ok(value) => return value,
                Err(error) => format!("it is no JSON: {error}"),
            },
            Ok(None) => "it is pickled, and pickles are never executed".to_owned(),
            Err(Error::Input { problem, .. }) => problem,
            Err(other) => other.to_string(),
        };
        self.problems.push(Problem::Metadata { reason });
        serde_json::Value::Null
    }

    fn ignore<T>(&mut self, key: &str, shape: Vec<usize>, expected: &str) -> Option<T> {
        self.fail(Problem::Ignored { key: self.shown(key), shape, expected: expected.to_owned() })
    }

    fn object(&mut self) -> Option<Array2<Complex32>> {
        let key = "objectGuess";
        let shape = self.archive.find(key)?.shape.clone();
        let sides: Vec<usize> = shape.iter().copied().filter(|&side| side != 1).collect();
        let &[height, width] = sides.as_slice() else { return self.ignore(key, shape, "(H,W)") };
        let object = self.complex(key)?.into_shape_with_order((height, width)).ok()?;
        let values = object.indexed_iter().map(|((y, x), v)| ([y, x], v.re + v.im));
        match non_finite(key, values) {
            Some(problem) => self.fail(problem),
            None => Some(object),
        }
    }

    fn nominal(&mut self, patterns: usize) -> Option<Vec<Position>> {
        let (x, y) = ("xcoords_start", "ycoords_start");
        self.archive.find(x).and(self.archive.find(y))?;
        let nominal = self.positions(x, y)?;
        if nominal.len() != patterns {
            return self.ignore(x, vec![nominal.len()], &format!("({patterns},)"));
        }
        Some(nominal)
    }

    /// [M, N, N] from `Y` or `label`, in the same order of axes as the patterns.
    fn labels(&mut self, dim: (usize, usize, usize), frames: Frames) -> Option<Array3<Complex32>> {
        let key = ["Y", "label"].into_iter().find(|key| self.archive.find(key).is_some())?;
        let shape = self.archive.find(key)?.shape.clone();
        let array = self.complex(key)?;
        let labels = layout::three_axes(array).map(|a| layout::frames_first(a, frames));
        match labels.filter(|labels| labels.dim() == dim) {
            Some(labels) => Some(labels),
            None => self.ignore(key, shape, &format!("{dim:?}, as the patterns")),
        }
    }
}
