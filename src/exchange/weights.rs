//! A file of weights of another program, opened: names, shapes, what stands beside them, and the
//! numbers once they are asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::globals::StorageType;
use super::pickle::{Object, Ref, Tree, View};
use super::plain;
use super::torch::{TorchFile, is_zip, member, open_zip};
use crate::checkpoint::{HashWriter, hex};
use crate::{Error, Result};

/// What a file is that holds weights alone.
const STATE_DICT: &str = "state dict";

/// Members of a bundle of the published program.
const BUNDLE_WEIGHTS: &str = "diffraction_to_obj/model.pth";
const BUNDLE_SETTINGS: &str = "torch_scaling_metadata.pt";
const BUNDLE_PARAMETERS: &str = "diffraction_to_obj/params.dill";

/// Bytes of a member that is itself an archive.
const MAX_INNER: usize = 2 << 30;

/// Bytes of a safetensors file.
const MAX_PLAIN: u64 = 4 << 30;

/// Places of the options in a checkpoint, and the options that matter for applying the network.
const SECTIONS: [&str; 2] = ["model_config", "data_config"];
const OPTIONS: [&str; 7] = [
    "amp_activation",
    "architecture",
    "cnn_output_mode",
    "intensity_scale_trainable",
    "physics_forward_mode",
    "probe_big",
    "probe_scale",
];

/// One option that was found beside weights.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Setting {
    Flag(bool),
    Number(f64),
    Text(String),
}

/// Options that were found beside weights, by their published names.
pub type Settings = BTreeMap<String, Setting>;

/// A file of weights.
pub struct Weights {
    path: PathBuf,
    /// What kind of file it is.
    pub format: &'static str,
    /// SHA-256 of the file, in lower-case hexadecimal digits.
    pub sha256: String,
    pub shapes: BTreeMap<String, Vec<usize>>,
    pub settings: Settings,
    /// What this program said of the network when it exported it.
    pub exported: Option<plain::About>,
    source: Source,
}

/// Where the numbers come from.
enum Source {
    Torch { file: Box<TorchFile<Bytes>>, views: BTreeMap<String, View> },
    Plain(Vec<u8>),
}

/// An archive on disk or within another.
enum Bytes {
    File(BufReader<File>),
    Inner(Cursor<Vec<u8>>),
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Bytes::File(file) => file.read(buffer),
            Bytes::Inner(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for Bytes {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match self {
            Bytes::File(file) => file.seek(to),
            Bytes::Inner(bytes) => bytes.seek(to),
        }
    }
}

impl Weights {
    /// Opens a file of weights: a checkpoint of Lightning, a state dict saved by torch, alone or under
    /// `state_dict`, a bundle `wts.h5.zip`, or a safetensors file. What the file is, its content says.
    ///
    /// Errors: the file cannot be read, is none of these or damaged, or asks for something that no
    /// weights need.
    pub fn open(path: &Path) -> Result<Weights> {
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let mut start = Vec::new();
        file.by_ref().take(16).read_to_end(&mut start).map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut HashWriter(&mut hasher)).map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        let opened = match start.as_slice() {
            start if is_zip(start) => open_archive(file),
            [0x80, ..] => Err("a pickle alone, as torch wrote it before version 1.6: load it in \
                               PyTorch and save it again"
                .into()),
            start if start.get(8) == Some(&b'{') => open_plain(file),
            _ => Err("neither a file of torch.save nor a safetensors file".into()),
        };
        let mut weights = opened.map_err(|problem: String| Error::input(path, problem))?;
        weights.path = path.to_path_buf();
        weights.sha256 = hex(hasher);
        Ok(weights)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of a tensor, row-major, in f32. Error: it is not there, or its numbers are not.
    pub fn numbers(&mut self, name: &str) -> Result<Vec<f32>> {
        let numbers = match &mut self.source {
            Source::Torch { file, views } => match views.get(name) {
                Some(view) => file.numbers(view),
                None => Err("there is no such tensor".into()),
            },
            Source::Plain(bytes) => plain_numbers(bytes, name),
        };
        let numbers =
            numbers.map_err(|e| Error::input(&self.path, format!("tensor `{name}`: {e}")))?;
        match numbers.iter().all(|number| number.is_finite()) {
            true => Ok(numbers),
            false => {
                let problem = format!("tensor `{name}` has numbers that are not finite in f32");
                Err(Error::input(&self.path, problem))
            }
        }
    }
}

/// A zip archive: of torch, or a bundle that has such archives in it.
fn open_archive(file: File) -> Result<Weights, String> {
    let mut archive = open_zip(Bytes::File(BufReader::new(file)))?;
    if archive.index_for_name(BUNDLE_WEIGHTS).is_none() {
        return of_torch(TorchFile::open(archive)?, STATE_DICT);
    }
    let bytes = member(&mut archive, BUNDLE_WEIGHTS, MAX_INNER)?.unwrap_or_default();
    let inner = open_zip(Bytes::Inner(Cursor::new(bytes)))
        .and_then(TorchFile::open)
        .map_err(|problem| format!("its member {BUNDLE_WEIGHTS}: {problem}"))?;
    let mut weights = of_torch(inner, "bundle")?;
    // The newer record wins over the older one. Neither is needed: flags can say the same.
    if let Some(bytes) = member(&mut archive, BUNDLE_PARAMETERS, super::pickle::MAX_BYTES)? {
        let read =
            Tree::read(&bytes).map(|tree| collect(&tree, tree.root(), &mut weights.settings));
        told(BUNDLE_PARAMETERS, read);
    }
    if let Some(bytes) = member(&mut archive, BUNDLE_SETTINGS, MAX_INNER)? {
        let read = open_zip(Bytes::Inner(Cursor::new(bytes))).and_then(TorchFile::open);
        told(BUNDLE_SETTINGS, read.map(|file| sections(file.tree(), &mut weights.settings)));
    }
    Ok(weights)
}

/// Says that options could not be read.
fn told(name: &str, read: Result<(), String>) {
    if let Err(problem) = read {
        log::warn!("the options in {name} are not used: {problem}");
    }
}

fn of_torch(file: TorchFile<Bytes>, format: &'static str) -> Result<Weights, String> {
    let (tree, mut settings) = (file.tree(), Settings::new());
    let (root, mut format) = (tree.root(), format);
    let state = tree.find(root, "state_dict");
    if state.is_some() && format == STATE_DICT {
        format = "checkpoint with a state dict";
    }
    if let Some(options) = tree.find(root, "hyper_parameters") {
        format = "Lightning checkpoint";
        SECTIONS.iter().filter_map(|name| tree.find(options, name)).for_each(|section| {
            collect(tree, section, &mut settings);
        });
    }
    let views = file.tensors(state.unwrap_or(root));
    if views.is_empty() {
        return Err("it holds no tensors by name: neither a state dict nor a dict with \
                    `state_dict`; save `model.state_dict()`"
            .into());
    }
    let shapes = views.iter().map(|(name, view)| (name.clone(), view.shape.clone())).collect();
    let source = Source::Torch { file: Box::new(file), views };
    Ok(Weights::new(format, shapes, settings, source))
}

impl Weights {
    fn new(
        format: &'static str,
        shapes: BTreeMap<String, Vec<usize>>,
        settings: Settings,
        source: Source,
    ) -> Weights {
        let (path, sha256) = (PathBuf::new(), String::new());
        Weights { path, format, sha256, shapes, settings, exported: None, source }
    }
}

/// Options of every section that is there.
fn sections(tree: &Tree, settings: &mut Settings) {
    let found = SECTIONS.iter().filter_map(|name| tree.find(tree.root(), name));
    found.for_each(|section| collect(tree, section, settings));
}

/// Takes the options that are known out of a dict, or of an object with attributes.
fn collect(tree: &Tree, of: Ref, settings: &mut Settings) {
    for &(key, value) in tree.entries(of) {
        let Object::Text(name) = tree.get(key) else { continue };
        let name = name.replace('.', "_");
        if !OPTIONS.contains(&name.as_str()) {
            continue;
        }
        let setting = match tree.get(value) {
            Object::Bool(flag) => Setting::Flag(*flag),
            Object::Int(number) => Setting::Number(*number as f64),
            Object::Float(number) => Setting::Number(*number),
            Object::Text(text) => Setting::Text(super::pickle::shown(text)),
            _ => continue,
        };
        settings.insert(name, setting);
    }
}

fn open_plain(file: File) -> Result<Weights, String> {
    let mut bytes = Vec::new();
    file.take(MAX_PLAIN).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let wrong = |e: safetensors::SafeTensorError| format!("not a whole safetensors file ({e})");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(wrong)?;
    let about = metadata.metadata().as_ref();
    if about.is_some_and(|about| about.get("format").is_some_and(|f| f == "ptycho-gpu")) {
        return Err("a checkpoint of this program already: it needs no import".into());
    }
    let exported = match about.and_then(|about| about.get(plain::KEY)) {
        Some(text) => Some(serde_json::from_str(text).map_err(|e| {
            format!("what it says of the network under `{}` does not parse ({e})", plain::KEY)
        })?),
        None => None,
    };
    let file = SafeTensors::deserialize(&bytes).map_err(wrong)?;
    let shapes = file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
    let mut weights =
        Weights::new("safetensors file", shapes, Settings::new(), Source::Plain(bytes));
    weights.exported = exported;
    Ok(weights)
}

fn plain_numbers(bytes: &[u8], name: &str) -> Result<Vec<f32>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let view = file.tensor(name).map_err(|e| e.to_string())?;
    let kind = match view.dtype() {
        Dtype::F32 => StorageType::F32,
        Dtype::F64 => StorageType::F64,
        Dtype::F16 => StorageType::F16,
        Dtype::BF16 => StorageType::Bf16,
        other => return Err(format!("its numbers are {other}")),
    };
    let width = kind.bytes().expect("all of these are read");
    Ok(view.data().chunks_exact(width).map(|number| kind.number(number)).collect())
}
