//! What comes in: files, their validation, and the groups of neighbouring patterns.

pub mod grouping;
pub mod npz;
pub mod scan;
