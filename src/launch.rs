//! A kernel launch as plain data: built on any machine, executed by the CUDA backend.

use crate::graph::Value;

/// Threads per block unless an op asks for another number.
pub const BLOCK: u32 = 256;

/// One kernel, its grid and its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the `extern "C"` entry point in `kernels/*.cu`.
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: u32,
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    pub args: Vec<Arg>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Buffer(Value),
    Int(i32),
    Float(f32),
}

impl Launch {
    /// `kernel` on `blocks` blocks of [`BLOCK`] threads.
    pub fn blocks(kernel: &'static str, blocks: usize) -> Launch {
        let blocks = u32::try_from(blocks).expect("grids fit in 32 bits");
        Launch { kernel, grid: [blocks, 1, 1], block: BLOCK, shared: 0, args: Vec::new() }
    }

    /// `kernel` with one thread per element.
    pub fn elements(kernel: &'static str, total: usize) -> Launch {
        Launch::blocks(kernel, total.div_ceil(BLOCK as usize))
    }

    pub fn buffers<const N: usize>(mut self, values: [Value; N]) -> Launch {
        self.args.extend(values.map(Arg::Buffer));
        self
    }

    pub fn ints<const N: usize>(mut self, sizes: [usize; N]) -> Launch {
        self.args.extend(sizes.map(|n| Arg::Int(i32::try_from(n).expect("sizes fit in 31 bits"))));
        self
    }

    pub fn floats<const N: usize>(mut self, constants: [f64; N]) -> Launch {
        self.args.extend(constants.map(|x| Arg::Float(x as f32)));
        self
    }
}
