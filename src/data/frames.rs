//! Frames as a detector wrote them → patterns: centred, turned, cropped and binned.
//!
//! Everything is about the pixel (N/2, N/2), where the beam is: a mirrored or turned frame keeps it
//! there, with i → (N − i) mod N along an axis, as a discrete Fourier transform has it.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use ndarray::{Array2, Array3, ArrayView2, Axis, Zip, s};
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::instrument::Instrument;
use super::reading::Reading;
use super::scan::{Position, Scan};
use super::stack::Stack;
use crate::simulate::fourier::Fft2;
use crate::{Error, Result};

/// Where the beam is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Center {
    /// The centre of mass of the mean frame.
    Auto,
    At {
        row: usize,
        column: usize,
    },
}

impl FromStr for Center {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Center, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Center::Auto);
        }
        let whole = |text: &str| text.trim().parse().ok();
        let pair =
            text.split_once(',').and_then(|(row, column)| Some((whole(row)?, whole(column)?)));
        let (row, column) =
            pair.ok_or_else(|| format!("`{text}` is no centre: write auto or ROW,COLUMN"))?;
        Ok(Center::At { row, column })
    }
}

impl fmt::Display for Center {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Center::Auto => f.write_str("auto"),
            Center::At { row, column } => write!(f, "{row},{column}"),
        }
    }
}

impl TryFrom<String> for Center {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Center, String> {
        text.parse()
    }
}

impl From<Center> for String {
    fn from(center: Center) -> String {
        center.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flip {
    /// Top and bottom change places
    Ud,
    /// Left and right change places
    Lr,
}

/// Degrees counter-clockwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Turn {
    #[value(name = "0")]
    #[serde(rename = "0")]
    None,
    #[value(name = "90")]
    #[serde(rename = "90")]
    Quarter,
    #[value(name = "180")]
    #[serde(rename = "180")]
    Half,
    #[value(name = "270")]
    #[serde(rename = "270")]
    ThreeQuarters,
}

/// What becomes of frames of a size.
#[derive(Debug)]
pub struct Preparation {
    /// For each pixel of a cropped pattern the one of the frame that it comes from; none outside.
    source: Array2<Option<(usize, usize)>>,
    bin: usize,
    /// Rows and columns of a frame.
    frame: (usize, usize),
    /// Where the beam was taken to be.
    pub center: (usize, usize),
    /// Whether rows and columns change places.
    pub transposed: bool,
}

impl Preparation {
    /// For [M, H, W] `frames`, of which the mean tells the centre where that is asked for.
    ///
    /// Errors: a square that cannot be cut out or binned, a centre outside, frames that are not square
    /// after all.
    pub fn new(reading: &Reading, frames: &Stack, mask: Option<&Array2<f32>>) -> Result<Self> {
        let (_, height, width) = frames.dim();
        let center = match reading.center {
            None => (height / 2, width / 2),
            Some(Center::At { row, column }) if row < height && column < width => (row, column),
            Some(Center::At { row, column }) => {
                return Err(Error::Config(format!(
                    "--center {row},{column} lies outside of frames of {height} × {width} pixels"
                )));
            }
            Some(Center::Auto) => centre_of_mass(frames, mask)?,
        };
        let side = reading.crop.unwrap_or(height);
        if reading.crop.is_none() && height != width {
            return Err(Error::Config(format!(
                "frames are {height} × {width} pixels, not square: cut a square out with --crop"
            )));
        }
        if reading.crop.is_none() && side % 2 == 1 {
            return Err(Error::Config(format!(
                "frames are {height} × {width} pixels, an odd number: cut them to an even one with --crop"
            )));
        }
        if side < 2 || side % 2 == 1 || side > height.max(width) {
            return Err(Error::Config(format!(
                "--crop is {side}, expected an even number of at most {} (frames are {height} × \
                 {width})",
                height.max(width)
            )));
        }
        let bin = reading.bin.unwrap_or(1);
        if bin == 0 || !side.is_multiple_of(bin) || !(side / bin).is_multiple_of(2) {
            return Err(Error::Config(format!(
                "--bin is {bin}, expected a number that divides {side} into an even number of pixels"
            )));
        }
        let source = Array2::from_shape_fn((side, side), |at| {
            let (row, column) = origin(reading, side, at);
            let inside = |at: usize, center: usize, size: usize| {
                (at + center).checked_sub(side / 2).filter(|&at| at < size)
            };
            Some((inside(row, center.0, height)?, inside(column, center.1, width)?))
        });
        let quarter = matches!(reading.rotate, Some(Turn::Quarter | Turn::ThreeQuarters));
        let transposed = (reading.transpose == Some(true)) != quarter;
        Ok(Preparation { source, bin, frame: (height, width), center, transposed })
    }

    /// N, the side of a pattern.
    pub fn side(&self) -> usize {
        self.source.dim().0 / self.bin
    }

    /// Side before binning.
    pub fn cropped(&self) -> usize {
        self.source.dim().0
    }

    /// Pixels added up along an axis.
    pub fn bin(&self) -> usize {
        self.bin
    }

    /// Pixels of the object of a frame in one of a pattern: what is cut off the frame is resolution.
    pub fn coarsening(&self) -> f64 {
        self.frame.1 as f64 / self.cropped() as f64
    }

    /// [M, N, N] amplitudes: a binned one is the root of the sum of squares.
    pub fn patterns(&self, frames: &Array3<f32>) -> Array3<f32> {
        let side = self.side();
        let mut patterns = vec![0f32; frames.dim().0 * side * side];
        patterns.par_chunks_mut(side * side).enumerate().for_each(|(m, pattern)| {
            self.pattern(frames.index_axis(Axis(0), m), pattern);
        });
        Array3::from_shape_vec((frames.dim().0, side, side), patterns).expect("as many pixels")
    }

    /// The [N, N] pattern of one frame.
    pub fn pattern(&self, frame: ArrayView2<f32>, pattern: &mut [f32]) {
        let side = self.side();
        let value = |at: Option<(usize, usize)>| at.map_or(0.0, |at| f64::from(frame[at]));
        for (i, out) in pattern.iter_mut().enumerate() {
            let (top, left) = (i / side * self.bin, i % side * self.bin);
            let cell = self.source.slice(s![top..top + self.bin, left..left + self.bin]);
            *out = match self.bin {
                1 => value(cell[[0, 0]]) as f32,
                _ => cell.iter().map(|&at| value(at).powi(2)).sum::<f64>().sqrt() as f32,
            };
        }
    }

    /// [N, N] weights: the least of the pixels that are added up, 0 where there is none. None where
    /// all are 1.
    pub fn mask(&self, mask: Option<&Array2<f32>>) -> Option<Array2<f32>> {
        if mask.is_none() && self.source.iter().all(Option::is_some) {
            return None;
        }
        let weight = |at: Option<(usize, usize)>| at.map_or(0.0, |at| mask.map_or(1.0, |m| m[at]));
        Some(Array2::from_shape_fn((self.side(), self.side()), |(row, column)| {
            let (top, left) = (row * self.bin, column * self.bin);
            let cell = self.source.slice(s![top..top + self.bin, left..left + self.bin]);
            cell.iter().map(|&at| weight(at)).fold(f32::INFINITY, f32::min)
        }))
    }

    /// [P, N, N] probe for the patterns, from one as large as the frames: what the crop cuts off its
    /// far field, and the middle of it that coarser pixels of the detector can see.
    pub fn probe(&self, probe: &Array3<Complex32>) -> Array3<Complex32> {
        let (modes, whole, _) = probe.dim();
        let (side, cropped) = (self.side(), self.cropped());
        let mut out = Array3::zeros((modes, side, side));
        for (mode, mut out) in probe.outer_iter().zip(out.outer_iter_mut()) {
            let resampled = match cropped == whole {
                true => mode.to_owned(),
                false => band_limited(mode, cropped),
            };
            let from = (cropped - side) / 2;
            out.assign(&resampled.slice(s![from..from + side, from..from + side]));
        }
        out
    }

    /// [M, N, N] patches of the object from those of whole frames; none where pixels have become
    /// coarser.
    pub fn labels(&self, labels: &Array3<Complex32>) -> Option<Array3<Complex32>> {
        let (side, (_, whole, width)) = (self.side(), labels.dim());
        let from = (whole.checked_sub(side)?) / 2;
        (self.cropped() == whole && whole == width)
            .then(|| labels.slice(s![.., from..from + side, from..from + side]).to_owned())
    }

    /// What was done, for a person.
    pub fn describe(&self, reading: &Reading) -> String {
        let ((height, width), side) = (self.frame, self.side());
        let mut steps = Vec::new();
        if let Some(center) = reading.center {
            let from = if center == Center::Auto { ", the centre of mass" } else { "" };
            steps.push(format!("centred on ({}, {}){from}", self.center.0, self.center.1));
        }
        if reading.transpose == Some(true) {
            steps.push("transposed".to_owned());
        }
        match reading.flip {
            Some(Flip::Ud) => steps.push("top and bottom exchanged".to_owned()),
            Some(Flip::Lr) => steps.push("left and right exchanged".to_owned()),
            None => {}
        }
        match reading.rotate {
            Some(Turn::Quarter) => steps.push("turned by 90°".to_owned()),
            Some(Turn::Half) => steps.push("turned by 180°".to_owned()),
            Some(Turn::ThreeQuarters) => steps.push("turned by 270°".to_owned()),
            _ => {}
        }
        if let Some(crop) = reading.crop {
            steps.push(format!("cropped to {crop}"));
        }
        if self.bin > 1 {
            steps.push(format!("{0} × {0} pixels added up", self.bin));
        }
        format!("frames of {height} × {width} → {side} × {side}: {}", steps.join(", "))
    }
}

/// The scan with its frames as `reading` wants them, and all that depends on them. What cannot follow is
/// left out, with a note. With `positions_of_frames`, positions are in pixels of whole frames in any case.
///
/// Errors: as of [`Preparation::new`], and frames with pixels that are not square which lie down.
pub fn prepare(
    scan: Scan,
    reading: &Reading,
    positions_of_frames: bool,
    notes: &mut Vec<String>,
) -> Result<Scan> {
    let plan = Preparation::new(reading, &scan.amplitude, scan.mask.as_ref())?;
    notes.push(plan.describe(reading));
    let (whole, side) = (scan.amplitude.dim().2, plan.side());
    // A probe of the patterns' own side is meant for them, and so are positions and object then.
    let own = !scan.probe.is_empty() && scan.probe.dim().1 == side && whole != side;
    let coarser = if own && !positions_of_frames { 1.0 } else { plan.coarsening() };
    let square = |pixel: Option<[f64; 2]>| pixel.is_none_or(|[height, width]| height == width);
    let instrument = &scan.instrument;
    if plan.transposed
        && !(square(instrument.detector_pixel_m) && square(instrument.object_pixel_m))
    {
        return Err(Error::Config(
            "--transpose and --rotate by 90 or 270 want square pixels; those of this detector are not"
                .to_owned(),
        ));
    }
    let probe = match scan.probe.dim().1 {
        probe if probe == whole && whole == scan.amplitude.dim().1 => plan.probe(&scan.probe),
        _ => scan.probe.clone(),
    };
    let scaled = |all: &Vec<Position>| -> Vec<Position> {
        all.iter().map(|p| Position { x: p.x / coarser, y: p.y / coarser }).collect()
    };
    let object = scan.object.as_ref().filter(|_| coarser == 1.0).cloned();
    let labels = scan.labels.as_ref().and_then(|labels| plan.labels(labels));
    if coarser != 1.0 {
        notes.push(format!("1 pixel of the object is now {coarser} of the file's"));
    }
    let gone = [
        ("object", scan.object.is_some() && object.is_none()),
        ("true patches", scan.labels.is_some() && labels.is_none()),
    ];
    for (name, _) in gone.into_iter().filter(|(_, gone)| *gone) {
        notes.push(format!("the {name} of the file have finer pixels and are left out"));
    }
    let detector =
        scan.instrument.detector_pixel_m.map(|pixel| pixel.map(|p| p * plan.bin() as f64));
    let instrument = Instrument {
        detector_pixel_m: detector,
        object_pixel_m: scan.instrument.object_pixel_m.map(|pixel| pixel.map(|p| p * coarser)),
        ..scan.instrument
    };
    let mask = plan.mask(scan.mask.as_ref());
    let amplitude = match scan.amplitude {
        Stack::Held(frames) => plan.patterns(&frames).into(),
        Stack::Filed(filed) => Stack::Filed(filed.prepared(plan)?),
    };
    Ok(Scan {
        amplitude,
        mask,
        positions: scaled(&scan.positions),
        nominal: scan.nominal.as_ref().map(scaled),
        probe,
        object,
        labels,
        instrument,
        ..scan
    })
}

/// Where a pixel of the turned square comes from in the square before: the operations backwards.
fn origin(reading: &Reading, side: usize, at: (usize, usize)) -> (usize, usize) {
    let mirror = |i: usize| (side - i) % side;
    let (row, column) = at;
    let (row, column) = match reading.rotate {
        Some(Turn::Quarter) => (column, mirror(row)),
        Some(Turn::Half) => (mirror(row), mirror(column)),
        Some(Turn::ThreeQuarters) => (mirror(column), row),
        _ => (row, column),
    };
    let (row, column) = match reading.flip {
        Some(Flip::Ud) => (mirror(row), column),
        Some(Flip::Lr) => (row, mirror(column)),
        None => (row, column),
    };
    if reading.transpose == Some(true) { (column, row) } else { (row, column) }
}

/// The pixel nearest to the centre of mass of the mean frame, weighted by intensity above the median
/// of its pixels, so that a dim background does not pull it to the middle.
fn centre_of_mass(frames: &Stack, mask: Option<&Array2<f32>>) -> Result<(usize, usize)> {
    let (_, height, width) = frames.dim();
    let mut mean = Array2::<f64>::zeros((height, width));
    frames.walk(|part| {
        for frame in part.outer_iter() {
            Zip::from(&mut mean).and(&frame).for_each(|m, &a| *m += f64::from(a).powi(2));
        }
        Ok(())
    })?;
    if let Some(mask) = mask {
        Zip::from(&mut mean).and(mask).for_each(|m, &w| {
            if w == 0.0 {
                *m = 0.0;
            }
        });
    }
    let mut sorted: Vec<f64> = mean.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let floor = sorted[sorted.len() / 2];
    let (mut total, mut row, mut column) = (0.0, 0.0, 0.0);
    for ((y, x), &value) in mean.indexed_iter() {
        let weight = (value - floor).max(0.0);
        total += weight;
        row += weight * y as f64;
        column += weight * x as f64;
    }
    if total == 0.0 {
        return Err(Error::Config(
            "--center auto finds no centre of mass: the mean frame is the same everywhere; give \
             ROW,COLUMN"
                .to_owned(),
        ));
    }
    Ok(((row / total).round() as usize, (column / total).round() as usize))
}

/// A probe on a coarser grid of `side` pixels over the same field of view: the middle of its far field,
/// transformed back. Unitary transforms keep the power of what is left, spread over fewer pixels.
fn band_limited(probe: ArrayView2<Complex32>, side: usize) -> Array2<Complex32> {
    let whole = probe.dim().0;
    let mut far = probe.mapv(|z| Complex64::new(z.re.into(), z.im.into()));
    Fft2::new(whole, whole).forward(&mut far);
    // Frequencies count from the corner here.
    let at = |i: usize| if i < side / 2 { i } else { whole - side + i };
    let mut cut = Array2::from_shape_fn((side, side), |(y, x)| far[[at(y), at(x)]]);
    Fft2::new(side, side).inverse(&mut cut);
    cut.mapv(|z| Complex32::new(z.re as f32, z.im as f32))
}
