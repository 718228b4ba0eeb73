//! Weights as a plain safetensors file with the names that they have in PyTorch.
//!
//! Every weight is called [`PREFIX`](super::PREFIX) and its name here, in the shape that PyTorch gives
//! it. The numbers of a Fourier layer are [modes, inputs, outputs, 2], real and imaginary part. What
//! the network is and what it wants for an input stands as JSON under [`KEY`] of the metadata.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::PREFIX;
use super::recognise::foreign_shape;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::graph::Role;
use crate::models::plans;
use crate::train::state::Learned;

/// Under what the metadata says what the network is.
pub const KEY: &str = "ptycho-gpu";

/// What is needed to use the weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub model: ModelConfig,
    /// The network sees amplitudes times this.
    pub input_scale: f64,
    /// Object = this times amplitude · exp(i phase), in the gauge in which an object of modulus 1
    /// explains the mean energy.
    pub object_factor: f64,
    /// K of the groups.
    pub neighbor_count: usize,
    pub software: String,
}

impl About {
    pub fn new(learned: &Learned) -> About {
        About {
            model: learned.model.clone(),
            input_scale: learned.input_scale,
            object_factor: learned.object_factor,
            neighbor_count: learned.neighbor_count,
            software: concat!("ptycho-gpu ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// The file's bytes; equal weights give equal bytes. Error: one sentence.
pub fn encode(checkpoint: &Checkpoint, about: &About) -> Result<Vec<u8>, String> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    let text = serde_json::to_string(about).map_err(|e| e.to_string())?;
    header.insert("__metadata__".into(), json!({ KEY: text }));
    let plan = plans::inference(&about.model, 1, None).plan;
    let slots = [Role::Param, Role::State].into_iter().flat_map(|role| plan.of_role(role));
    for (_, slot) in slots {
        let tensor = checkpoint.tensors.get(&slot.name);
        let tensor = tensor.filter(|tensor| tensor.shape == slot.shape);
        let tensor = tensor
            .ok_or_else(|| format!("has no tensor `{}` of shape {:?}", slot.name, slot.shape))?;
        let start = data.len();
        data.extend(tensor.data.iter().flat_map(|number| number.to_le_bytes()));
        let shape = foreign_shape(&slot.name, &slot.shape);
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(format!("{PREFIX}{}", slot.name), entry);
    }
    let mut header = Value::Object(header).to_string();
    let padding = header.len().next_multiple_of(size_of::<u64>()) - header.len();
    header.push_str(&" ".repeat(padding));
    let length = (header.len() as u64).to_le_bytes();
    Ok([length.as_slice(), header.as_bytes(), &data].concat())
}
