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
    /// Buffers of one op, where the kernel can compute two: see [`Launch::for_two`]. 0 where it cannot.
    pub for_two: usize,
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
        let (grid, args) = ([blocks, 1, 1], Vec::new());
        Launch { kernel, grid, block: BLOCK, shared: 0, args, for_two: 0 }
    }

    /// `kernel` with one thread per element.
    pub fn elements(kernel: &'static str, total: usize) -> Launch {
        Launch::blocks(kernel, total.div_ceil(BLOCK as usize))
    }

    pub fn buffers<const N: usize>(mut self, values: [Value; N]) -> Launch {
        self.args.extend(values.map(Arg::Buffer));
        self
    }

    /// The kernel can compute two equal ops, each with a half of the grid along z: `second` in
    /// `kernels/common.cuh`. It takes the buffers of both, which for one op are the same twice.
    pub fn for_two(mut self) -> Launch {
        self.for_two = self.args.len();
        self.args.extend_from_within(..);
        self
    }

    /// One launch in the place of this one and another that differs by its buffers alone; none where
    /// there is more to it, or where the kernel cannot.
    pub fn with(&self, other: &Launch) -> Option<Launch> {
        let (own, both) = (self.for_two, 2 * self.for_two);
        let shape = |l: &Launch| (l.kernel, l.grid, l.block, l.shared, l.for_two);
        let fits =
            own > 0 && shape(self) == shape(other) && self.args[both..] == other.args[both..];
        fits.then(|| {
            let mut launch = self.clone();
            launch.args[own..both].clone_from_slice(&other.args[..own]);
            launch.grid[2] *= 2;
            launch.for_two = 0;
            launch
        })
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
