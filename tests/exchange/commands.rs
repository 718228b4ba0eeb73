//! `import` and `export` as typed.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use ptycho_gpu::exchange::weights::Weights;
use serde_json::Value;
use tempfile::TempDir;

use super::{fixture, fixture_path, refusal, torch};

fn typed(arguments: &[&str]) -> Output {
    Command::cargo_bin("ptycho-gpu").expect("the binary").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON on stdout, which is one line.
fn succeeds(arguments: &[&str]) -> Value {
    let output = typed(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let said = text(&output.stdout);
    assert_eq!(said.lines().count(), 1, "one JSON object: {said}");
    serde_json::from_str(&said).expect("JSON")
}

/// Exit code 1 and one error that holds all `words`; no panic.
fn refuses(arguments: &[&str], words: &[&str]) {
    let output = typed(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(!said.contains("panicked") && said.matches("error: ").count() == 1, "{said}");
    words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in: {said}"));
    assert!(output.stdout.is_empty(), "results go with success alone");
}

/// A folder with a scan of 9 patterns.
fn place() -> (TempDir, impl Fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_path_buf();
    let name = move |name: &str| root.join(name).to_string_lossy().into_owned();
    let done = typed(&["simulate", &name("S.npz"), "--patterns", "9", "--photons", "1e5"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    (folder, name)
}

fn checkpoint() -> String {
    fixture_path("attention.ckpt").to_string_lossy().into_owned()
}

#[test]
fn an_imported_network_reconstructs_a_scan_and_is_exported_again() {
    let (_folder, name) = place();
    let (source, run, scan) = (checkpoint(), name("RUN"), name("S.npz"));
    let said = succeeds(&["import", &source, &run, "--like", &scan, "--json", "--quiet"]);
    assert_eq!(said["format"], "Lightning checkpoint");
    assert_eq!(said["model"]["head"], "border");
    assert!(said["input_scale"].as_f64().unwrap() > 0.0);
    assert!(said["object_factor"].as_f64().unwrap() != 1.0);
    assert!(Path::new(&run).join("checkpoints/best.safetensors").exists());
    assert!(Path::new(&run).join("run.json").exists());
    let (rec, device) = (name("REC"), "cpu");
    let infer = ["infer", "--model-path", &run, "--test-data", &scan, "--output-dir", &rec];
    succeeds(&[&infer[..], &["--device", device, "--json", "--quiet"]].concat());
    assert!(Path::new(&rec).join("reconstruction.npz").exists());
    let (onnx, plain) = (name("net.onnx"), name("net.safetensors"));
    let line = succeeds(&["export", &run, &onnx, "--json", "--quiet"]);
    assert_eq!(line["input"], "diffraction");
    assert_eq!(line["shape"], serde_json::json!(["batch", 1, 64, 64]));
    assert_eq!(line["bytes"].as_u64().unwrap(), std::fs::metadata(&onnx).unwrap().len());
    succeeds(&["export", &run, &plain, "--json", "--quiet"]);
    let again = succeeds(&["import", &plain, &name("B.safetensors"), "--json", "--quiet"]);
    for key in ["weights_sha256", "model", "input_scale", "object_factor"] {
        assert_eq!(again[key], said[key], "{key}");
    }
}

#[test]
fn what_the_weights_do_not_say_is_asked_for() {
    let (_folder, name) = place();
    let (source, out) = (checkpoint(), name("OUT"));
    refuses(&["import", &source, &out], &["--like SCAN", "--input-scale"]);
    assert!(!Path::new(&out).exists(), "no partial output");
    refuses(&["import", &source, &out, "--input-scale", "0"], &["--input-scale is 0"]);
    let wide = name("W.npz");
    let done = typed(&["simulate", &wide, "--patterns", "4", "--side", "128"]);
    assert!(done.status.success());
    refuses(&["import", &source, &out, "--like", &wide], &["128×128", "64×64", "W.npz"]);
    assert!(!Path::new(&out).exists(), "no partial output");
}

#[test]
fn nothing_is_overwritten() {
    let (folder, name) = place();
    let (source, out) = (checkpoint(), name("OUT"));
    let import = ["import", &source, &out, "--input-scale", "1"];
    succeeds(&[&import[..], &["--json", "--quiet"]].concat());
    refuses(&import, &["checkpoints of a run already"]);
    let plain = name("w.safetensors");
    succeeds(&["export", &out, &plain, "--json", "--quiet"]);
    refuses(&["import", &plain, &plain], &["would be overwritten"]);
    let own = folder.path().join("OUT/checkpoints/best.safetensors");
    let own = own.to_string_lossy();
    refuses(&["export", &out, &own], &["the checkpoint itself"]);
    refuses(&["import", &own, &name("X"), "--input-scale", "1"], &["already: it needs no import"]);
    refuses(&["export", &out, &name("w.tflite")], &[".onnx or .safetensors"]);
    refuses(&["export", &name("absent"), &plain], &["no such file or folder"]);
}

#[test]
fn a_file_of_something_else_is_refused() {
    let (_folder, name) = place();
    let out = name("OUT");
    refuses(&["import", &name("S.npz"), &out], &["S.npz", "data.pkl"]);
    refuses(&["import", &name("absent.ckpt"), &out], &["cannot read", "absent.ckpt"]);
    std::fs::write(name("old.pth"), b"\x80\x02\x8a\x0al\xfc\x9cF").unwrap();
    refuses(&["import", &name("old.pth"), &out], &["before version 1.6"]);
    std::fs::write(name("text.pt"), b"not weights at all").unwrap();
    refuses(&["import", &name("text.pt"), &out], &["neither a file of torch.save"]);
    assert!(!Path::new(&out).exists());
}

/// The error of the groups fixture after its shapes were changed.
fn changed(change: impl FnOnce(&mut Vec<(String, Vec<usize>)>)) -> String {
    let weights = Weights::open(&fixture_path("groups.pt")).unwrap();
    let mut shapes: Vec<(String, Vec<usize>)> = weights.shapes.clone().into_iter().collect();
    shapes.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
    change(&mut shapes);
    let longest = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).max().unwrap();
    let zeros = vec![0.0; longest];
    let tensors = shapes.iter().map(|(name, shape)| {
        (name.as_str(), shape.as_slice(), &zeros[..shape.iter().product::<usize>()])
    });
    refusal(&torch::state_dict(tensors))
}

fn says(message: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(message.contains(word), "no `{word}` in: {message}"));
}

#[test]
fn weights_that_are_missing_left_over_or_of_another_shape_are_listed() {
    const PREFIX: &str = "model.autoencoder.";
    let gone =
        changed(|all| all.retain(|(name, _)| !name.contains("decoder_phase.blocks.1.conv2")));
    says(&gone, &["missing: ", "decoder_phase.blocks.1.conv2.bias", "gridsize 2"]);
    let more = changed(|all| all.push((format!("{PREFIX}bottleneck_cbam.gate"), vec![3])));
    says(&more, &["unexpected: model.autoencoder.bottleneck_cbam.gate"]);
    let other = changed(|all| {
        let bias = all.iter_mut().find(|(name, _)| name.ends_with("encoder.blocks.1.conv1.bias"));
        bias.unwrap().1 = vec![65];
    });
    says(&other, &["of another shape: ", "encoder.blocks.1.conv1.bias is [65] instead of [64]"]);
    let inert = format!("{PREFIX}encoder.blocks.0.attention.conv.weight");
    let both = changed(|all| {
        all.push((inert, vec![1, 1, 3]));
        all.push((format!("{PREFIX}extra"), vec![1]));
    });
    says(&both, &["unexpected: model.autoencoder.extra"]);
    assert!(!both.contains("attention.conv"), "what is never used does no harm: {both}");
}

#[test]
fn networks_that_are_not_known_here_are_refused_by_what_they_are() {
    const PREFIX: &str = "model.autoencoder.";
    let shared = changed(|all| all.push((format!("{PREFIX}decoder_shared.x"), vec![1])));
    says(&shared, &["share a decoder"]);
    let deep = changed(|all| {
        (3..6).for_each(|i| {
            all.push((format!("{PREFIX}encoder.blocks.{i}.conv1.weight"), vec![128, 128, 3, 3]))
        })
    });
    says(&deep, &["6 blocks"]);
    let two = changed(|all| {
        let first =
            all.iter_mut().find(|(name, _)| name.ends_with("encoder.blocks.0.conv1.weight"));
        first.unwrap().1 = vec![32, 2, 3, 3];
    });
    says(&two, &["2 patterns at once"]);
    let head = changed(|all| {
        let head = all.iter_mut().find(|(name, _)| name.ends_with("amp.conv1.weight"));
        head.unwrap().1 = vec![4, 20, 3, 3];
    });
    says(&head, &["20 channels in and 4 out"]);
    let zeros = [0.0; 9];
    let fourier = torch::state_dict([("model.ffno_stack.shared_gate", &[1][..], &zeros[..1])]);
    says(&refusal(&fourier), &["Fourier network", "ffno_stack.shared_gate"]);
    let other = torch::state_dict([("fc.weight", &[3, 3][..], &zeros[..])]);
    says(&refusal(&other), &["no network that is known", "fc.weight"]);
}

#[test]
fn options_that_change_what_is_computed_are_refused() {
    let pickled = |key: &str, value: &[u8]| {
        let mut pickle = b"\x80\x02}".to_vec();
        torch::text(&mut pickle, "hyper_parameters");
        pickle.push(b'}');
        torch::text(&mut pickle, "model_config");
        pickle.push(b'}');
        torch::text(&mut pickle, key);
        pickle.extend(value);
        pickle.extend(b"sss");
        pickle
    };
    let word = |word: &str| {
        let mut opcodes = Vec::new();
        torch::text(&mut opcodes, word);
        opcodes
    };
    for (key, value, said) in [
        ("cnn_output_mode", word("real_imag"), "real and imaginary parts"),
        ("physics_forward_mode", word("rectangular_scaled"), "trained on counts"),
        ("architecture", word("ffno"), "`ffno`: only cnn"),
        ("intensity_scale_trainable", b"\x88".to_vec(), "not normalised"),
    ] {
        let mut pickle = pickled(key, &value);
        torch::text(&mut pickle, "state_dict");
        pickle.push(b'}');
        torch::text(&mut pickle, "encoder.blocks.0.conv1.weight");
        torch::tensor(&mut pickle, "0", 4, 0, &[4], &[1]);
        pickle.extend(b"ss.");
        says(&refusal(&torch::file(&pickle, &[vec![0; 16]])), &[said]);
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let weights = fixture("attention.ckpt");
    // The first four numbers of every storage of the archive become infinite.
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(weights)).unwrap();
    let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
    let mut members = Vec::new();
    for name in &names {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut archive.by_name(name).unwrap(), &mut bytes).unwrap();
        if name.contains("/data/") && bytes.len() == 4096 {
            bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&f32::INFINITY.to_le_bytes()));
        }
        members.push((name.as_str(), bytes));
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    says(&refusal(&torch::archive(&members, zip::CompressionMethod::Stored)), &["not finite"]);
}
