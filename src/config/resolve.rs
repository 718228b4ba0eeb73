//! Flag, file, data set, default: which of them decides each value.

use std::collections::BTreeMap;
use std::path::Path;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{TrainConfig, validate};
use crate::cli::train::Args;
use crate::data::grouping;
use crate::{Error, Result};

/// What decided a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Origin {
    #[serde(rename = "flag")]
    Flag,
    #[serde(rename = "file")]
    File,
    #[serde(rename = "data set")]
    DataSet,
    #[serde(rename = "default")]
    Default,
    /// The device, of what is left to it.
    #[serde(rename = "device")]
    Device,
    /// The checkpoint that a training goes on from.
    #[serde(rename = "checkpoint")]
    Checkpoint,
}

/// What the data set decides, where it is not overruled.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetFacts {
    /// N, side of a pattern in pixels.
    pub n: usize,
    /// Mean photons per pattern according to the file.
    pub nphotons: Option<f64>,
    /// Whether every scan carries true patches, which supervised training needs.
    pub labels: bool,
}

/// A configuration, and what decided each of its values. As JSON:
/// `{"learning_rate": {"value": 0.001, "origin": "default"}, …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    pub config: TrainConfig,
    /// By the name of the field.
    pub origins: BTreeMap<String, Origin>,
}

impl Serialize for Resolved {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            value: &'a Value,
            origin: Option<&'a Origin>,
        }
        let sections = fields_of(&self.config);
        let mut map = serializer.serialize_map(None)?;
        for fields in sections.values().filter_map(Value::as_object) {
            for (name, value) in fields {
                map.serialize_entry(name, &Entry { value, origin: self.origins.get(name) })?;
            }
        }
        map.end()
    }
}

/// The configuration that `args` and the data set give.
pub fn resolve(args: &Args, dataset: &DatasetFacts) -> Result<Resolved> {
    merge(args, Some(dataset))
}

/// The configuration as far as it is known before any scan is read: enough to know which scans to
/// read and how. Checked as far as that goes.
pub fn draft(args: &Args) -> Result<Resolved> {
    merge(args, None)
}

fn merge(args: &Args, dataset: Option<&DatasetFacts>) -> Result<Resolved> {
    let mut layers = Layers::new();
    layers.apply(from_dataset(dataset), Origin::DataSet)?;
    if let Some(path) = &args.config {
        layers.apply_file(path)?;
    }
    layers.apply(from_flags(args)?, Origin::Flag)?;
    let mut resolved = layers.finish()?;
    fit_neighbours(&mut resolved);
    fit_learning_rate(&mut resolved);
    validate::check(&resolved, dataset, args.config.as_deref())?;
    Ok(resolved)
}

/// The default number of neighbours grows with the group that has to be drawn from them.
fn fit_neighbours(resolved: &mut Resolved) {
    if resolved.origins.get("neighbor_count") == Some(&Origin::Default) {
        let gridsize = resolved.config.model.gridsize;
        resolved.config.data.neighbor_count = grouping::default_neighbor_count(gridsize);
    }
}

/// Groups in a step from which on the default learning rate stays what it is.
const FULL_STEP: f64 = 16.0;

/// The default learning rate is that of the architecture, and falls with the square root of the size
/// of a step: small steps are noisy, and at the full rate the encoder of a large network dies in the
/// first of them (docs/defaults.md).
fn fit_learning_rate(resolved: &mut Resolved) {
    if resolved.origins.get("learning_rate") == Some(&Origin::Default) {
        let optimiser = &mut resolved.config.optimiser;
        let batches = optimiser.accumulate_grad_batches as f64;
        let groups = resolved.config.run.batch_size as f64 * batches;
        optimiser.learning_rate = resolved.config.model.architecture.learning_rate();
        optimiser.learning_rate *= (groups / FULL_STEP).min(1.0).sqrt();
    }
}

fn from_dataset(dataset: Option<&DatasetFacts>) -> Map<String, Value> {
    let mut map = Map::new();
    if let Some(facts) = dataset {
        map.insert("n".into(), facts.n.into());
        if let Some(nphotons) = facts.nphotons {
            map.insert("nphotons".into(), nphotons.into());
        }
    }
    map
}

/// The flags that were given, by field name.
fn from_flags(args: &Args) -> Result<Map<String, Value>> {
    let value = serde_json::to_value(args).map_err(|error| {
        Error::Config(format!("a flag cannot be recorded ({error}); write paths in UTF-8"))
    })?;
    let Value::Object(map) = value else { unreachable!("a struct serialises to an object") };
    // JSON has no NaN: it would look like a flag that was not given.
    if let Ok(toml::Value::Table(table)) = toml::Value::try_from(args) {
        let number = |value: &toml::Value| value.as_float().filter(|number| !number.is_finite());
        let odd = table.iter().find_map(|(name, value)| Some((name, number(value)?)));
        if let Some((name, number)) = odd {
            let flag = name.replace('_', "-");
            return Err(Error::Config(format!(
                "--{flag} is {number}, but must be a finite number"
            )));
        }
    }
    Ok(map.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

/// The defaults, overlaid layer by layer.
struct Layers {
    /// Section → field → value.
    tree: Map<String, Value>,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn new() -> Layers {
        let tree = fields_of(&TrainConfig::default());
        let names = tree.values().filter_map(Value::as_object).flat_map(Map::keys);
        let origins = names.map(|name| (name.clone(), Origin::Default)).collect();
        Layers { tree, origins }
    }

    fn apply(&mut self, values: Map<String, Value>, origin: Origin) -> Result<()> {
        for (name, value) in values {
            self.set(&name, value, origin).map_err(|problem| {
                Error::Config(format!("--{}: {problem}", name.replace('_', "-")))
            })?;
        }
        Ok(())
    }

    /// Keys may stand at the top of the file or in tables named after the sections.
    fn apply_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let table: toml::Table =
            text.parse().map_err(|error| Error::input(path, format!("not TOML: {error}")))?;
        for (name, value) in table {
            let section = self.tree.get(&name).and_then(Value::as_object).cloned();
            match (section, value) {
                (Some(fields), toml::Value::Table(inner)) => {
                    for (key, value) in inner {
                        if !fields.contains_key(&key) && self.origins.contains_key(&key) {
                            let problem = format!("`{key}` does not belong in [{name}]");
                            return Err(Error::input(path, problem));
                        }
                        self.set_from_file(path, &key, value)?;
                    }
                }
                (_, value) => self.set_from_file(path, &name, value)?,
            }
        }
        Ok(())
    }

    fn set_from_file(&mut self, path: &Path, name: &str, value: toml::Value) -> Result<()> {
        let shown = value.to_string();
        let json = serde_json::to_value(value).unwrap_or(Value::Null);
        let set = if json.is_null() {
            Err("not a finite number".to_string())
        } else {
            self.set(name, json, Origin::File)
        };
        set.map_err(|problem| Error::input(path, format!("`{name} = {shown}`: {problem}")))
    }

    /// Sets one field, wherever it is. Tried at once, so that a value of the wrong type is
    /// reported under its own name.
    fn set(&mut self, name: &str, value: Value, origin: Origin) -> Result<(), String> {
        let mut sections = self.tree.iter_mut().filter_map(|(_, fields)| fields.as_object_mut());
        let Some(slot) = sections.find_map(|fields| fields.get_mut(name)) else {
            return Err(unknown(name, self.origins.keys()));
        };
        *slot = value;
        self.origins.insert(name.to_string(), origin);
        let whole = Value::Object(self.tree.clone());
        serde_json::from_value::<TrainConfig>(whole).map(drop).map_err(|error| error.to_string())
    }

    fn finish(self) -> Result<Resolved> {
        let config = serde_json::from_value(Value::Object(self.tree))
            .map_err(|error| Error::Config(error.to_string()))?;
        Ok(Resolved { config, origins: self.origins })
    }
}

/// The fields of a configuration structure as JSON.
pub(super) fn fields_of(structure: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(structure) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("configurations are structures of plain values"),
    }
}

/// Says that there is no such key, and which come near.
fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let mut near: Vec<(usize, &String)> = known
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + name.len() / 4 || (name.len() > 2 && candidate.contains(name))
        })
        .collect();
    near.sort();
    let near: Vec<_> = near.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    match near.is_empty() {
        true => "no such key; `ptycho-gpu train --help` lists them all".into(),
        false => format!("no such key; did you mean {}?", near.join(" or ")),
    }
}

/// Insertions, deletions and substitutions that make `a` of `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
