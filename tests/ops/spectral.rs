//! Truncated transforms, and the matrices that mix their modes.

use std::f64::consts::TAU;

use ptycho_gpu::graph::{Graph, Value};
use ptycho_gpu::ops::dft_axis::{Axis, Weights, analyse, synthesise};
use ptycho_gpu::ops::dft_plane;
use ptycho_gpu::ops::mode_mix::mode_mix;

use crate::support::{case, filled, relative};

const AXES: [Axis; 2] = [Axis::Vertical, Axis::Horizontal];

#[test]
fn analysis_along_either_axis_has_synthesis_as_its_adjoint() {
    for axis in AXES {
        // Whole vectors; sides that no tile divides, frequencies from −2; one line of two pixels.
        for (shape, first, count) in
            [([2, 3, 16, 16], 0, 5), ([1, 2, 20, 13], 11, 4), ([2, 1, 2, 2], 0, 2)]
        {
            case(|g| {
                let x = g.param("x", &shape);
                analyse(g, x, axis, first, count)
            })
            .linear()
            .check(1e-6);
        }
    }
}

#[test]
fn synthesis_along_either_axis_has_analysis_as_its_adjoint() {
    for axis in AXES {
        for weights in [Weights::One, Weights::Inverse, Weights::InverseReal] {
            case(|g| {
                let modes = g.param("modes", &[2, 3, 6, 2, 16]);
                synthesise(g, modes, [2, 3, 10, 10], axis, 0, weights, None)
            })
            .linear()
            .check(1e-6);
        }
    }
}

/// What `build` makes of `x` [shape].
fn run(x: &[f64], shape: &[usize], build: impl FnOnce(&mut Graph, Value) -> Value) -> Vec<f64> {
    let append = |g: &mut Graph| {
        let given = g.input("x", shape);
        build(g, given)
    };
    filled(append, &[("x", x)])
}

fn wave(i: usize) -> f64 {
    (1.0 + i as f64).sin()
}

#[test]
fn an_image_made_of_all_its_modes_is_the_image() {
    let shape = [1, 2, 8, 12];
    let x: Vec<f64> = (0..192).map(wave).collect();
    for (axis, half) in [(Axis::Vertical, 5), (Axis::Horizontal, 7)] {
        let y = run(&x, &shape, |g, x| {
            let modes = analyse(g, x, axis, 0, half);
            synthesise(g, modes, shape, axis, 0, Weights::InverseReal, None)
        });
        assert!(relative(&y, &x) < 1e-13);
    }
}

#[test]
fn a_mode_is_the_sum_over_pixels_times_the_wave() {
    let x: Vec<f64> = (0..64).map(wave).collect();
    // Frequencies 7 = −1, 0 and 1 of columns.
    let modes = run(&x, &[1, 1, 8, 8], |g, x| analyse(g, x, Axis::Vertical, 7, 3));
    for (k, frequency) in [-1.0, 0.0, 1.0].into_iter().enumerate() {
        for column in 0..8 {
            let turn = |row: usize| TAU * frequency * row as f64 / 8.0;
            let re: f64 = (0..8).map(|r| x[8 * r + column] * turn(r).cos()).sum();
            let im: f64 = (0..8).map(|r| -x[8 * r + column] * turn(r).sin()).sum();
            assert!((modes[16 * k + column] - re).abs() < 1e-13);
            assert!((modes[16 * k + 8 + column] - im).abs() < 1e-13);
        }
    }
}

#[test]
fn every_mode_is_mixed_by_its_own_matrix() {
    for (samples, inputs, outputs, modes, row) in [(2, 3, 5, 4, 16), (1, 7, 13, 3, 8)] {
        case(|g| {
            let x = g.param("x", &[samples, inputs, modes, 2, row]);
            let weight = g.param("weight", &[modes, inputs, outputs, 2]);
            mode_mix(g, x, weight)
        })
        .check(1e-6);
        case(|g| {
            let x = g.param("x", &[samples, inputs, modes, 2, row]);
            let weight = g.input("weight", &[modes, inputs, outputs, 2]);
            mode_mix(g, x, weight)
        })
        .linear()
        .check(1e-6);
    }
}

#[test]
fn a_mode_is_multiplied_as_a_complex_number() {
    let build = |g: &mut Graph| {
        let (x, weight) = (g.input("x", &[1, 1, 1, 2, 8]), g.input("weight", &[1, 1, 1, 2]));
        mode_mix(g, x, weight)
    };
    let y = filled(build, &[("x", &[[2.0; 8], [3.0; 8]].concat()), ("weight", &[5.0, 7.0])]);
    // (2 + 3i)(5 + 7i) = −11 + 29i
    assert_eq!(y, [[-11.0; 8], [29.0; 8]].concat());
}

#[test]
fn analysis_of_the_second_axis_has_synthesis_as_its_adjoint() {
    for (samples, channels, rows, length, first, count) in
        [(3, 2, 5, 16, 0, 6), (9, 1, 1, 13, 11, 4), (1, 3, 14, 20, 0, 11)]
    {
        let row = usize::next_multiple_of(length, 8);
        case(|g| {
            let lines = g.param("lines", &[samples, channels, rows, 2, row]);
            dft_plane::analyse(g, lines, length, first, count)
        })
        .linear()
        .check(1e-6);
        for weights in [Weights::One, Weights::Inverse, Weights::InverseReal] {
            case(|g| {
                let shape = [1, channels, rows * count, 2, samples.next_multiple_of(8)];
                let modes = g.param("modes", &shape);
                dft_plane::synthesise(g, modes, [samples, rows, length], first, weights)
            })
            .linear()
            .check(1e-6);
        }
    }
}

#[test]
fn an_image_made_of_all_its_modes_of_both_axes_is_the_image() {
    let shape = [3, 2, 8, 12];
    let x: Vec<f64> = (0..576).map(wave).collect();
    // Frequencies −4 to 3 of columns, 0 to 6 of rows.
    let y = run(&x, &shape, |g, x| {
        let columns = analyse(g, x, Axis::Vertical, 4, 8);
        let modes = dft_plane::analyse(g, columns, 12, 0, 7);
        let columns = dft_plane::synthesise(g, modes, [3, 8, 12], 0, Weights::InverseReal);
        synthesise(g, columns, shape, Axis::Vertical, 4, Weights::Inverse, None)
    });
    assert!(relative(&y, &x) < 1e-13);
}
