//! The networks besides the convolutional one: their published sizes, their start, and training
//! through the binary: the same bits on any number of threads, resumed, and applied.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ptycho_gpu::backend::{self, Backend, Chosen, cpu::Cpu};
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::config::{
    Architecture, Device, GroupInput, LossConfig, ModelConfig, OptimiserConfig, OutputMode,
    RowModes,
};
use ptycho_gpu::graph::{Role, Stage};
use ptycho_gpu::models::plans::{self, Sizes, Training};
use ptycho_gpu::plan::Plan;
use ptycho_gpu::random::{Purpose, Stream};
use tempfile::TempDir;

use Architecture::{Cnn, Ffno, Fno, FnoVanilla, Srunet};

const ALL: [Architecture; 4] = [Ffno, Fno, FnoVanilla, Srunet];

/// Parameters of a network, a complex one counted once as in publications.
fn parameters(model: &ModelConfig) -> usize {
    let plan = plans::inference(model, 1, None).plan;
    let complex = plan.of_role(Role::Param).into_iter().filter(|(_, slot)| {
        slot.name.ends_with("weight") && slot.shape.len() == 4 && slot.shape[3] == 2
    });
    let twice: usize = complex.map(|(_, slot)| slot.len() / 2).sum();
    plan.elements(Role::Param) - twice
}

fn model(architecture: Architecture) -> ModelConfig {
    ModelConfig { architecture, ..ModelConfig::default() }
}

#[test]
fn networks_have_the_published_number_of_parameters() {
    for (architecture, want) in [(Ffno, 88_227), (Fno, 656_002), (FnoVanilla, 636_450)] {
        for n in [64, 128, 256] {
            let model = ModelConfig { n, ..model(architecture) };
            assert_eq!(parameters(&model), want, "{architecture}, {n}");
        }
    }
}

#[test]
fn groups_add_channels_at_both_ends() {
    for architecture in ALL {
        let one = parameters(&model(architecture));
        for (gridsize, c) in [(2, 4), (3, 9)] {
            let model = ModelConfig { gridsize, ..model(architecture) };
            // 9 weights of each first filter, and two filters of 32 weights with their biases.
            assert_eq!(parameters(&model), one + (c - 1) * (9 * 32 + 2 * 33), "{architecture}");
        }
    }
}

#[test]
fn spectral_weights_of_every_block_give_the_older_published_network() {
    for (blocks, want) in [(4, 124_966), (24, 701_626)] {
        let (share_spectral_weights, refiners) = (false, 0);
        let model = ModelConfig { blocks, share_spectral_weights, refiners, ..model(Ffno) };
        assert_eq!(parameters(&model), want, "without the two numbers of the scale");
    }
}

/// A network that takes little time.
fn narrow(architecture: Architecture) -> ModelConfig {
    let blocks = if architecture == Srunet { 4 } else { 2 };
    ModelConfig { width: 6, fourier_modes: 5, blocks, ..model(architecture) }
}

/// A step of two patterns with the plan's own first weights, on noise.
fn step(model: &ModelConfig) -> Training {
    let sizes = Sizes { batch: 2, frames: 3, scans: 1, modes: 1, reach: 4.0, typical: 1.0 };
    plans::training(model, &LossConfig::default(), &OptimiserConfig::default(), &sizes)
}

/// Writes first weights and inputs.
fn fill(training: &Training, backend: &mut dyn Backend) {
    let plan = &training.plan;
    for initial in &training.initial {
        let len = plan.slots[initial.value.0].len();
        backend.write(initial.value, &initial.numbers(1, len)).unwrap();
    }
    for (v, slot) in [Role::Moment1, Role::Moment2].iter().flat_map(|&role| plan.of_role(role)) {
        backend.write(v, &vec![0.0; slot.len()]).unwrap();
    }
    for (v, slot) in plan.of_role(Role::Input) {
        let mut stream = Stream::new(3, Purpose::Noise, slot.len() as u32);
        let content = (0..slot.len()).map(|i| match slot.name.as_str() {
            "index" => (i % 3) as f32,
            "scan" => 0.0,
            "frames" | "probe" => stream.uniform() as f32,
            "offsets" => (6.0 * stream.uniform() - 3.0) as f32,
            name if name.starts_with("rate") => [1e-3, 0.1, 0.001][i],
            _ => 1.0,
        });
        backend.write(v, &content.collect::<Vec<_>>()).unwrap();
    }
}

/// Losses of two steps, then amplitude and phase of the patches of the second.
fn two_steps(training: &Training, backend: &mut dyn Backend) -> Vec<Vec<f32>> {
    fill(training, backend);
    let mut seen = Vec::new();
    for _ in 0..2 {
        for stage in [Stage::Forward, Stage::Backward, Stage::Update] {
            backend.run(stage).unwrap();
        }
        seen.push(backend.read(training.loss).unwrap());
    }
    seen.extend(training.patch.map(|v| backend.read(v).unwrap()));
    assert!(seen.iter().flatten().all(|x| x.is_finite()), "read before it was written");
    seen
}

/// A network that sees the patterns of a group apart has the weights of one that sees single
/// patterns, and makes the same patches.
#[test]
fn a_network_that_sees_patterns_apart_is_that_of_single_patterns() {
    for architecture in [Cnn, Ffno, Fno, FnoVanilla, Srunet] {
        let one = match architecture {
            Cnn => ModelConfig { n_filters_scale: 1, ..model(Cnn) },
            _ => narrow(architecture),
        };
        let apart = ModelConfig { gridsize: 2, group_input: GroupInput::Apart, ..one.clone() };
        let object = |model: &ModelConfig, batch: usize| {
            let plan = plans::inference(model, batch, None);
            let mut backend = Cpu::<f32>::new(plan.plan.clone());
            let names: Vec<(String, Vec<usize>)> = plan
                .plan
                .of_role(Role::Param)
                .into_iter()
                .map(|(_, slot)| (slot.name.clone(), slot.shape.clone()))
                .collect();
            for (v, slot) in plan.plan.of_role(Role::Param) {
                let mut stream = Stream::new(7, Purpose::Weights, slot.len() as u32);
                let numbers: Vec<f32> =
                    (0..slot.len()).map(|_| (0.2 * stream.uniform() - 0.1) as f32).collect();
                backend.write(v, &numbers).unwrap();
            }
            let mut stream = Stream::new(8, Purpose::Noise, 0);
            let len = plan.plan.slots[plan.amplitude.0].len();
            let patterns: Vec<f32> = (0..len).map(|_| stream.uniform() as f32).collect();
            backend.write(plan.amplitude, &patterns).unwrap();
            let gain = plan.plan.slots[plan.gain.0].len();
            backend.write(plan.gain, &vec![1.0; gain]).unwrap();
            backend.write(plan.training, &[0.0]).unwrap();
            backend.run(Stage::Forward).unwrap();
            (names, backend.read(plan.object).unwrap())
        };
        let (single, grouped) = (object(&one, 8), object(&apart, 2));
        assert_eq!(single.0, grouped.0, "{architecture}");
        assert!(single.1 == grouped.1, "{architecture}: other patches");
        assert!(one.differences(&apart).is_empty(), "{:?}", one.differences(&apart));
    }
}

/// The U-shaped network as its publication describes it, with the modes that a quarter of the side
/// leaves. Of its sizes none is published.
#[test]
fn the_u_shaped_network_has_the_parameters_of_its_layers() {
    for (n, deep) in [(64, 8), (128, 12), (256, 12)] {
        let conv = |i: usize, o: usize, k: usize| o * (i * k * k + 1);
        let spectral = |w: usize, m: usize| w * w * m * m;
        let lifter = conv(1, 32, 3) + conv(32, 32, 3);
        let encoder = [(32, 12), (64, 12), (128, deep), (128, deep)];
        let encoder: usize = encoder.iter().map(|&(w, m)| spectral(w, m) + conv(w, w, 3)).sum();
        let down = conv(32, 64, 2) + conv(64, 128, 2);
        let residuals = 6 * 2 * (128 * 128 * 9 + 2 * 128) + 1;
        let up = 16 * (128 * 64 + 64 * 32) + 2 * (64 + 32);
        let want = lifter + encoder + down + residuals + up + conv(32, 2, 1);
        assert_eq!(parameters(&ModelConfig { n, ..model(Srunet) }), want, "{n}");
    }
}

#[test]
fn waves_of_every_direction_take_twice_as_many_weights() {
    let both = |architecture| ModelConfig { row_modes: RowModes::Both, ..model(architecture) };
    let more = parameters(&both(Fno)) - parameters(&model(Fno));
    assert_eq!(more, 4 * 32 * 32 * 12 * 12);
    two_steps(&step(&both(Fno)), &mut Cpu::<f32>::new(step(&both(Fno)).plan));
}

#[test]
fn networks_begin_near_amplitude_one_and_phase_zero() {
    let modes = [OutputMode::AmpPhase, OutputMode::RealImag];
    for (architecture, output_mode) in ALL.into_iter().flat_map(|a| modes.map(|mode| (a, mode))) {
        let training = step(&ModelConfig { output_mode, ..model(architecture) });
        let mut cpu = Cpu::<f32>::new(training.plan.clone());
        fill(&training, &mut cpu);
        cpu.run(Stage::Forward).unwrap();
        for (v, centre) in training.patch.into_iter().zip([1.0, 0.0]) {
            let far = cpu.get(v).iter().map(|x| (x - centre).abs()).fold(0.0, f32::max);
            assert!(far < 0.5, "{architecture}, {output_mode:?}: {far} from {centre}");
        }
    }
}

#[test]
fn sharing_memory_changes_no_bit_of_a_network() {
    for architecture in ALL {
        let training = step(&ModelConfig { gridsize: 2, ..narrow(architecture) });
        let run = |plan: Plan| two_steps(&training, &mut Cpu::<f32>::new(plan));
        assert!(run(training.plan.clone()) == run(training.plan.without_reuse()), "{architecture}");
    }
}

#[test]
fn two_steps_on_cuda_are_those_of_the_cpu() {
    let device = match backend::choose(Device::Cuda(0)) {
        Ok(device) => device,
        Err(why) => {
            assert!(std::env::var_os("PTYCHO_REQUIRE_CUDA").is_none(), "{why}");
            return eprintln!("not compared with CUDA: {why}");
        }
    };
    for architecture in ALL {
        let training = step(&narrow(architecture));
        let run =
            |on: &Chosen| two_steps(&training, on.open(training.plan.clone()).unwrap().as_mut());
        let (want, got) = (run(&Chosen::Cpu), run(&device));
        for (want, got) in want.iter().zip(&got) {
            let off: f32 = want.iter().zip(got).map(|(w, g)| (w - g).powi(2)).sum();
            let size: f32 = want.iter().map(|w| w * w).sum();
            assert!((off / size).sqrt() < 1e-4, "{architecture}: {}", (off / size).sqrt());
        }
    }
}

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

/// A folder with a scan of 8 patterns.
fn workplace() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let recipe = ["--patterns=8", "--probe-diameter=20", "--photons=1e5", "--step=4", "--seed=1"];
    program().arg("simulate").arg(&path).args(recipe).assert().success();
    (folder, path)
}

/// `train` of a narrow network on 4 patterns.
fn train(scan: &Path, folder: &Path, architecture: Architecture, more: &[&str]) -> Command {
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(scan).arg("--output-dir").arg(folder);
    command.arg(format!("--architecture={architecture}")).args(["--device=cpu", "--seed=3"]);
    command.args(["--width=6", "--n-images=4", "--batch-size=2"]).args(more);
    command
}

fn weights(folder: &Path) -> Vec<u32> {
    let checkpoint = Checkpoint::load(folder.join("checkpoints/last.safetensors")).unwrap();
    let all = checkpoint.tensors.values().flat_map(|tensor| tensor.data.clone());
    all.map(f32::to_bits).collect()
}

#[test]
fn a_training_has_the_same_bits_on_two_threads_and_resumed() {
    let (place, scan) = workplace();
    for architecture in ALL {
        let [whole, one, parts] = ["whole", "one", "parts"]
            .map(|name| place.path().join(format!("{name}{architecture}")));
        let run = |folder: &Path, threads: &str, more: &[&str]| {
            let mut command = train(&scan, folder, architecture, more);
            command.env("RAYON_NUM_THREADS", threads).assert().success();
        };
        run(&whole, "2", &["--max-epochs=2"]);
        run(&one, "1", &["--max-epochs=2"]);
        run(&parts, "2", &["--max-epochs=1"]);
        run(&parts, "2", &["--max-epochs=2", "--resume=auto"]);
        assert!(weights(&whole) == weights(&one), "{architecture}: one thread");
        assert!(weights(&whole) == weights(&parts), "{architecture}: resumed");
    }
}

#[test]
fn a_checkpoint_is_applied_as_the_network_that_it_is() {
    let (place, scan) = workplace();
    for architecture in ALL {
        let [model, result] =
            ["model", "result"].map(|name| place.path().join(format!("{name}{architecture}")));
        train(&scan, &model, architecture, &["--max-epochs=1"]).assert().success();
        let record = std::fs::read_to_string(model.join("run.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        let entry = &record["configuration"]["architecture"];
        assert_eq!(entry["value"], architecture.to_string(), "{entry}");
        let mut command = program();
        command.arg("infer").arg("--model-path").arg(&model).arg("--test-data").arg(&scan);
        command.arg("--output-dir").arg(&result).arg("--device=cpu").assert().success();
        assert!(result.join("reconstruction.npz").is_file());
    }
}

#[test]
fn what_single_patterns_taught_goes_on_in_groups_and_is_applied_without_them() {
    let (place, scan) = workplace();
    let [first, groups, result] = ["first", "groups", "result"].map(|name| place.path().join(name));
    train(&scan, &first, Fno, &["--max-epochs=1"]).assert().success();
    let start = ["--init-from", first.to_str().unwrap(), "--max-epochs=1", "--gridsize=2"];
    // The network itself knows nothing of the weights of the merge.
    let apart = [&start[..], &["--group-input=apart", "--merge-weights=central"]].concat();
    train(&scan, &groups, Fno, &apart).assert().success();
    assert!(weights(&first) != weights(&groups), "nothing was learned in groups");
    let together = refused(train(&scan, &place.path().join("none"), Fno, &start), 1);
    assert!(together.contains("gridsize"), "{together}");
    let mut command = program();
    command.arg("infer").arg("--model-path").arg(&groups).arg("--test-data").arg(&scan);
    // Fewer patterns than a group has.
    command.arg("--output-dir").arg(&result).args(["--device=cpu", "--n-images=3"]);
    command.assert().success();
}

/// What `command` says when it fails with `code`.
fn refused(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn another_architecture_than_that_of_the_checkpoint_is_refused() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    train(&scan, &folder, Ffno, &["--max-epochs=1"]).assert().success();
    let mut command = program();
    command.arg("train").arg("--train-data-file").arg(&scan).arg("--output-dir").arg(&folder);
    command.args(["--resume=auto", "--device=cpu"]);
    let said = refused(command, 1);
    assert!(said.contains("has the architecture ffno, but cnn was asked for"), "{said}");
}

#[test]
fn options_of_another_architecture_are_refused() {
    let (place, scan) = workplace();
    let folder = place.path().join("run");
    let said = refused(train(&scan, &folder, Ffno, &["--n-filters-scale=1"]), 1);
    assert!(said.contains("--n-filters-scale belongs to the architecture cnn"), "{said}");
    let said = refused(train(&scan, &folder, Architecture::Cnn, &[]), 1);
    assert!(said.contains("--width belongs to the architecture ffno, fno,"), "{said}");
    let said = refused(train(&scan, &folder, Srunet, &["--blocks=3", "--refiners=1"]), 1);
    assert!(said.contains("--blocks belongs") && said.contains("--refiners belongs"), "{said}");
    let said = refused(train(&scan, &folder, Ffno, &["--fourier-modes=33"]), 1);
    assert!(said.contains("from 1 to 32"), "{said}");
    assert!(!folder.exists());
}
