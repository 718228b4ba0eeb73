//! From gradient to step.
