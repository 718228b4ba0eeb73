//! From object patch to loss.

use ptycho_gpu::ops::{intensity::intensity, polar::polar};

use crate::support::case;

#[test]
fn polar_makes_a_complex_patch_of_amplitude_and_phase() {
    case(|g| {
        let (a, phi) = (g.param("amplitude", &[2, 3, 5, 4]), g.param("phase", &[2, 3, 5, 4]));
        polar(g, a, phi)
    })
    .check(1e-6);
}

#[test]
fn polar_shares_one_amplitude_among_the_phases_of_a_group() {
    case(|g| {
        let (a, phi) = (g.param("amplitude", &[2, 1, 5, 4]), g.param("phase", &[2, 3, 5, 4]));
        polar(g, a, phi)
    })
    .check(1e-6);
}

#[test]
fn intensity_sums_the_modes_incoherently() {
    case(|g| {
        let field = g.param("field", &[2, 1, 3, 4, 4, 2]);
        intensity(g, field)
    })
    .check(1e-6);
}
