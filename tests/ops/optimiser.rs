//! From gradient to step; and the multiply-adds that `bench` measures a device by.

use approx::assert_relative_eq;
use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::config::OptimiserConfig;
use ptycho_gpu::graph::{Graph, Role, Stage, Value};
use ptycho_gpu::models::optimiser;
use ptycho_gpu::ops::accumulate::accumulate;
use ptycho_gpu::ops::adam::{Constants, adam};
use ptycho_gpu::ops::clip::{Bound, clip};
use ptycho_gpu::ops::global_norm::global_norm;
use ptycho_gpu::ops::multiply_add::{STEPS, multiply_add};
use ptycho_gpu::ops::sgd::sgd;
use ptycho_gpu::ops::weighted_sum::{Term, weighted_sum};
use ptycho_gpu::plan::Plan;

use crate::support::cuda;

/// Buffers with these contents, the op that `build` appends to them, and their contents after it
/// has run `times` times.
fn run<const N: usize>(
    contents: [&[f64]; N],
    times: usize,
    build: impl FnOnce(&mut Graph, [Value; N]),
) -> [Vec<f64>; N] {
    let mut g = Graph::default();
    let mut index = 0..N;
    let values = contents.map(|x| g.input(&format!("{}", index.next().unwrap()), &[x.len()]));
    build(&mut g, values);
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    values.iter().zip(contents).for_each(|(&v, x)| cpu.set(v, x));
    (0..times).for_each(|_| cpu.run(Stage::Forward).unwrap());
    values.map(|v| cpu.get(v).to_vec())
}

const ADAM: Constants =
    Constants { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, decoupled: false };

#[test]
fn the_first_step_of_adam_is_the_learning_rate_against_the_sign_of_the_gradient() {
    let control = [0.01, 0.1, 0.01];
    let [p, ..] = run([&[1.0, 2.0], &[0.5, -3.0], &[0.0; 2], &[0.0; 2], &control], 1, |g, v| {
        adam(g, [v[0], v[1], v[2], v[3]], v[4], None, Bound::None, ADAM);
    });
    assert_relative_eq!(p[..], [0.99, 2.01], max_relative = 1e-7);
}

#[test]
fn decay_joins_the_gradient_of_adam_or_shrinks_the_weight_apart_from_it() {
    let step = |decoupled| {
        let constants = Constants { weight_decay: 0.5, decoupled, ..ADAM };
        let [p, _, m, ..] = run([&[2.0], &[1.0], &[0.0], &[0.0], &[0.01, 0.1, 0.01]], 1, |g, v| {
            adam(g, [v[0], v[1], v[2], v[3]], v[4], None, Bound::None, constants);
        });
        (p[0], m[0])
    };
    // Gradient 1 + 0.5 · 2; the step of Adam is the rate all the same.
    assert_relative_eq!(step(false).0, 1.99, max_relative = 1e-7);
    assert_relative_eq!(step(false).1, 0.2, max_relative = 1e-12);
    assert_relative_eq!(step(true).0, 2.0 - 0.01 * 0.5 * 2.0 - 0.01, max_relative = 1e-7);
    assert_relative_eq!(step(true).1, 0.1, max_relative = 1e-12);
}

/// The same in single precision on the CPU and, where there is one, on CUDA: both must give the same.
fn run_everywhere<const N: usize>(
    contents: [&[f32]; N],
    build: impl FnOnce(&mut Graph, [Value; N]),
) -> [Vec<f32>; N] {
    let mut g = Graph::default();
    let mut index = 0..N;
    let values = contents.map(|x| g.input(&format!("{}", index.next().unwrap()), &[x.len()]));
    build(&mut g, values);
    let plan = Plan::new(g);
    let run = |backend: &mut dyn Backend| {
        values.iter().zip(contents).for_each(|(&v, x)| backend.write(v, x).unwrap());
        backend.run(Stage::Forward).unwrap();
        values.map(|v| backend.read(v).unwrap())
    };
    let cpu = run(&mut Cpu::<f32>::new(plan.clone()));
    if let Some(device) = cuda() {
        let bits =
            |all: &[Vec<f32>; N]| all.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let got = run(device.open(plan).unwrap().as_mut());
        assert_eq!(bits(&cpu), bits(&got), "{cpu:?}, on CUDA {got:?}");
    }
    cpu
}

#[test]
fn no_update_changes_anything_where_the_norm_of_the_gradient_is_not_finite() {
    // Powers of two, which every order of operations rounds alike.
    let (p, g, control) = ([2.0, 4.0], [0.5, 1.0], [0.25, 1.0, 1.0]);
    let plain = Constants { beta1: 0.5, beta2: 0.5, epsilon: 0.0, ..ADAM };
    for norm in [f32::NAN, f32::INFINITY, 1.0] {
        let after = run_everywhere([&p, &g, &[0.5; 2], &[0.25; 2], &control, &[norm]], |g, v| {
            adam(g, [v[0], v[1], v[2], v[3]], v[4], Some(v[5]), Bound::None, plain);
        });
        let untouched = after[0] == p && after[2] == [0.5; 2] && after[3] == [0.25; 2];
        assert_eq!(untouched, !norm.is_finite(), "adam, {norm}");
        let after = run_everywhere([&p, &g, &[0.5; 2], &control, &[norm]], |g, v| {
            sgd(g, [v[0], v[1], v[2]], v[3], Some(v[4]), Bound::None, [0.5, 0.0]);
        });
        assert_eq!(after[0] == p && after[2] == [0.5; 2], !norm.is_finite(), "sgd, {norm}");
    }
}

#[test]
fn the_norm_of_all_gradients_is_no_number_where_the_loss_is_not_finite() {
    let norm = |loss: f32| {
        let build = |g: &mut Graph, v: [Value; 4]| {
            let norm = global_norm(g, &[v[0]], Some(v[1]));
            accumulate(g, norm, v[2], v[3]);
        };
        // Nothing is kept of what is there, so the norm is put into its place.
        run_everywhere([&[3.0, 4.0], &[loss], &[0.0], &[0.0]], build)[2][0]
    };
    assert_eq!(norm(-7.5), 5.0);
    assert!([f32::NAN, f32::INFINITY].iter().all(|&loss| norm(loss).is_nan()));
}

#[test]
fn sgd_looks_ahead_along_its_momentum() {
    let [p, _, m, _] = run([&[1.0], &[2.0], &[0.0], &[0.1, 0.0, 0.0]], 2, |g, v| {
        sgd(g, [v[0], v[1], v[2]], v[3], None, Bound::None, [0.9, 0.0]);
    });
    // m: 2, then 0.9 · 2 + 2 = 3.8; steps: 2 + 0.9 · 2 = 3.8, then 2 + 0.9 · 3.8 = 5.42.
    assert_relative_eq!(m[0], 3.8, max_relative = 1e-12);
    assert_relative_eq!(p[0], 1.0 - 0.1 * (3.8 + 5.42), max_relative = 1e-12);
}

/// What updates take in of two gradients within a bound, by their first moments: Adam's of the first,
/// that of SGD of the second. The gradients themselves stay as they are.
fn taken_in<const A: usize, const B: usize>(
    gradients: (&[f64; A], &[f64; B]),
    bound: impl Fn(&mut Graph, [Value; 2]) -> (Option<Value>, Bound),
) -> ([f64; A], [f64; B]) {
    let (zeros_a, zeros_b) = ([0.0; A], [0.0; B]);
    let control = [0.0, 1.0, 1.0];
    let contents: [&[f64]; 8] =
        [gradients.0, gradients.1, &zeros_a, &zeros_a, &zeros_a, &zeros_b, &zeros_b, &control];
    let after = run(contents, 1, |g, v| {
        let (norm, bound) = bound(g, [v[0], v[1]]);
        adam(g, [v[2], v[0], v[3], v[4]], v[7], norm, bound, Constants { beta1: 0.0, ..ADAM });
        sgd(g, [v[5], v[1], v[6]], v[7], norm, bound, [0.9, 0.0]);
    });
    assert_eq!((&after[0][..], &after[1][..]), (&gradients.0[..], &gradients.1[..]));
    let taken = |v: usize| after[v].clone();
    (taken(3).try_into().unwrap(), taken(6).try_into().unwrap())
}

/// A bound of 1 by the norm of both.
fn by_norm(g: &mut Graph, gradients: [Value; 2]) -> (Option<Value>, Bound) {
    (Some(global_norm(g, &gradients, None)), Bound::Norm(1.0))
}

#[test]
fn a_bound_by_norm_keeps_the_direction_of_all_gradients_together() {
    let (a, b) = taken_in((&[3.0], &[0.0, 4.0]), by_norm);
    assert_relative_eq!(a[0], 0.6, max_relative = 1e-6);
    assert_relative_eq!(b[..], [0.0, 0.8], max_relative = 1e-6);
}

#[test]
fn a_gradient_within_the_bound_is_taken_in_as_it_is() {
    let within = |bound: fn(&mut Graph, [Value; 2]) -> (Option<Value>, Bound)| {
        let (a, b) = taken_in((&[0.3], &[0.4, -0.1]), bound);
        assert_eq!((a, b), ([0.3], [0.4, -0.1]));
    };
    within(by_norm);
    within(|_, _| (None, Bound::Value(0.4)));
    within(|_, _| (None, Bound::None));
}

#[test]
fn a_bound_by_value_holds_for_each_element() {
    let (a, b) = taken_in((&[-3.0, 0.2], &[5.0, -0.6]), |_, _| (None, Bound::Value(0.5)));
    assert_eq!((a, b), ([-0.5, 0.2], [0.5, -0.5]));
}

#[test]
fn adaptive_clipping_goes_by_the_norm_of_each_tensor() {
    let [g1, g2, ..] = run([&[3.0, 4.0], &[1.0], &[6.0, 8.0], &[0.0]], 1, |g, v| {
        clip(g, &v[2..], &v[..2], 0.1);
    });
    // ‖p‖ = 10 allows 1; a zero tensor is taken for one of norm 10⁻³.
    assert_relative_eq!(g1[..], [0.6, 0.8], max_relative = 1e-12);
    assert_relative_eq!(g2[0], 1e-4, max_relative = 1e-12);
}

#[test]
fn accumulation_starts_anew_or_adds_as_the_host_says() {
    let sum = |keep: f64| {
        run([&[1.0, 2.0], &[5.0, f64::NAN], &[keep]], 1, |g, v| accumulate(g, v[0], v[1], v[2]))
    };
    // What is left of an earlier step, NaN too, is gone with 0.
    assert_eq!(sum(0.0)[1], [1.0, 2.0]);
    assert_eq!(sum(1.0)[1][0], 6.0);
}

#[test]
fn chains_of_multiply_adds_come_nearer_to_one_step_by_step() {
    let left = (1.0f64 - 1.0 / 64.0).powi(2 * STEPS as i32);
    for x in [-0.5, 3.0] {
        let mut g = Graph::default();
        let value = g.input("x", &[1]);
        let y = multiply_add(&mut g, value, 2);
        let mut cpu = Cpu::<f64>::new(Plan::new(g));
        cpu.set(value, &[x]);
        cpu.run(Stage::Forward).unwrap();
        assert_relative_eq!(cpu.get(y)[0], left * x + 1.0 - left, max_relative = 1e-12);
    }
}

#[test]
fn a_step_is_left_out_when_one_of_its_batches_has_no_finite_loss() {
    let config = OptimiserConfig { accumulate_grad_batches: 2, ..OptimiserConfig::default() };
    let mut g = Graph::default();
    let (w, more) = (g.param("w", &[1]), g.input("more", &[1]));
    let one = g.input("one", &[1]);
    let term = |value| Term { value, weight: one, coefficient: 1.0 };
    // The gradient is 1 whatever `more` is: only the loss tells.
    let loss = weighted_sum(&mut g, vec![term(w), term(more)]);
    let seed = g.input("seed", &[1]);
    g.differentiate(loss, seed);
    let controls = optimiser::attach(&mut g, &config, loss);
    let (keep, rate) = (controls.keep.unwrap(), controls.rates[0].1);
    let mut cpu = Cpu::<f32>::new(Plan::new(g));
    let mut step = |first: f32| {
        for role in [Role::Moment1, Role::Moment2] {
            let moments = cpu.plan().of_role(role);
            let moments: Vec<Value> = moments.into_iter().map(|(v, _)| v).collect();
            moments.into_iter().for_each(|v| cpu.write(v, &[0.0]).unwrap());
        }
        for (v, x) in [(w, 1.0), (one, 1.0), (seed, 1.0)] {
            cpu.write(v, &[x]).unwrap();
        }
        cpu.write(rate, &[0.1, 0.1, 0.001]).unwrap();
        for (batch, last) in [Stage::Backward, Stage::Update].into_iter().enumerate() {
            cpu.write(keep, &[batch as f32]).unwrap();
            cpu.write(more, &[if batch == 0 { first } else { 0.0 }]).unwrap();
            cpu.run_stages(Stage::Forward..=last).unwrap();
        }
        cpu.read(w).unwrap()[0]
    };
    assert!(step(1.0) < 1.0);
    assert_eq!(step(f32::INFINITY), 1.0);
}
