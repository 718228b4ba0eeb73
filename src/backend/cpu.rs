//! CPU backend: interprets the plan, one op at a time. The reference for every kernel.

use std::cell::RefCell;
use std::error::Error as _;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, LazyLock};

use rustfft::{Fft, FftDirection, FftNum, FftPlanner};

use super::Backend;
use crate::graph::{Stage, Value};
use crate::ops::conv2d::{Kernels, kernels_f32, kernels_portable};
use crate::ops::{Op, gaussian};
use crate::plan::Plan;
use crate::{Error, Result};

/// The element type: f32 to run, f64 to prove gradients by finite differences.
pub trait Real: FftNum + num_traits::Float + std::iter::Sum + std::ops::AddAssign {
    /// Nearest value to `x`.
    fn of(x: f64) -> Self;
    /// The value in double precision.
    fn wide(self) -> f64;
    /// Distribution function and density of the standard normal distribution.
    fn gaussian(self) -> [Self; 2];
    /// The inner loops of the convolution on this machine.
    fn convolution() -> &'static Kernels<Self>;
    /// Runs an op. A function of this crate for each type: the code of all ops would otherwise be compiled once
    /// more in every crate that has a [`Cpu`].
    fn run(op: &Op, mem: &mut Mem<Self>);
    /// Calls `f` with `len` elements of this thread's own scratch memory, which begin on a cache line
    /// and hold anything.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;
}

thread_local! {
    static SCRATCH_F32: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SCRATCH_F64: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// The first `len` elements of `scratch` from a cache line on; it grows where it must, and is kept.
fn aligned<T: Real>(scratch: &mut Vec<T>, len: usize) -> &mut [T] {
    let spare = CACHE_LINE / size_of::<T>();
    if scratch.len() < len + spare {
        scratch.resize(len + spare, T::zero());
    }
    let start = scratch.as_ptr().align_offset(CACHE_LINE);
    &mut scratch[start..][..len]
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn wide(self) -> f64 {
        self.into()
    }
    #[inline(always)]
    fn gaussian(self) -> [f32; 2] {
        gaussian::single(self)
    }
    #[inline(never)]
    fn run(op: &Op, mem: &mut Mem<f32>) {
        op.cpu(mem);
    }
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        SCRATCH_F32.with_borrow_mut(|scratch| f(aligned(scratch, len)))
    }
    fn convolution() -> &'static Kernels<f32> {
        static BEST: LazyLock<Kernels<f32>> = LazyLock::new(|| kernels_f32().remove(0).1);
        &BEST
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn wide(self) -> f64 {
        self
    }
    fn gaussian(self) -> [f64; 2] {
        gaussian::double(self)
    }
    #[inline(never)]
    fn run(op: &Op, mem: &mut Mem<f64>) {
        op.cpu(mem);
    }
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f64]) -> R) -> R {
        SCRATCH_F64.with_borrow_mut(|scratch| f(aligned(scratch, len)))
    }
    fn convolution() -> &'static Kernels<f64> {
        const PORTABLE: &Kernels<f64> = &kernels_portable();
        PORTABLE
    }
}

/// Starts the threads that all work of this process shares: `count`, or one for each core. Does nothing
/// where they run already.
///
/// Error: the system has no more threads, or no memory for them.
pub fn start_threads(count: Option<usize>) -> Result<()> {
    // 0 leaves the number to the library, which goes by RAYON_NUM_THREADS and the cores.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(count.unwrap_or(0));
    match threads.build_global() {
        // Without a source it is that they run.
        Err(error) if error.source().is_some() => Err(Error::Run(format!(
            "cannot start the threads to compute with ({error}): close other programs, or ask for fewer \
             with RAYON_NUM_THREADS=1"
        ))),
        _ => Ok(()),
    }
}

/// Bytes; vector loads that cross lines cost twice.
const CACHE_LINE: usize = 64;

/// Sets or adds a share of a gradient.
#[inline(always)]
pub fn put<T: Real>(dst: &mut T, accumulate: bool, share: T) {
    *dst = if accumulate { *dst + share } else { share };
}

/// The arena of one plan.
pub struct Mem<T: Real> {
    data: Vec<T>,
    /// First element that lies on a cache line.
    start: usize,
    plan: Arc<Plan>,
    fft: FftPlanner<T>,
}

impl<T: Real> Mem<T> {
    /// Disjoint slices of `values`, in order. Panics when the plan lets two of them overlap.
    pub fn get<const N: usize>(&mut self, values: [Value; N]) -> [&mut [T]; N] {
        let ranges = values.map(|v| self.plan.range(v));
        self.data[self.start..].get_disjoint_mut(ranges).expect("buffers of one op are disjoint")
    }

    /// The transform of length `n`; planned once, then shared.
    pub fn fft(&mut self, n: usize, direction: FftDirection) -> Arc<dyn Fft<T>> {
        self.fft.plan_fft(n, direction)
    }
}

/// Interprets a plan in precision T.
pub struct Cpu<T: Real> {
    plan: Arc<Plan>,
    mem: Mem<T>,
}

impl<T: Real> Cpu<T> {
    /// Allocates the arena. It starts as NaN, so that a read before a write shows, or one past the
    /// end of a buffer; the padding inside of regions starts as 0, so that they can be summed.
    pub fn new(plan: Plan) -> Cpu<T> {
        let mut data = vec![T::nan(); plan.arena + CACHE_LINE / size_of::<T>()];
        let start = data.as_ptr().align_offset(CACHE_LINE);
        for padding in plan.padding().into_iter().filter(|padding| padding.flat) {
            data[start..][padding.range].fill(T::zero());
        }
        let plan = Arc::new(plan);
        let mem = Mem { data, start, plan: plan.clone(), fft: FftPlanner::new() };
        Cpu { plan, mem }
    }

    /// The content of `v` in full precision.
    pub fn get(&mut self, v: Value) -> &[T] {
        let [slice] = self.mem.get([v]);
        slice
    }

    /// Writes `v` in full precision.
    pub fn set(&mut self, v: Value, host: &[T]) {
        let [slice] = self.mem.get([v]);
        slice.copy_from_slice(host);
    }
}

impl<T: Real> Backend for Cpu<T> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write(&mut self, v: Value, host: &[f32]) -> Result<()> {
        let [slice] = self.mem.get([v]);
        assert_eq!(slice.len(), host.len(), "{} has its own length", self.plan.slots[v.0].name);
        slice.iter_mut().zip(host).for_each(|(d, &h)| *d = T::of(h.into()));
        Ok(())
    }

    fn read(&mut self, v: Value) -> Result<Vec<f32>> {
        Ok(self.get(v).iter().map(|x| x.wide() as f32).collect())
    }

    fn peek(&mut self, range: Range<usize>) -> Result<Vec<f32>> {
        Ok(self.mem.data[self.mem.start..][range].iter().map(|x| x.wide() as f32).collect())
    }

    fn run_stages(&mut self, stages: RangeInclusive<Stage>) -> Result<()> {
        let plan = self.plan.clone();
        // Nothing is prepared here: only a GPU has other forms of its parameters.
        for step in plan.stages(&stages) {
            T::run(&step.op, &mut self.mem);
        }
        Ok(())
    }

    fn upload(&mut self, half: usize, parts: &[(Value, &[f32])]) -> Result<()> {
        for &(v, host) in parts {
            let [slice] = self.mem.get([v]);
            let len = slice.len() / 2;
            let slice = &mut slice[half * len..][..len];
            slice.iter_mut().zip(host).for_each(|(d, &h)| *d = T::of(h.into()));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    fn patience(&self) -> usize {
        1
    }
}
