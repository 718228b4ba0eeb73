//! Whole steps of training and of inference: `cargo bench --bench step [FILTER]`.
//!
//! A row is job · milliseconds of one batch (median of repeats) · patterns per second · megabytes of
//! the plan. Patterns are noise: the time of a step does not depend on what it is made of.

use std::time::Instant;

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::config::{LossConfig, ModelConfig, OptimiserConfig};
use ptycho_gpu::graph::{Role, Stage};
use ptycho_gpu::models::Initial;
use ptycho_gpu::models::plans::{self, Sizes};
use ptycho_gpu::plan::Plan;

const REPEATS: usize = 3;
const BATCH: usize = 16;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:24} {:>12} {:>14} {:>8}", "job", "ms", "patterns/s", "MB");
    for n in [64, 128] {
        let model = ModelConfig { n, ..ModelConfig::default() };
        let train = format!("train N={n}");
        if train.contains(&filter) {
            let (loss, optimiser) = (LossConfig::default(), OptimiserConfig::default());
            let frames = 4 * BATCH;
            let sizes =
                Sizes { batch: BATCH, frames, scans: 1, modes: 1, reach: 0.0, typical: 1.0 };
            let step = plans::training(&model, &loss, &optimiser, &sizes);
            measure(&train, step.plan, &step.initial);
        }
        let infer = format!("infer N={n}");
        if infer.contains(&filter) {
            let batch = plans::inference(&model, BATCH);
            measure(&infer, batch.plan, &batch.initial);
        }
    }
}

/// Fills what the host fills and times all stages in a row.
fn measure(job: &str, plan: Plan, initial: &[Initial]) {
    let mut cpu = Cpu::<f32>::new(plan.clone());
    for first in initial {
        cpu.set(first.value, &first.numbers(0, plan.range(first.value).len()));
    }
    for (v, slot) in plan.of_role(Role::Input) {
        // Between 0 and 1, and therefore 0 where an index is meant.
        let x: Vec<f32> = (0..slot.len()).map(|i| ((i * 7 % 17) as f32 + 0.5) / 17.0).collect();
        cpu.set(v, &x);
    }
    for (v, slot) in [Role::Moment1, Role::Moment2].iter().flat_map(|&role| plan.of_role(role)) {
        cpu.set(v, &vec![0.0; slot.len()]);
    }
    let mut times: Vec<f64> = (0..=REPEATS)
        .map(|_| {
            let start = Instant::now();
            for stage in [Stage::Forward, Stage::Backward, Stage::Update] {
                cpu.run(stage).unwrap();
            }
            start.elapsed().as_secs_f64()
        })
        .collect();
    // The first one also warms the caches.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let seconds = times[REPEATS / 2];
    let (rate, size) = (BATCH as f64 / seconds, plan.bytes() as f64 / 1e6);
    println!("{job:24} {:>12.1} {rate:>14.1} {size:>8.0}", 1e3 * seconds);
}
