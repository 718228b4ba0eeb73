//! The patterns of a scan: in memory, or in a file where they do not fit.
//!
//! A pattern in a file is read where it lies, by its place, and brought into its form on the way:
//! numbers of any type, masked, counts to amplitudes, turned and cropped. Each of these steps is the
//! one that patterns in memory go through, so both have the same bits.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, CowArray, Ix2};

use super::archive::{Decode, Member, decoder};
use super::frames::Preparation;
use super::values::silence;
use crate::{Error, Result};

/// Pixels of a part in which patterns that are in a file are gone through.
const PART: usize = 1 << 20;

/// [M, N, N] amplitudes.
#[derive(Clone, Debug)]
pub enum Stack {
    Held(Arc<Array3<f32>>),
    Filed(Filed),
}

/// Patterns in a file.
#[derive(Clone, Debug)]
pub struct Filed {
    file: Arc<File>,
    /// For messages; a scratch file has no name any more.
    path: PathBuf,
    /// Byte of the file where the first frame begins.
    offset: u64,
    /// M.
    count: usize,
    /// Rows and columns of a frame as it is in the file.
    frame: (usize, usize),
    /// Bytes of a number, their order and their meaning.
    size: usize,
    big_endian: bool,
    decode: Decode,
    /// [H, W]; pixels of weight 0 are read as 0.
    mask: Option<Arc<Array2<f32>>>,
    /// The file has counts.
    roots: bool,
    preparation: Option<Arc<Preparation>>,
    /// Mean Σ a² of the patterns.
    energy: f64,
}

impl From<Array3<f32>> for Stack {
    fn from(patterns: Array3<f32>) -> Stack {
        Stack::Held(Arc::new(patterns))
    }
}

impl Stack {
    /// (M, N, N), or (M, H, W) of frames that are yet to be cropped.
    pub fn dim(&self) -> (usize, usize, usize) {
        match self {
            Stack::Held(patterns) => patterns.dim(),
            Stack::Filed(filed) => filed.dim(),
        }
    }

    /// All patterns, where they are in memory.
    ///
    /// # Panics
    /// Where they are in a file, which only a load with a limit leads to
    /// ([`LoadOptions::room`](super::LoadOptions)); [`Stack::in_memory`] says so in an error.
    pub fn held(&self) -> &Array3<f32> {
        match self {
            Stack::Held(patterns) => patterns,
            Stack::Filed(_) => panic!("the patterns are in a file: they are read by batches"),
        }
    }

    /// All patterns, where they are in memory.
    ///
    /// # Errors
    /// [`Error::Input`] where they are in a file.
    pub fn in_memory(&self) -> Result<&Array3<f32>> {
        match self {
            Stack::Held(patterns) => Ok(patterns),
            Stack::Filed(filed) => Err(Error::input(
                &filed.path,
                "has more patterns than there was room for, but this needs all of them in memory: load it \
                 without a limit, or take a part of it",
            )),
        }
    }

    /// The same as [`Stack::held`], to be changed.
    ///
    /// # Panics
    /// As [`Stack::held`].
    pub fn held_mut(&mut self) -> &mut Array3<f32> {
        match self {
            Stack::Held(patterns) => Arc::make_mut(patterns),
            Stack::Filed(_) => panic!("the patterns are in a file: they are read by batches"),
        }
    }

    pub fn is_filed(&self) -> bool {
        matches!(self, Stack::Filed(_))
    }

    /// One pattern.
    ///
    /// # Errors
    /// An index outside of the scan; the file cannot be read, or has become shorter.
    pub fn pattern(&self, index: usize) -> Result<CowArray<'_, f32, Ix2>> {
        self.check(index)?;
        match self {
            Stack::Held(patterns) => Ok(patterns.index_axis(Axis(0), index).into()),
            Stack::Filed(filed) => {
                let mut pixels = Vec::new();
                filed.read(index, &mut Vec::new(), &mut pixels)?;
                let (_, height, width) = filed.dim();
                let pattern = Array2::from_shape_vec((height, width), pixels);
                Ok(pattern.expect("as many pixels").into())
            }
        }
    }

    /// Appends the pixels of the patterns `indices`, in that order. Errors as of [`Stack::pattern`].
    pub fn read(&self, indices: &[usize], pixels: &mut Vec<f32>) -> Result<()> {
        match self {
            Stack::Held(patterns) => {
                for &index in indices {
                    self.check(index)?;
                    let pattern = patterns.index_axis(Axis(0), index);
                    match pattern.as_slice() {
                        Some(all) => pixels.extend_from_slice(all),
                        None => pixels.extend(pattern.iter()),
                    }
                }
                Ok(())
            }
            Stack::Filed(filed) => {
                let mut bytes = Vec::new();
                indices.iter().try_for_each(|&index| {
                    self.check(index)?;
                    filed.read(index, &mut bytes, pixels)
                })
            }
        }
    }

    fn check(&self, index: usize) -> Result<()> {
        let (count, ..) = self.dim();
        if index < count { Ok(()) } else { Err(beyond(index, count)) }
    }

    /// Shows all patterns to `see`, in order: in memory at once, from a file by parts. Errors as of
    /// [`Stack::pattern`], and those of `see`.
    pub fn walk(&self, mut see: impl FnMut(ArrayView3<f32>) -> Result<()>) -> Result<()> {
        let (count, height, width) = self.dim();
        let filed = match self {
            Stack::Held(patterns) => return see(patterns.view()),
            Stack::Filed(filed) => filed,
        };
        let part = (PART / (height * width).max(1)).max(1);
        let (mut bytes, mut pixels) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(part) {
            let indices = first..(first + part).min(count);
            let shape = (indices.len(), height, width);
            pixels.clear();
            for index in indices {
                filed.read(index, &mut bytes, &mut pixels)?;
            }
            see(ArrayView3::from_shape(shape, &pixels).expect("as many pixels"))?;
        }
        Ok(())
    }

    /// Σ a² per pattern, averaged over the patterns, accumulated in f64.
    pub fn mean_energy(&self) -> f64 {
        match self {
            Stack::Held(patterns) => {
                let sum: f64 = patterns.iter().map(|&a| f64::from(a).powi(2)).sum();
                sum / patterns.dim().0.max(1) as f64
            }
            Stack::Filed(filed) => filed.energy,
        }
    }
}

impl Filed {
    /// Frames of the shape and the type of `member` (the first of three axes counts them) that begin at
    /// byte `offset` of `file`, of which `path` is the name. None for what is no real number.
    pub(super) fn new(
        file: File,
        path: &Path,
        offset: u64,
        member: &Member,
        (count, height, width): (usize, usize, usize),
    ) -> Option<Filed> {
        Some(Filed {
            file: Arc::new(file),
            path: path.to_path_buf(),
            offset,
            count,
            frame: (height, width),
            size: member.size,
            big_endian: member.big_endian,
            decode: decoder(member.kind, member.size).filter(|_| !member.is_complex())?,
            mask: None,
            roots: false,
            preparation: None,
            energy: f64::NAN,
        })
    }

    /// With the pixels at 0 where the mask is.
    pub(super) fn silenced(self, mask: Option<&Array2<f32>>) -> Filed {
        Filed { mask: mask.cloned().map(Arc::new), ..self }
    }

    /// The roots of what is in the file, of a mean Σ a² of `energy`; without `roots` as it is.
    pub(super) fn in_units(self, roots: bool, energy: f64) -> Filed {
        Filed { roots, energy, ..self }
    }

    /// Turned, cropped and binned.
    pub(super) fn prepared(self, preparation: Preparation) -> Result<Filed> {
        let prepared = Filed { preparation: Some(Arc::new(preparation)), ..self };
        let stack = Stack::Filed(prepared);
        let mut sum = 0.0;
        stack.walk(|patterns| {
            // One number after the other, as in memory.
            patterns.iter().for_each(|&a| sum += f64::from(a).powi(2));
            Ok(())
        })?;
        let Stack::Filed(prepared) = stack else { unreachable!("it was made so") };
        let energy = sum / prepared.count.max(1) as f64;
        Ok(Filed { energy, ..prepared })
    }

    fn dim(&self) -> (usize, usize, usize) {
        match &self.preparation {
            Some(preparation) => (self.count, preparation.side(), preparation.side()),
            None => (self.count, self.frame.0, self.frame.1),
        }
    }

    /// Appends the pixels of a pattern; `bytes` is room for those of the file.
    fn read(&self, index: usize, bytes: &mut Vec<u8>, pixels: &mut Vec<f32>) -> Result<()> {
        assert!(index < self.count, "pattern {index} of {}", self.count);
        let (height, width) = self.frame;
        let length = height * width * self.size;
        bytes.resize(length, 0);
        let at = self.offset + index as u64 * length as u64;
        self.file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::input(
                &self.path,
                format!("ends before pattern {index}: it has become shorter while it was read"),
            ),
            _ => Error::io("read", &self.path)(error),
        })?;
        if self.big_endian {
            bytes.chunks_exact_mut(self.size).for_each(<[u8]>::reverse);
        }
        let first = pixels.len();
        pixels.extend(bytes.chunks_exact(self.size).map(|number| (self.decode)(number) as f32));
        let frame = &mut pixels[first..];
        if let Some(mask) = &self.mask {
            silence(&mut *frame, mask);
        }
        if self.roots {
            frame.iter_mut().for_each(|value| *value = value.sqrt());
        }
        if let Some(preparation) = &self.preparation {
            let side = preparation.side();
            let mut pattern = vec![0.0; side * side];
            let frame = ArrayView2::from_shape((height, width), frame).expect("as many pixels");
            preparation.pattern(frame, &mut pattern);
            pixels.truncate(first);
            pixels.extend(pattern);
        }
        Ok(())
    }
}

fn beyond(index: usize, count: usize) -> Error {
    Error::Config(format!(
        "pattern {index} is asked for, but there are {count}: they are counted from 0"
    ))
}

/// The patterns of several scans, counted through.
#[derive(Clone, Debug)]
pub struct Stacks(Vec<Stack>);

impl Stacks {
    pub fn new(stacks: Vec<Stack>) -> Stacks {
        Stacks(stacks)
    }

    pub fn any_filed(&self) -> bool {
        self.0.iter().any(Stack::is_filed)
    }

    /// Appends the pixels of the patterns `indices`. Errors as of [`Stack::pattern`].
    pub fn read(&self, indices: &[usize], pixels: &mut Vec<f32>) -> Result<()> {
        for &index in indices {
            let (mut within, mut stacks) = (index, self.0.iter());
            let stack = stacks.find(|stack| match within.checked_sub(stack.dim().0) {
                Some(rest) => {
                    within = rest;
                    false
                }
                None => true,
            });
            let count = || self.0.iter().map(|stack| stack.dim().0).sum();
            stack.ok_or_else(|| beyond(index, count()))?.read(&[within], pixels)?;
        }
        Ok(())
    }
}
