//! Arrays of HDF5 files under our keys: what all layouts have in common.

use std::path::PathBuf;

use ndarray::{Array1, ArrayD, Axis, IxDyn, concatenate};
use num_complex::Complex32;
use serde::Deserialize;

use crate::Result;
use crate::data::archive::{Archive, Kind, Member};
use crate::data::hdf5::Hdf5;
use crate::data::instrument::Instrument;
use crate::data::scan::Position;

/// Where the values of a key are.
enum Held {
    /// One below the other in a file.
    Stored {
        file: usize,
        at: Vec<String>,
        pick: Option<Vec<usize>>,
    },
    Text(String),
    Real(ArrayD<f64>),
    Complex(ArrayD<Complex32>),
}

/// A scan in one or more HDF5 files.
pub struct Mapped {
    files: Vec<Hdf5>,
    members: Vec<Member>,
    held: Vec<Held>,
    notes: Vec<String>,
    intensities: bool,
    instrument: Instrument,
    positions_of_frames: bool,
}

impl Mapped {
    /// Nothing of these files yet.
    pub fn new(files: Vec<Hdf5>, intensities: bool) -> Mapped {
        let instrument = Instrument::default();
        let positions_of_frames = true;
        let (members, held, notes) = (vec![], vec![], vec![]);
        Mapped { files, members, held, notes, intensities, instrument, positions_of_frames }
    }

    pub fn file(&self, index: usize) -> &Hdf5 {
        &self.files[index]
    }

    /// For a format whose positions are in pixels of an object of its own.
    pub fn set_own_pixels(&mut self) {
        self.positions_of_frames = false;
    }

    pub fn set_instrument(&mut self, instrument: Instrument) {
        self.instrument = instrument;
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The patterns: at `at` of a file, several arrays below one another; all axes but the last two
    /// count them. With `pick` those alone, in that order.
    pub fn patterns(&mut self, file: usize, at: &[String], pick: Option<Vec<usize>>) -> Result<()> {
        let mut member = self.files[file].member("diffraction", &at[0])?;
        let count = self.count(file, at)?;
        if let [_, .., height, width] = *member.shape.as_slice() {
            member.shape = vec![pick.as_ref().map_or(count, Vec::len), height, width];
        }
        self.members.push(member);
        self.held.push(Held::Stored { file, at: at.to_vec(), pick });
        Ok(())
    }

    /// How many patterns there are at `at` of a file.
    pub fn count(&self, file: usize, at: &[String]) -> Result<usize> {
        let (mut count, mut frame) = (0usize, None);
        for at in at {
            let shape = self.files[file].member("diffraction", at)?.shape;
            let [outer @ .., height, width] = shape.as_slice() else {
                let problem = format!("has shape {shape:?}, expected (M,N,N)");
                return Err(self.files[file].problem(at, &problem));
            };
            if *frame.get_or_insert([*height, *width]) != [*height, *width] {
                let problem = "and the arrays before it have patterns of different sizes";
                return Err(self.files[file].problem(at, problem));
            }
            let frames = outer.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
            let sum = frames.and_then(|frames| count.checked_add(frames));
            let problem = || format!("has the impossible shape {shape:?}");
            count = sum.ok_or_else(|| self.files[file].problem(at, &problem()))?;
        }
        Ok(count)
    }

    /// An array as it is in the file.
    pub fn stored(&mut self, key: &str, file: usize, at: &str) -> Result<()> {
        let member = self.files[file].member(key, at)?;
        self.members.push(member);
        self.held.push(Held::Stored { file, at: vec![at.to_owned()], pick: None });
        Ok(())
    }

    /// What our own writers keep in the group `at`: where it has one of `keys`, that is the array.
    pub fn kept(&mut self, file: usize, at: &str, keys: &[&str]) -> Result<()> {
        for key in keys {
            let place = format!("{at}/{key}");
            if !self.files[file].has(&place) {
                continue;
            }
            if let Some(known) = self.members.iter().position(|member| member.name == *key) {
                self.members.remove(known);
                self.held.remove(known);
            }
            if *key != "_metadata" {
                self.stored(key, file, &place)?;
                continue;
            }
            let text = self.files[file].text(&place)?;
            let metadata: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let instrument = metadata.as_ref().and_then(|metadata| metadata.get("instrument"));
            // Its numbers have not been through other units.
            if let Some(Ok(exact)) = instrument.map(Instrument::deserialize) {
                self.instrument = exact;
            }
            self.text(key, &place, text);
        }
        Ok(())
    }

    pub fn real(&mut self, key: &str, at: &str, values: ArrayD<f64>) {
        self.held(key, at, values.shape(), Kind::Float);
        self.held.push(Held::Real(values));
    }

    pub fn complex(&mut self, key: &str, at: &str, values: ArrayD<Complex32>) {
        self.held(key, at, values.shape(), Kind::Complex);
        self.held.push(Held::Complex(values));
    }

    pub fn text(&mut self, key: &str, at: &str, text: String) {
        self.held(key, at, &[], Kind::Unicode);
        self.held.push(Held::Text(text));
    }

    /// Positions in pixels.
    pub fn positions(&mut self, at: [&str; 2], positions: &[Position]) {
        let axis = |f: fn(&Position) -> f64| positions.iter().map(f).collect::<Array1<f64>>();
        self.real("xcoords", at[0], axis(|p| p.x).into_dyn());
        self.real("ycoords", at[1], axis(|p| p.y).into_dyn());
    }

    fn held(&mut self, key: &str, at: &str, shape: &[usize], kind: Kind) {
        let (dtype, size) = match kind {
            Kind::Complex => ("<c8".to_owned(), 8),
            Kind::Unicode => ("text".to_owned(), 0),
            _ => ("<f8".to_owned(), 8),
        };
        let at = Some(format!("/{}", at.trim_start_matches('/')));
        let (name, shape) = (key.to_owned(), shape.to_vec());
        self.members.push(Member { name, at, dtype, shape, kind, size, big_endian: false });
    }

    fn of(&self, key: &str) -> &Held {
        let at = self.members.iter().position(|member| member.name == key);
        &self.held[at.expect("a key of this file")]
    }

    /// Values that `read` gets out of a file.
    fn gather<T: Clone>(
        &self,
        key: &str,
        (file, at, pick): (usize, &[String], &Option<Vec<usize>>),
        read: impl Fn(&Hdf5, &str) -> Result<ArrayD<T>>,
    ) -> Result<ArrayD<T>> {
        let file = &self.files[file];
        if key != "diffraction" {
            return read(file, &at[0]);
        }
        let mut parts = Vec::with_capacity(at.len());
        for at in at {
            let part = read(file, at)?;
            let &[ref outer @ .., height, width] = part.shape() else {
                return Err(file.problem(at, "has too few axes for patterns"));
            };
            let shape = IxDyn(&[outer.iter().product(), height, width]);
            let part = part.into_shape_with_order(shape).expect("as many elements");
            parts.push(part);
        }
        let all = match parts.len() {
            1 => parts.remove(0),
            _ => {
                let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
                concatenate(Axis(0), &views).map_err(|_| {
                    file.problem(&at[0], "and the arrays after it have patterns of different sizes")
                })?
            }
        };
        match pick {
            Some(pick) if pick.iter().any(|&i| i >= all.len_of(Axis(0))) => {
                Err(file.problem(&at[0], "has fewer patterns than positions name"))
            }
            Some(pick) => Ok(all.select(Axis(0), pick)),
            None => Ok(all),
        }
    }
}

/// The patterns `pick` of those that are below one another at `at`. They are passed by in the order of
/// the file, so they must be wanted in that order.
fn picked(
    file: &Hdf5,
    at: &[String],
    unit: usize,
    pick: &[usize],
    see: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    if !pick.is_sorted() {
        return Err(file.problem(
            &at[0],
            "has its patterns in another order than its positions: they are put in order in memory \
             alone",
        ));
    }
    let (mut passed, mut wanted) = (0, pick.iter().peekable());
    for at in at {
        file.f32_parts(at, unit, &mut |values| {
            for pattern in values.chunks_exact(unit) {
                while wanted.next_if(|&&index| index == passed).is_some() {
                    see(pattern)?;
                }
                passed += 1;
            }
            Ok(())
        })?;
    }
    match wanted.next() {
        Some(_) => Err(file.problem(&at[0], "has fewer patterns than positions name")),
        None => Ok(()),
    }
}

impl Archive for Mapped {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn f32(&mut self, key: &str) -> Result<ArrayD<f32>> {
        match self.of(key) {
            Held::Stored { file, at, pick } => self.gather(key, (*file, at, pick), Hdf5::f32),
            Held::Real(values) => Ok(values.mapv(|x| x as f32)),
            Held::Complex(values) => Ok(values.mapv(|z| z.re)),
            Held::Text(_) => unreachable!("a text is not asked for numbers"),
        }
    }

    fn f32_parts(
        &mut self,
        key: &str,
        unit: usize,
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        match self.of(key) {
            Held::Stored { file, at, pick } => {
                let file = &self.files[*file];
                match pick {
                    Some(pick) => picked(file, at, unit, pick, see),
                    None => at.iter().try_for_each(|at| file.f32_parts(at, unit, see)),
                }
            }
            Held::Real(values) => see(&values.iter().map(|&x| x as f32).collect::<Vec<f32>>()),
            Held::Complex(values) => see(&values.iter().map(|z| z.re).collect::<Vec<f32>>()),
            Held::Text(_) => unreachable!("a text is not asked for numbers"),
        }
    }

    fn f64(&mut self, key: &str) -> Result<ArrayD<f64>> {
        match self.of(key) {
            Held::Stored { file, at, pick } => self.gather(key, (*file, at, pick), Hdf5::f64),
            Held::Real(values) => Ok(values.clone()),
            Held::Complex(values) => Ok(values.mapv(|z| z.re.into())),
            Held::Text(_) => unreachable!("a text is not asked for numbers"),
        }
    }

    fn c64(&mut self, key: &str) -> Result<ArrayD<Complex32>> {
        match self.of(key) {
            Held::Stored { file, at, pick } => self.gather(key, (*file, at, pick), Hdf5::c64),
            Held::Real(values) => Ok(values.mapv(|x| Complex32::new(x as f32, 0.0))),
            Held::Complex(values) => Ok(values.clone()),
            Held::Text(_) => unreachable!("a text is not asked for numbers"),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.of(key) {
            Held::Text(text) => Ok(Some(text.clone())),
            _ => Ok(None),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.files.iter().map(|file| file.path().into()).collect();
        for held in &self.held {
            let Held::Stored { file, at, .. } = held else { continue };
            // What cannot be read is said when it is read.
            files.extend(at.iter().flat_map(|at| self.files[*file].files(at).unwrap_or_default()));
        }
        // Positions and masks were read when the file was opened.
        for at in self.members.iter().filter_map(|member| member.at.as_deref()) {
            files.extend(self.files.iter().flat_map(|file| file.files(at).unwrap_or_default()));
        }
        files.sort();
        files.dedup();
        files
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn positions_of_frames(&self) -> bool {
        self.positions_of_frames
    }

    fn frames_first(&self) -> bool {
        true
    }

    fn intensities(&self) -> bool {
        self.intensities
    }

    fn instrument(&self) -> Instrument {
        self.instrument
    }
}
