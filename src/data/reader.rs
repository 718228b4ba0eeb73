//! One reading of a scan file: every array looked at, every problem kept.

use std::fs::File;
use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayD, ArrayView3, Ix2};
use num_complex::Complex32;
use serde::Deserialize;

use super::archive::{Archive, Member};
use super::check::{Problem, Severity};
use super::geometry::{self, Overlap};
use super::instrument::Instrument;
use super::layout::{self, FrameOrder, Frames};
use super::load::{LoadOptions, Room};
use super::reading::Reading;
use super::scan::{self, Dose, DoseOrigin, Position, Scan};
use super::scratch::Scratch;
use super::stack::{Filed, Stack};
use super::units::{self, Counts, Hints, InputDomain};
use super::values::{self, Census, negative, non_finite};
use super::{frames, positions};
use crate::memory::megabytes;
use crate::{Error, Result};

/// Normalised amplitudes are of order 1; a file that reaches this is worth a second look.
const LARGE_AMPLITUDE: f32 = 10.0;

/// Patterns as they are in the file, but for masked pixels.
struct Patterns {
    values: Stack,
    /// The order that they were stored in.
    frames: Frames,
    mask: Option<Array2<f32>>,
    census: Census,
}

/// A reading in progress. Its methods return `None` after they recorded a problem.
pub(super) struct Reader {
    archive: Box<dyn Archive>,
    pub problems: Vec<Problem>,
    pub notes: Vec<String>,
    pub units: Option<String>,
    pub overlap: Option<Overlap>,
}

impl Reader {
    pub(super) fn new(archive: Box<dyn Archive>) -> Reader {
        let notes = archive.notes().to_vec();
        Reader { archive, problems: vec![], notes, units: None, overlap: None }
    }

    /// The whole scan; problems on the way stay in `self`.
    pub(super) fn scan(&mut self, options: &LoadOptions, source: scan::Source) -> Option<Scan> {
        let key = self.pattern_key(options);
        let probe = match self.archive.find("probeGuess") {
            None if options.without_probe => self.no_probe(),
            _ => self.probe(),
        };
        let metadata = self.metadata();
        let instrument = self.instrument(&metadata, &options.reading);
        let positions = self.placed(key, options, instrument?);
        let (key, probe, (positions, instrument)) = (key?, probe?, positions?);
        let Patterns { values, frames, mask, census } =
            self.patterns(key, probe.dim().1, positions.len(), options)?;
        self.check_values(key, &census)?;
        let (roots, dose) = self.resolve_units(key, &census, options, &metadata);
        let amplitude = match values {
            Stack::Held(values) if roots => {
                Counts(Arc::unwrap_or_clone(values)).into_amplitude().0.into()
            }
            Stack::Filed(filed) => Stack::Filed(filed.in_units(roots, census.mean_energy(roots))),
            amplitudes => amplitudes,
        };
        let labels = self.labels(&amplitude, frames);
        let nominal = self.nominal(positions.len());
        let object = self.object();
        let raw = Scan {
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
        };
        self.prepared(raw, &options.reading)
    }

    /// The frames turned and cropped, everything that depends on them with them, and the checks of how
    /// it all fits together.
    fn prepared(&mut self, raw: Scan, reading: &Reading) -> Option<Scan> {
        let scaled = self.archive.positions_of_frames() || reading.positions.is_some();
        let scan = match reading.changes_frames() {
            false => raw,
            true => match frames::prepare(raw, reading, scaled, &mut self.notes) {
                Ok(scan) => scan,
                Err(error) => return self.fail(Problem::Frames { reason: error.to_string() }),
            },
        };
        // Patterns as they are in the file have been looked at.
        if reading.changes_frames() && scan.mean_energy() == 0.0 {
            return self.fail(Problem::AllDark { patterns: scan.len() });
        }
        let (side, probe) = (scan.side(), scan.probe.dim().1);
        if !scan.probe.is_empty() && probe != side {
            return self.fail(Problem::ProbeSide { side, probe });
        }
        self.problems.extend(geometry::check_positions(&scan.positions));
        if !scan.probe.is_empty() {
            self.overlap = geometry::overlap(&scan.positions, &scan.probe);
        }
        self.problems.extend(self.overlap.as_ref().and_then(geometry::check_overlap));
        if let Some(object) = &scan.object {
            self.problems.extend(geometry::check_object(&scan.positions, side, object.dim()));
        }
        let probe = match scan.probe.is_empty() {
            true => Array3::zeros((0, side, side)),
            false => scan.probe,
        };
        Some(Scan { probe, ..scan })
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
    fn pattern_key(&mut self, options: &LoadOptions) -> Option<&'static str> {
        let found: Vec<String> = self.archive.members().iter().map(|m| m.name.clone()).collect();
        let has = |key: &str| found.iter().any(|name| name == key);
        let key = ["diffraction", "diff3d"].into_iter().find(|key| has(key));
        let mut missing: Vec<String> = ["probeGuess", "xcoords", "ycoords"]
            .into_iter()
            .filter(|key| match *key {
                "probeGuess" => !(has(key) || options.without_probe),
                _ => !(has(key) || options.reading.positions.is_some()),
            })
            .map(str::to_owned)
            .collect();
        if key.is_none() {
            missing.insert(0, "diffraction".to_owned());
        }
        if !missing.is_empty() {
            let alias = layout::suggest(&missing, &found);
            let lacks = |key: &str| missing.iter().any(|name| name == key);
            let positions = (lacks("xcoords") && lacks("ycoords"))
                .then(|| "give positions of their own with --positions".to_owned());
            let hints: Vec<String> = alias.into_iter().chain(positions).collect();
            let alias = (!hints.is_empty()).then(|| hints.join(", or "));
            self.problems.push(Problem::MissingKeys { missing, found: found.clone(), alias });
        }
        if has("diffraction") && has("diff3d") && self.outgrown("diffraction", options).is_some() {
            self.notes
                .push("`diff3d` is not compared with `diffraction`, which is used".to_owned());
        } else if has("diffraction") && has("diff3d") {
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

    /// A probe without modes.
    fn no_probe(&mut self) -> Option<Array3<Complex32>> {
        self.notes.push("there is no `probeGuess`".to_owned());
        Some(Array3::zeros((0, 0, 0)))
    }

    /// The positions of the patterns, and the instrument with the place of position (0, 0).
    fn placed(
        &mut self,
        key: Option<&str>,
        options: &LoadOptions,
        instrument: Instrument,
    ) -> Option<(Vec<Position>, Instrument)> {
        let Some(path) = &options.reading.positions else {
            return Some((self.positions("xcoords", "ycoords")?, instrument));
        };
        let shape = key.and_then(|key| self.archive.find(key)).map(|member| member.shape.clone());
        let width = shape.map_or(0, |shape| layout::frame_width(&shape, options.order));
        match positions::read(path, &options.reading, instrument, width) {
            Ok(found) => {
                self.notes.push(found.note);
                Some((found.positions, Instrument { origin_m: found.origin_m, ..instrument }))
            }
            Err(error) => self.fail(Problem::Positions { reason: error.to_string() }),
        }
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

    /// [M, H, W] values as in the file, in memory where there is room. `side` is that of the probe, 0
    /// without one.
    fn patterns(
        &mut self,
        key: &str,
        side: usize,
        coordinates: usize,
        options: &LoadOptions,
    ) -> Option<Patterns> {
        let shape = self.archive.find(key)?.shape.clone();
        let shown = self.shown(key);
        let order = match options.order {
            FrameOrder::Auto if self.archive.frames_first() => FrameOrder::First,
            order => order,
        };
        let frames = match (options.reading.changes_frames(), side) {
            (true, _) => layout::raw_frames(&shown, &shape, coordinates, order),
            (false, 0) => {
                layout::frames(&shown, &shape, layout::shared_side(&shape), coordinates, order)
            }
            (false, side) => layout::frames(&shown, &shape, side, coordinates, order),
        };
        let frames = match frames {
            Ok(frames) => frames,
            Err(problem) => return self.fail(problem),
        };
        self.note_rounding(key);
        match self.outgrown(key, options) {
            None => self.in_memory(key, side, frames),
            Some((bytes, room)) => self.in_a_file(key, frames, bytes, room),
        }
    }

    /// The bytes of patterns in memory that are more than there is room for, and that.
    fn outgrown<'a>(&self, key: &str, options: &'a LoadOptions) -> Option<(u64, &'a Room)> {
        let shape = &self.archive.find(key)?.shape;
        let bytes = shape.iter().fold(4u64, |bytes, &n| bytes.saturating_mul(n as u64));
        options.room.as_ref().filter(|room| room.bytes < bytes).map(|room| (bytes, room))
    }

    fn in_memory(&mut self, key: &str, side: usize, frames: Frames) -> Option<Patterns> {
        let shape = self.archive.find(key)?.shape.clone();
        let values = self.read(key, |archive| archive.f32(key))?;
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
        let mut values = layout::frames_first(values, frames);
        let (_, height, width) = values.dim();
        let mask = self.mask([height, width])?;
        if let Some(mask) = &mask {
            values.outer_iter_mut().for_each(|mut frame| values::silence(&mut frame, mask));
        }
        let mut census = self.census(key);
        census.add(values.view());
        Some(Patterns { values: values.into(), frames, mask, census })
    }

    /// The patterns that have no room in memory: where they are if they lie there as numbers, else in a
    /// scratch file. Goes through them once.
    fn in_a_file(
        &mut self,
        key: &str,
        frames: Frames,
        bytes: u64,
        room: &Room,
    ) -> Option<Patterns> {
        let member = self.archive.find(key)?.clone();
        let sizes =
            format!("{}, and there is room for {}", megabytes(bytes), megabytes(room.bytes));
        let [count, height, width, ..] = *member.shape else { return None };
        if frames != Frames::First {
            let why = match frames {
                Frames::Last => "patterns along the last axis are put in order in memory alone",
                _ => {
                    "which axis counts the patterns is found out in memory alone (--order says it)"
                }
            };
            let shape = &member.shape;
            let reason = format!("`{}` {shape:?} takes {sizes}: {why}", self.shown(key));
            return self.fail(Problem::Memory { reason });
        }
        let mask = self.mask([height, width])?;
        let place = self.archive.in_place(key);
        let mut scratch = match &place {
            Some(_) => None,
            None => match Scratch::create(&room.scratch) {
                Ok(scratch) => Some(scratch),
                Err(error) => return self.fail(Problem::Memory { reason: error.to_string() }),
            },
        };
        let mut full = None;
        let mut census = self.census(key);
        // What a shape claims has not been held against the file yet, so no memory is taken for it.
        let (mut frame, unit) = (Vec::new(), height.saturating_mul(width).max(1));
        let read = self.read(key, |archive| {
            archive.f32_parts(key, unit, &mut |values| {
                for values in values.chunks_exact(unit) {
                    frame.clear();
                    frame.extend_from_slice(values);
                    if let Some(mask) = &mask {
                        values::silence(&mut frame, mask);
                    }
                    let shape = (1, height, width);
                    census.add(ArrayView3::from_shape(shape, &frame).expect("one frame"));
                }
                let kept = scratch.iter_mut().try_for_each(|scratch| scratch.append(values));
                kept.inspect_err(|error| full = Some(error.to_string()))
            })
        });
        if let Some(reason) = full {
            // That is no fault of the file that was read.
            self.problems.pop();
            return self.fail(Problem::Memory { reason });
        }
        read?;
        if census.patterns() != count {
            let shape = &member.shape;
            let found = census.patterns();
            let reason = format!("`{}` {shape:?} has {found} patterns in it", self.shown(key));
            return self.fail(Problem::Memory { reason });
        }
        let from = if scratch.is_none() { "the file of the scan" } else { "a scratch file" };
        let (file, path, offset, as_is) = match (place, scratch) {
            (_, Some(scratch)) => {
                let path = scratch.path().to_path_buf();
                match scratch.finish() {
                    Ok(file) => (file, path, 0, Member::floats(member.clone())),
                    Err(error) => return self.fail(Problem::Memory { reason: error.to_string() }),
                }
            }
            (place, None) => {
                let (path, offset) = place.expect("there is one, or a scratch file");
                let file =
                    self.read(key, |_| File::open(&path).map_err(Error::io("open", &path)))?;
                (file, path, offset, member.clone())
            }
        };
        let filed = Filed::new(file, &path, offset, &as_is, (count, height, width))?;
        self.notes.push(format!("the patterns take {sizes}: they are read by batches from {from}"));
        let values = Stack::Filed(filed.silenced(mask.as_ref()));
        Some(Patterns { values, frames, mask, census })
    }

    fn census(&self, key: &str) -> Census {
        Census::new(self.archive.find(key).and_then(Member::unsigned_limit))
    }

    /// `None` after an error; `Some(None)` for a file without mask.
    fn mask(&mut self, frame: [usize; 2]) -> Option<Option<Array2<f32>>> {
        let key = "mask";
        let Some(member) = self.archive.find(key) else { return Some(None) };
        let shape = member.shape.clone();
        if shape != frame {
            let expected = format!("({}, {}), as the patterns", frame[0], frame[1]);
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
    fn check_values(&mut self, key: &str, census: &Census) -> Option<()> {
        let problems = census.problems(&self.shown(key));
        let usable = problems.iter().all(|problem| problem.severity() == Severity::Warning);
        self.problems.extend(problems);
        usable.then_some(())
    }

    /// Whether the values are counts, of which the amplitudes are the roots, and their dose.
    fn resolve_units(
        &mut self,
        key: &str,
        census: &Census,
        options: &LoadOptions,
        metadata: &serde_json::Value,
    ) -> (bool, Dose) {
        let number = |name: &str| {
            let found = metadata.pointer(&format!("/physics_parameters/{name}"));
            found.and_then(|v| v.as_f64()).filter(|x| x.is_finite() && *x > 0.0)
        };
        let domain = metadata.get("measurement_domain").and_then(|v| v.as_str());
        let hints = Hints {
            domain: options.input_domain,
            integer: self.archive.find(key).is_some_and(Member::is_integer),
            metadata_counts: domain == Some("count_intensity"),
            format_counts: self.archive.intensities(),
            flag_photons: options.nphotons,
            metadata_kappa: number("kappa"),
            metadata_photons: number("nphotons"),
        };
        let resolved = units::resolve(census, hints);
        let (roots, dose) = (resolved.roots, resolved.dose);
        let known = matches!(dose.origin, DoseOrigin::Counts | DoseOrigin::WholeSquares);
        if known && options.nphotons.is_some() {
            self.problems.push(Problem::PhotonsIgnored);
        }
        let largest = if roots { census.largest.sqrt() } else { census.largest };
        let unsaid =
            options.input_domain == InputDomain::Auto && dose.origin == DoseOrigin::Default;
        if unsaid && largest >= LARGE_AMPLITUDE {
            self.problems.push(Problem::SuspiciousUnits { largest });
        }
        self.notes.push(format!("`{}` holds {}", self.shown(key), resolved.reason));
        self.units = Some(resolved.reason);
        (roots, dose)
    }

    /// What is given, else what the format says, else what the metadata do.
    fn instrument(
        &mut self,
        metadata: &serde_json::Value,
        reading: &Reading,
    ) -> Option<Instrument> {
        let given = match reading.instrument() {
            Ok(given) => given,
            Err(error) => return self.fail(Problem::Frames { reason: error.to_string() }),
        };
        let mut stated = self.archive.instrument();
        if let Some(more) = metadata.get("instrument").filter(|_| stated.is_unknown()) {
            match Instrument::deserialize(more) {
                Ok(instrument) => stated = instrument,
                Err(error) => {
                    let reason = format!("its `instrument` is not understood: {error}");
                    self.problems.push(Problem::Metadata { reason });
                }
            }
        }
        Some(given.or(stated))
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
    fn labels(&mut self, amplitude: &Stack, frames: Frames) -> Option<Array3<Complex32>> {
        let key = ["Y", "label"].into_iter().find(|key| self.archive.find(key).is_some())?;
        if amplitude.is_filed() {
            self.notes.push(format!("`{key}` is not read: it takes twice as much as the patterns"));
            return None;
        }
        let dim = amplitude.dim();
        let shape = self.archive.find(key)?.shape.clone();
        let array = self.complex(key)?;
        let labels = layout::three_axes(array).map(|a| layout::frames_first(a, frames));
        match labels.filter(|labels| labels.dim() == dim) {
            Some(labels) => Some(labels),
            None => self.ignore(key, shape, &format!("{dim:?}, as the patterns")),
        }
    }
}
