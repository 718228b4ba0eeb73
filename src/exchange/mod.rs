//! Weights in and out of other programs.
//!
//! In come files of PyTorch, read by a reader that executes nothing ([`pickle`]), and plain
//! safetensors: [`weights`] opens them, [`recognise`] says by names and shapes which network they
//! are, [`import`] makes a checkpoint of it. Out go [`plain`] safetensors with PyTorch's names and
//! [`onnx`].

mod globals;
pub mod import;
pub mod onnx;
pub mod pickle;
pub mod plain;
pub mod recognise;
mod torch;
pub mod weights;

/// What the published program puts before the names of a network's weights.
pub const PREFIX: &str = "model.autoencoder.";
