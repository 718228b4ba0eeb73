//! From gradient to step; and the multiply-adds that `bench` measures a device by.

use approx::assert_relative_eq;
use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Stage, Value};
use ptycho_gpu::ops::accumulate::accumulate;
use ptycho_gpu::ops::adam::{Constants, adam};
use ptycho_gpu::ops::clip::{Bound, clip};
use ptycho_gpu::ops::global_norm::global_norm;
use ptycho_gpu::ops::multiply_add::{STEPS, multiply_add};
use ptycho_gpu::ops::sgd::sgd;
use ptycho_gpu::plan::Plan;

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
        adam(g, [v[0], v[1], v[2], v[3]], v[4], Bound::None, ADAM);
    });
    assert_relative_eq!(p[..], [0.99, 2.01], max_relative = 1e-7);
}

#[test]
fn decay_joins_the_gradient_of_adam_or_shrinks_the_weight_apart_from_it() {
    let step = |decoupled| {
        let constants = Constants { weight_decay: 0.5, decoupled, ..ADAM };
        let [p, _, m, ..] = run([&[2.0], &[1.0], &[0.0], &[0.0], &[0.01, 0.1, 0.01]], 1, |g, v| {
            adam(g, [v[0], v[1], v[2], v[3]], v[4], Bound::None, constants);
        });
        (p[0], m[0])
    };
    // Gradient 1 + 0.5 · 2; the step of Adam is the rate all the same.
    assert_relative_eq!(step(false).0, 1.99, max_relative = 1e-7);
    assert_relative_eq!(step(false).1, 0.2, max_relative = 1e-12);
    assert_relative_eq!(step(true).0, 2.0 - 0.01 * 0.5 * 2.0 - 0.01, max_relative = 1e-7);
    assert_relative_eq!(step(true).1, 0.1, max_relative = 1e-12);
}

#[test]
fn sgd_looks_ahead_along_its_momentum() {
    let [p, _, m, _] = run([&[1.0], &[2.0], &[0.0], &[0.1, 0.0, 0.0]], 2, |g, v| {
        sgd(g, [v[0], v[1], v[2]], v[3], Bound::None, 0.9, 0.0);
    });
    // m: 2, then 0.9 · 2 + 2 = 3.8; steps: 2 + 0.9 · 2 = 3.8, then 2 + 0.9 · 3.8 = 5.42.
    assert_relative_eq!(m[0], 3.8, max_relative = 1e-12);
    assert_relative_eq!(p[0], 1.0 - 0.1 * (3.8 + 5.42), max_relative = 1e-12);
}

/// What updates take in of two gradients within a bound, by their first moments: Adam's of the first,
/// that of SGD of the second. The gradients themselves stay as they are.
fn taken_in<const A: usize, const B: usize>(
    gradients: (&[f64; A], &[f64; B]),
    bound: impl Fn(&mut Graph, [Value; 2]) -> Bound,
) -> ([f64; A], [f64; B]) {
    let (zeros_a, zeros_b) = ([0.0; A], [0.0; B]);
    let control = [0.0, 1.0, 1.0];
    let contents: [&[f64]; 8] =
        [gradients.0, gradients.1, &zeros_a, &zeros_a, &zeros_a, &zeros_b, &zeros_b, &control];
    let after = run(contents, 1, |g, v| {
        let bound = bound(g, [v[0], v[1]]);
        adam(g, [v[2], v[0], v[3], v[4]], v[7], bound, Constants { beta1: 0.0, ..ADAM });
        sgd(g, [v[5], v[1], v[6]], v[7], bound, 0.9, 0.0);
    });
    assert_eq!((&after[0][..], &after[1][..]), (&gradients.0[..], &gradients.1[..]));
    let taken = |v: usize| after[v].clone();
    (taken(3).try_into().unwrap(), taken(6).try_into().unwrap())
}

#[test]
fn a_bound_by_norm_keeps_the_direction_of_all_gradients_together() {
    let (a, b) = taken_in((&[3.0], &[0.0, 4.0]), |g, v| Bound::Norm(global_norm(g, &v), 1.0));
    assert_relative_eq!(a[0], 0.6, max_relative = 1e-6);
    assert_relative_eq!(b[..], [0.0, 0.8], max_relative = 1e-6);
}

#[test]
fn a_gradient_within_the_bound_is_taken_in_as_it_is() {
    let within = |bound: fn(&mut Graph, [Value; 2]) -> Bound| {
        let (a, b) = taken_in((&[0.3], &[0.4, -0.1]), bound);
        assert_eq!((a, b), ([0.3], [0.4, -0.1]));
    };
    within(|g, v| Bound::Norm(global_norm(g, &v), 1.0));
    within(|_, _| Bound::Value(0.4));
    within(|_, _| Bound::None);
}

#[test]
fn a_bound_by_value_holds_for_each_element() {
    let (a, b) = taken_in((&[-3.0, 0.2], &[5.0, -0.6]), |_, _| Bound::Value(0.5));
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
