//! Nodes and constants of a model, and where the content of each buffer is.

use std::collections::HashMap;

use super::proto::{self, Attribute, Node, Tensor};
use crate::checkpoint::Checkpoint;
use crate::graph::{Graph, Role, Value};

/// Writes the nodes of a graph.
pub struct Writer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) checkpoint: &'a Checkpoint,
    /// Where the content of each buffer is by now. A buffer that is added to has one name after the
    /// other.
    pub(super) names: HashMap<Value, String>,
    nodes: Vec<Node>,
    constants: Vec<Tensor>,
}

pub(super) type Step<T = ()> = Result<T, String>;

impl<'a> Writer<'a> {
    pub fn new(graph: &'a Graph, checkpoint: &'a Checkpoint) -> Writer<'a> {
        let (names, nodes, constants) = (HashMap::new(), Vec::new(), Vec::new());
        Writer { graph, checkpoint, names, nodes, constants }
    }

    /// The nodes and constants so far.
    pub fn finish(self) -> proto::Graph {
        let (node, initializer) = (self.nodes, self.constants);
        proto::Graph { node, initializer, ..proto::Graph::default() }
    }

    /// `x` is `factor` times the input called `input`.
    pub fn scale(&mut self, input: &str, factor: f32, x: Value) {
        let factor = self.floats("input scale", &[], vec![factor]);
        let name = self.node("Mul", &[input, &factor], vec![]);
        self.names.insert(x, name);
    }

    /// Calls `copies` of `v`, one after the other along the channels, `output`.
    pub fn output(&mut self, v: Value, copies: usize, output: &str) {
        let name = self.names[&v].clone();
        let output = [output.to_owned()];
        if copies == 1 {
            return self.push("Identity", &[&name], &output, vec![]);
        }
        let repeats = self.ints(&[1, copies as i64, 1, 1]);
        self.push("Tile", &[&name, &repeats], &output, vec![]);
    }

    pub(super) fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.node("Reshape", &[x, &shape], vec![])
    }

    pub(super) fn transpose(&mut self, x: &str, axes: &[i64]) -> String {
        self.node("Transpose", &[x], vec![Attribute::ints("perm", axes)])
    }

    pub(super) fn unary(&mut self, op: &str, x: Value, how: Vec<Attribute>, y: Value) -> Step {
        let x = self.read(x)?;
        self.write(y, op, &[&x], how);
        Ok(())
    }

    /// Where the content of `v` is; a weight becomes a constant when it is first asked for.
    pub(super) fn read(&mut self, v: Value) -> Step<String> {
        if let Some(name) = self.names.get(&v) {
            return Ok(name.clone());
        }
        let numbers = self.weight(v)?.to_vec();
        let (name, shape) = (self.graph.name(v).to_owned(), self.graph.shape(v).to_vec());
        let name = self.floats(&name, &shape, numbers);
        self.names.insert(v, name.clone());
        Ok(name)
    }

    /// The numbers of a weight.
    pub(super) fn weight(&self, v: Value) -> Step<&'a [f32]> {
        let slot = &self.graph.slots[v.0];
        if !matches!(slot.role, Role::Param | Role::State) {
            return Err(format!("has the buffer `{}`, which nothing has written", slot.name));
        }
        let tensor = self.checkpoint.tensors.get(&slot.name);
        match tensor.filter(|tensor| tensor.shape == slot.shape) {
            Some(tensor) => Ok(&tensor.data),
            None => Err(format!("has no tensor `{}` of shape {:?}", slot.name, slot.shape)),
        }
    }

    /// A node whose result is the content of `to`.
    pub(super) fn write(&mut self, to: Value, op: &str, inputs: &[&str], how: Vec<Attribute>) {
        let name = self.rename(to);
        self.push(op, inputs, &[name], how);
    }

    /// A new name for the content of `v`.
    pub(super) fn rename(&mut self, v: Value) -> String {
        let name = format!("{} #{}.{}", self.graph.name(v), v.0, self.nodes.len());
        self.names.insert(v, name.clone());
        name
    }

    /// A node whose result is nobody's buffer.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], how: Vec<Attribute>) -> String {
        let name = format!("{op} #{}", self.nodes.len());
        self.push(op, inputs, std::slice::from_ref(&name), how);
        name
    }

    pub(super) fn push(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[String],
        attribute: Vec<Attribute>,
    ) {
        self.nodes.push(Node {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.to_vec(),
            name: format!("{op} {}", self.nodes.len()),
            op_type: op.to_owned(),
            attribute,
        });
    }

    pub(super) fn number(&mut self, number: f64) -> String {
        self.floats("number", &[], vec![number as f32])
    }

    pub(super) fn floats(&mut self, name: &str, shape: &[usize], numbers: Vec<f32>) -> String {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let dims = shape.iter().map(|&size| size as i64).collect();
        self.constant(name, proto::FLOAT, dims, bytes)
    }

    pub(super) fn ints(&mut self, numbers: &[i64]) -> String {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.constant("sizes", proto::INT64, vec![numbers.len() as i64], bytes)
    }

    /// A constant; the same numbers are kept once.
    pub(super) fn constant(
        &mut self,
        name: &str,
        kind: i32,
        dims: Vec<i64>,
        bytes: Vec<u8>,
    ) -> String {
        let weight = name.ends_with(".weight") || name.ends_with(".bias");
        let same = |there: &&Tensor| {
            there.data_type == Some(kind)
                && there.dims == dims
                && there.raw_data.as_deref() == Some(bytes.as_slice())
        };
        if let Some(there) = self.constants.iter().find(same).filter(|_| !weight) {
            return there.name.clone();
        }
        let taken = self.constants.iter().any(|there| there.name == name);
        let name = if taken { format!("{name} {}", self.constants.len()) } else { name.to_owned() };
        self.constants.push(Tensor {
            dims,
            data_type: Some(kind),
            name: name.clone(),
            raw_data: Some(bytes),
        });
        name
    }
}
