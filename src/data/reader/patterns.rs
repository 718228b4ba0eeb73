//! The patterns of a scan and their mask, in memory or in a file.

use std::fs::File;

use ndarray::{Array2, ArrayView3, Ix2};

use super::Reader;
use crate::Error;
use crate::data::archive::Member;
use crate::data::check::{Problem, Severity};
use crate::data::layout::{self, FrameOrder, Frames};
use crate::data::load::{LoadOptions, Room};
use crate::data::scratch::Scratch;
use crate::data::stack::{Filed, Stack};
use crate::data::values::{self, Census, negative, non_finite};
use crate::memory::megabytes;

/// Patterns as they are in the file, but for masked pixels.
pub(super) struct Patterns {
    pub values: Stack,
    /// The order that they were stored in.
    pub frames: Frames,
    pub mask: Option<Array2<f32>>,
    pub census: Census,
}

impl Reader {
    /// [M, H, W] values as in the file, in memory where there is room. `side` is that of the probe, 0
    /// without one.
    pub(super) fn patterns(
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
    pub(super) fn outgrown<'a>(
        &self,
        key: &str,
        options: &'a LoadOptions,
    ) -> Option<(u64, &'a Room)> {
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
    pub(super) fn check_values(&mut self, key: &str, census: &Census) -> Option<()> {
        let problems = census.problems(&self.shown(key));
        let usable = problems.iter().all(|problem| problem.severity() == Severity::Warning);
        self.problems.extend(problems);
        usable.then_some(())
    }
}
