//! Layers of the generator, and regularisers of its output.

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Role, Stage, Value};
use ptycho_gpu::ops::activate::{Activation, activate};
use ptycho_gpu::ops::head_sum::{head_sum, pad_quarter};
use ptycho_gpu::ops::{max_pool::max_pool, polar::polar, split::split, upsample::upsample};
use ptycho_gpu::plan::Plan;

use crate::support::case;

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
fn pad_quarter_surrounds_the_inner_path_with_zeros() {
    let build = |g: &mut Graph| {
        let inner = g.param("inner", &[2, 3, 4, 6]);
        pad_quarter(g, inner)
    };
    sound(build);
    case(build).linear().check(1e-6);
}

#[test]
fn every_activation_has_its_own_slope() {
    use Activation::{PiTanh, Relu, Sigmoid, Silu, SoftplusOne};
    for activation in [Relu, Silu, Sigmoid, SoftplusOne, PiTanh] {
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
    let softplus = activated(Activation::SoftplusOne, &ends);
    assert!(softplus[0] == 0.0 && (softplus[1] - 1.0).abs() < 1e-6);
    assert!((softplus[2] - 1000.541_3).abs() < 1e-3);
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
