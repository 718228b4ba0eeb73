//! Physics-informed neural reconstruction of ptychographic scans.
//!
//! A network looks at a diffraction pattern and says what patch of the object made it. It is
//! trained without true objects: its patch, lit by the probe and carried to the detector, must
//! give the measured counts. The trained network turns a whole scan into patches, and the patches
//! are stitched into one object.
//!
//! ```no_run
//! use ptycho_gpu::backend;
//! use ptycho_gpu::checkpoint::Checkpoint;
//! use ptycho_gpu::cli::train;
//! use ptycho_gpu::config::{Device, PatchWeighting};
//! use ptycho_gpu::data::{LoadOptions, load};
//! use ptycho_gpu::infer::{Network, Options};
//! use ptycho_gpu::stitch::Orientation;
//!
//! # fn main() -> ptycho_gpu::Result<()> {
//! // Leaves run/checkpoints/best.safetensors, run/history.csv and run/run.json.
//! let outcome = train::train(&train::Args {
//!     train_data_file: Some(vec!["scan.npz".into()]),
//!     output_dir: Some("run".into()),
//!     max_epochs: Some(20),
//!     ..train::Args::default()
//! })?;
//! println!("loss {:.4}", outcome.train_loss);
//!
//! let scan = load("scan.npz".as_ref(), &LoadOptions::default())?;
//! let path = "run/checkpoints/best.safetensors".as_ref();
//! let device = backend::choose(Device::Auto)?;
//! let network = Network::new(&Checkpoint::load(path)?, path, 16, &device)?;
//! let result = network.reconstruct(
//!     &scan,
//!     &Options {
//!         batch_size: 16,
//!         n_images: None,
//!         recompute_normalisation: false,
//!         weighting: PatchWeighting::Tapered,
//!         crop: None,
//!         orientation: Orientation::default(),
//!     },
//! )?;
//! let (height, width) = result.stitched.object.dim();
//! println!("an object of {height}×{width} pixels from ({:?})", result.canvas.origin_yx);
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! | what comes in and goes out | |
//! |---|---|
//! | [`data`] | scan files, their checks and units, groups of neighbours; [`data::load`] |
//! | [`checkpoint`] | trained weights and their record as safetensors |
//! | [`exchange`] | weights of PyTorch in, safetensors and ONNX out |
//! | [`report`] | pictures, history, run record, log, progress |
//! | [`config`] | every option, where its value came from, what is allowed |
//!
//! | the engine, which knows nothing of ptychography | |
//! |---|---|
//! | [`graph`] | buffers and operations in the order in which they run, and their differentiation |
//! | [`plan`] | one place in one arena for every buffer |
//! | [`ops`] | one file for each operation: formula, adjoint, CPU code, kernel launch |
//! | [`launch`] | a kernel launch as plain data |
//! | [`backend`] | what runs a plan: the CPU, in f32, or in f64 for tests; CUDA |
//! | [`memory`] | how much of it a run may take |
//! | [`random`] | numbers that depend on seed, purpose, epoch and index alone |
//!
//! | what is computed with it | |
//! |---|---|
//! | [`models`] | the network, the physics, and the plans that train and apply them |
//! | [`train`] | epochs, schedules, validation, resuming, the watch for a collapse |
//! | [`infer`], [`stitch`] | patches, and the object that they make |
//! | [`reconstruct`] | the object, probe and positions solved for directly, or refined |
//! | [`orientation`] | which way round the frames lie relative to the positions |
//! | [`reconstruction`] | what comes out of all of them, and its file |
//! | [`large`] | the same where the object does not fit in memory |
//! | [`save`] | the same in the files of other programs |
//! | [`metrics`] | a reconstruction against the truth and against the data |
//! | [`simulate`] | scans with known object and probe |
//! | [`signals`] | how a run is asked to end, or to save what it has |
//! | [`cli`] | one file for each command |
//!
//! A graph is built once from the configuration, differentiated, and planned; then every step runs
//! the same list on the same memory. [`models::plans::training`] shows the whole step on one page,
//! and `ptycho-gpu plan --ops` prints it.
//!
//! The conventions (axes, Fourier transform, coordinates, units) are in the README.

pub mod backend;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod exchange;
pub mod graph;
pub mod infer;
pub mod large;
pub mod launch;
pub mod measure;
pub mod memory;
pub mod metrics;
pub mod models;
pub mod ops;
pub mod orientation;
pub mod plan;
pub mod random;
pub mod reconstruct;
pub mod reconstruction;
pub mod report;
pub mod save;
pub mod signals;
pub mod simulate;
pub mod stitch;
pub mod train;

pub use error::{Error, Result};
