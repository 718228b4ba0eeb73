//! Physics-informed neural reconstruction of ptychographic scans.
//!
//! A network looks at a diffraction pattern and says what patch of the object made it. It is
//! trained without true objects: its patch, lit by the probe and carried to the detector, must
//! give the measured counts. The trained network turns a whole scan into patches, and the patches
//! are stitched into one object.
//!
//! ```
//! use ptycho_gpu::backend;
//! use ptycho_gpu::checkpoint::Checkpoint;
//! use ptycho_gpu::cli::train;
//! use ptycho_gpu::config::{Device, PatchWeighting};
//! use ptycho_gpu::data::{LoadOptions, load};
//! use ptycho_gpu::infer::{Network, Options};
//! use ptycho_gpu::simulate::{Recipe, ScanSpec, simulate};
//! use ptycho_gpu::stitch::Orientation;
//!
//! # fn main() -> ptycho_gpu::Result<()> {
//! # let temporary = tempfile::tempdir().unwrap();
//! # let folder = temporary.path();
//! // A scan to learn from: here a simulated one of 16 patterns.
//! let file = folder.join("scan.npz");
//! let spec = ScanSpec { patterns: 16, ..ScanSpec::default() };
//! simulate(&Recipe { scan: spec, ..Recipe::default() })?.write(&file)?;
//!
//! // Leaves run/checkpoints/best.safetensors, run/history.csv and run/run.json.
//! let run = folder.join("run");
//! let outcome = train::train(&train::Args {
//!     train_data_file: Some(vec![file.clone()]),
//!     output_dir: Some(run.clone()),
//!     max_epochs: Some(2), // 20 to 50 for a result
//!     batch_size: Some(4),
//!     n_filters_scale: Some(1),
//! #   device: Some(Device::Cpu),
//! #   quiet: Some(true),
//!     ..train::Args::default()
//! })?;
//! println!("loss {:.4}", outcome.train_loss);
//!
//! let scan = load(&file, &LoadOptions::default())?;
//! let path = run.join("checkpoints/best.safetensors");
//! let device = backend::choose(Device::Auto)?;
//! let network = Network::new(&Checkpoint::load(&path)?, &path, 16, &device)?;
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
//! println!("an object of {height}×{width} pixels from {:?}", result.canvas.origin_yx);
//! # assert!(height > 32 && result.stitched.object.iter().all(|z| z.is_finite()));
//! # Ok(())
//! # }
//! ```
//!
//! # What can go wrong
//!
//! Whatever comes from outside, such as files, options, and arrays of a [`Scan`](data::Scan) that was put
//! together by hand, is checked where it comes in: functions return an [`Error`] whose message says what was
//! found, what was expected, and what to do. None of them panics on bad arguments, but for those that say so
//! under *Panics*. The engine (see the map) is below that: it asserts what its callers have checked, and a
//! panic in it is an error of this crate.
//!
//! Version numbers follow [Semantic Versioning](https://semver.org): until 1.0, a change of the second number
//! may break what uses the crate, that of the third does not.
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
//! | the engine, which knows nothing of ptychography, and asserts what it is given | |
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
//! | [`models`] | the network, the physics, and the plans that train and apply them; belongs to the engine |
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

mod text;

pub use error::{Error, Result};
