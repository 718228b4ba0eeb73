//! The convolution.

use ptycho_gpu::graph::{Graph, Precision, Value};
use ptycho_gpu::ops::conv2d::{conv2d, conv2d_valid};
use ptycho_gpu::ops::head_sum::head_sum;
use ptycho_gpu::ops::max_pool::max_pool;
use ptycho_gpu::ops::reflect_pad::reflect_pad;
use ptycho_gpu::ops::shuffle::{gather_blocks, spread_blocks};
use ptycho_gpu::ops::transposed_filter::transposed_filter;
use ptycho_gpu::ops::upsample::upsample;

use crate::support::{Case, case, case_in, filled, relative};

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

/// Sizes of the convolution in few multiplications: odd ones, channels that fill no vector, one row of
/// many tiles, and many channels.
const WIDE: [([usize; 4], usize); 4] =
    [([2, 17, 5, 7], 20), ([1, 16, 3, 90], 33), ([2, 40, 8, 8], 70), ([1, 130, 4, 6], 16)];

#[test]
fn convolution_of_many_channels() {
    for (at, (x, outputs)) in WIDE.into_iter().enumerate() {
        convolution(x, outputs, 3, at % 2 == 0).check(1e-6);
    }
}

/// y[b,o,r,c] = Σ W[o,i,u,v] x[b,i,r+u−1,c+v−1], term by term.
fn plain([b, inputs, h, w]: [usize; 4], outputs: usize, x: &[f64], weight: &[f64]) -> Vec<f64> {
    let pixel = |b: usize, i: usize, r: usize, c: usize| match (1..=h).contains(&r)
        && (1..=w).contains(&c)
    {
        true => x[((b * inputs + i) * h + r - 1) * w + c - 1],
        false => 0.0,
    };
    let mut y = Vec::new();
    for (b, o) in (0..b).flat_map(|b| (0..outputs).map(move |o| (b, o))) {
        for (r, c) in (0..h).flat_map(|r| (0..w).map(move |c| (r, c))) {
            let taps = (0..inputs).flat_map(|i| (0..9).map(move |tap| (i, tap)));
            let term = |(i, tap): (usize, usize)| {
                weight[(o * inputs + i) * 9 + tap] * pixel(b, i, r + tap / 3, c + tap % 3)
            };
            y.push(taps.map(term).sum());
        }
    }
    y
}

#[test]
fn few_multiplications_give_the_plain_sum() {
    let wave = |len: usize, k: f64| (1..=len).map(|i| (k * i as f64).sin()).collect::<Vec<_>>();
    for (shape, outputs) in WIDE {
        let (x, weight) = (wave(shape.iter().product(), 1.3), wave(outputs * shape[1] * 9, 0.7));
        let build = |g: &mut Graph| {
            let weight = g.input("w.weight", &[outputs, shape[1], 3, 3]);
            let x = g.input("x", &shape);
            conv2d(g, x, weight, None, false)
        };
        let got = filled(build, &[("x", &x), ("w.weight", &weight)]);
        let error = relative(&got, &plain(shape, outputs, &x, &weight));
        assert!(error < 1e-14, "{shape:?} to {outputs}: {error:.1e}");
    }
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

#[test]
fn a_valid_convolution_sees_no_zeros() {
    for (x, outputs, side) in [([2, 5, 18, 18], 6, 3), ([3, 9, 7, 5], 2, 3), ([1, 2, 9, 12], 3, 7)]
    {
        case(|g| {
            let weight = g.param("w.weight", &[outputs, x[1], side, side]);
            let (x, bias) = (g.param("x", &x), g.param("bias", &[outputs]));
            conv2d_valid(g, x, weight, Some(bias))
        })
        .check(1e-6);
    }
    let build = |g: &mut Graph| {
        let (x, w) = (g.input("x", &[1, 1, 3, 4]), g.input("w.weight", &[1, 1, 3, 3]));
        conv2d_valid(g, x, w, None)
    };
    let given: [(&str, &[f64]); 2] = [
        ("x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]),
        ("w.weight", &[0.0, 0.0, 1.0, 0.0, 10.0, 0.0, 100.0, 0.0, 0.0]),
    ];
    assert_eq!(filled(build, &given), [963.0, 1074.0]);
}

const BOTH: [Precision; 2] = [Precision::Tf32, Precision::Bf16];

fn by_tensor_cores(precision: Precision, x: [usize; 4], outputs: usize, relu: bool) -> Case {
    case_in(precision, |g| {
        let weight = g.param("w.weight", &[outputs, x[1], 3, 3]);
        let (x, bias) = (g.param("x", &x), g.param("bias", &[outputs]));
        conv2d(g, x, weight, Some(bias), relu)
    })
}

/// Whole tiles; sides that no tile divides, odd and of whole fours; several samples in a tile; more
/// channels than a block has, and numbers of them that no stage divides.
const SHAPES: [([usize; 4], usize); 6] = [
    ([2, 32, 8, 16], 64),
    ([1, 35, 7, 11], 70),
    ([2, 40, 12, 20], 33),
    ([5, 64, 4, 4], 32),
    ([3, 9, 3, 5], 40),
    ([1, 48, 5, 33], 36),
];

fn all_shapes() -> impl Iterator<Item = (Precision, [usize; 4], usize)> {
    BOTH.into_iter().flat_map(|precision| SHAPES.map(|(x, outputs)| (precision, x, outputs)))
}

#[test]
fn tensor_cores_convolve_to_the_bits_of_their_factors() {
    for (precision, x, outputs) in all_shapes() {
        by_tensor_cores(precision, x, outputs, false).check(1e-6);
    }
}

#[test]
fn tensor_cores_pass_gradient_only_where_a_relu_is_positive() {
    for (precision, x, outputs) in all_shapes() {
        by_tensor_cores(precision, x, outputs, true).coarse().check(1e-6);
    }
}

#[test]
fn narrow_layers_stay_in_single_precision() {
    for (precision, name) in BOTH.into_iter().zip(["tf32", "bf16"]) {
        let case = |outputs| by_tensor_cores(precision, [2, 3, 6, 9], outputs, false);
        assert!([7, 31, 64].map(case).iter().all(|case| !case.launches(name)));
        let case = by_tensor_cores(precision, [1, 8, 6, 9], 32, false);
        assert!(case.launches(&format!("conv2d_{name}_forward")));
        assert!(!case.launches(&format!("conv2d_{name}_backward_data")));
        case.check(1e-6);
    }
}

#[test]
fn tensor_cores_convolve_without_zeros_around_the_image() {
    let shapes = [([2, 33, 10, 9], 40), ([1, 32, 6, 18], 65), ([2, 40, 14, 14], 32)];
    for (precision, (x, outputs)) in BOTH.into_iter().flat_map(|p| shapes.map(|shape| (p, shape))) {
        case_in(precision, |g| {
            let weight = g.param("w.weight", &[outputs, x[1], 3, 3]);
            let (x, bias) = (g.param("x", &x), g.param("bias", &[outputs]));
            conv2d_valid(g, x, weight, Some(bias))
        })
        .check(1e-6);
    }
}

#[test]
fn tensor_cores_add_to_the_gradients_that_are_there() {
    for (precision, side) in BOTH.into_iter().flat_map(|p| [6, 8].map(|side| (p, side))) {
        case_in(precision, |g| {
            // So many channels that their sums are cut into slices.
            let weight = g.param("w.weight", &[98, 98, 3, 3]);
            let x = g.param("x", &[2, 98, side, side]);
            let inner = conv2d(g, x, weight, None, false);
            let up = upsample(g, x);
            let outer = conv2d(g, up, weight, None, false);
            head_sum(g, inner, outer, false)
        })
        .check(1e-6);
    }
}

/// So many convolutions in a row, from and to `channels`, all with a ReLU but the last.
fn in_a_row(precision: Precision, count: usize, channels: usize, side: usize) -> Case {
    case_in(precision, |g| {
        let mut y = g.param("x", &[2, channels, side, side + 1]);
        for i in 0..count {
            let weight = g.param(&format!("{i}.weight"), &[channels, channels, 3, 3]);
            let bias = g.param("bias", &[channels]);
            y = conv2d(g, y, weight, Some(bias), i + 1 < count);
        }
        y
    })
}

#[test]
fn images_between_two_products_of_bfloat16_are_stored_in_words() {
    // An odd number of channels; so many that their sums are cut into slices; whole fours.
    for (channels, side) in [(35, 6), (99, 6), (32, 7)] {
        let case = in_a_row(Precision::Bf16, 2, channels, side);
        assert_eq!(case.count("bf16_words"), 1, "the first image alone comes in single precision");
        assert_eq!(case.count("bf16_gradient"), 2);
        assert_eq!(case.launches("bf16_join"), channels == 99);
        case.coarse().check(1e-6);
    }
}

/// Convolution, what `between` makes of its result, and another convolution. The first gives back the
/// image, of numbers that bfloat16 has exactly and that differ in each block: their maximum is the same
/// in every precision.
fn with_between(channels: usize, between: fn(&mut Graph, Value) -> Value) -> Case {
    let case = case_in(Precision::Bf16, |g| {
        let x = g.param("x", &[2, channels, 6, 10]);
        let bias = g.param("bias", &[channels]);
        let [w, v] = ["w.weight", "v.weight"].map(|n| g.param(n, &[channels, channels, 3, 3]));
        let y = conv2d(g, x, w, Some(bias), true);
        let y = between(g, y);
        conv2d(g, y, v, None, false)
    });
    let image = (0..120 * channels).map(|i| (i * 37 % 101) as f64 - 30.0);
    let centre = |k: usize| k % 9 == 4 && (k / 9).is_multiple_of(channels + 1);
    let identity = (0..channels * channels * 9).map(|k| f64::from(centre(k)));
    let case = case.with("x", image.collect::<Vec<_>>());
    case.with("w.weight", identity.collect::<Vec<_>>()).with("bias", vec![0.5; channels])
}

#[test]
fn an_image_is_pooled_and_enlarged_in_words_between_two_products_of_bfloat16() {
    for channels in [35, 40] {
        let pooled = with_between(channels, max_pool);
        assert_eq!(pooled.count("bf16_words"), 1);
        assert_eq!(pooled.count("max_pool_forward_words"), 1);
        assert_eq!(pooled.count("max_pool_backward_words"), 1);
        pooled.check(1e-6);
        let enlarged = with_between(channels, upsample);
        assert_eq!(enlarged.count("bf16_words"), 1);
        enlarged.check(1e-6);
    }
    // The first product is in single precision, and what it gives is pooled so.
    let narrow = case_in(Precision::Bf16, |g| {
        let (w, v) = (g.param("w.weight", &[40, 3, 3, 3]), g.param("v.weight", &[32, 40, 3, 3]));
        let x = g.param("x", &[1, 3, 6, 6]);
        let y = conv2d(g, x, w, None, true);
        let y = max_pool(g, y);
        conv2d(g, y, v, None, false)
    });
    assert!(!narrow.launches("max_pool_forward_words"));
    assert_eq!(narrow.count("bf16_words"), 1);
    narrow.check(1e-6);
}

#[test]
fn an_image_that_others_read_too_is_stored_in_single_precision() {
    let case = case_in(Precision::Bf16, |g| {
        let [w, v] = ["w.weight", "v.weight"].map(|name| g.param(name, &[32, 32, 3, 3]));
        let x = g.param("x", &[1, 32, 8, 8]);
        let between = conv2d(g, x, w, None, false);
        let y = conv2d(g, between, v, None, false);
        let up = upsample(g, y);
        head_sum(g, between, up, false)
    });
    assert_eq!(case.count("bf16_words"), 2);
    case.check(1e-6);
}

/// Two towers of two layers and an enlargement between them, on the same image.
fn towers(precision: Precision, channels: usize) -> Case {
    case_in(precision, |g| {
        let x = g.param("x", &[2, channels, 6, 5]);
        let [inner, outer] = ["inner", "outer"].map(|name| {
            let layer = |g: &mut Graph, i: usize, x, relu| {
                let weight = g.param(&format!("{name}.{i}.weight"), &[channels, channels, 3, 3]);
                let bias = g.param("bias", &[channels]);
                conv2d(g, x, weight, Some(bias), relu)
            };
            let y = layer(g, 1, x, true);
            let y = upsample(g, y);
            layer(g, 2, y, false)
        });
        let outer = upsample(g, outer);
        head_sum(g, inner, outer, false)
    })
}

#[test]
fn equal_layers_of_two_towers_share_their_launches() {
    // Few channels and many in single precision; sums that are cut into slices.
    let kinds = [
        (Precision::Fp32, 5, "conv2d"),
        (Precision::Fp32, 20, "conv2d"),
        (Precision::Tf32, 66, "conv2d_tf32"),
        (Precision::Bf16, 98, "conv2d_bf16"),
    ];
    for (precision, channels, name) in kinds {
        let case = towers(precision, channels);
        let count = |kernel: &str| case.count(&format!("{name}_{kernel}"));
        assert_eq!(count("forward"), 2, "{name}: two layers, and not four");
        // The first layers add to the same gradient, one after the other.
        assert_eq!(count("backward_data"), 3, "{name}");
        assert_eq!(count("backward_weight"), 3, "{name}");
        case.coarse().check(1e-6);
    }
}

#[test]
fn layers_that_need_each_other_share_no_launch() {
    for precision in BOTH {
        let case = in_a_row(precision, 3, 32, 6);
        assert_eq!(case.count("16_forward") + case.count("32_forward"), 3);
    }
}

#[test]
fn weights_that_an_op_computes_are_packed_before_each_product() {
    for precision in BOTH {
        let case = case_in(precision, |g| {
            let w = g.param("w.weight", &[12, 12, 4, 4]);
            let filter = transposed_filter(g, w);
            let x = g.param("x", &[2, 12, 6, 6]);
            let y = conv2d(g, x, filter, None, false);
            spread_blocks(g, y)
        });
        assert_eq!(case.count("pack"), 1);
        case.check(1e-6);
    }
}

#[test]
fn a_mirrored_border_repeats_all_but_the_outermost_pixels() {
    for shape in [[2, 3, 5, 7], [1, 1, 2, 2], [1, 2, 3, 9]] {
        case(|g| {
            let x = g.param("x", &shape);
            reflect_pad(g, x)
        })
        .linear()
        .check(1e-6);
    }
    let build = |g: &mut Graph| {
        let x = g.input("x", &[1, 1, 2, 3]);
        reflect_pad(g, x)
    };
    let y = filled(build, &[("x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
    let [upper, lower] = [[2.0, 1.0, 2.0, 3.0, 2.0], [5.0, 4.0, 5.0, 6.0, 5.0]];
    assert_eq!(y, [lower, upper, lower, upper].concat());
}

#[test]
fn blocks_of_pixels_become_channels_and_pixels_again() {
    case(|g| {
        let x = g.param("x", &[2, 3, 6, 10]);
        gather_blocks(g, x)
    })
    .linear()
    .check(1e-6);
    case(|g| {
        let x = g.param("x", &[2, 8, 3, 5]);
        spread_blocks(g, x)
    })
    .linear()
    .check(1e-6);
    let build = |g: &mut Graph| {
        let x = g.input("x", &[1, 1, 2, 4]);
        gather_blocks(g, x)
    };
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    assert_eq!(filled(build, &[("x", &x)]), [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
}

/// Transposed convolution of stride 2 and padding 1, by its definition.
fn transposed(x: &[f64], w: &[f64], [inputs, outputs, n]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![0.0; outputs * 4 * n * n];
    for (i, o) in (0..inputs).flat_map(|i| (0..outputs).map(move |o| (i, o))) {
        for (at, tap) in (0..n * n).flat_map(|at| (0..16).map(move |tap| (at, tap))) {
            let place =
                |at: usize, tap: usize| (2 * at + tap).checked_sub(1).filter(|&p| p < 2 * n);
            if let Some((r, c)) = place(at / n, tap / 4).zip(place(at % n, tap % 4)) {
                y[(o * 2 * n + r) * 2 * n + c] +=
                    x[i * n * n + at] * w[(i * outputs + o) * 16 + tap];
            }
        }
    }
    y
}

#[test]
fn a_transposed_convolution_is_a_plain_one_spread_over_blocks() {
    let sizes = [2, 3, 5];
    let wave = |len: usize| (1..=len).map(|i| (i as f64).sin()).collect::<Vec<_>>();
    let (x, w) = (wave(2 * 25), wave(2 * 3 * 16));
    let build = |g: &mut Graph| {
        let (x, w) = (g.input("x", &[1, 2, 5, 5]), g.input("w.weight", &[2, 3, 4, 4]));
        let filter = transposed_filter(g, w);
        let y = conv2d(g, x, filter, None, false);
        spread_blocks(g, y)
    };
    let got = filled(build, &[("x", &x), ("w.weight", &w)]);
    let want = transposed(&x, &w, sizes);
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-13));
    case(|g| {
        let w = g.param("w.weight", &[2, 3, 4, 4]);
        transposed_filter(g, w)
    })
    .linear()
    .check(1e-6);
}
