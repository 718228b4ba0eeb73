//! The memory planner, and what `plan` prints.

use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::cli::{Cli, Command, plan};
use ptycho_gpu::config::{ClipAlgorithm, Head, LossConfig, ModelConfig, OptimiserConfig};
use ptycho_gpu::graph::{Role, Stage, Value};
use ptycho_gpu::measure::selftest::Margins;
use ptycho_gpu::models::plans::{self, Sizes, Training};
use ptycho_gpu::plan::{Padding, Plan};
use ptycho_gpu::random::{Purpose, Stream};

const SIZES: Sizes = Sizes { batch: 2, frames: 5, scans: 1, modes: 2, reach: 3.0, typical: 1.0 };

/// A step with groups, attention, batch norm, regularisers, accumulation, clipping and a probe.
fn training() -> Training {
    let model = ModelConfig {
        gridsize: 2,
        n_filters_scale: 1,
        cbam_encoder: true,
        batch_norm: true,
        ..ModelConfig::default()
    };
    let loss = LossConfig { tv_phase: 0.1, md_amplitude: 0.1, ..LossConfig::default() };
    let optimiser = OptimiserConfig {
        probe_trainable: true,
        accumulate_grad_batches: 2,
        gradient_clip_val: Some(0.5),
        gradient_clip_algorithm: ClipAlgorithm::Agc,
        ..OptimiserConfig::default()
    };
    plans::training(&model, &loss, &optimiser, &SIZES)
}

/// What an input is filled with: indices where indices are meant, else numbers around 1.
fn content(name: &str, len: usize) -> Vec<f32> {
    match name {
        "index" => (0..len).map(|i| (i % SIZES.frames) as f32).collect(),
        "scan" | "keep" => vec![0.0; len],
        "mask" | "seed" | "training" => vec![1.0; len],
        name if name.starts_with("rate") => vec![1e-3, 0.1, 0.001],
        _ => {
            let mut stream = Stream::new(3, Purpose::Noise, len as u32);
            (0..len).map(|_| (0.5 + stream.uniform()) as f32).collect()
        }
    }
}

/// Loss, parameters and running statistics after one step, as bits.
fn one_step(training: &Training, plan: Plan) -> Vec<Vec<u32>> {
    let mut cpu = Cpu::<f32>::new(plan.clone());
    let loss = step_on(training, &mut cpu);
    let kept = [Role::Param, Role::State].iter().flat_map(|&role| plan.of_role(role));
    let kept: Vec<_> = kept.map(|(v, _)| v).collect();
    let kept = kept.into_iter().map(|v| cpu.get(v).to_vec());
    let all: Vec<Vec<f32>> = std::iter::once(loss).chain(kept).collect();
    assert!(all.iter().flatten().all(|x| x.is_finite()), "a buffer was read before it was written");
    all.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Fills what a step reads, and runs it; its loss.
fn step_on(training: &Training, cpu: &mut Cpu<f32>) -> Vec<f32> {
    let plan = cpu.plan().clone();
    for initial in &training.initial {
        let len = plan.slots[initial.value.0].len();
        cpu.write(initial.value, &initial.numbers(0, len)).unwrap();
    }
    cpu.write(training.inputs.probe, &content("probe", plan.range(training.inputs.probe).len()))
        .unwrap();
    for (v, slot) in plan.of_role(Role::Input) {
        cpu.write(v, &content(&slot.name, slot.len())).unwrap();
    }
    for (v, slot) in [Role::Moment1, Role::Moment2].iter().flat_map(|&role| plan.of_role(role)) {
        cpu.write(v, &vec![0.0; slot.len()]).unwrap();
    }
    for stage in [Stage::Forward, Stage::Backward] {
        cpu.run(stage).unwrap();
    }
    let loss = cpu.get(training.loss).to_vec();
    cpu.run(Stage::Update).unwrap();
    loss
}

#[test]
fn sharing_memory_changes_no_bit() {
    let training = training();
    let apart = training.plan.without_reuse();
    assert!(training.plan.arena < apart.arena / 2, "most work buffers share memory");
    let shared = one_step(&training, training.plan.clone());
    assert!(shared == one_step(&training, apart), "an operation overwrote what a later one reads");
}

#[test]
fn gradients_and_moments_lie_as_the_parameters() {
    let plan = training().plan;
    let params = plan.of_role(Role::Param);
    let first = plan.range(params[0].0).start;
    for role in [Role::ParamGrad, Role::GradSum, Role::Moment1, Role::Moment2] {
        let mirrors = plan.of_role(role);
        assert_eq!(mirrors.len(), params.len());
        let start = plan.range(mirrors[0].0).start;
        for ((v, slot), (param, _)) in mirrors.into_iter().zip(&params) {
            assert_eq!(slot.of, Some(*param), "{role:?} in the order of the parameters");
            assert_eq!(plan.range(v).start - start, plan.range(*param).start - first);
        }
    }
}

#[test]
fn the_parts_fill_the_arena() {
    for plan in [training().plan, training().plan.without_reuse()] {
        assert_eq!(plan.parts().iter().map(|part| part.bytes).sum::<usize>(), plan.bytes());
        let work = plan.parts().into_iter().find(|part| part.role == Role::Work).unwrap();
        assert!(work.bytes <= plan.work_without_reuse());
    }
    let apart = training().plan.without_reuse();
    let work = apart.parts().into_iter().find(|part| part.role == Role::Work).unwrap();
    assert_eq!(work.bytes, apart.work_without_reuse());
}

#[test]
fn buffers_and_padding_fill_the_arena_and_share_nothing() {
    let plan = training().plan;
    let mut owners = vec![false; plan.arena];
    for i in (0..plan.slots.len()).filter(|&i| plan.slots[i].role != Role::Region) {
        owners[plan.range(Value(i))].fill(true);
    }
    for padding in plan.padding() {
        assert!(
            !padding.range.is_empty() && owners[padding.range.clone()].iter().all(|owned| !owned)
        );
        assert_eq!(plan.range(padding.after).end, padding.range.start);
        owners[padding.range].fill(true);
    }
    assert!(owners.into_iter().all(|owned| owned));
}

#[test]
fn padding_is_zero_inside_of_regions_and_nan_elsewhere_before_a_step_and_after_it() {
    let training = training();
    let mut cpu = Cpu::<f32>::new(training.plan.clone());
    let margins = Margins::of(&mut cpu).unwrap();
    let (flat, others): (Vec<_>, Vec<_>) =
        training.plan.padding().into_iter().partition(|p| p.flat);
    assert!(!flat.is_empty() && !others.is_empty());
    let mut all = |padding: Vec<Padding>, wanted: fn(&f32) -> bool| {
        padding.into_iter().all(|p| cpu.peek(p.range).unwrap().iter().all(wanted))
    };
    assert!(all(flat, |&x| x == 0.0) && all(others, |x| x.is_nan()));
    step_on(&training, &mut cpu);
    assert_eq!(margins.overrun(&mut cpu).unwrap(), None);
}

/// The published totals of the network with the head `border`: side, scale, parameters with one
/// and with four patterns in a group, and what attention in the encoder adds.
const BORDER: [(usize, usize, usize, usize, usize); 9] = [
    (64, 1, 583_570, 589_360, 3_220),
    (64, 2, 2_328_370, 2_340_208, 11_522),
    (64, 4, 9_301_618, 9_325_552, 44_254),
    (128, 1, 1_180_706, 1_186_064, 3_367),
    (128, 2, 4_716_114, 4_727_088, 11_782),
    (128, 4, 18_850_994, 18_873_200, 44_932),
    (256, 1, 3_247_786, 3_252_928, 3_473),
    (256, 2, 12_982_498, 12_993_040, 11_929),
    (256, 4, 51_912_658, 51_934_000, 45_192),
];

/// The same for the head `full`, without attention.
const FULL: [(usize, usize, usize, usize); 6] = [
    (64, 1, 585_244, 587_734),
    (64, 2, 2_336_308, 2_341_282),
    (128, 1, 1_182_380, 1_184_438),
    (128, 2, 4_724_052, 4_728_162),
    (256, 1, 3_249_460, 3_251_302),
    (256, 2, 12_990_436, 12_994_114),
];

fn parameters(n: usize, scale: usize, gridsize: usize, head: Head, cbam_encoder: bool) -> usize {
    let model = ModelConfig {
        n,
        n_filters_scale: scale,
        gridsize,
        head,
        cbam_encoder,
        ..ModelConfig::default()
    };
    plans::inference(&model, 1, None).plan.elements(Role::Param)
}

#[test]
fn the_head_border_has_the_published_number_of_parameters() {
    for (n, scale, one, four, attention) in BORDER {
        for (gridsize, want) in [(1, one), (2, four)] {
            assert_eq!(parameters(n, scale, gridsize, Head::Border, false), want, "{n} {scale}");
            let with = parameters(n, scale, gridsize, Head::Border, true);
            assert_eq!(with, want + attention, "{n} {scale}, attention");
        }
    }
}

#[test]
fn the_head_full_has_the_published_number_of_parameters() {
    for (n, scale, one, four) in FULL {
        for (gridsize, want) in [(1, one), (2, four)] {
            assert_eq!(parameters(n, scale, gridsize, Head::Full, false), want, "{n} {scale}");
        }
    }
}

/// What `ptycho-gpu plan FLAGS` prints.
fn printed(flags: &str) -> String {
    let words = "ptycho-gpu plan ".to_owned() + flags;
    match Cli::parse_args(words.split_whitespace().map(str::to_owned)).command {
        Command::Plan(args) => plan::describe(&args),
        other => panic!("{other:?} is not `plan`"),
    }
}

/// The last number of the line that starts with `name`.
fn figure(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().next_back()?.replace(',', "").parse().ok()
}

#[test]
fn the_printed_regions_add_up_to_the_printed_arena() {
    let text = printed("--batch_size 2 --frames 7 --probe-trainable");
    let regions = ["parameters", "gradients", "first moments", "second moments"];
    let regions = regions.into_iter().chain(["inputs", "outputs", "work  "]);
    let sum: usize = regions.map(|name| figure(&text, name).expect(name)).sum();
    assert_eq!(Some(sum), figure(&text, "arena"));
    assert!(sum.is_multiple_of(256));
}

#[test]
fn the_probe_is_listed_but_is_no_part_of_the_network() {
    let text = printed("--modes 3 --probe-trainable");
    assert_eq!(figure(&text, "probe"), Some(3 * 64 * 64 * 2));
    assert_eq!(figure(&text, "network"), figure(&printed(""), "network"));
}

#[test]
fn every_operation_and_every_launch_is_listed() {
    let text = printed("--batch_size 2 --ops --launches");
    for wanted in ["Conv2dBackward", "Adam", "diffraction_forward", "encoder.blocks.0.conv1"] {
        assert!(text.contains(wanted), "{wanted}");
    }
    let inference = printed("--inference --ops");
    assert!(!inference.contains("Backward") && !inference.contains("second moments"));
}
