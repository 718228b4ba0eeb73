//! Which way round the frames of a scan lie, relative to its positions.
//!
//! Detectors are read out from any corner, and stages count in any direction, so a file may hold
//! frames that are mirrored or turned, and positions whose axes are exchanged or have the other
//! sign. The patterns tell most of that, and this module says what they tell. It changes nothing.
//!
//! # What can differ
//!
//! Frames may be changed by any of the 8 symmetries of a square ([`Turn`]), and positions too: 64
//! combinations. With frames `I_i(q) = |F[P(r) O(r + r_i)](q)|²`, the same turn k of frames and
//! positions is the same experiment in a turned picture: object O(k⁻¹r), probe P(k⁻¹r). So only the
//! turn of the frames *relative* to the positions matters, and 8 classes are left. Each is named by
//! the turn g of the frames that puts it right; turning the positions by g⁻¹ does as well. The two differ
//! in which way round the probe lies, and only a known probe that is not symmetric can tell them
//! apart: all fits begin with both.
//!
//! # What no pattern can tell: twins
//!
//! Conjugating a wave inverts its far field, |F[ψ*](q)| = |F[ψ](−q)|. Hence if O and P explain the
//! frames at the positions r_i, O* and P* explain the frames turned by 180° at the same positions;
//! or, turned by 180° once more, O*(−r) and P*(−r) the frames as they are at −r_i. The turn by 180°
//! commutes with all others, so the 8 classes are 4 pairs of twins g and −g:
//!
//! | as they are | flipped left-right | transposed | turned by 90° |
//! |---|---|---|---|
//! | turned by 180° | flipped up-down | transposed about the other diagonal | turned by 270° |
//!
//! While the probe is free, twins explain the patterns equally well, to the last bit of the data. What
//! breaks the tie is knowledge: the probe, as far as P and P* differ by more than what the object can
//! take over (a constant and a ramp of phase), in practice the sign of its curvature; or the sign of
//! the sample's phase. A real probe, such as a disk in focus, leaves it open. So pairs are ranked by
//! fits with a free probe, and twins among themselves by how far such a fit comes from the probe of
//! the file, in as many epochs; the answer says so.
//!
//! # Two tests
//!
//! **The fit** ([`fit`]). A compact part of the scan, where patterns overlap, is solved for in every
//! orientation from the same seed, first with the probe of the file, then with a free probe. In the wrong
//! orientation neighbours contradict each other where they overlap, and a residual is left. An
//! orientation that falls behind is given up.
//!
//! **The centres of mass** ([`field`]). The centre of mass of a frame is the mean gradient of the
//! wave's phase under the probe. For a thin object, a pure phase or one material, it is the gradient of a
//! smoothed potential, whose rotation vanishes: over the right positions in the right orientation
//! its Jacobian is symmetric. It has nothing but rotation for a relative turn by 90°, and about half for a
//! mirrored frame. A turn by 180° changes its sign alone: twins again. The test needs no solution
//! and no probe, but thick or mixed objects and noise blur it, so it confirms and does not decide.

pub mod field;
pub mod fit;
mod ranking;
mod text;
mod trial;
mod turn;

pub use fit::{Options, rank};
pub use ranking::{Candidate, Confidence, ProbeFrame, Ranking};
pub use turn::Turn;
