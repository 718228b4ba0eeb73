//! Configuration: what decides a value, and what is refused.

use std::path::{Path, PathBuf};

use clap::Parser;
use ptycho_gpu::cli::{Cli, Command, train::Args};
use ptycho_gpu::config::{
    self, AmpActivation, DatasetFacts, Device, Loss, ModelConfig, Optimiser, Origin, Resolved,
    Resume, Schedule, TrainConfig,
};

const FACTS: DatasetFacts = DatasetFacts { n: 128, nphotons: Some(2e8), labels: false };

/// `train` with the two flags that are always needed, and `flags`, as typed.
fn args(flags: &str) -> Args {
    let line = format!("ptycho-gpu train --train_data_file S.npz --output_dir OUT {flags}");
    let words = line.split_whitespace().map(str::to_string);
    match Cli::parse_args(words).command {
        Command::Train(args) => *args,
        other => panic!("{other:?} is not train"),
    }
}

fn resolve(flags: &str) -> Resolved {
    config::resolve(&args(flags), &FACTS).unwrap()
}

fn refusal(flags: &str) -> String {
    config::resolve(&args(flags), &FACTS).unwrap_err().to_string()
}

/// A file of options, in a folder that lives as long as the test needs it.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn with_file(text: &str, flags: &str) -> Result<Resolved, String> {
    let (_folder, path) = file(text);
    let mut args = args(flags);
    args.config = Some(path);
    config::resolve(&args, &FACTS).map_err(|error| error.to_string())
}

fn all_of(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn flag_beats_file_beats_data_set_beats_default() {
    let default = config::draft(&args("")).unwrap();
    assert_eq!(
        (default.config.data.nphotons, default.origins["nphotons"]),
        (None, Origin::Default)
    );
    let from_data = resolve("");
    assert_eq!(from_data.config.data.nphotons, Some(2e8));
    assert_eq!(from_data.origins["nphotons"], Origin::DataSet);
    let from_file = with_file("nphotons = 3e8", "").unwrap();
    assert_eq!(from_file.config.data.nphotons, Some(3e8));
    assert_eq!(from_file.origins["nphotons"], Origin::File);
    let from_flag = with_file("nphotons = 3e8", "--n-photons 4e8").unwrap();
    assert_eq!(from_flag.config.data.nphotons, Some(4e8));
    assert_eq!(from_flag.origins["nphotons"], Origin::Flag);
}

#[test]
fn a_flag_equal_to_the_default_still_beats_the_file() {
    let resolved = with_file("batch_size = 4", "--batch_size=16").unwrap();
    assert_eq!(
        (resolved.config.run.batch_size, resolved.origins["batch_size"]),
        (16, Origin::Flag)
    );
}

#[test]
fn a_switch_can_be_turned_off_again() {
    let file = "cbam_encoder = true\nbatch_norm = true";
    let model = with_file(file, "--cbam-encoder=false").unwrap().config.model;
    assert!(!model.cbam_encoder && model.batch_norm);
    assert!(resolve("--probe-trainable").config.optimiser.probe_trainable);
}

#[test]
fn file_may_use_tables_named_after_the_sections() {
    let text = "[model]\ngridsize = 2\n[optimiser]\noptimizer = \"adamw\"\nlearning_rate = 1\n";
    let config = with_file(text, "").unwrap().config;
    assert_eq!(config.model.gridsize, 2);
    assert_eq!(config.optimiser.kind, Optimiser::AdamW);
    assert_eq!(config.optimiser.learning_rate, 1.0);
}

#[test]
fn file_alone_is_enough() {
    let text = "train_data_file = [\"a.npz\", \"b.npz\"]\noutput_dir = \"out\"\nresume = \"auto\"";
    let (_folder, path) = file(text);
    let args = Args { config: Some(path), ..Args::default() };
    let config = config::draft(&args).unwrap().config;
    assert_eq!(config.data.train_data_file, [Path::new("a.npz"), Path::new("b.npz")]);
    assert_eq!(config.run.output_dir, Path::new("out"));
    assert_eq!(config.run.resume, Some(Resume::Auto));
}

#[test]
fn unknown_key_lists_near_ones() {
    let message = with_file("learning_rat = 0.1", "").unwrap_err();
    all_of(&message, &["run.toml", "learning_rat = 0.1", "`learning_rate`"]);
    let message = with_file("xyzzy = 0.1", "").unwrap_err();
    all_of(&message, &["xyzzy", "--help"]);
}

#[test]
fn key_in_the_wrong_table_is_named() {
    let message = with_file("[optimiser]\nbatch_size = 4", "").unwrap_err();
    all_of(&message, &["run.toml", "batch_size", "[optimiser]"]);
}

#[test]
fn value_of_the_wrong_type_is_named() {
    all_of(&with_file("max_epochs = 2.5", "").unwrap_err(), &["run.toml", "max_epochs = 2.5"]);
    all_of(&with_file("loss = \"l1\"", "").unwrap_err(), &["loss", "l1", "poisson", "mae"]);
    all_of(&with_file("learning_rate = nan", "").unwrap_err(), &["learning_rate", "finite"]);
    all_of(&with_file("device = \"tpu\"", "").unwrap_err(), &["device", "tpu", "cuda:1"]);
    all_of(&with_file("precision = \"fp8\"", "").unwrap_err(), &["fp8", "fp32", "tf32", "bf16"]);
    all_of(&with_file("a = = 3", "").unwrap_err(), &["run.toml", "TOML"]);
}

#[test]
fn missing_file_is_named() {
    let mut args = args("");
    args.config = Some("nowhere.toml".into());
    all_of(&config::draft(&args).unwrap_err().to_string(), &["cannot read nowhere.toml"]);
}

/// Each refusal names the flag, the value that was found, and the range.
#[test]
fn values_out_of_range_are_refused() {
    let cases: &[(&str, &[&str])] = &[
        ("--gridsize 4", &["--gridsize is 4", "1, 2 or 3"]),
        ("--n-filters-scale 0", &["--n-filters-scale is 0", "at least 1"]),
        ("--tv-phase -1", &["--tv-phase is -1", "0 or more"]),
        ("--epsilon-photons 0", &["--epsilon-photons is 0", "above 0"]),
        ("--learning-rate -0.001", &["--learning-rate is -0.001", "above 0"]),
        ("--adam-beta1 1", &["--adam-beta1 is 1", "below 1"]),
        ("--adam-beta2 -0.5", &["--adam-beta2 is -0.5", "at least 0"]),
        ("--adam-epsilon 0", &["--adam-epsilon is 0", "above 0"]),
        ("--momentum 1.5", &["--momentum is 1.5", "below 1"]),
        ("--weight-decay -1", &["--weight-decay is -1", "0 or more"]),
        ("--exponential-decay 1.1", &["--exponential-decay is 1.1", "at most 1"]),
        ("--lr-min-ratio 2", &["--lr-min-ratio is 2", "from 0 to 1"]),
        ("--plateau-factor 1", &["--plateau-factor is 1", "below 1"]),
        ("--plateau-min-lr -1", &["--plateau-min-lr is -1", "0 or more"]),
        ("--plateau-threshold 1", &["--plateau-threshold is 1", "below 1"]),
        ("--gradient-clip-val 0", &["--gradient-clip-val is 0", "above 0"]),
        ("--accumulate-grad-batches 0", &["--accumulate-grad-batches is 0", "at least 1"]),
        ("--probe-learning-rate 0", &["--probe-learning-rate is 0", "above 0"]),
        ("--n-images 0", &["--n-images is 0", "at least 1"]),
        ("--nphotons 0", &["--nphotons is 0", "above 0"]),
        ("--validation-split 1", &["--validation-split is 1", "below 1"]),
        ("--validation-split .1 --test-data-file T.npz", &["--validation-split", "one of them"]),
        ("--gridsize 3 --neighbor-count 7", &["--neighbor-count is 7", "at least 8"]),
        ("--group-input apart", &["--group-input", "--gridsize is 1"]),
        ("--merge-weights central", &["--merge-weights", "--gridsize is 1"]),
        ("--grouping cover", &["--grouping", "--gridsize is 1"]),
        ("--max-epochs 0", &["--max-epochs is 0", "at least 1"]),
        ("--batch-size 0", &["--batch-size is 0", "at least 1"]),
        ("--early-stop-patience 0", &["--early-stop-patience is 0", "at least 1"]),
        ("--schedule cosine --warmup-epochs 50", &["--warmup-epochs is 50", "--max-epochs"]),
        ("--mode supervised", &["--mode needs true patches", "label", "--loss mae"]),
    ];
    for (flags, parts) in cases {
        all_of(&refusal(flags), parts);
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for value in ["NaN", "inf", "-inf", "1e999"] {
        let flag = format!("--learning-rate={value}");
        let error = Cli::try_parse_from(["ptycho-gpu", "train", &flag]).unwrap_err();
        all_of(&error.to_string(), &["--learning-rate", value, "finite"]);
    }
}

#[test]
fn supervised_training_with_labels_and_mae_is_accepted() {
    let args = args("--mode supervised --loss mae");
    let facts = DatasetFacts { labels: true, ..FACTS };
    assert_eq!(config::resolve(&args, &facts).unwrap().config.loss.kind, Loss::Mae);
}

#[test]
fn all_problems_are_reported_at_once_with_the_file_they_come_from() {
    let message = with_file("batch_size = 0", "--gridsize 9").unwrap_err();
    all_of(&message, &["--gridsize is 9", "--batch-size is 0", "set in", "run.toml"]);
}

#[test]
fn missing_scan_and_folder_are_named() {
    let message = config::draft(&Args::default()).unwrap_err().to_string();
    all_of(&message, &["--train-data-file is missing", "--output-dir is missing"]);
}

#[test]
fn side_of_the_patterns_is_checked() {
    for n in [32, 96, 512] {
        let error = config::resolve(&args(""), &DatasetFacts { n, ..FACTS }).unwrap_err();
        all_of(&error.to_string(), &[&n.to_string(), "64, 128 or 256"]);
    }
    all_of(&with_file("n = 64", "").unwrap_err(), &["is 64", "128"]);
    assert_eq!(resolve("").config.model.n, 128);
}

#[test]
fn default_neighbours_are_enough_for_the_group() {
    assert_eq!(resolve("--gridsize 2").config.data.neighbor_count, 6);
    assert_eq!(resolve("--gridsize 3").config.data.neighbor_count, 8);
}

#[test]
fn devices_are_parsed_and_printed() {
    let cases = [
        ("auto", Device::Auto),
        ("CPU", Device::Cpu),
        ("cuda", Device::Cuda(0)),
        ("gpu", Device::Cuda(0)),
        ("cuda:1", Device::Cuda(1)),
    ];
    for (text, device) in cases {
        assert_eq!(text.parse(), Ok(device));
        assert_eq!(device.to_string().parse(), Ok(device));
    }
    for text in ["", "tpu", "cpu:0", "auto:0", "cuda:", "cuda:x", "cuda:-1", ":1"] {
        assert!(text.parse::<Device>().is_err(), "{text}");
    }
}

#[test]
fn names_from_other_programs_are_understood() {
    let config = resolve(
        "--torch-loss-mode MAE --scheduler ReduceLROnPlateau --accelerator gpu --n-groups 5 \
         --amp-activation swish",
    )
    .config;
    assert_eq!(config.loss.kind, Loss::Mae);
    assert_eq!(config.optimiser.schedule, Schedule::Plateau);
    assert_eq!(config.run.device, Device::Cuda(0));
    assert_eq!(config.data.n_images, Some(5));
    assert_eq!(config.model.amp_activation, AmpActivation::Silu);
}

#[test]
fn flags_without_effect_are_accepted_with_a_note() {
    let args = args("--disable_mlflow --no-deterministic");
    let notes = args.compat.notes();
    assert_eq!(notes.len(), 2);
    all_of(notes[0], &["--disable-mlflow"]);
    assert!(config::draft(&args).is_ok());
}

#[test]
fn json_brings_the_configuration_back() {
    let flags = "--resume runs/1 --device cuda:3 --seed 18446744073709551615 --learning-rate 3e-4";
    let config = resolve(flags).config;
    assert_eq!((config.run.device, config.run.seed), (Device::Cuda(3), u64::MAX));
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
    config.validate().unwrap();
}

#[test]
fn resolved_json_holds_every_value_with_its_origin() {
    let json = serde_json::to_value(resolve("--max-epochs 7")).unwrap();
    assert_eq!(json["learning_rate"], serde_json::json!({"value": 0.001, "origin": "default"}));
    assert_eq!(json["max_epochs"], serde_json::json!({"value": 7, "origin": "flag"}));
    assert_eq!(json["n"], serde_json::json!({"value": 128, "origin": "data set"}));
    let resolved = resolve("");
    assert_eq!(json.as_object().unwrap().len(), resolved.origins.len());
}

#[test]
fn the_default_learning_rate_falls_with_the_groups_of_a_step() {
    let rate = |flags: &str| resolve(flags).config.optimiser.learning_rate;
    assert_eq!(rate("--batch-size 4"), 5e-4);
    assert_eq!(rate("--batch-size 2 --accumulate-grad-batches 2"), 5e-4);
    assert_eq!(rate("--batch-size 64"), 1e-3);
    assert_eq!(rate("--batch-size 4 --learning-rate 1e-3"), 1e-3);
    assert_eq!(rate("--architecture ffno"), 3e-3);
    assert_eq!(rate("--architecture srunet --batch-size 4"), 1.5e-4);
}

#[test]
fn every_value_of_the_configuration_but_n_has_a_flag() {
    let help = Cli::try_parse_from(["ptycho-gpu", "train", "--help"]).unwrap_err().to_string();
    for name in resolve("").origins.keys().filter(|name| *name != "n") {
        let flag = format!("--{}", name.replace('_', "-"));
        assert!(help.contains(&flag), "{flag} is not in the help");
    }
}

#[test]
fn networks_that_differ_say_where() {
    let asked = ModelConfig::default();
    assert!(asked.differences(&asked.clone()).is_empty());
    let stored = ModelConfig { gridsize: 2, amp_activation: AmpActivation::Silu, ..asked.clone() };
    let differences = asked.differences(&stored);
    assert_eq!(differences.len(), 2);
    all_of(&differences[0], &["gridsize is 2 in the checkpoint", "1 was asked for"]);
}
