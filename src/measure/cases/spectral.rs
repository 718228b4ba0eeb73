//! Cases of the networks with spectral layers.

use super::{Case, maps, named, real};
use crate::ops::activate::{Activation, activate};
use crate::ops::cartesian::cartesian;
use crate::ops::conv2d::conv2d_valid;
use crate::ops::dft_axis::{Axis, Weights, analyse, synthesise};
use crate::ops::dft_plane;
use crate::ops::instance_norm::instance_norm;
use crate::ops::mode_mix::mode_mix;
use crate::ops::polar::polar;
use crate::ops::product::padded;
use crate::ops::reflect_pad::reflect_pad;
use crate::ops::reshape::reshape;
use crate::ops::residual::residual;
use crate::ops::shuffle::gather_blocks;
use crate::ops::transposed_filter::transposed_filter;

/// Frequencies that are kept.
const MODES: usize = 6;

/// What the U-shaped network adds to the convolution.
pub fn convolutions() -> Vec<Case> {
    named([
        ("conv2d 3x3 valid", |g, s| {
            let x = g.param("x", &[s.batch, s.channels, s.side / 2 + 2, s.side / 2 + 2]);
            let weight = g.param("w.weight", &[s.channels, s.channels, 3, 3]);
            Some(conv2d_valid(g, x, weight, None))
        }),
        ("reflect_pad", |g, s| {
            let x = maps(g, s, "x");
            Some(reflect_pad(g, x))
        }),
        ("shuffle", |g, s| {
            let x = maps(g, s, "x");
            Some(gather_blocks(g, x))
        }),
        ("transposed_filter", |g, s| {
            let weight = g.param("weight", &[2 * s.channels, s.channels, 4, 4]);
            Some(transposed_filter(g, weight))
        }),
    ])
}

/// What stands between the layers.
pub fn layers() -> Vec<Case> {
    named([
        ("activate gelu", |g, s| {
            let x = maps(g, s, "x");
            Some(activate(g, x, Activation::Gelu))
        }),
        ("cartesian", |g, s| {
            let (x, y) = (real(g, s, "x"), real(g, s, "y"));
            let (amplitude, phase) = cartesian(g, x, y);
            Some(polar(g, amplitude, phase))
        }),
        ("instance_norm", |g, s| {
            let x = maps(g, s, "x");
            let [gamma, beta] = ["gamma", "beta"].map(|name| g.param(name, &[s.channels]));
            Some(instance_norm(g, x, gamma, beta))
        }),
        ("reshape", |g, s| {
            let x = maps(g, s, "x");
            let shape: [usize; 4] = g.dims(x);
            let flat = reshape(g, x, &[shape.iter().product()]);
            let back = reshape(g, flat, &shape);
            // Two ways for the gradient, which add up.
            Some(residual(g, back, x, None))
        }),
        ("residual", |g, s| {
            let ([x, update], gate) = (["x", "u"].map(|name| maps(g, s, name)), g.param("g", &[1]));
            let y = residual(g, x, update, Some(gate));
            Some(residual(g, y, update, None))
        }),
    ])
}

/// Truncated transforms and the mixing of their modes.
pub fn transforms() -> Vec<Case> {
    named([
        ("dft_axis rows", |g, s| {
            let x = maps(g, s, "x");
            Some(analyse(g, x, Axis::Horizontal, 0, MODES))
        }),
        ("dft_axis columns", |g, s| {
            let x = maps(g, s, "x");
            Some(analyse(g, x, Axis::Vertical, s.side - MODES, 2 * MODES))
        }),
        ("dft_axis synthesis", |g, s| {
            let shape = [s.batch, s.channels, s.side, s.side + 2];
            let modes = g.param("modes", &[shape[0], shape[1], MODES, 2, padded(s.side)]);
            let y = synthesise(g, modes, shape, Axis::Horizontal, 0, Weights::InverseReal, None);
            Some(synthesise(g, modes, shape, Axis::Horizontal, 0, Weights::Inverse, Some(y)))
        }),
        ("dft_plane", |g, s| {
            let x = g.param("x", &[s.batch, s.channels, MODES, 2, padded(s.side)]);
            let modes = dft_plane::analyse(g, x, s.side, 0, MODES);
            let size = [s.batch, MODES, s.side];
            Some(dft_plane::synthesise(g, modes, size, 0, Weights::InverseReal))
        }),
        ("mode_mix", |g, s| {
            let x = g.param("x", &[s.batch, s.channels, MODES, 2, padded(s.side)]);
            let weight = g.param("weight", &[MODES, s.channels, s.channels + 1, 2]);
            Some(mode_mix(g, x, weight))
        }),
    ])
}
