//! The physics and the losses.

use super::{Case, ROOF, Size, complex, measured, named, real, upstream};
use crate::graph::{Graph, Value};
use crate::ops::absolute_error::{absolute_error, absolute_phase_error};
use crate::ops::amplitude::amplitude;
use crate::ops::background::background;
use crate::ops::complex_variation::complex_variation;
use crate::ops::diffraction::{Source, diffraction};
use crate::ops::fft2::fft2;
use crate::ops::gather::gather;
use crate::ops::illuminate::illuminate;
use crate::ops::intensity::intensity;
use crate::ops::mae::mae;
use crate::ops::mean_deviation::mean_deviation;
use crate::ops::misfit::{Distance, Normalise};
use crate::ops::multiply_add::multiply_add;
use crate::ops::poisson::poisson;
use crate::ops::polar::polar;
use crate::ops::record::record;
use crate::ops::scale::scale;
use crate::ops::total_variation::total_variation;
use crate::ops::weighted_sum::{Term, weighted_sum};

/// Transforms of `frames` frames of side `n`.
fn transforms(g: &mut Graph, frames: usize, n: usize) -> Option<Value> {
    let x = g.param("x", &[frames, n, n, 2]);
    Some(fft2(g, x))
}

/// Photons of a background: without it the darkest pixels of noise would decide alone.
const BACKGROUND: f64 = 0.05;

/// Patches of side `n` in groups of `group`, `modes` modes of two scans, and what is seen of them.
fn diffracted(
    g: &mut Graph,
    s: &Size,
    [n, group, modes]: [usize; 3],
    distance: Distance,
    cut: bool,
) -> Option<Value> {
    let size = Size { side: n, group, ..*s };
    let source = if cut {
        let side = size.canvas();
        let canvas = g.param("canvas of all", &[s.batch, side, side, 2]);
        Source::Canvas(canvas, g.input("offsets", &[s.batch, group, 2]))
    } else {
        Source::Patches(complex(g, &size, "object"))
    };
    let shape = [2, modes, n, n, 2];
    // Beside a canvas, nobody asks for the gradient of the probe.
    let probe = if cut { g.input("probe", &shape) } else { g.param("probe", &shape) };
    let (seen, up) = (measured(g, &size), upstream(g, s));
    let mean = Normalise::ValidPixels;
    let [intensity, loss] = diffraction(g, source, probe, seen, up, distance, mean);
    g.keep(intensity);
    Some(loss)
}

pub(super) fn patterns() -> Vec<Case> {
    named([
        ("diffraction", |g, s| diffracted(g, s, [64, 1, 1], Distance::Poisson(BACKGROUND), false)),
        ("diffraction 128", |g, s| diffracted(g, s, [128, 1, 2], Distance::Mae, false)),
        ("diffraction of a group", |g, s| {
            diffracted(g, s, [64, s.group, 1], Distance::Poisson(BACKGROUND), true)
        }),
        ("diffraction of modes", |g, s| {
            diffracted(g, s, [64, s.group, 3], Distance::Amplitude, false)
        }),
        ("fft2 64", |g, s| transforms(g, s.batch * s.group, 64)),
        ("fft2 128", |g, s| transforms(g, s.batch, 128)),
        ("fft2 256", |g, s| transforms(g, s.batch.min(4), 256)),
        ("fft2 of any side", |g, s| transforms(g, s.batch, 18)),
        ("background", |g, s| {
            let (x, root) = (real(g, s, "intensity"), g.param("root", &[1]));
            Some(background(g, x, root))
        }),
        ("background of each pixel", |g, s| {
            let (x, root) = (real(g, s, "intensity"), g.param("root", &[s.side, s.side]));
            Some(background(g, x, root))
        }),
        ("gather", |g, s| {
            let frames = g.input("frames", &[s.frames, s.side, s.side]);
            let index = g.input("index", &[s.batch, s.group]);
            let y = gather(g, frames, index);
            g.keep(y);
            None
        }),
        ("gather trained", |g, s| {
            let table = g.param("table", &[s.frames, 2]);
            let index = g.input("index", &[s.batch, s.group]);
            Some(gather(g, table, index))
        }),
        ("illuminate", |g, s| {
            let object = complex(g, s, "object");
            let probe = g.param("probe", &[2, 2, s.side, s.side, 2]);
            let scan = g.input("scan", &[s.batch]);
            Some(illuminate(g, object, probe, scan))
        }),
        ("intensity", |g, s| {
            let field = g.param("field", &[s.batch, s.group, 2, s.side, s.side, 2]);
            Some(intensity(g, field))
        }),
        (ROOF, |g, s| {
            let x = g.input("x", &[s.batch * s.channels * s.side * s.side]);
            let y = multiply_add(g, x, s.rounds);
            g.keep(y);
            None
        }),
        ("polar", |g, s| {
            let (amplitude, phase) = (real(g, s, "amplitude"), real(g, s, "phase"));
            Some(polar(g, amplitude, phase))
        }),
        ("scale", |g, s| {
            let (x, gain) = (real(g, s, "x"), g.input("gain", &[s.batch]));
            Some(scale(g, x, gain))
        }),
        ("scale trained", |g, s| {
            let (x, gain) = (real(g, s, "x"), g.param("gain", &[s.batch]));
            Some(scale(g, x, gain))
        }),
    ])
}

pub(super) fn losses() -> Vec<Case> {
    named([
        ("absolute_error", |g, s| {
            let x = real(g, s, "x");
            let target = g.input("target", &[s.batch, s.group, s.side, s.side]);
            let weight = g.input("weight", &[s.side, s.side]);
            Some(absolute_error(g, x, target, weight))
        }),
        ("absolute_phase_error", |g, s| {
            let x = real(g, s, "x");
            let target = g.input("target", &[s.batch, s.group, s.side, s.side]);
            let weight = g.input("weight", &[s.side, s.side]);
            Some(absolute_phase_error(g, x, target, weight))
        }),
        ("amplitude", |g, s| {
            let (x, seen, up) = (real(g, s, "intensity"), measured(g, s), upstream(g, s));
            Some(amplitude(g, x, seen, up, Normalise::ValidPixels))
        }),
        ("complex_variation", |g, s| {
            let z = complex(g, s, "z");
            Some(complex_variation(g, z))
        }),
        ("mae", |g, s| {
            let (x, seen, up) = (real(g, s, "intensity"), measured(g, s), upstream(g, s));
            Some(mae(g, x, seen, up, Normalise::ValidPixels))
        }),
        ("mean_deviation", |g, s| {
            let x = real(g, s, "x");
            Some(mean_deviation(g, x))
        }),
        ("poisson", |g, s| {
            let (x, seen, up) = (real(g, s, "intensity"), measured(g, s), upstream(g, s));
            Some(poisson(g, x, seen, up, 1e-6, Normalise::ValidPixels))
        }),
        ("total_variation", |g, s| {
            let x = real(g, s, "x");
            Some(total_variation(g, x))
        }),
        ("record", |g, _| {
            let (x, slot) = (g.input("x", &[1]), g.input("slot", &[1]));
            record(g, "ring", x, slot, 5);
            None
        }),
        ("weighted_sum", |g, s| {
            let [data, smooth] = ["data", "smooth"].map(|name| g.param(name, &[s.batch]));
            let weights = ["weight", "other weight"].map(|name| g.input(name, &[s.batch]));
            let term = |value, weight, coefficient| Term { value, weight, coefficient };
            let terms = vec![term(data, weights[0], 1.0), term(smooth, weights[1], 0.25)];
            Some(weighted_sum(g, terms))
        }),
    ])
}
