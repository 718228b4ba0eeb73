//! A trained network as an ONNX model: amplitudes of the detector in, amplitude and phase of the
//! patch out.
//!
//! The graph of the network is walked op by op ([`ops`]), for one sample; ONNX takes any number of
//! them. The factor that normalises the amplitudes is in the model, so that its input is what stands
//! in a scan: the square roots of counts, [batch, C, N, N], zero frequency at (N/2, N/2). Its outputs
//! are `amplitude` and `phase` (rad), [batch, C, N, N]: the patch is amplitude · exp(i phase), in the
//! gauge that README.md calls the engine's.

mod ops;
mod proto;
mod writer;

use prost::Message;

use super::plain::About;
use crate::checkpoint::Checkpoint;
use crate::graph::Graph;
use crate::models;
use proto::{Entry, Model, OperatorSet, ValueInfo};
use writer::Writer;

/// Version of the operators, and of the file's layout: those of 2022, which every runtime reads.
const OPSET: i64 = 17;
const IR: i64 = 8;

/// Names of input and outputs.
pub const INPUT: &str = "diffraction";
pub const OUTPUTS: [&str; 2] = ["amplitude", "phase"];

/// The model's bytes; equal weights give equal bytes. Error: one sentence.
pub fn encode(checkpoint: &Checkpoint, about: &About) -> Result<Vec<u8>, String> {
    let network = about.model.alone();
    let (n, channels) = (network.n, network.channels());
    let mut g = Graph::default();
    let x = g.input("x", &[1, channels, n, n]);
    let training = g.input("training", &[1]);
    let patch = models::build(&mut g, &network, x, training, &mut Vec::new());
    let mut writer = Writer::new(&g, checkpoint);
    writer.scale(INPUT, about.input_scale as f32, x);
    writer.steps()?;
    // One amplitude may stand for all patterns of a group.
    let copies = channels / g.dims::<4>(patch.amplitude)[1];
    writer.output(patch.amplitude, copies, OUTPUTS[0]);
    writer.output(patch.phase, 1, OUTPUTS[1]);
    let shape = [channels, n, n];
    let mut graph = writer.finish();
    graph.name = format!("{} {n}", network.architecture);
    let docs = [
        "amplitudes of the patterns, the square roots of counts, zero frequency at (N/2, N/2)",
        "of the object patch",
        "of the object patch, rad",
    ];
    graph.input = vec![ValueInfo::samples(INPUT, &shape, docs[0])];
    graph.output = vec![
        ValueInfo::samples(OUTPUTS[0], &shape, docs[1]),
        ValueInfo::samples(OUTPUTS[1], &shape, docs[2]),
    ];
    let entry = |key: &str, value: String| Entry { key: key.into(), value };
    let model = serde_json::to_string(&about.model).map_err(|e| e.to_string())?;
    let model = Model {
        ir_version: Some(IR),
        producer_name: "ptycho-gpu".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: "diffraction amplitudes to amplitude and phase of the object patch".into(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: Some(OPSET) }],
        metadata_props: vec![
            entry("input_scale", about.input_scale.to_string()),
            entry("model", model),
            entry("object_factor", about.object_factor.to_string()),
        ],
    };
    Ok(model.encode_to_vec())
}
