//! Two-dimensional convolution with bias and optional ReLU.
//!
//! y[b,o,r,c] = f( β[o] + Σ_{i,u,v} W[o,i,u,v] · x[b,i,r+u−k/2,c+v−k/2] ),  f = ReLU or identity,
//! x = 0 outside the image; a valid convolution has only the y that see no such x. With z̄ = ȳ·1[y > 0]
//! under ReLU and z̄ = ȳ otherwise: x̄ is the convolution of z̄ with W transposed and turned by 180°,
//! W̄[o,i,u,v] = Σ_{b,r,c} z̄[b,o,r,c] · x[b,i,r+u−k/2,c+v−k/2], and β̄[o] = Σ_{b,r,c} z̄[b,o,r,c].
//! Kernel twin: `kernels/conv2d.cu`.
//!
//! This file is the op; `cuda` sets up the kernels, `tensor` those of lower precision, for which `lower`
//! adds to a finished graph what they need. On the CPU,
//! `winograd` does the 3×3 filters of many channels, which is nearly all the work, and `cpu` the others:
//! `layout` says how it pads planes and packs weights, `simd` holds its inner loops.

mod cpu;
mod cuda;
pub(super) mod layout;
mod lower;
mod pack;
pub(super) mod simd;
mod tensor;
mod tile;
mod winograd;
mod words;

pub(crate) use lower::lower;
pub use pack::Pack;
pub use simd::{FULL, Kernels, kernels_f32, kernels_portable};
pub use words::Words;

use super::Operation;
use crate::backend::cpu::{Mem, Real};
use crate::graph::{Grad, Graph, Precision, Value};
use crate::launch::Launch;
use tensor::Family;

/// Sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// Of the result.
    pub height: usize,
    pub width: usize,
    /// Side of the odd square filter.
    pub side: usize,
    /// Zeros around the input: half of the filter, or none in a valid convolution.
    pub pad: usize,
}

#[derive(Clone, Debug)]
pub struct Conv2d {
    pub(crate) x: Value,
    pub(crate) weight: Value,
    pub(crate) bias: Option<Value>,
    pub(crate) y: Value,
    /// Padded input and packed weights.
    workspace: Value,
    pub(crate) relu: bool,
    pub(crate) sizes: Sizes,
    /// Of the products on a GPU; the CPU knows one alone.
    precision: Precision,
    /// Weights for tensor cores, where they compute the product.
    packed: Option<Value>,
    /// x in words of two channels, where they multiply such; x itself where no other op reads it.
    x_words: Option<Value>,
    /// A GPU leaves y in words: see `words`.
    y_in_words: bool,
}

#[derive(Clone, Debug)]
pub struct Conv2dBackward {
    forward: Conv2d,
    dy: Value,
    dx: Option<Grad>,
    dweight: Option<Grad>,
    dbias: Option<Grad>,
    /// Padded output gradient (for a valid convolution in two ways), padded input, packed weights, partial sums.
    workspace: Value,
    /// Turned weights for tensor cores, where they compute the input gradient.
    packed: Option<Value>,
    /// What the ReLU lets through of dy, in words, where tensor cores multiply such.
    passed: Option<Value>,
    /// Whether on a GPU dy comes in words, and dx leaves in words.
    dy_in_words: bool,
    dx_in_words: bool,
}

/// [B, I, H, W] ∗ [O, I, k, k] (k odd) + [O] → [B, O, H, W], same size, with ReLU if `relu`.
pub fn conv2d(g: &mut Graph, x: Value, weight: Value, bias: Option<Value>, relu: bool) -> Value {
    let [_, _, side, _] = g.dims(weight);
    push(g, x, weight, bias, relu, side / 2)
}

/// The same without zeros around the image: [B, I, H, W] → [B, O, H − k + 1, W − k + 1].
pub fn conv2d_valid(g: &mut Graph, x: Value, weight: Value, bias: Option<Value>) -> Value {
    push(g, x, weight, bias, false, 0)
}

fn push(
    g: &mut Graph,
    x: Value,
    weight: Value,
    bias: Option<Value>,
    relu: bool,
    pad: usize,
) -> Value {
    let [batch, inputs, height, width] = g.dims(x);
    let [outputs, weight_inputs, side, columns] = g.dims(weight);
    assert!(
        weight_inputs == inputs && side == columns && side % 2 == 1 && side / 2 <= 8,
        "odd square filters of the input's channels"
    );
    let cut = side - 1 - 2 * pad;
    assert!(height > cut && width > cut, "a filter fits into the image");
    let (height, width) = (height - cut, width - cut);
    let sizes = Sizes { batch, inputs, outputs, height, width, side, pad };
    let name = format!("{} output", g.name(weight).trim_end_matches(".weight"));
    let y = g.work(&name, &[batch, outputs, height, width]);
    let precision = g.precision();
    let mut len = cpu::workspace_len(&sizes);
    if let Some(family) = Family::of(precision) {
        len = len.max(tensor::forward_len(family, &sizes));
    }
    let workspace = g.work("padded input and packed weights", &[len]);
    g.push(Conv2d {
        x,
        weight,
        bias,
        y,
        workspace,
        relu,
        sizes,
        precision,
        packed: None,
        x_words: None,
        y_in_words: false,
    });
    y
}

impl Operation for Conv2d {
    fn reads(&self) -> Vec<Value> {
        let more = [self.bias, self.packed, self.x_words].into_iter().flatten();
        [self.x, self.weight].into_iter().chain(more).collect()
    }

    fn writes(&self) -> Vec<Value> {
        vec![self.y, self.workspace]
    }

    fn backward(&self, g: &mut Graph) {
        let Some(dy) = g.grad_of(self.y) else { return };
        let (dx, dweight) = (g.grad_into(self.x), g.grad_into(self.weight));
        let dbias = self.bias.and_then(|b| g.grad_into(b));
        let mut len = cpu::gradient_workspace_len(&self.sizes).max(cuda::partial_len(&self.sizes));
        if let Some(family) = Family::of(self.precision) {
            len = len.max(tensor::backward_len(family, &self.sizes));
        }
        let workspace = g.work("padded gradient and input, partial sums", &[len]);
        g.push(Conv2dBackward {
            forward: self.clone(),
            dy,
            dx,
            dweight,
            dbias,
            workspace,
            packed: None,
            passed: None,
            dy_in_words: false,
            dx_in_words: false,
        });
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        cpu::forward(self, mem);
    }

    fn launches(&self) -> Vec<Launch> {
        cuda::forward(self)
    }
}

impl Operation for Conv2dBackward {
    fn reads(&self) -> Vec<Value> {
        let Conv2d { x, weight, y, x_words, .. } = self.forward;
        [x, weight, y, self.dy].into_iter().chain(self.packed).chain(x_words).collect()
    }

    fn writes(&self) -> Vec<Value> {
        let grads = [self.dx, self.dweight, self.dbias].into_iter().flatten();
        grads.map(|d| d.value).chain([self.workspace]).chain(self.passed).collect()
    }

    fn cpu<T: Real>(&self, mem: &mut Mem<T>) {
        cpu::backward(self, mem);
    }

    fn launches(&self) -> Vec<Launch> {
        cuda::backward(self)
    }
}
