//! A probe to start from, where the file has none or another is wanted.

use std::f64::consts::PI;
use std::str::FromStr;

use ndarray::{Array2, Array3, Axis};
use num_complex::{Complex32, Complex64};

use super::solve::Job;
use super::{Options, Start, Watch};
use crate::backend::Chosen;
use crate::data::geometry::Neighbours;
use crate::data::scan::Scan;
use crate::simulate::ProbeSpec;
use crate::simulate::fourier::{Fft2, centre};
use crate::simulate::probes::{self, ProbeKind};
use crate::{Error, Result};

/// Where the first probe comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeChoice {
    /// The mean pattern, with the curvature that explains the scan best.
    MeanPattern,
    /// A named shape.
    Shape(ProbeSpec),
}

/// Diameters of the beam that are tried, in steps of the scan.
const WIDTHS: [f64; 3] = [0.0, 3.0, 6.0];

/// Epochs of each trial.
const TRIAL: usize = 8;

impl FromStr for ProbeChoice {
    type Err = String;

    /// `mean`, `disk:DIAMETER[:DEFOCUS]`, `gaussian:DIAMETER[:DEFOCUS]` or
    /// `fzp:DIAMETER[:DEFOCUS[:STOP]]`.
    fn from_str(text: &str) -> std::result::Result<ProbeChoice, String> {
        let lower = text.to_ascii_lowercase();
        let mut parts = lower.split(':');
        let kind = match parts.next().unwrap_or_default() {
            "mean" if lower == "mean" => return Ok(ProbeChoice::MeanPattern),
            "disk" | "disc" => ProbeKind::Disk,
            "gaussian" => ProbeKind::Gaussian,
            "fzp" => ProbeKind::Fzp,
            _ => return Err(expected(text)),
        };
        let numbers: Vec<f64> =
            parts.map(|p| p.parse().map_err(|_| expected(text))).collect::<Result<_, _>>()?;
        let most = if kind == ProbeKind::Fzp { 3 } else { 2 };
        if numbers.is_empty() || numbers.len() > most {
            return Err(expected(text));
        }
        let default = ProbeSpec::default();
        Ok(ProbeChoice::Shape(ProbeSpec {
            kind,
            diameter: numbers[0],
            defocus: numbers.get(1).copied().unwrap_or(0.0),
            central_stop: numbers.get(2).copied().unwrap_or(default.central_stop),
            ..default
        }))
    }
}

fn expected(text: &str) -> String {
    format!(
        "`{text}` is no probe: write mean, disk:DIAMETER, gaussian:DIAMETER or \
         fzp:DIAMETER:DEFOCUS:STOP, with the diameter in pixels, the defocus in radians at the \
         edge of the detector (0) and the central stop as a part of the zone plate (0.3)"
    )
}

/// [1, N, N] probe for `scan` whose power is that of its mean pattern.
///
/// # Errors
/// [`Error::Config`] for a shape that does not fit the patterns; those of a short run for the trials
/// of the mean pattern.
pub fn probe(
    scan: &Scan,
    choice: &ProbeChoice,
    options: &Options,
    device: &Chosen,
) -> Result<Array3<Complex32>> {
    scan.check()?;
    match choice {
        ProbeChoice::Shape(spec) => {
            spec.check(scan.side()).map_err(|e| Error::Config(format!("--probe: {e}")))?;
            Ok(scaled(&probes::make(spec, scan.side(), 0), scan.mean_energy()))
        }
        ProbeChoice::MeanPattern => by_trial(scan, options, device),
    }
}

fn scaled(probe: &Array3<Complex64>, power: f64) -> Array3<Complex32> {
    let own: f64 = probe.iter().map(|z| z.norm_sqr()).sum();
    let scale = (power / own).sqrt();
    probe.mapv(|z| Complex32::new((scale * z.re) as f32, (scale * z.im) as f32))
}

/// The mean pattern says how bright each direction of the beam is, but not its phase. What matters
/// most of that is the curvature, which decides the width of the beam on the sample: a few are tried,
/// and that which explains the scan best after some epochs is taken.
fn by_trial(scan: &Scan, options: &Options, device: &Chosen) -> Result<Array3<Complex32>> {
    let side = scan.side();
    let mut mean = Array2::<f64>::zeros((side, side));
    let count = scan.used().len() as f64;
    scan.walk_used(|pattern| {
        mean.zip_mut_with(&pattern, |m, &a| *m += f64::from(a).powi(2) / count);
    })?;
    let mut best: Option<(f64, f64, Array3<Complex32>)> = None;
    for width in widths(scan) {
        let probe = scaled(&curved(&mean, width), scan.mean_energy());
        let start = Start { probe, ..Start::of(scan) };
        let trial =
            Options { epochs: TRIAL, modes: Some(1), refine_positions: false, ..options.clone() };
        let loss = Job::new(scan, &start, &trial, device)?.run(None, Watch::default())?.loss;
        log::info!("probe from the mean pattern, {width:+.0} pixels wide: loss {loss:.4}");
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, width, start.probe));
        }
    }
    let (_, width, probe) = best.expect("a few widths are tried");
    log::info!("starting with a beam {width:+.0} pixels wide (--probe names another)");
    Ok(probe)
}

/// Beam diameters to try, in pixels; the sign is that of the curvature.
fn widths(scan: &Scan) -> Vec<f64> {
    let step = match scan.len() {
        0 | 1 => 0.0,
        _ => {
            let neighbours = Neighbours::new(&scan.positions);
            let mut steps: Vec<f64> =
                (0..scan.len()).map(|i| neighbours.nearest(i, 1)[0].1).collect();
            steps.sort_by(f64::total_cmp);
            steps[steps.len() / 2]
        }
    };
    let most = scan.side() as f64 / 2.0;
    let mut widths: Vec<f64> =
        WIDTHS.iter().map(|w| (w * step).min(most)).flat_map(|w| [w, -w]).collect();
    widths.dedup();
    widths
}

/// [1, N, N] beam whose far field has the intensity `mean` and a phase c q², which spreads a pupil
/// of the radius that holds nine tenths of the light to `width` pixels.
fn curved(mean: &Array2<f64>, width: f64) -> Array3<Complex64> {
    let side = mean.nrows();
    let middle = (side / 2) as f64;
    let radius = |y: usize, x: usize| (y as f64 - middle).hypot(x as f64 - middle);
    let mut by_radius: Vec<(f64, f64)> =
        mean.indexed_iter().map(|((y, x), &m)| (radius(y, x), m)).collect();
    by_radius.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = mean.sum();
    let mut inside = 0.0;
    let edge = by_radius.iter().find(|(_, m)| {
        inside += m;
        inside >= 0.9 * total
    });
    let edge = edge.map_or(1.0, |&(r, _)| r.max(1.0));
    // A phase c (r/edge)² moves the rays at the edge by c side / (π edge) pixels.
    let curvature = PI * edge / side as f64 * width / 2.0;
    let far = Array2::from_shape_fn((side, side), |(y, x)| {
        let phase = curvature * (radius(y, x) / edge).powi(2);
        Complex64::from_polar(mean[[y, x]].sqrt(), phase)
    });
    let mut wave = centre(&far);
    Fft2::new(side, side).inverse(&mut wave);
    centre(&wave).insert_axis(Axis(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_named_by_shape_and_size() {
        let spec = |text: &str| match text.parse() {
            Ok(ProbeChoice::Shape(spec)) => spec,
            other => panic!("{text}: {other:?}"),
        };
        let fzp = spec("fzp:30:-5:0.2");
        assert_eq!((fzp.diameter, fzp.defocus, fzp.central_stop), (30.0, -5.0, 0.2));
        assert_eq!(spec("disk:12").kind, ProbeKind::Disk);
        assert_eq!("mean".parse(), Ok(ProbeChoice::MeanPattern));
        for wrong in ["", "fzp", "disk:x", "disk:1:2:3", "mean:3", "fzp:1:2:3:4"] {
            assert!(wrong.parse::<ProbeChoice>().unwrap_err().contains("no probe"), "{wrong}");
        }
    }

    #[test]
    fn a_curved_beam_is_as_wide_as_asked_for() {
        let mean = Array2::from_shape_fn((64, 64), |(y, x)| {
            f64::from(u8::from((y as f64 - 32.0).hypot(x as f64 - 32.0) < 16.0))
        });
        for width in [10.0, -24.0] {
            let beam = curved(&mean, width);
            let total: f64 = beam.iter().map(|z| z.norm_sqr()).sum();
            let inside: f64 = beam
                .indexed_iter()
                .filter(|((_, y, x), _)| {
                    (*y as f64 - 32.0).hypot(*x as f64 - 32.0) < f64::abs(width) / 2.0 + 3.0
                })
                .map(|(_, z)| z.norm_sqr())
                .sum();
            assert!(inside > 0.85 * total, "{width}: {}", inside / total);
        }
    }
}
