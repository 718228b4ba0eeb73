//! Trained networks for other programs.

use std::path::Path;

use ptycho_gpu::checkpoint::{Checkpoint, Tensor};
use ptycho_gpu::config::{
    AmpActivation, Architecture, GroupInput, Head, ModelConfig, OutputMode, RowModes,
};
use ptycho_gpu::exchange::import::{Options, import};
use ptycho_gpu::exchange::onnx;
use ptycho_gpu::exchange::plain::{self, About};
use ptycho_gpu::exchange::weights::Weights;
use ptycho_gpu::graph::Role;
use ptycho_gpu::models::plans;
use ptycho_gpu::random::{Purpose, Stream};

use super::{python, run};

/// A small network of every kind, by name.
fn networks() -> Vec<(&'static str, ModelConfig)> {
    use Architecture::{Ffno, Fno, FnoVanilla, Srunet};
    let cnn = ModelConfig { n_filters_scale: 1, ..ModelConfig::default() };
    let other = |architecture| ModelConfig {
        architecture,
        width: 6,
        fourier_modes: 5,
        blocks: if architecture == Srunet { 4 } else { 2 },
        ..ModelConfig::default()
    };
    let (row_modes, output_mode) = (RowModes::Both, OutputMode::RealImag);
    vec![
        ("cnn", cnn.clone()),
        (
            "cnn, attention, norm, border, groups",
            ModelConfig {
                head: Head::Border,
                amp_activation: AmpActivation::Silu,
                cbam_encoder: true,
                batch_norm: true,
                gridsize: 2,
                ..cnn.clone()
            },
        ),
        (
            "cnn of 2025, groups",
            ModelConfig {
                head: Head::Full,
                amp_activation: AmpActivation::Sigmoid,
                gridsize: 2,
                ..cnn.clone()
            },
        ),
        ("cnn, apart", ModelConfig { gridsize: 2, group_input: GroupInput::Apart, ..cnn.clone() }),
        ("cnn, 128", ModelConfig { n: 128, ..cnn }),
        ("ffno", other(Ffno)),
        ("ffno, own spectra", ModelConfig { share_spectral_weights: false, ..other(Ffno) }),
        ("fno, both, parts", ModelConfig { row_modes, output_mode, ..other(Fno) }),
        ("fno_vanilla", other(FnoVanilla)),
        ("srunet", other(Srunet)),
    ]
}

/// Weights that are no weights of a start: every bias and statistic matters.
fn checkpoint(model: &ModelConfig) -> Checkpoint {
    let plan = plans::inference(model, 1, None);
    let mut tensors = std::collections::BTreeMap::new();
    for (v, slot) in [Role::Param, Role::State].iter().flat_map(|&role| plan.plan.of_role(role)) {
        let start = plan.initial.iter().find(|initial| initial.value == v).unwrap();
        let mut noise = Stream::new(3, Purpose::Noise, v.0 as u32);
        let data = start.numbers(7, slot.len()).into_iter();
        let data = data.map(|x| x + 0.1 * (noise.uniform() - 0.5) as f32).collect();
        tensors.insert(slot.name.clone(), Tensor { shape: slot.shape.clone(), data });
    }
    Checkpoint { tensors, metadata: serde_json::Value::Null }
}

fn about(model: &ModelConfig) -> About {
    let (model, software) = (model.clone(), "a test".into());
    About { model, input_scale: 0.37, object_factor: 1.25, neighbor_count: 6, software }
}

#[test]
fn plain_weights_come_back_as_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model) in networks() {
        let (checkpoint, about) = (checkpoint(&model), about(&model));
        let bytes = plain::encode(&checkpoint, &about).unwrap();
        assert_eq!(bytes, plain::encode(&checkpoint, &about).unwrap(), "{name}");
        let path = folder.path().join("w.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let mut weights = Weights::open(&path).unwrap();
        assert!(weights.shapes.keys().all(|name| name.starts_with("model.autoencoder.")));
        let back = import(&mut weights, &Options::default()).unwrap();
        assert_eq!(back.checkpoint.tensors, checkpoint.tensors, "{name}");
        assert_eq!(back.learned.model, model, "{name}");
        assert_eq!([back.learned.input_scale, back.learned.object_factor], [0.37, 1.25]);
    }
}

#[test]
fn weights_of_attention_have_the_shapes_of_pytorch() {
    let (_, model) = networks().swap_remove(1);
    let bytes = plain::encode(&checkpoint(&model), &about(&model)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.autoencoder.encoder.blocks.1.attention.ChannelGate.mlp.1.weight";
    assert_eq!(file.tensor(name).unwrap().shape(), [4, 64]);
}

#[test]
fn equal_networks_are_equal_models() {
    for (name, model) in networks() {
        let (checkpoint, about) = (checkpoint(&model), about(&model));
        let bytes = onnx::encode(&checkpoint, &about).unwrap();
        assert_eq!(bytes, onnx::encode(&checkpoint, &about).unwrap(), "{name}");
        let bare = Checkpoint::default();
        assert!(onnx::encode(&bare, &about).unwrap_err().contains("has no tensor"), "{name}");
    }
}

#[test]
fn an_onnx_model_gives_what_the_network_gives() {
    let Some(python) = python("ONNX", "import onnx, onnxruntime") else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, model) in networks() {
        let checkpoint = checkpoint(&model);
        let about = about(&model);
        let path = folder.path().join("network.onnx");
        std::fs::write(&path, onnx::encode(&checkpoint, &about).unwrap()).unwrap();
        for batch in [1, 5] {
            let error = difference(&python, folder.path(), &checkpoint, &about, batch);
            println!("{name}, batch {batch}: {error:.1e}");
            assert!(error < 1e-5, "{name}, batch {batch}: {error:.1e}");
        }
    }
}

/// Relative L2 difference of the complex patches.
fn difference(
    python: &str,
    folder: &Path,
    checkpoint: &Checkpoint,
    about: &About,
    batch: usize,
) -> f64 {
    let model = about.model.alone();
    let (n, channels) = (model.n, model.channels());
    let mut noise = Stream::new(9, Purpose::Noise, batch as u32);
    let patterns: Vec<f32> =
        (0..batch * channels * n * n).map(|_| (4.0 * noise.uniform()) as f32).collect();
    let [model_path, source, target] =
        ["network.onnx", "patterns.f32", "patches.f32"].map(|name| folder.join(name));
    std::fs::write(&source, bytes_of(&patterns)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchange/run_onnx.py");
    let done = std::process::Command::new(python)
        .args([&script, &model_path, Path::new(&format!("{batch},{channels},{n},{n}"))])
        .args([&source, &target])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let got = super::numbers(&std::fs::read(&target).unwrap());
    let want = run(checkpoint, &model, &patterns, about.input_scale as f32);
    let (amplitude, phase) = got.split_at(got.len() / 2);
    let got = amplitude.iter().zip(phase).flat_map(|(a, p)| [a * p.cos(), a * p.sin()]);
    super::relative(&got.collect::<Vec<f64>>(), &want)
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
