//! What is fuzzed: the readers, sound files of each, the rules that spoil them, and what reading comes to.
//! Shared by the tests, which run recorded cases again, and by `fuzz/`, which looks for new ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ptycho_gpu::backend::Chosen;
use ptycho_gpu::checkpoint::{Checkpoint, Tensor};
use ptycho_gpu::cli::{export, report, train};
use ptycho_gpu::config::{self, Architecture, Device, PatchWeighting, Resume};
use ptycho_gpu::data::reading::PositionUnit;
use ptycho_gpu::data::{LoadOptions, Reading, Room, Scan, load, survey};
use ptycho_gpu::exchange::weights::Weights;
use ptycho_gpu::infer::{Network, Options};
use ptycho_gpu::random::Stream;
use ptycho_gpu::stitch::Orientation;

/// A reader, and the file that it is given.
pub const READERS: [(&str, &str); 14] = [
    ("npz", "scan.npz"),
    ("product", "product.h5"),
    ("pair", "pair_para.hdf5"),
    ("cxi", "scan.cxi"),
    ("nexus", "scan.nxs"),
    ("eiger", "scan_master.h5"),
    ("ptyd", "scan.ptyd"),
    ("fold-slice", "fold_para.hdf5"),
    ("weights", "attention.ckpt"),
    // The loader alone.
    ("checkpoint", "network.safetensors"),
    // A checkpoint whose checksum is right: exported and applied.
    ("network", "network.safetensors"),
    // ... and gone on from, with the history beside it.
    ("resume", "checkpoints/last.safetensors"),
    ("report", "run.json"),
    ("config", "train.toml"),
];

/// What a reader may write into the folder of its files; it has no business anywhere else.
fn may_write(reader: &str, file: &str) -> bool {
    match reader {
        "network" => ["out.onnx", "out.safetensors"].contains(&file),
        "report" => file == "report.html",
        "resume" => true,
        _ => false,
    }
}

/// Numbers that sizes, counts and addresses are afraid of.
const AWKWARD: [u64; 14] = [
    0,
    1,
    2,
    7,
    255,
    256,
    65535,
    1 << 20,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Marks of the structures of HDF5, near which every byte has a meaning.
const MARKS: [&[u8]; 12] = [
    b"OHDR", b"OCHK", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"FRHP", b"FHDB", b"BTHD", b"BTLF",
    b"EAHD", b"FAHD",
];

/// The folder of the repository, also for the crate inside of it.
pub fn repository() -> &'static Path {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.find(|folder| folder.join("fixtures/fuzz").is_dir()).expect("the fixtures")
}

/// The folder with the sound files of a reader.
pub fn seeds(reader: &str) -> PathBuf {
    match reader {
        "weights" => repository().join("tests/exchange/fixtures"),
        _ => repository().join("fixtures/fuzz").join(reader),
    }
}

/// Files of a reader by name.
pub fn files(reader: &str) -> BTreeMap<String, Vec<u8>> {
    // Written by the program itself.
    if reader == "checkpoint" {
        return BTreeMap::from([("network.safetensors".to_owned(), checkpoint())]);
    }
    let root = seeds(reader);
    // Numbers that the tests hold weights against are no weights.
    let found = below(&root).into_iter().filter(|path| path.extension().is_none_or(|e| e != "f32"));
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    found.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// All files below `folder`.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

/// A checkpoint of a few tensors.
fn checkpoint() -> Vec<u8> {
    let tensor = |shape: &[usize]| Tensor {
        shape: shape.to_vec(),
        data: (0..shape.iter().product()).map(|i| i as f32 * 0.5).collect(),
    };
    let tensors = [("a.weight", tensor(&[4, 3, 3, 3])), ("a.bias", tensor(&[4]))];
    let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    let metadata = serde_json::json!({ "learned": { "input_scale": 1.5 } });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    Checkpoint { tensors, metadata }.save(&path).unwrap();
    fs::read(path).unwrap()
}

/// Where to spoil: anywhere, near the beginning, or at a structure.
fn place(bytes: &[u8], dice: &mut Stream) -> usize {
    let marks: Vec<usize> = match dice.below(3) {
        0 => Vec::new(),
        _ => bytes
            .windows(4)
            .enumerate()
            // One letter first: comparisons are watched where inputs are searched for, and slow.
            .filter(|(_, window)| window[0].is_ascii_uppercase() && MARKS.contains(window))
            .map(|(at, _)| at)
            .collect(),
    };
    let at = match (marks.is_empty(), dice.below(4)) {
        (false, _) => marks[dice.below(marks.len())] + dice.below(64),
        (true, 0) => dice.below(bytes.len().clamp(1, 2048)),
        (true, _) => dice.below(bytes.len().max(1)),
    };
    at.min(bytes.len().saturating_sub(1))
}

/// One change to a file.
pub fn spoil(bytes: &mut Vec<u8>, dice: &mut Stream) {
    if bytes.is_empty() {
        return;
    }
    let at = place(bytes, dice);
    match dice.below(8) {
        0 | 1 => bytes[at] ^= 1 << dice.below(8),
        2 => bytes[at] = dice.next_u32() as u8,
        3 | 4 => {
            let (value, width) = (AWKWARD[dice.below(AWKWARD.len())], 1 << dice.below(4));
            let at = at - at % width.min(at.max(1));
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        5 => {
            let length = dice.below(32).min(bytes.len() - at);
            let from = dice.below(bytes.len() - length + 1);
            bytes.copy_within(from..from + length, at);
        }
        6 => {
            let end = (at + dice.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ if dice.below(4) == 0 => bytes.truncate(at),
        _ => {
            let piece: Vec<u8> = (0..dice.below(16)).map(|_| dice.next_u32() as u8).collect();
            bytes.splice(at..at, piece);
        }
    }
}

/// The input of an execution: which file of a reader is replaced, and by what. The first byte is the
/// number of the file; its highest bit has the patterns of a scan kept in a file instead of in memory.
pub struct Input<'a> {
    pub chosen: usize,
    pub filed: bool,
    pub content: &'a [u8],
}

impl Input<'_> {
    pub fn of(bytes: &[u8], files: usize) -> Input<'_> {
        let (first, content) =
            bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
        Input {
            chosen: usize::from(first & 0x7f) % files.max(1),
            filed: first & 0x80 != 0,
            content,
        }
    }
}

/// Writes the files of a reader into `folder`, one of them replaced. Those of `weights` have nothing to do
/// with each other.
pub fn write(reader: &str, files: &BTreeMap<String, Vec<u8>>, input: &Input, folder: &Path) {
    let all = files.iter().enumerate();
    for (index, (name, bytes)) in all.filter(|(i, _)| reader != "weights" || *i == input.chosen) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if index == input.chosen { input.content } else { bytes }).unwrap();
    }
}

/// A file under `root` that should not be there: beside `folder`, or in it and not the reader's to write.
pub fn stray(
    reader: &str,
    known: &BTreeMap<String, Vec<u8>>,
    root: &Path,
    folder: &Path,
) -> Option<PathBuf> {
    let sound = |path: &PathBuf| {
        let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
        name.is_some_and(|name| known.contains_key(name) || may_write(reader, name))
    };
    below(root).into_iter().find(|path| !sound(path))
}

fn options(reader: &str, folder: &Path, filed: bool) -> LoadOptions {
    let mut reading = Reading::default();
    match reader {
        "eiger" => {
            reading.positions = Some(folder.join("positions.txt"));
            reading.position_unit = Some(PositionUnit::Um);
            reading.crop = Some(8);
        }
        "fold-slice" => reading.object_pixel = Some(1e-8),
        _ => {}
    }
    let room = filed.then(|| Room { bytes: 0, scratch: folder.into() });
    LoadOptions { reading, without_probe: true, room, ..LoadOptions::default() }
}

/// Every tensor of a file of PyTorch or TensorFlow.
fn weights(path: &Path) -> ptycho_gpu::Result<()> {
    let mut weights = Weights::open(path)?;
    let names: Vec<String> = weights.shapes.keys().cloned().collect();
    // A counter of batches, which is no weight.
    for name in names.iter().filter(|name| !name.ends_with("num_batches_tracked")) {
        weights.numbers(name)?;
    }
    Ok(())
}

/// A scan for networks.
fn scan() -> (PathBuf, &'static Scan) {
    static SCAN: OnceLock<Scan> = OnceLock::new();
    let path = repository().join("fixtures/fuzz/scan64.npz");
    let scan = SCAN.get_or_init(|| load(&path, &LoadOptions::default()).unwrap());
    (path, scan)
}

/// A checkpoint, applied and given to other programs, whatever becomes of the one before.
fn network(path: &Path, folder: &Path) -> ptycho_gpu::Result<()> {
    let export = |name: &str| {
        let (output, checkpoint) = (folder.join(name), config::Checkpoint::default());
        let model_path = path.into();
        export::run(export::Args { model_path, output, checkpoint, json: false, quiet: true })
    };
    let done = [applied(path), export("out.onnx"), export("out.safetensors")];
    done.into_iter().collect()
}

/// Two patterns, seen by the network of a checkpoint.
fn applied(path: &Path) -> ptycho_gpu::Result<()> {
    let network = Network::new(&Checkpoint::load(path)?, path, 2, &Chosen::Cpu)?;
    let options = Options {
        batch_size: 2,
        n_images: Some(2),
        recompute_normalisation: false,
        weighting: PatchWeighting::Tapered,
        crop: None,
        orientation: Orientation::default(),
    };
    network.reconstruct(scan().1, &options).map(drop)
}

/// A training that goes on from a checkpoint for an epoch.
fn resume(folder: &Path) -> ptycho_gpu::Result<()> {
    let args = train::Args {
        train_data_file: Some(vec![scan().0]),
        output_dir: Some(folder.into()),
        resume: Some(Resume::Auto),
        architecture: Some(Architecture::Ffno),
        width: Some(1),
        blocks: Some(1),
        fourier_modes: Some(1),
        refiners: Some(0),
        max_epochs: Some(3),
        batch_size: Some(2),
        device: Some(Device::Cpu),
        quiet: Some(true),
        no_report: true,
        ..train::Args::default()
    };
    train::train(&args).map(drop)
}

/// What reading a scan comes to.
fn scanned(path: &Path, options: &LoadOptions) -> String {
    match survey(path, options) {
        Ok(survey) => {
            let problems = survey.problems.iter().map(|problem| problem.sentence());
            format!("{} {}", survey.scan.is_some(), problems.collect::<Vec<_>>().join("; "))
        }
        Err(error) => error.to_string(),
    }
}

/// What came of it, without the numbers in it.
pub fn outcome(reader: &str, folder: &Path, filed: bool) -> String {
    let main = READERS.iter().find(|(name, _)| *name == reader).unwrap().1;
    let path = folder.join(main);
    let said = |done: ptycho_gpu::Result<()>| {
        done.map_or_else(|error| error.to_string(), |()| "read".to_owned())
    };
    let said = match reader {
        "weights" => {
            let mut paths = below(folder);
            paths.sort();
            paths.iter().map(|path| said(weights(path))).collect()
        }
        "checkpoint" => said(Checkpoint::load(&path).map(drop)),
        "network" => said(network(&path, folder)),
        "resume" => said(resume(folder)),
        "report" => said(report::run(report::Args {
            run: folder.into(),
            compare: None,
            output: None,
            quiet: true,
        })),
        "config" => {
            let args = train::Args { config: Some(path), ..train::Args::default() };
            said(config::draft(&args).map(drop))
        }
        _ => scanned(&path, &options(reader, folder, filed)),
    };
    let said = said.replace(folder.to_str().unwrap(), "");
    said.chars().filter(|c| !c.is_ascii_digit()).take(160).collect()
}
