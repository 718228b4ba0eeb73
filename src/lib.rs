//! Physics-informed neural reconstruction of ptychographic scans.

pub mod backend;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod graph;
pub mod infer;
pub mod launch;
pub mod metrics;
pub mod models;
pub mod ops;
pub mod plan;
pub mod random;
pub mod report;
pub mod simulate;
pub mod stitch;
pub mod train;

pub use error::{Error, Result};
