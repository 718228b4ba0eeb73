//! Options that make no sense: of a training, of a network's use, of a solver, of a simulation, of a machine.

use proptest::prelude::*;
use ptycho_gpu::backend::Chosen;
use ptycho_gpu::checkpoint::{Checkpoint, Tensor, Which, find};
use ptycho_gpu::cli::train;
use ptycho_gpu::config::{
    Architecture, GroupInput, Loss, Mode, ModelConfig, OutputMode, PatchWeighting, RowModes,
    TrainConfig,
};
use ptycho_gpu::data::Position;
use ptycho_gpu::infer;
use ptycho_gpu::memory::{Budget, Limit};
use ptycho_gpu::models::plans::{self, Sizes};
use ptycho_gpu::reconstruct::{self, Rates, Start, StartObject};
use ptycho_gpu::simulate::objects::ObjectKind;
use ptycho_gpu::simulate::probes::ProbeKind;
use ptycho_gpu::simulate::{DoseSpec, ObjectSpec, ProbeSpec, Recipe, ScanSpec, simulate};
use ptycho_gpu::stitch::Orientation;
use serde_json::json;

use crate::{TRAINED, complex, modes, mostly, number, size, small_training, wish};

const ARCHITECTURES: [Architecture; 5] = [
    Architecture::Cnn,
    Architecture::Ffno,
    Architecture::Fno,
    Architecture::FnoVanilla,
    Architecture::Srunet,
];

/// A network that might be asked for: small, so that it can be planned often, or absurd.
fn network() -> impl Strategy<Value = ModelConfig> {
    let huge = || prop::sample::select(vec![0usize, 1, 2, 3, 5, usize::MAX, 1 << 33]);
    (
        (
            prop::sample::select(vec![0usize, 1, 63, 64, 64, 64, 128, usize::MAX]),
            0usize..5,
            0usize..5,
        ),
        (huge(), huge(), prop::sample::select(vec![0usize, 1, 2, 7, 12, 31, 32, 33, usize::MAX])),
        (huge(), huge(), any::<[bool; 5]>()),
    )
        .prop_map(
            |((n, gridsize, kind), (scale, width, fourier_modes), (blocks, refiners, b))| {
                let architecture = ARCHITECTURES[kind];
                let usual = ModelConfig::default();
                let (cnn, ffno) =
                    (architecture == Architecture::Cnn, architecture == Architecture::Ffno);
                let of = |mine: bool, value: usize, other: usize| if mine { value } else { other };
                ModelConfig {
                    n,
                    architecture,
                    gridsize,
                    group_input: if b[0] && gridsize > 1 {
                        GroupInput::Apart
                    } else {
                        GroupInput::Together
                    },
                    n_filters_scale: of(cnn, scale, usual.n_filters_scale),
                    cbam_encoder: cnn && b[1],
                    batch_norm: cnn && b[2],
                    width: of(!cnn, width, usual.width),
                    fourier_modes: of(!cnn, fourier_modes, usual.fourier_modes),
                    blocks: of(!cnn && architecture != Architecture::Srunet, blocks, usual.blocks),
                    refiners: of(ffno, refiners, usual.refiners),
                    row_modes: if cnn || ffno || b[3] { RowModes::Low } else { RowModes::Both },
                    output_mode: if cnn || b[4] {
                        OutputMode::AmpPhase
                    } else {
                        OutputMode::RealImag
                    },
                    ..usual
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_configuration_is_refused_or_can_be_planned(
        model in network(), batch in 1usize..4, mode in 0usize..3, trainable in any::<bool>(),
    ) {
        let mut config = TrainConfig { model, ..TrainConfig::default() };
        config.loss.mode = [Mode::Unsupervised, Mode::Supervised, Mode::Mixed][mode];
        config.loss.kind = Loss::Mae;
        config.loss.tv_phase = 0.1;
        config.optimiser.probe_trainable = trainable;
        config.data.neighbor_count = 9;
        config.data.train_data_file = vec!["scan.npz".into()];
        config.run.output_dir = "run".into();
        if config.validate().is_ok() {
            let sizes = Sizes { batch, frames: 9, scans: 1, modes: 1, reach: 8.0, typical: 1.0 };
            let TrainConfig { model, loss, optimiser, .. } = &config;
            prop_assert!(plans::training(model, loss, optimiser, &sizes).plan.arena > 0);
            prop_assert!(plans::inference(model, batch, None).plan.arena > 0);
        }
    }

    #[test]
    fn a_network_is_applied_in_any_way_or_it_is_said_what_is_wrong(
        (batch, n_images, crop) in (
            mostly(2, wish()), mostly(None, wish().prop_map(Some)), mostly(None, wish().prop_map(Some))
        ),
        (scale, flags, weighting) in (mostly(1.0, number()), any::<[bool; 5]>(), 0usize..3),
    ) {
        let options = infer::Options {
            batch_size: batch,
            n_images,
            recompute_normalisation: flags[4],
            weighting: [PatchWeighting::Tapered, PatchWeighting::Probe, PatchWeighting::Uniform][weighting],
            crop,
            orientation: Orientation {
                flip_x: flags[0],
                flip_y: flags[1],
                transpose: flags[2],
                swap_xy: flags[3],
                coord_scale: scale,
            },
        };
        crate::infer(&TRAINED.checkpoint, batch, &TRAINED.scan, &options);
    }

    #[test]
    fn a_checkpoint_that_says_what_cannot_be_is_refused(
        (key, value) in (0usize..12, 0usize..9),
        (shape, length) in (prop::collection::vec(size(), 0..6), size()),
        spoil in 0usize..5,
    ) {
        let mut checkpoint = TRAINED.checkpoint.clone();
        let keys = [
            "/model/n", "/model/gridsize", "/model/n_filters_scale", "/model/architecture", "/model/head",
            "/input_scale", "/object_factor", "/neighbor_count", "/probe_trained", "/scans", "/model", "",
        ];
        let values = [
            json!(0), json!(-1), json!(usize::MAX), json!(1e300), json!(null), json!([]), json!("srunet"),
            json!(true), json!(3),
        ];
        if let Some(slot) = checkpoint.metadata["learned"].pointer_mut(keys[key]) {
            *slot = values[value].clone();
        }
        let name = checkpoint.tensors.keys().nth(length).cloned();
        match (spoil, name) {
            (0, Some(name)) => drop(checkpoint.tensors.remove(&name)),
            (1, Some(name)) => checkpoint.tensors.get_mut(&name).unwrap().data.truncate(length),
            (2, Some(name)) => checkpoint.tensors.get_mut(&name).unwrap().shape = shape,
            (3, _) if checkpoint.metadata["learned"].is_object() => {
                checkpoint.metadata["learned"]["probe_trained"] = json!(true);
                checkpoint.tensors.insert("probe".into(), Tensor { shape, data: vec![1.0; length] });
            }
            _ => {}
        }
        crate::infer(&checkpoint, 2, &TRAINED.scan, &crate::usual());
        let path = TRAINED.folder.path().join("spoiled.safetensors");
        if checkpoint.save(&path).is_ok() {
            prop_assert_eq!(&Checkpoint::load(&path).unwrap().tensors, &checkpoint.tensors);
        }
        drop(checkpoint.weights_digest(""));
    }

    #[test]
    fn any_recipe_is_simulated_or_refused(
        (side, patterns) in (mostly(16, wish()), mostly(4, wish())),
        (step, jitter, dose) in (mostly(4.0, number()), mostly(1.0, number()), mostly(1e3, number())),
        (kind, low, high, phase, spokes) in (0usize..5, mostly(0.5, number()), mostly(1.0, number()),
            mostly(0.5, number()), wish()),
        (beam, diameter, defocus, stop, aberration) in (0usize..3, mostly(6.0, number()),
            mostly(1.0, number()), mostly(0.3, number()), mostly(0.0, number())),
        (powers, mean, noise, seed) in (prop::collection::vec(mostly(1.0, number()), 0..4), any::<bool>(),
            any::<bool>(), any::<u64>()),
    ) {
        let kinds = [
            ObjectKind::Lines, ObjectKind::Grf, ObjectKind::DeadLeaves, ObjectKind::Polygons,
            ObjectKind::Siemens,
        ];
        let recipe = Recipe {
            side,
            scan: ScanSpec { patterns, step, jitter },
            object: ObjectSpec {
                kind: kinds[kind], amplitude_min: low, amplitude_max: high, phase, spokes,
            },
            probe: ProbeSpec {
                kind: [ProbeKind::Disk, ProbeKind::Fzp, ProbeKind::Gaussian][beam],
                diameter,
                defocus,
                central_stop: stop,
                aberration,
                powers,
            },
            dose: if mean { DoseSpec::MeanCount(dose) } else { DoseSpec::Photons(dose) },
            noise,
            seed,
        };
        if let Ok(scan) = simulate(&recipe) {
            drop((scan.to_scan(), scan.mean_photons(), scan.metadata()));
        }
    }

    #[test]
    fn a_solver_takes_any_options_and_any_start_or_says_what_is_wrong(
        (batch, modes_wanted, patience) in (prop::option::of(wish()), prop::option::of(wish()), wish()),
        numbers in prop::collection::vec(mostly(0.01, number()), 10),
        (flags, limit) in (any::<[bool; 5]>(), prop::option::of(wish())),
        (indices, positions) in (mostly(16usize, size()), mostly(16usize, size())),
        (place, probe) in (mostly(60.0, number()), mostly((1, 64, 64), (size(), size(), size()))),
        object in prop::option::of((size(), size(), size(), mostly(1.0, number()))),
    ) {
        let scan = &TRAINED.scan;
        let options = reconstruct::Options {
            epochs: 1,
            batch_size: batch,
            modes: modes_wanted,
            refine_probe: flags[0],
            refine_positions: flags[1],
            frame_scale: flags[2],
            max_shift: numbers[0],
            probe_support: flags[3].then_some(numbers[1]),
            tv: numbers[2],
            amplitude_limit: flags[4].then_some(numbers[3]),
            rates: Rates { object: numbers[4], smooth: numbers[5], probe: numbers[6], ..Rates::default() },
            patience,
            tolerance: numbers[7],
            device_memory_limit: limit,
            ..reconstruct::Options::default()
        };
        let mut start = Start { probe: modes(probe, 1.0), ..Start::of(scan) };
        start.indices = (0..indices).collect();
        start.positions.resize(positions, Position { x: 60.0, y: place });
        start.object = object.map(|(height, width, other, origin)| StartObject {
            object: complex((height, width), 1.0),
            weights: ndarray::Array2::ones((other, width)),
            origin_yx: [origin, 0.0],
        });
        drop(reconstruct::reconstruct(scan, &start, &options, &Chosen::Cpu, None));
    }

    #[test]
    fn any_amount_of_memory_is_one_or_refused(
        text in ".{0,12}", (number, unit) in (number(), 0usize..6), needs in any::<[u64; 2]>(),
    ) {
        let units = ["", "%", "GB", "KiB", " TiB", "e9"];
        for text in [text, format!("{number}{}", units[unit])] {
            let limit: Option<Limit> = text.parse().ok();
            let budget = Budget::new(limit);
            drop(budget.check(&[("one", needs[0]), ("two", needs[1])], "ask for less"));
            drop((budget.spare(), budget.to_string()));
        }
        let _ = Budget::new(Some(Limit::Percent(number))).spare();
    }
}

/// Flags of a training; each leaves a small one as it is, or spoils it.
type Spoil = fn(&mut train::Args, usize, f64);
const FLAGS: [Spoil; 16] = [
    |a, n, _| a.n_images = Some(n),
    |a, n, _| a.batch_size = Some(n),
    |a, n, _| a.gridsize = Some(n),
    |a, n, _| a.neighbor_count = Some(n),
    |a, n, _| a.n_filters_scale = Some(n.wrapping_mul(64)),
    |a, n, _| a.accumulate_grad_batches = Some(n),
    |a, n, _| a.warmup_epochs = Some(n),
    |a, n, _| a.probe_modes = Some(n),
    |a, n, _| a.early_stop_patience = Some(n),
    |a, n, _| a.device_memory_limit = Some(n),
    |a, n, _| a.synthetic = Some(n),
    |a, _, x| a.learning_rate = Some(x),
    |a, _, x| a.nphotons = Some(x),
    |a, _, x| a.validation_split = Some(x),
    |a, _, x| a.epsilon_photons = Some(x),
    |a, _, x| (a.tv_phase, a.gradient_clip_val) = (Some(x), Some(x)),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_training_is_run_as_it_is_asked_for_or_refused(
        (which, also) in (0usize..16, 0usize..16), (n, x) in (wish(), number()), trainable in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut args = small_training(TRAINED.folder.path(), &folder.path().join("run"));
        args.probe_trainable = Some(trainable);
        FLAGS[which](&mut args, n, x);
        FLAGS[also](&mut args, n, x);
        // Groups of more than one pattern need more than two of them.
        if args.gridsize.is_some_and(|g| g > 1) {
            args.n_images = None;
        }
        if args.synthetic.is_some() {
            args.like = args.train_data_file.take().map(|mut files| files.remove(0));
        }
        drop(train::train(&args));
    }
}

#[test]
fn a_number_that_is_none_is_no_flag_that_was_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = small_training(TRAINED.folder.path(), &folder.path().join("run"));
    args.learning_rate = Some(f64::NAN);
    let error = train::train(&args).unwrap_err().to_string();
    assert!(error.contains("--learning-rate is NaN"), "{error}");
}

#[test]
fn no_checkpoint_is_said_to_be_none() {
    let folder = TRAINED.folder.path();
    assert!(find(folder.join("gone"), Which::Best).is_err());
    assert!(Checkpoint::load(folder).is_err());
    for bytes in [&b""[..], &[255; 8], &[0; 16], b"8\0\0\0\0\0\0\0{}      "] {
        std::fs::write(folder.join("bytes"), bytes).unwrap();
        assert!(Checkpoint::load(folder.join("bytes")).is_err());
    }
    let nowhere = TRAINED.checkpoint.save(folder.join("no/folder.safetensors"));
    assert!(nowhere.unwrap_err().to_string().contains("folder.safetensors"));
}
