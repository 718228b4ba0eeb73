//! The convolution.

use ptycho_gpu::ops::conv2d::conv2d;

use crate::support::{Case, case};

fn convolution(x: [usize; 4], outputs: usize, side: usize, relu: bool) -> Case {
    case(|g| {
        let weight = g.param("w.weight", &[outputs, x[1], side, side]);
        let (x, bias) = (g.param("x", &x), g.param("bias", &[outputs]));
        conv2d(g, x, weight, Some(bias), relu)
    })
}

#[test]
fn convolution_3x3_of_whole_vectors() {
    convolution([2, 5, 16, 16], 6, 3, false).check(1e-6);
}

#[test]
fn convolution_3x3_with_relu_passes_gradient_only_where_it_is_positive() {
    convolution([2, 3, 8, 8], 9, 3, true).check(1e-6);
}

#[test]
fn convolution_of_odd_sizes_one_channel_and_one_sample() {
    convolution([1, 1, 5, 11], 1, 3, false).check(1e-6);
    convolution([3, 9, 7, 3], 2, 3, true).check(1e-6);
}

#[test]
fn convolution_7x7_and_1x1() {
    convolution([2, 2, 9, 10], 1, 7, false).check(1e-6);
    convolution([4, 16, 1, 1], 3, 1, true).check(1e-6);
}

#[test]
fn convolution_is_linear_in_its_input() {
    case(|g| {
        let weight = g.input("w.weight", &[3, 2, 3, 3]);
        let x = g.param("x", &[2, 2, 6, 9]);
        conv2d(g, x, weight, None, false)
    })
    .linear()
    .check(1e-6);
}
