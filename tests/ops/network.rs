//! Layers of the generator, and regularisers of its output.

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Role, Stage, Value};
use ptycho_gpu::ops::absolute_error::{absolute_error, absolute_phase_error};
use ptycho_gpu::ops::activate::{Activation, activate};
use ptycho_gpu::ops::cartesian::cartesian;
use ptycho_gpu::ops::head_sum::head_sum;
use ptycho_gpu::ops::instance_norm::instance_norm;
use ptycho_gpu::ops::reshape::reshape;
use ptycho_gpu::ops::residual::residual;
use ptycho_gpu::ops::{
    batch_norm::batch_norm, channel_gate::channel_gate, channel_pool::channel_pool,
    max_pool::max_pool, mean_deviation::mean_deviation, polar::polar, spatial_gate::spatial_gate,
    spatial_pool::spatial_pool, split::split, total_variation::total_variation, upsample::upsample,
};
use ptycho_gpu::plan::Plan;

use crate::support::{case, relative};

/// The gradients of the parameters after `passes` identical contributions, with buffers filled
/// from `given` or with a fixed pattern without ties.
fn gradients(
    build: impl FnOnce(&mut Graph) -> Value,
    given: &[(&str, &[f64])],
    passes: usize,
) -> Vec<Vec<f64>> {
    let mut g = Graph::default();
    let output = build(&mut g);
    let shape = g.shape(output).to_vec();
    let seed = g.input("seed", &shape);
    (0..passes).for_each(|_| g.differentiate(output, seed));
    let grads: Vec<_> = g.of_role(Role::Param).iter().filter_map(|&p| g.grad_of(p)).collect();
    let plan = Plan::new(g);
    let mut cpu = Cpu::<f64>::new(plan.clone());
    for role in [Role::Param, Role::Input, Role::State] {
        for (v, slot) in plan.of_role(role) {
            let pattern: Vec<f64> = (1..=slot.len()).map(|i| (i as f64).sin()).collect();
            let values = given.iter().find(|(name, _)| *name == slot.name).map(|&(_, x)| x);
            cpu.set(v, values.unwrap_or(&pattern));
        }
    }
    cpu.run(Stage::Forward).unwrap();
    cpu.run(Stage::Backward).unwrap();
    grads.iter().map(|&v| cpu.get(v).to_vec()).collect()
}

/// Checks values and gradients, and that a second contribution to a gradient adds to the first.
fn sound(build: impl Fn(&mut Graph) -> Value) {
    let (once, twice) = (gradients(&build, &[], 1), gradients(&build, &[], 2));
    for (once, twice) in once.iter().flatten().zip(twice.iter().flatten()) {
        assert!((2.0 * once - twice).abs() <= 1e-12 * once.abs(), "2 × {once} ≠ {twice}");
    }
    case(build).check(1e-6);
}

#[test]
fn max_pool_keeps_the_largest_of_four() {
    for shape in [[2, 3, 4, 6], [1, 1, 2, 2], [3, 1, 6, 2]] {
        sound(|g| {
            let x = g.param("x", &shape);
            max_pool(g, x)
        });
    }
}

#[test]
fn max_pool_gives_the_gradient_to_the_first_of_equal_maxima() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[1, 1, 2, 6]);
        max_pool(g, x)
    };
    let x = [7.0, 7.0, 1.0, 5.0, 0.0, 0.0, 7.0, 7.0, 5.0, 5.0, 3.0, 3.0];
    let dx = gradients(build, &[("x", &x), ("seed", &[1.0, 2.0, 3.0])], 1);
    assert_eq!(dx[0], [1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]);
}

#[test]
fn upsample_repeats_each_pixel_in_a_square_of_four() {
    for shape in [[2, 3, 3, 5], [1, 1, 1, 1]] {
        let build = |g: &mut Graph| {
            let x = g.param("x", &shape);
            upsample(g, x)
        };
        sound(build);
        case(build).linear().check(1e-6);
    }
}

#[test]
fn split_hands_both_groups_of_channels_on() {
    for shape in [[2, 4, 3, 5], [1, 2, 1, 1]] {
        case(|g| {
            let x = g.param("x", &shape);
            let (low, high) = split(g, x, 1);
            polar(g, low, high)
        })
        .check(1e-6);
    }
}

#[test]
fn split_passes_no_gradient_to_channels_that_the_loss_ignores() {
    for keep_low in [true, false] {
        let build = |g: &mut Graph| {
            let x = g.param("x", &[2, 5, 3, 4]);
            let (low, high) = split(g, x, 2);
            if keep_low { low } else { high }
        };
        sound(build);
        case(build).linear().check(1e-6);
    }
}

#[test]
fn head_sum_adds_the_padded_inner_path_to_the_outer_one() {
    for (border, [b, k, h, w]) in
        [(false, [2, 3, 8, 12]), (true, [2, 3, 8, 12]), (true, [1, 1, 4, 4])]
    {
        let build = |g: &mut Graph| {
            let inner = g.param("inner", &[b, k, h / 2, w / 2]);
            let outer = g.param("outer", &[b, k, h, w]);
            head_sum(g, inner, outer, border)
        };
        sound(build);
        case(build).linear().check(1e-6);
    }
}

#[test]
fn head_sum_masks_the_centre_of_the_outer_path_and_nothing_else() {
    let build = |g: &mut Graph| {
        let (inner, outer) = (g.param("inner", &[1, 1, 2, 2]), g.param("outer", &[1, 1, 4, 4]));
        head_sum(g, inner, outer, true)
    };
    let douter = gradients(build, &[("seed", &[1.0; 16])], 1).remove(1);
    let centre = [5, 6, 9, 10];
    assert!((0..16).all(|i| douter[i] == if centre.contains(&i) { 0.0 } else { 1.0 }));
}

#[test]
fn every_activation_has_its_own_slope() {
    use Activation::{Gelu, PiTanh, Relu, Sigmoid, Silu, SoftplusOne};
    for activation in [Relu, Silu, Sigmoid, SoftplusOne, PiTanh, Gelu] {
        for shape in [[2, 3, 5, 7], [1, 1, 1, 1]] {
            sound(|g| {
                let x = g.param("x", &shape);
                activate(g, x, activation)
            });
        }
    }
}

#[test]
fn an_activation_of_many_tiles_reaches_every_element() {
    sound(|g| {
        let x = g.param("x", &[2, 1, 71, 73]);
        activate(g, x, Activation::Silu)
    });
}

/// f(x) of each number in single precision.
fn activated(activation: Activation, x: &[f32]) -> Vec<f32> {
    let mut g = Graph::default();
    let input = g.input("x", &[x.len()]);
    let y = activate(&mut g, input, activation);
    g.keep(y);
    let mut cpu = Cpu::<f32>::new(Plan::new(g));
    cpu.write(input, x).unwrap();
    cpu.run(Stage::Forward).unwrap();
    cpu.read(y).unwrap()
}

#[test]
fn activations_hold_at_zero_and_far_out() {
    use std::f32::consts::PI;
    let ends = [-1000.0, 0.0, 1000.0];
    assert_eq!(activated(Activation::Relu, &ends), [0.0, 0.0, 1000.0]);
    assert_eq!(activated(Activation::Silu, &ends), [0.0, 0.0, 1000.0]);
    assert_eq!(activated(Activation::Sigmoid, &ends), [0.0, 0.5, 1.0]);
    assert_eq!(activated(Activation::PiTanh, &ends), [-PI, 0.0, PI]);
    assert_eq!(activated(Activation::Gelu, &ends), [0.0, 0.0, 1000.0]);
    let softplus = activated(Activation::SoftplusOne, &ends);
    assert!(softplus[0] == 0.0 && (softplus[1] - 1.0).abs() < 1e-6);
    assert!((softplus[2] - 1_000.541_3).abs() < 1e-3);
}

#[test]
fn relu_has_slope_zero_at_zero() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[3]);
        activate(g, x, Activation::Relu)
    };
    let dx = gradients(build, &[("x", &[-1.0, 0.0, 1.0]), ("seed", &[1.0; 3])], 1);
    assert_eq!(dx[0], [0.0, 0.0, 1.0]);
}

#[test]
fn channel_pool_takes_mean_and_maximum_of_each_channel() {
    for shape in [[2, 3, 5, 7], [1, 1, 3, 3], [3, 2, 1, 1]] {
        sound(|g| {
            let x = g.param("x", &shape);
            channel_pool(g, x)
        });
    }
}

#[test]
fn channel_pool_gives_the_gradient_to_the_first_of_equal_maxima() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[1, 1, 1, 4]);
        channel_pool(g, x)
    };
    let given: [(&str, &[f64]); 2] = [("x", &[0.0, 3.0, 3.0, 1.0]), ("seed", &[4.0, 5.0])];
    assert_eq!(gradients(build, &given, 1)[0], [1.0, 6.0, 1.0, 1.0]);
}

#[test]
fn channel_gate_scales_channels_by_both_rows_of_logits() {
    for [b, c, h, w] in [[2, 3, 5, 7], [1, 1, 3, 3], [3, 2, 1, 1]] {
        sound(|g| {
            let (x, m) = (g.param("x", &[b, c, h, w]), g.param("m", &[2 * b, c, 1, 1]));
            channel_gate(g, x, m)
        });
    }
}

#[test]
fn spatial_pool_takes_maximum_and_mean_over_channels() {
    for shape in [[2, 3, 5, 7], [1, 1, 3, 3], [3, 64, 1, 1], [1, 2, 65, 67]] {
        sound(|g| {
            let x = g.param("x", &shape);
            spatial_pool(g, x)
        });
    }
}

#[test]
fn spatial_pool_gives_the_gradient_to_the_first_of_equal_channels() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[1, 4, 1, 1]);
        spatial_pool(g, x)
    };
    let given: [(&str, &[f64]); 2] = [("x", &[0.0, 3.0, 3.0, 1.0]), ("seed", &[5.0, 4.0])];
    assert_eq!(gradients(build, &given, 1)[0], [1.0, 6.0, 1.0, 1.0]);
}

#[test]
fn spatial_gate_scales_pixels_alike_in_all_channels() {
    for [b, c, h, w] in [[2, 3, 5, 7], [1, 1, 3, 3], [1, 2, 65, 67]] {
        sound(|g| {
            let (y, v) = (g.param("y", &[b, c, h, w]), g.param("v", &[b, 1, h, w]));
            spatial_gate(g, y, v)
        });
    }
}

/// `batch_norm` of a parameter, its buffers called as its arguments are.
fn normalised(g: &mut Graph, shape: [usize; 4]) -> Value {
    let channels = [shape[1]];
    let x = g.param("x", &shape);
    let (gamma, beta) = (g.param("gamma", &channels), g.param("beta", &channels));
    let (mean, var) = (g.state("mean", &channels), g.state("var", &channels));
    let training = g.input("training", &[1]);
    batch_norm(g, x, gamma, beta, mean, var, training)
}

#[test]
fn batch_norm_uses_the_statistics_of_the_batch_in_training() {
    for shape in [[3, 2, 5, 7], [1, 1, 3, 3], [4, 3, 1, 1]] {
        sound(|g| normalised(g, shape));
        case(|g| normalised(g, shape)).with("training", [1.0]).check(1e-6);
    }
}

/// Runs `batch_norm` of 1, 2, 3, 6 once, from running statistics 10 and 4 with γ = 2, β = 5;
/// returns output, running mean, running variance.
fn normalise_once(training: f64) -> (Vec<f64>, f64, f64) {
    let mut g = Graph::default();
    let y = normalised(&mut g, [2, 1, 1, 2]);
    g.keep(y);
    let names = ["x", "gamma", "beta", "mean", "var", "training"];
    let [x, gamma, beta, mean, var, flag] = names.map(|name| g.find(name).unwrap());
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    cpu.set(x, &[1.0, 2.0, 3.0, 6.0]);
    for (v, number) in [(gamma, 2.0), (beta, 5.0), (mean, 10.0), (var, 4.0), (flag, training)] {
        cpu.set(v, &[number]);
    }
    cpu.run(Stage::Forward).unwrap();
    (cpu.get(y).to_vec(), cpu.get(mean)[0], cpu.get(var)[0])
}

#[test]
fn batch_norm_moves_the_running_statistics_in_training() {
    let (y, mean, var) = normalise_once(1.0);
    // Mean 3, squares 14: variance 14/4 of the batch, 14/3 as an estimate for the population.
    let scale = 2.0 / (3.5 + 1e-5_f64).sqrt();
    let want = [-2.0, -1.0, 0.0, 3.0].map(|d| d * scale + 5.0);
    assert!(relative(&y, &want) < 1e-14);
    assert!((mean - (0.9 * 10.0 + 0.1 * 3.0)).abs() < 1e-14);
    assert!((var - (0.9 * 4.0 + 0.1 * 14.0 / 3.0)).abs() < 1e-14);
}

#[test]
fn batch_norm_uses_and_keeps_the_running_statistics_in_inference() {
    let (y, mean, var) = normalise_once(0.0);
    let scale = 2.0 / (4.0 + 1e-5_f64).sqrt();
    let want = [-9.0, -8.0, -7.0, -4.0].map(|d| d * scale + 5.0);
    assert!(relative(&y, &want) < 1e-14);
    assert_eq!((mean, var), (10.0, 4.0));
}

#[test]
fn batch_norm_of_a_constant_channel_is_its_offset() {
    let build = |g: &mut Graph| normalised(g, [2, 1, 2, 2]);
    let dx = gradients(build, &[("x", &[0.5; 8]), ("training", &[1.0])], 1);
    assert!(dx.iter().flatten().all(|d| d.is_finite()));
}

#[test]
fn total_variation_sums_steps_down_and_right() {
    for shape in [[2, 3, 5, 7], [1, 1, 1, 1], [2, 1, 1, 9], [2, 1, 9, 1]] {
        sound(|g| {
            let x = g.param("x", &shape);
            total_variation(g, x)
        });
    }
}

#[test]
fn total_variation_has_no_slope_between_equal_pixels() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[1, 1, 2, 2]);
        total_variation(g, x)
    };
    let dx = gradients(build, &[("x", &[1.0, 1.0, 1.0, 4.0]), ("seed", &[1.0])], 1);
    assert_eq!(dx[0], [0.0, -1.0, -1.0, 2.0]);
}

#[test]
fn mean_deviation_sums_distances_from_the_mean_of_each_channel() {
    for shape in [[2, 3, 5, 7], [1, 1, 3, 3], [2, 1, 1, 9]] {
        sound(|g| {
            let x = g.param("x", &shape);
            mean_deviation(g, x)
        });
    }
}

#[test]
fn mean_deviation_of_a_single_pixel_has_no_slope() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[2, 1, 1, 1]);
        mean_deviation(g, x)
    };
    assert_eq!(gradients(build, &[], 1)[0], [0.0, 0.0]);
}

#[test]
fn absolute_error_sums_distances_from_the_target() {
    for shape in [[2, 3, 5, 7], [1, 1, 1, 1]] {
        sound(|g| {
            let (x, target) = (g.param("x", &shape), g.input("target", &shape));
            let weight = g.input("weight", &shape[2..]);
            absolute_error(g, x, target, weight)
        });
    }
}

#[test]
fn absolute_phase_error_ignores_whole_turns() {
    let build = |g: &mut Graph| {
        let (x, target) = (g.param("x", &[2, 1, 1, 3]), g.input("target", &[2, 1, 1, 3]));
        let weight = g.input("weight", &[1, 3]);
        absolute_phase_error(g, x, target, weight)
    };
    sound(build);
    let phases = [3.0, -3.0, 9.5, -9.5, 0.25, 6.0];
    case(build).with("x", phases).with("target", [-3.0, 3.0, 0.0, 0.0, 0.0, -6.5]).check(1e-6);
    let target = [-3.0, 3.0, 0.0, 0.0, 0.0, -6.5];
    let given: [(&str, &[f64]); 4] =
        [("x", &phases), ("target", &target), ("weight", &[1.0, 2.0, 4.0]), ("seed", &[1.0; 2])];
    // Wrapped: 6 − 2π, 2π − 6, 9.5 − 4π, 4π − 9.5, 0.25, 12.5 − 4π; each times the pixel's weight.
    assert_eq!(gradients(build, &given, 1)[0], [-1.0, 2.0, -4.0, 1.0, 2.0, -4.0]);
}

#[test]
fn absolute_error_has_no_slope_where_it_is_zero() {
    let build = |g: &mut Graph| {
        let (x, target) = (g.param("x", &[1, 1, 1, 2]), g.input("target", &[1, 1, 1, 2]));
        let weight = g.input("weight", &[1, 2]);
        absolute_error(g, x, target, weight)
    };
    let given: [(&str, &[f64]); 4] =
        [("x", &[2.0, 1.0]), ("target", &[2.0, 2.0]), ("weight", &[1.0, 0.5]), ("seed", &[3.0])];
    assert_eq!(gradients(build, &given, 1)[0], [0.0, -1.5]);
}

#[test]
fn instance_norm_uses_the_statistics_of_every_image() {
    for [b, c, h, w] in [[3, 2, 5, 7], [1, 1, 3, 3], [2, 3, 17, 16]] {
        sound(|g| {
            let x = g.param("x", &[b, c, h, w]);
            let [gamma, beta] = ["gamma", "beta"].map(|name| g.param(name, &[c]));
            instance_norm(g, x, gamma, beta)
        });
    }
}

#[test]
fn instance_norm_of_a_constant_image_is_its_offset() {
    let build = |g: &mut Graph| {
        let x = g.param("x", &[1, 1, 2, 2]);
        let [gamma, beta] = ["gamma", "beta"].map(|name| g.param(name, &[1]));
        instance_norm(g, x, gamma, beta)
    };
    let given: [(&str, &[f64]); 2] = [("x", &[0.5; 4]), ("seed", &[1.0, 2.0, 3.0, 4.0])];
    let [_, dgamma, dbeta] = gradients(build, &given, 1).try_into().unwrap();
    assert_eq!([dgamma, dbeta], [[0.0], [10.0]]);
}

#[test]
fn reshape_keeps_the_numbers_in_their_order() {
    for (from, to) in [([2, 3, 5, 7], [6, 1, 5, 7]), ([1, 70_001, 1, 1], [1, 1, 1, 70_001])] {
        case(|g| {
            let x = g.param("x", &from);
            let y = reshape(g, x, &to);
            let back = reshape(g, y, &from);
            residual(g, back, x, None)
        })
        .linear()
        .check(1e-6);
    }
    let build = |g: &mut Graph| {
        let x = g.param("x", &[2, 2]);
        reshape(g, x, &[4])
    };
    let given: [(&str, &[f64]); 2] = [("x", &[0.0; 4]), ("seed", &[1.0, 2.0, 3.0, 4.0])];
    assert_eq!(gradients(build, &given, 1), [[1.0, 2.0, 3.0, 4.0]]);
}

#[test]
fn residual_adds_the_update_through_its_gate() {
    for total in [1, 300, 70_001] {
        sound(|g| {
            let [x, update] = ["x", "update"].map(|name| g.param(name, &[total]));
            let gate = g.param("gate", &[1]);
            residual(g, x, update, Some(gate))
        });
    }
    case(|g| {
        let [x, update] = ["x", "update"].map(|name| g.param(name, &[3, 100]));
        residual(g, x, update, None)
    })
    .linear()
    .check(1e-6);
}

/// Amplitude and phase of parameters `x` and `y`.
fn parts(g: &mut Graph, shape: &[usize]) -> (Value, Value) {
    let [x, y] = ["x", "y"].map(|name| g.param(name, shape));
    cartesian(g, x, y)
}

#[test]
fn parts_give_amplitude_and_phase_and_get_their_gradients() {
    for shape in [[2, 3, 5, 7], [1, 1, 71, 73]] {
        // Far from z = 0, where slopes grow beyond every bound.
        let both = |g: &mut Graph| {
            let (amplitude, phase) = parts(g, &shape);
            polar(g, amplitude, phase)
        };
        case(both).positive().check(1e-6);
        case(|g| parts(g, &shape).0).positive().check(1e-6);
        case(|g| parts(g, &shape).1).positive().check(1e-6);
    }
    for second in [false, true] {
        let build = |g: &mut Graph| {
            let (amplitude, phase) = parts(g, &[1, 1, 1, 4]);
            if second { phase } else { amplitude }
        };
        sound(build);
        // Every quadrant.
        case(build).with("x", [1.0, -3.0, -3.0, 1.0]).with("y", [1.0, 1.0, -1.0, -1.0]).check(1e-6);
    }
}

#[test]
fn a_number_of_modulus_zero_has_no_slope() {
    let build = |g: &mut Graph| {
        let [x, y] = ["x", "y"].map(|name| g.param(name, &[1, 1, 1, 1]));
        let (amplitude, phase) = cartesian(g, x, y);
        polar(g, amplitude, phase)
    };
    assert_eq!(gradients(build, &[("x", &[-1.0]), ("y", &[0.0])], 1), [[0.0], [0.0]]);
}
