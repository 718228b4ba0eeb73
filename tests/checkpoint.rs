//! Checkpoints: what is saved comes back, and nothing else is accepted.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use ptycho_gpu::checkpoint::{Checkpoint, Tensor, Which, find};
use serde_json::json;

const CHILD_TARGET: &str = "PTYCHO_TEST_CHILD_TARGET";

fn sample() -> Checkpoint {
    let mut checkpoint = Checkpoint {
        metadata: json!({"z": 1, "a": {"seed": u64::MAX, "lr": 0.001}}),
        ..Default::default()
    };
    let odd = vec![f32::MIN_POSITIVE / 2.0, -0.0, f32::INFINITY, 1.0e-7, f32::MAX, 3.25];
    checkpoint.tensors.insert("net.conv.weight".into(), Tensor { shape: vec![2, 3], data: odd });
    checkpoint.tensors.insert("net.bias \"é\"".into(), Tensor { shape: vec![0], data: vec![] });
    checkpoint.tensors.insert("adam.m".into(), Tensor { shape: vec![], data: vec![0.5] });
    checkpoint
}

fn saved() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    sample().save(&path).unwrap();
    (folder, path)
}

/// The message of the error that loading these bytes gives.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    fs::write(&path, bytes).unwrap();
    let message = Checkpoint::load(&path).expect_err("a bad file is refused").to_string();
    assert!(message.contains("bad.safetensors"), "{message}");
    message
}

/// A safetensors file without tensors whose `__metadata__` is this JSON.
fn bare(metadata: &str) -> Vec<u8> {
    with_header(&format!(r#"{{"__metadata__":{metadata}}}"#))
}

fn with_header(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_saved_comes_back() {
    let (folder, path) = saved();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded, sample());
    let keys: Vec<_> = loaded.metadata.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["z", "a"], "the order of the keys is kept");
    assert_eq!(names(folder.path()), ["last.safetensors"], "no temporary file stays");
}

#[test]
fn a_nan_keeps_its_bits() {
    let (_folder, path) = saved();
    let bits = [0x7fc0_1234, 0xff80_0001u32];
    let mut checkpoint = sample();
    let data = bits.map(f32::from_bits).to_vec();
    checkpoint.tensors.insert("nan".into(), Tensor { shape: vec![2], data });
    checkpoint.save(&path).unwrap();
    let loaded = Checkpoint::load(&path).unwrap();
    assert_eq!(loaded.tensors["nan"].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
}

#[test]
fn a_large_tensor_crosses_the_blocks_unchanged() {
    let (_folder, path) = saved();
    let data: Vec<f32> = (0..40_001).map(|i| i as f32 * 0.37).collect();
    let mut checkpoint = sample();
    checkpoint.tensors.insert("large".into(), Tensor { shape: vec![1, 40_001], data });
    checkpoint.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
}

#[test]
fn equal_content_gives_equal_bytes_and_replaces_the_file() {
    let (folder, first) = saved();
    let second = folder.path().join("second.safetensors");
    fs::write(&second, "an older file").unwrap();
    Checkpoint::load(&first).unwrap().save(&second).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
}

#[test]
fn other_programs_can_read_the_file() {
    let (_folder, path) = saved();
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("net.conv.weight").unwrap();
    assert_eq!((tensor.shape(), tensor.dtype()), (&[2, 3][..], safetensors::Dtype::F32));
    assert_eq!(tensor.data()[20..], 3.25f32.to_le_bytes());
}

#[test]
fn every_flipped_byte_is_refused() {
    let (_folder, path) = saved();
    let good = fs::read(&path).unwrap();
    for position in 0..good.len() {
        // All bits; the case of a letter; a space of the padding that becomes a line feed.
        for mask in [0xff, 0x20, 0x20 ^ 0x0a, 0x01] {
            let mut bytes = good.clone();
            bytes[position] ^= mask;
            fs::write(&path, &bytes).unwrap();
            assert!(Checkpoint::load(&path).is_err(), "byte {position} xor {mask:#x} was accepted");
        }
    }
}

#[test]
fn every_shorter_or_longer_file_is_refused() {
    let (_folder, path) = saved();
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let message = Checkpoint::load(&path).expect_err("a part was accepted").to_string();
        assert!(message.contains("cut short"), "{length} bytes: {message}");
    }
    assert!(refusal(&[&good[..], &[0]].concat()).contains("damaged"));
}

#[test]
fn a_changed_value_is_called_damage() {
    let (_folder, path) = saved();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(refusal(&bytes).contains("differs from its checksum"));
}

#[test]
fn what_is_not_a_safetensors_file_is_refused() {
    assert!(refusal(b"PK\x03\x04 surely a zip archive").contains("not a safetensors file"));
    assert!(refusal(&with_header("not JSON")).contains("not a safetensors file"));
    let overlapping = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert!(refusal(&with_header(overlapping)).contains("not a safetensors file"));
}

#[test]
fn declared_sizes_are_not_believed() {
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(refusal(&huge).contains("declares a header of"));
    let hundred = [&100u64.to_le_bytes()[..], b"{}"].concat();
    assert!(refusal(&hundred).contains("cut short"));
    let tensor = r#"{"__metadata__":{"format":"ptycho-gpu","version":"1"},"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
    assert!(refusal(&with_header(tensor)).contains("cut short"));
    let overflow = r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#;
    assert!(refusal(&with_header(overflow)).contains("not a safetensors file"));
}

#[test]
fn a_file_of_another_program_or_version_is_refused_with_the_difference() {
    assert!(refusal(&bare(r#"{"format":"pt"}"#)).contains("names \"pt\" as the format"));
    assert!(refusal(&with_header("{}")).contains("names nothing as the format"));
    let newer = refusal(&bare(r#"{"format":"ptycho-gpu","version":"2"}"#));
    assert!(newer.contains("version 2, this program reads version 1: a newer"), "{newer}");
    let older = refusal(&bare(r#"{"format":"ptycho-gpu","version":"0"}"#));
    assert!(older.contains("version 0") && older.contains("an older"), "{older}");
    assert!(refusal(&bare(r#"{"format":"ptycho-gpu","version":"x"}"#)).contains("no number"));
    assert!(refusal(&bare(r#"{"format":"ptycho-gpu"}"#)).contains("does not say"));
    assert!(refusal(&bare(r#"{"format":"ptycho-gpu","version":"1"}"#)).contains("no checksum"));
}

#[test]
fn a_tensor_that_contradicts_its_shape_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoint = sample();
    checkpoint.tensors.insert("wrong".into(), Tensor { shape: vec![3], data: vec![1.0] });
    let message = checkpoint.save(folder.path().join("x")).unwrap_err().to_string();
    assert!(message.contains("\"wrong\" of shape [3] with 1 values"), "{message}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn an_unwritable_target_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let message = sample().save(file.join("last.safetensors")).unwrap_err().to_string();
    assert!(message.starts_with("cannot write"), "{message}");
    assert!(sample().save(folder.path().join("absent/last.safetensors")).is_err());
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_target_that_is_a_folder_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("taken/inside")).unwrap();
    assert!(sample().save(folder.path().join("taken")).is_err());
    assert_eq!(names(folder.path()), ["taken"]);
}

/// Not a test of its own: what the next test runs in a process that may only write small files.
#[test]
fn child_saves_a_large_checkpoint() {
    let Ok(target) = std::env::var(CHILD_TARGET) else {
        return;
    };
    let mut checkpoint = sample();
    checkpoint
        .tensors
        .insert("large".into(), Tensor { shape: vec![1 << 20], data: vec![1.0; 1 << 20] });
    let message = checkpoint.save(&target).expect_err("the limit forbids this file").to_string();
    assert!(message.starts_with("cannot write"), "{message}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_old_file_and_no_other() {
    let (folder, path) = saved();
    // A limit on the file size fails in the middle of writing, as a full disk does.
    let script = r#"trap '' XFSZ; ulimit -f 64; exec "$0" --exact child_saves_a_large_checkpoint"#;
    let mut child = Command::new("sh");
    child.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(CHILD_TARGET, &path);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(Checkpoint::load(&path).unwrap(), sample());
    assert_eq!(names(folder.path()), ["last.safetensors"]);
}

#[test]
fn the_digest_sees_the_weights_and_nothing_else() {
    let (a, mut b) = (sample(), sample());
    b.metadata = json!(null);
    b.tensors.get_mut("adam.m").unwrap().data[0] = 2.0;
    assert_eq!(a.weights_digest("net."), b.weights_digest("net."));
    assert_ne!(a.weights_digest(""), b.weights_digest(""));
    b.tensors.get_mut("net.conv.weight").unwrap().shape = vec![3, 2];
    assert_ne!(a.weights_digest("net."), b.weights_digest("net."));
    // SHA-256 of nothing, as published.
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(a.weights_digest("absent"), nothing);
}

#[test]
fn a_checkpoint_is_found_in_a_file_a_run_and_its_folder() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints");
    fs::create_dir(&folder).unwrap();
    let best = folder.join("best.safetensors");
    sample().save(&best).unwrap();
    assert_eq!(find(&best, Which::Last).unwrap(), best);
    assert_eq!(find(run.path(), Which::Best).unwrap(), best);
    assert_eq!(find(&folder, Which::Best).unwrap(), best);
    let message = find(run.path(), Which::Last).unwrap_err().to_string();
    assert!(
        message.contains("checkpoints/last.safetensors and ")
            && message.contains("best.safetensors is there")
    );
    assert!(
        find(run.path().join("absent"), Which::Best).unwrap_err().to_string().contains("no such")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        refusal(&bytes);
        refusal(&with_header(&String::from_utf8_lossy(&bytes)));
    }
}
