//! Frames that say nothing about the object, or something wrong: what is wrong with each, and the list
//! of those that are left out.
//!
//! Some give themselves away ([`find`]): nothing was read out, the beam was off, pixels overflowed, a
//! buffer was read twice. The others show once there is an object to hold them against
//! ([`metrics::bad_frames`](crate::metrics::bad_frames)).

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::scan::{Position, Scan};
use crate::text::first_few;
use crate::{Error, Result};

/// Light of an empty frame, of the median of all.
const EMPTY: f64 = 0.01;

/// Light of a frame that is too bright to be one of the scan, of the median of all.
const FLOODED: f64 = 10.0;

/// Pixels at the largest value of the scan that chance does not bring together ...
const SATURATED: usize = 16;
/// ... if this many times as many as in most frames.
const MORE_SATURATED: usize = 10;

/// Pixels of the object between two frames that cannot have seen the same.
const ELSEWHERE: f64 = 0.5;

/// Times that a scan is looked at again without the frames that were found: what is near a bad frame shows
/// once that is gone.
pub const ROUNDS: usize = 5;

/// Pixels with light that two frames do not share by chance.
const LIT: usize = 32;

/// Share of all frames above which it is not the frames that are bad.
const MOST: f64 = 0.2;

/// Frames named in one line of the log.
pub(crate) const NAMED: usize = 8;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// All pixels have the same value: nothing was read out.
    Dead,
    /// `brightness` of the light that was to be expected, as without beam.
    Empty { brightness: f64 },
    /// `pixels` have the largest value of the scan, or there is `brightness` of the light that was to be
    /// expected.
    Saturated { pixels: usize, brightness: f64 },
    /// Bit for bit the frame `of`, which was taken elsewhere.
    Duplicated { of: usize },
    /// It lies `rows` and `columns` off on the detector.
    Shifted { rows: i64, columns: i64 },
    /// Taken (`x`, `y`) object pixels from where it is said to be.
    Misplaced { x: f64, y: f64 },
    /// It does not follow from the object at all, and none of these is why.
    Unexplained,
    /// Left out by a list.
    Listed,
}

impl Fault {
    /// The word for it in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Dead => "dead",
            Fault::Empty { .. } => "empty",
            Fault::Saturated { .. } => "saturated",
            Fault::Duplicated { .. } => "duplicated",
            Fault::Shifted { .. } => "shifted",
            Fault::Misplaced { .. } => "misplaced",
            Fault::Unexplained => "unexplained",
            Fault::Listed => "listed",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Dead => write!(f, "dead: every pixel has the same value"),
            Fault::Empty { brightness } => {
                write!(f, "empty: {} of the light that was to be expected", percent(*brightness))
            }
            Fault::Saturated { pixels: 0, brightness } => {
                write!(f, "saturated: {brightness:.1} times the light that was to be expected")
            }
            Fault::Saturated { pixels, .. } => {
                write!(f, "saturated: {pixels} pixels have the largest value of the scan")
            }
            Fault::Duplicated { of } => write!(f, "duplicated: bit for bit frame {of}"),
            Fault::Shifted { rows, columns } => {
                write!(f, "shifted: {rows} rows and {columns} columns off on the detector")
            }
            Fault::Misplaced { x, y } => {
                write!(f, "misplaced: taken ({x}, {y}) object pixels from its position (x, y)")
            }
            Fault::Unexplained => write!(f, "unexplained: it does not follow from the object"),
            Fault::Listed => write!(f, "listed: left out as asked"),
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// A frame, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BadFrame {
    /// Index of the frame in the scan.
    pub frame: usize,
    #[serde(flatten)]
    pub fault: Fault,
    /// Σ(√I − √Î)² / ΣI, where there is an object to hold it against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
}

/// Frames of a scan that are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rejected {
    frames: Vec<BadFrame>,
    /// Mean Σ a² of the others, where some are left out.
    energy: Option<f64>,
}

impl Rejected {
    /// In order.
    pub fn frames(&self) -> &[BadFrame] {
        &self.frames
    }

    /// Mean Σ a² of the frames that are used; none where all are.
    pub(super) fn energy(&self) -> Option<f64> {
        self.energy
    }
}

/// What is to be done about them: `auto`, a list as 3,17,40-45, or a file with one in its first column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RejectFrames {
    /// Those that are found.
    Auto,
    /// First and last of each range.
    List(Vec<(usize, usize)>),
    File(PathBuf),
}

impl FromStr for RejectFrames {
    type Err = String;

    fn from_str(text: &str) -> Result<RejectFrames, String> {
        let listed = |c: char| c.is_ascii_digit() || c.is_ascii_whitespace() || ",-".contains(c);
        if text.eq_ignore_ascii_case("auto") {
            return Ok(RejectFrames::Auto);
        }
        if text.is_empty() || !text.chars().all(listed) {
            return Ok(RejectFrames::File(text.into()));
        }
        let wrong = |part: &str| {
            format!("`{part}` is no frame and no range of frames: expected for example 3,17,40-45")
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong(part.trim()));
            let range = (number(first)?, number(last)?);
            if range.0 <= range.1 { Ok(range) } else { Err(wrong(part.trim())) }
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(RejectFrames::List)
    }
}

impl fmt::Display for RejectFrames {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            RejectFrames::Auto => write!(f, "auto"),
            RejectFrames::List(ranges) => {
                let range = |&(first, last): &(usize, usize)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                };
                write!(f, "{}", ranges.iter().map(range).collect::<Vec<_>>().join(","))
            }
            RejectFrames::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl TryFrom<String> for RejectFrames {
    type Error = String;

    fn try_from(text: String) -> Result<RejectFrames, String> {
        text.parse()
    }
}

impl From<RejectFrames> for String {
    fn from(reject: RejectFrames) -> String {
        reject.to_string()
    }
}

impl RejectFrames {
    /// The frames of a list or a file, in order, each once; none of `auto`.
    ///
    /// # Errors
    /// The file cannot be read or is no list, or a frame is not one of the `count` of the scan.
    pub fn frames(&self, count: usize) -> Result<Vec<usize>> {
        let mut frames: Vec<usize> = match self {
            RejectFrames::Auto => Vec::new(),
            // A range may have any end; nothing is made of what lies outside of the scan.
            RejectFrames::List(ranges) => match ranges.iter().find(|(_, last)| *last >= count) {
                Some((_, last)) => return Err(Error::Config(outside(*last, count))),
                None => ranges.iter().flat_map(|&(first, last)| first..=last).collect(),
            },
            RejectFrames::File(path) => read(path)?,
        };
        frames.sort_unstable();
        frames.dedup();
        match (frames.last(), self) {
            (Some(&last), RejectFrames::File(path)) if last >= count => {
                Err(Error::input(path, outside(last, count)))
            }
            _ => Ok(frames),
        }
    }
}

fn outside(frame: usize, count: usize) -> String {
    format!(
        "--reject-frames: there is no frame {frame} in a scan of {count}: they are numbered from 0 to {}",
        count.saturating_sub(1)
    )
}

/// Numbers of the first column of a text file; its first line may be a heading.
fn read(path: &Path) -> Result<Vec<usize>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut frames = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let first = line.split([',', ';', ' ', '\t']).next().unwrap_or_default().trim();
        match first.parse() {
            Ok(frame) => frames.push(frame),
            Err(_) if first.is_empty() || number == 0 => {}
            Err(_) => {
                let problem = format!(
                    "line {} begins with `{first}`, expected the number of a frame to leave out",
                    number + 1
                );
                return Err(Error::input(path, problem));
            }
        }
    }
    Ok(frames)
}

/// What a frame is judged by.
#[derive(Clone, Copy)]
struct Traits {
    energy: f64,
    least: f32,
    largest: f32,
    /// Pixels of the largest value, and above 0.
    tops: usize,
    lit: usize,
    digest: u64,
}

impl Traits {
    fn of(frame: ArrayView2<f32>, mask: Option<&Array2<f32>>) -> Traits {
        let mut hasher = DefaultHasher::new();
        let none =
            Traits { energy: 0.0, least: f32::MAX, largest: 0.0, tops: 0, lit: 0, digest: 0 };
        let mut traits = none;
        for (at, &a) in frame.indexed_iter() {
            if mask.is_some_and(|mask| mask[at] <= 0.0) {
                continue;
            }
            traits.energy += f64::from(a).powi(2);
            traits.least = traits.least.min(a);
            traits.lit += usize::from(a > 0.0);
            match a.total_cmp(&traits.largest) {
                std::cmp::Ordering::Greater => (traits.largest, traits.tops) = (a, 1),
                std::cmp::Ordering::Equal => traits.tops += 1,
                std::cmp::Ordering::Less => {}
            }
            hasher.write_u32(a.to_bits());
        }
        Traits { digest: hasher.finish(), ..traits }
    }
}

/// The frames of `scan` that give themselves away without any object, in order. What is left out already
/// is not looked at.
///
/// # Errors
/// The patterns are in a file that cannot be read.
pub fn find(scan: &Scan) -> Result<Vec<BadFrame>> {
    let mut all = Vec::with_capacity(scan.len());
    scan.amplitude.walk(|part| {
        let part: Vec<_> = part.outer_iter().collect();
        let traits = part.into_par_iter().map(|frame| Traits::of(frame, scan.mask.as_ref()));
        all.extend(traits.collect::<Vec<_>>());
        Ok(())
    })?;
    let used = scan.used();
    let typical = median(used.iter().map(|&i| all[i].energy));
    let top = used.iter().map(|&i| all[i].largest).fold(0.0, f32::max);
    let at_top = |traits: &Traits| if traits.largest == top { traits.tops } else { 0 };
    let usual = median(used.iter().map(|&i| at_top(&all[i]) as f64)) as usize;
    let mut found = Vec::new();
    let mut first = std::collections::HashMap::new();
    for frame in used {
        let traits = &all[frame];
        let brightness = traits.energy / typical.max(f64::MIN_POSITIVE);
        let pixels = at_top(traits);
        let earlier = *first.entry(traits.digest).or_insert(frame);
        let fault = if traits.least >= traits.largest {
            Fault::Dead
        } else if brightness < EMPTY {
            Fault::Empty { brightness }
        } else if pixels > SATURATED && pixels > MORE_SATURATED * usual {
            Fault::Saturated { pixels, brightness }
        } else if brightness > FLOODED {
            Fault::Saturated { pixels: 0, brightness }
        } else if earlier != frame && traits.lit > LIT && repeats(scan, frame, earlier)? {
            Fault::Duplicated { of: earlier }
        } else {
            continue;
        };
        found.push(BadFrame { frame, fault, residual: None });
    }
    Ok(found)
}

/// Whether two frames are the same, though they were taken in two places.
fn repeats(scan: &Scan, frame: usize, earlier: usize) -> Result<bool> {
    let place = |frame: usize| scan.positions.get(frame).copied();
    let (Some(Position { x, y }), Some(before)) = (place(frame), place(earlier)) else {
        return Ok(false);
    };
    let apart = (x - before.x).hypot(y - before.y) > ELSEWHERE;
    Ok(apart && scan.amplitude.pattern(frame)? == scan.amplitude.pattern(earlier)?)
}

/// 0 of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Scan {
    /// Leaves out what `reject` says: nothing of it has a part in the scan any more, also not in its mean
    /// brightness. What was left out, in order.
    ///
    /// # Errors
    /// A list with frames that are not there, or of all; patterns in a file that cannot be read.
    pub fn reject(&mut self, reject: &RejectFrames) -> Result<Vec<BadFrame>> {
        let bad = match reject {
            RejectFrames::Auto => find(self)?,
            RejectFrames::List(_) | RejectFrames::File(_) => {
                let listed = |frame| BadFrame { frame, fault: Fault::Listed, residual: None };
                reject.frames(self.len())?.into_iter().map(listed).collect()
            }
        };
        let kept = self.leave_out(&bad, *reject == RejectFrames::Auto)?;
        Ok(if kept { bad } else { Vec::new() })
    }

    /// Leaves out these frames. Where they were `found`, none of them if they are too many; whether they
    /// were left out.
    ///
    /// # Errors
    /// As of [`Scan::reject`].
    pub fn leave_out(&mut self, bad: &[BadFrame], found: bool) -> Result<bool> {
        if bad.is_empty() {
            return Ok(true);
        }
        let (count, path) = (self.len(), self.source.path.display());
        if found && bad.len() as f64 > MOST * count as f64 {
            log::warn!(
                "{path}: {} of {count} frames look bad, too many for that: none is left out; see what is \
                 wrong with the scan with `inspect`, or name frames with --reject-frames LIST",
                bad.len()
            );
            return Ok(false);
        }
        let mut frames = self.rejected.frames.clone();
        frames.retain(|old| bad.iter().all(|new| new.frame != old.frame));
        frames.extend(bad);
        frames.sort_by_key(|bad| bad.frame);
        if frames.len() == count {
            return Err(Error::Config(format!(
                "--reject-frames leaves out all {count} frames of {path}: leave some"
            )));
        }
        log::info!("{path}: left out {}", describe(bad, count));
        self.rejected = Rejected { frames, energy: None };
        self.rejected.energy = Some(self.energy_of_used()?);
        Ok(true)
    }

    /// Indices of the frames that are used, in order.
    pub fn used(&self) -> Vec<usize> {
        let mut rejected = self.rejected.frames.iter().map(|bad| bad.frame).peekable();
        (0..self.len()).filter(|&frame| rejected.next_if_eq(&frame).is_none()).collect()
    }

    fn energy_of_used(&self) -> Result<f64> {
        let mut sum = 0.0;
        self.walk_used(|pattern| pattern.iter().for_each(|&a| sum += f64::from(a).powi(2)))?;
        Ok(sum / self.used().len() as f64)
    }

    /// Shows [N, N] every pattern that is used to `see`, in order.
    ///
    /// # Errors
    /// They are in a file that cannot be read.
    pub fn walk_used(&self, mut see: impl FnMut(ArrayView2<f32>)) -> Result<()> {
        let (mut used, mut frame) = (self.used().into_iter().peekable(), 0);
        self.amplitude.walk(|part| {
            for pattern in part.outer_iter() {
                if used.next_if_eq(&frame).is_some() {
                    see(pattern);
                }
                frame += 1;
            }
            Ok(())
        })
    }
}

/// The frames in one line, the first of them with what is wrong.
pub fn describe(bad: &[BadFrame], count: usize) -> String {
    let named = bad.iter().map(|bad| format!("{} ({})", bad.frame, bad.fault));
    format!("{} of {count} frames: {}", bad.len(), first_few(named, NAMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_ranges_files_and_auto_are_told_apart() {
        let parse = |text: &str| text.parse::<RejectFrames>();
        assert_eq!(parse("auto"), Ok(RejectFrames::Auto));
        assert_eq!(parse("3, 17,40-45"), Ok(RejectFrames::List(vec![(3, 3), (17, 17), (40, 45)])));
        assert_eq!(parse("run/bad.csv"), Ok(RejectFrames::File("run/bad.csv".into())));
        for wrong in ["3,,4", "5-3", "-3", "3-4-5", "99999999999999999999999"] {
            assert!(parse(wrong).unwrap_err().contains("3,17,40-45"), "{wrong}");
        }
    }

    #[test]
    fn a_list_says_which_frame_is_not_in_the_scan() {
        let list = RejectFrames::List(vec![(2, 4), (3, 3)]);
        assert_eq!(list.frames(5).unwrap(), [2, 3, 4]);
        let error = list.frames(4).unwrap_err().to_string();
        assert!(error.contains("no frame 4 in a scan of 4"), "{error}");
        // An end beyond all memory is no reason to make a list of it.
        let endless = RejectFrames::List(vec![(0, usize::MAX)]);
        assert!(endless.frames(4).is_err());
    }

    #[test]
    fn the_first_column_of_a_table_is_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.csv");
        std::fs::write(&path, "frame,fault\n7,dead\n# none\n\n3,empty\n").unwrap();
        let file = RejectFrames::File(path.clone());
        assert_eq!(file.frames(8).unwrap(), [3, 7]);
        assert!(file.frames(7).unwrap_err().to_string().contains("bad.csv"));
        std::fs::write(&path, "7\nx\n").unwrap();
        assert!(file.frames(8).unwrap_err().to_string().contains("line 2 begins with `x`"));
    }
}
