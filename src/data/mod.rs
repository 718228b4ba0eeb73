//! What comes in: files, their validation, and the groups of neighbouring patterns.

pub mod ahead;
pub mod archive;
pub mod check;
pub mod formats;
pub mod frames;
pub mod geometry;
pub mod grouping;
pub mod hdf5;
pub mod instrument;
pub mod layout;
pub mod load;
pub mod npz;
mod positions;
mod reader;
pub mod reading;
pub mod save;
pub mod scan;
pub mod scratch;
pub mod stack;
pub mod units;
pub mod values;
pub mod writers;

pub use ahead::Ahead;
pub use archive::{Archive, Member};
pub use check::{Problem, Severity, check_network_side};
pub use grouping::{Groups, default_neighbor_count};
pub use instrument::Instrument;
pub use load::{FrameOrder, LoadOptions, Room, Survey, load, survey};
pub use npz::{Npz, NpzWriter};
pub use reading::{Format, Reading};
pub use save::{CountedPatterns, Patterns, ScanFile, save_scan, write_scan};
pub use scan::{Dose, DoseOrigin, Position, Scan, Source};
pub use scratch::Scratch;
pub use stack::{Stack, Stacks};
pub use units::{Amplitude, Counts, InputDomain};
