//! Every launch passes the arguments that its kernel declares, in kind and number; and what is one
//! kernel stays one.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use ptycho_gpu::config::{ClipAlgorithm, LossConfig, ModelConfig, Optimiser, OptimiserConfig};
use ptycho_gpu::graph::Stage;
use ptycho_gpu::launch::{Arg, Launch};
use ptycho_gpu::measure::cases::{Size, all};
use ptycho_gpu::models::object;
use ptycho_gpu::models::plans::{self, Sizes};
use ptycho_gpu::plan::Plan;

#[test]
fn every_launch_passes_what_its_kernel_declares() {
    let kernels = kernels();
    for launch in launches() {
        let declared = kernels.get(launch.kernel);
        let passed: String = launch.args.iter().map(kind).collect();
        assert_eq!(declared, Some(&passed), "{} (b buffer, i int, f float)", launch.kernel);
    }
}

#[test]
fn every_kernel_is_launched() {
    let launches = launches();
    for kernel in kernels().keys() {
        assert!(launches.iter().any(|l| l.kernel == kernel), "nothing launches {kernel}");
    }
}

fn kind(arg: &Arg) -> char {
    match arg {
        Arg::Buffer(_) => 'b',
        Arg::Int(_) => 'i',
        Arg::Float(_) => 'f',
    }
}

/// The launches of every op, small and large, forward and backward.
fn launches() -> Vec<Launch> {
    let sizes = [Size::SMALL, Size::PRODUCTION];
    let plans = all().into_iter().flat_map(|case| sizes.map(|size| case.plan(&size).plan));
    plans.flat_map(|plan| plan.steps).flat_map(|step| step.op.launches()).collect()
}

/// The entry points of `kernels/*.cu`, each with the kinds of its arguments.
fn kernels() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let sources = files.filter(|f| f.extension().is_some_and(|e| e == "cu"));
    let text: String = sources.map(|f| fs::read_to_string(f).unwrap()).collect();
    text.split("extern \"C\"").skip(1).map(entry_point).collect()
}

/// Name and argument kinds of the declaration that `text` starts with.
fn entry_point(text: &str) -> (String, String) {
    let (head, _) = text.split_once('{').unwrap();
    let code: Vec<&str> = head.lines().map(|l| l.split("//").next().unwrap()).collect();
    // What bounds the registers is no argument.
    let code = match code.join(" ").split_once("__launch_bounds__(") {
        Some((_, rest)) => rest.split_once(')').unwrap().1.to_owned(),
        None => code.join(" "),
    };
    let (before, args) = code.split_once('(').unwrap();
    let args = args.rsplit_once(')').unwrap().0;
    let name = before.split_whitespace().last().unwrap().to_owned();
    (name, args.split(',').map(declared).collect())
}

fn declared(argument: &str) -> char {
    match argument.trim() {
        a if a.contains('*') => 'b',
        a if a.starts_with("int ") => 'i',
        a if a.starts_with("float ") => 'f',
        a => panic!("a kernel takes buffers, ints and floats, not `{a}`"),
    }
}

#[test]
fn every_op_has_kernels() {
    for case in all() {
        for step in case.plan(&Size::SMALL).plan.steps {
            assert!(!step.op.launches().is_empty(), "{} of {}", step.op.name(), case.name);
        }
    }
}

#[test]
fn every_launch_is_possible_on_every_gpu() {
    for launch in launches() {
        let threads = launch.grid.iter().all(|&n| n > 0) && (1..=1024).contains(&launch.block);
        assert!(threads, "{}: {:?} blocks of {}", launch.kernel, launch.grid, launch.block);
        // What the smallest of the GPUs has for a block.
        assert!(launch.shared <= 99 << 10, "{}: {} bytes", launch.kernel, launch.shared);
    }
}

/// The kernels of some stages of a plan, in their order.
fn kernels_of(plan: &Plan, stages: RangeInclusive<Stage>) -> Vec<&'static str> {
    plan.stages(&stages).flat_map(|step| step.op.launches()).map(|launch| launch.kernel).collect()
}

fn training(n: usize, gridsize: usize, optimiser: &OptimiserConfig) -> Plan {
    let model = ModelConfig { n, gridsize, ..ModelConfig::default() };
    let sizes = Sizes { batch: 2, frames: 4, scans: 1, modes: 2, reach: 3.0, typical: 1.0 };
    plans::training(&model, &LossConfig::default(), optimiser, &sizes).plan
}

#[test]
fn the_physics_of_64_and_128_pixels_is_one_kernel_and_of_others_a_chain() {
    let optimiser = OptimiserConfig { probe_trainable: true, ..OptimiserConfig::default() };
    let chain = ["illuminate_forward", "intensity_forward", "intensity_backward"];
    for (n, gridsize, whole) in [(64, 1, true), (128, 2, true), (32, 1, false), (256, 1, false)] {
        let plan = training(n, gridsize, &optimiser);
        let kernels = kernels_of(&plan, Stage::Forward..=Stage::Backward);
        assert_eq!(kernels.contains(&"diffraction_forward"), whole, "{n}: {kernels:?}");
        for part in chain {
            assert_eq!(kernels.contains(&part), !whole, "{n}: {part}");
        }
        assert!(!kernels.contains(&"extract_forward"), "{n}: {kernels:?}");
        assert!(kernels.contains(&"illuminate_backward_probe"), "{n}: {kernels:?}");
    }
}

#[test]
fn a_direct_solution_takes_the_one_kernel_where_nothing_else_looks_at_its_parts() {
    let sizes = object::Sizes {
        batch: 2,
        frames: 4,
        held: 4,
        side: 64,
        modes: 1,
        canvas: [80, 90],
        typical: 1.0,
    };
    let plain = object::Design { probe: true, positions: true, ..object::Design::default() };
    let with_gains = object::Design { gains: true, ..plain };
    let with_tv = object::Design { tv: 0.1, ..plain };
    for (design, whole) in [(plain, true), (with_gains, false), (with_tv, false)] {
        let plan = object::solver(&design, &sizes).plan;
        let kernels = kernels_of(&plan, Stage::Forward..=Stage::Backward);
        assert_eq!(kernels.contains(&"diffraction_forward"), whole, "{kernels:?}");
        assert_eq!(kernels.contains(&"amplitude_forward"), !whole, "{kernels:?}");
    }
}

#[test]
fn an_update_that_clips_passes_over_the_gradients_twice_at_most() {
    for algorithm in [ClipAlgorithm::Norm, ClipAlgorithm::Value] {
        for kind in [Optimiser::Adam, Optimiser::AdamW, Optimiser::Sgd] {
            let optimiser = OptimiserConfig {
                kind,
                gradient_clip_val: Some(1.0),
                gradient_clip_algorithm: algorithm,
                ..OptimiserConfig::default()
            };
            let plan = training(64, 1, &optimiser);
            let update = if kind == Optimiser::Sgd { "sgd_forward" } else { "adam_forward" };
            let kernels = kernels_of(&plan, Stage::Update..=Stage::Update);
            let wanted = ["global_norm_partial", "global_norm_forward", update, "record_forward"];
            assert_eq!(kernels, wanted, "{algorithm:?}");
        }
    }
}
