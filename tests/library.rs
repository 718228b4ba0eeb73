//! The crate as a library: whatever a public function is given, it answers or says what is wrong. The engine
//! (graph, plan, ops, backend) is no part of this: it asserts what its callers have checked.

use std::path::Path;
use std::sync::LazyLock;

use ndarray::{Array2, Array3};
use num_complex::Complex32;
use proptest::prelude::*;
use ptycho_gpu::backend::Chosen;
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::cli::train;
use ptycho_gpu::data::{Scan, save_scan};
use ptycho_gpu::infer::{Network, Options};
use tempfile::TempDir;

#[path = "library/figures.rs"]
mod figures;
#[path = "library/objects.rs"]
mod objects;
#[path = "library/options.rs"]
mod options;
#[path = "library/scans.rs"]
mod scans;
#[path = "library/small.rs"]
mod small;

pub use small::{small_scan, small_training, usual};

/// A network's file, and a scan that it can be applied to.
pub struct Fixture {
    pub folder: TempDir,
    pub scan: Scan,
    pub checkpoint: Checkpoint,
}

/// Trained once for all tests.
pub static TRAINED: LazyLock<Fixture> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let scan = small_scan(16);
    save_scan(folder.path().join("scan.npz"), &scan).unwrap();
    train::train(&small_training(folder.path(), &folder.path().join("run"))).unwrap();
    let path = folder.path().join("run/checkpoints/last.safetensors");
    let checkpoint = Checkpoint::load(path).unwrap();
    Fixture { folder, scan, checkpoint }
});

/// The network of a checkpoint over a scan; what comes out is dropped.
pub fn infer(checkpoint: &Checkpoint, batch: usize, scan: &Scan, options: &Options) {
    let path = Path::new("a.safetensors");
    if let Ok(network) = Network::new(checkpoint, path, batch, &Chosen::Cpu) {
        drop(network.reconstruct(scan, options));
    }
}

/// Numbers that somebody might pass: sound ones, and all that is not.
pub fn number() -> impl Strategy<Value = f64> {
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -1.0,
        1.0,
        0.5,
        1e-310,
        -1e300,
        1e300,
        1e19,
        4e18,
        9_007_199_254_740_992.0,
    ];
    prop_oneof![prop::sample::select(odd.to_vec()), -100.0..100.0f64]
}

/// Sizes of arrays that are no trouble to make.
pub fn size() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0usize, 1, 2, 3, 7, 8, 16, 63, 64, 65])
}

/// Sizes that somebody might ask for.
pub fn wish() -> impl Strategy<Value = usize> {
    let huge = [usize::MAX, usize::MAX - 1, usize::MAX / 2 + 1, 1 << 40, 1 << 33];
    prop_oneof![4 => size(), 1 => prop::sample::select(huge.to_vec())]
}

/// Mostly the sound value.
pub fn mostly<T: Clone + std::fmt::Debug + 'static>(
    sound: T,
    other: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![4 => Just(sound), 1 => other]
}

pub fn complex(shape: (usize, usize), value: f64) -> Array2<Complex32> {
    Array2::from_elem(shape, Complex32::new(value as f32, 0.0))
}

pub fn modes(shape: (usize, usize, usize), value: f64) -> Array3<Complex32> {
    Array3::from_elem(shape, Complex32::new(value as f32, 0.0))
}
