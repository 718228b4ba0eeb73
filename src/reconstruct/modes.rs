//! Incoherent modes of a probe: several from one guess, made orthogonal, their powers.

use ndarray::{Array2, Array3, ArrayView3, Axis};
use num_complex::{Complex32, Complex64};

use crate::data::geometry::probe_diameter;
use crate::simulate::probes::orthogonal_modes;

/// More modes than this cannot be told apart.
pub const MOST: usize = 10;

/// Power of a mode that is added to a guess, in units of the first one's, over its number.
const ADDED: f64 = 0.02;

/// Brings a probe to `count` modes: the weakest are dropped, or weak ones are added that are the
/// first times polynomials of x and y, as behind a source or a detector pixel of finite size.
pub fn with_count(probe: ArrayView3<Complex32>, count: usize) -> Array3<Complex32> {
    let wide = probe.mapv(|z| Complex64::new(z.re.into(), z.im.into()));
    let (modes, side, _) = wide.dim();
    let mut out = Array3::<Complex64>::zeros((count, side, side));
    for (mut to, from) in out.axis_iter_mut(Axis(0)).zip(wide.axis_iter(Axis(0))) {
        to.assign(&from);
    }
    if count > modes {
        let first = wide.index_axis(Axis(0), 0).to_owned();
        let power: f64 = first.iter().map(|z| z.norm_sqr()).sum();
        let radius = probe_diameter(&probe.to_owned()).max(2.0) / 2.0;
        let family = orthogonal_modes(&first, count, radius);
        for mode in modes..count {
            let scale = (ADDED * power / mode as f64).sqrt();
            out.index_axis_mut(Axis(0), mode)
                .assign(&family.index_axis(Axis(0), mode).mapv(|z| z * scale));
        }
    }
    out.mapv(narrow)
}

fn narrow(z: Complex64) -> Complex32 {
    Complex32::new(z.re as f32, z.im as f32)
}

/// Darkens everything outside a circle of `diameter` pixels about the middle.
pub fn confine(probe: &mut Array3<Complex32>, diameter: f64) {
    let middle = (probe.dim().1 / 2) as f64;
    for ((_, y, x), z) in probe.indexed_iter_mut() {
        if (y as f64 - middle).hypot(x as f64 - middle) > diameter / 2.0 {
            *z = Complex32::default();
        }
    }
}

/// Share of each mode in the power of all.
pub fn powers(probe: ArrayView3<Complex32>) -> Vec<f64> {
    let of = |mode: ndarray::ArrayView2<Complex32>| -> f64 {
        mode.iter().map(|z| f64::from(z.norm_sqr())).sum()
    };
    let all: Vec<f64> = probe.axis_iter(Axis(0)).map(of).collect();
    let total: f64 = all.iter().sum();
    all.iter().map(|p| if total > 0.0 { p / total } else { 0.0 }).collect()
}

/// `shares` for a reader: "81.3 %, 18.7 %".
pub fn in_percent(shares: &[f64]) -> String {
    let all: Vec<String> = shares.iter().map(|share| format!("{:.1} %", 100.0 * share)).collect();
    all.join(", ")
}

/// The same intensity in orthogonal modes, the strongest first: what the modes of a partially
/// coherent beam mean (Wolf 1982). A unitary mixture of modes is the same beam.
pub fn orthogonal(probe: ArrayView3<Complex32>) -> Array3<Complex32> {
    let count = probe.dim().0;
    let wide = probe.mapv(|z| Complex64::new(z.re.into(), z.im.into()));
    let mut gram = Array2::from_shape_fn((count, count), |(a, b)| -> Complex64 {
        let (a, b) = (wide.index_axis(Axis(0), a), wide.index_axis(Axis(0), b));
        a.iter().zip(&b).map(|(a, b)| a.conj() * b).sum()
    });
    let vectors = diagonalise(&mut gram);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| gram[[b, b]].re.total_cmp(&gram[[a, a]].re));
    let mut out = Array3::<Complex64>::zeros(wide.dim());
    for (mut to, &k) in out.axis_iter_mut(Axis(0)).zip(&order) {
        for (mode, from) in wide.axis_iter(Axis(0)).enumerate() {
            let share = vectors[[mode, k]];
            to.zip_mut_with(&from, |to, from| *to += share * from);
        }
    }
    // A mode may turn its phase freely: it keeps that of the mode that it is closest to.
    for (mut to, &k) in out.axis_iter_mut(Axis(0)).zip(&order) {
        let largest = (0..count)
            .max_by(|&a, &b| vectors[[a, k]].norm_sqr().total_cmp(&vectors[[b, k]].norm_sqr()));
        let turn = largest.map_or(0.0, |mode| -vectors[[mode, k]].arg());
        to.mapv_inplace(|z| z * Complex64::from_polar(1.0, turn));
    }
    out.mapv(narrow)
}

/// Rotations after which a Hermitian matrix of this size is diagonal to rounding.
const SWEEPS: usize = 30;

/// Diagonalises a Hermitian matrix in place by Jacobi rotations; its columns of eigenvectors.
fn diagonalise(a: &mut Array2<Complex64>) -> Array2<Complex64> {
    let n = a.nrows();
    let mut vectors = Array2::<Complex64>::eye(n);
    for _ in 0..SWEEPS {
        for p in 0..n {
            for q in p + 1..n {
                let off = a[[p, q]];
                if off.norm() <= f64::EPSILON * (a[[p, p]].re * a[[q, q]].re).abs().sqrt() {
                    continue;
                }
                let phase = off / off.norm();
                let theta = 0.5 * (2.0 * off.norm()).atan2(a[[q, q]].re - a[[p, p]].re);
                let (s, c) = theta.sin_cos();
                rotate(a, p, q, c, s, phase);
                rotate_columns(&mut vectors, p, q, c, s, phase);
            }
        }
    }
    vectors
}

/// a ← Rᴴ a R.
fn rotate(a: &mut Array2<Complex64>, p: usize, q: usize, c: f64, s: f64, phase: Complex64) {
    rotate_columns(a, p, q, c, s, phase);
    for k in 0..a.ncols() {
        let (x, y) = (a[[p, k]], a[[q, k]]);
        a[[p, k]] = x * c - y * phase * s;
        a[[q, k]] = x * phase.conj() * s + y * c;
    }
}

/// a ← a R, R = [[c, e^{iφ} s], [−e^{−iφ} s, c]] on columns p and q.
fn rotate_columns(a: &mut Array2<Complex64>, p: usize, q: usize, c: f64, s: f64, phase: Complex64) {
    for k in 0..a.nrows() {
        let (x, y) = (a[[k, p]], a[[k, q]]);
        a[[k, p]] = x * c - y * phase.conj() * s;
        a[[k, q]] = x * phase * s + y * c;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    fn noise(modes: usize) -> Array3<Complex32> {
        let mut stream = Stream::new(3, Purpose::Probe, 0);
        Array3::from_shape_fn((modes, 8, 8), |(m, _, _)| {
            Complex32::new(stream.normal() as f32, stream.normal() as f32) / (1.0 + m as f32)
        })
    }

    #[test]
    fn orthogonal_modes_give_the_same_beam_and_do_not_overlap() {
        let (given, made) = (noise(4), orthogonal(noise(4).view()));
        // What two points of the beam have to do with each other: Σ_p P_p(x) conj(P_p(y)).
        let coherence = |probe: &Array3<Complex32>, at: [usize; 2], other: [usize; 2]| {
            (0..4).map(|m| probe[[m, at[0], at[1]]] * probe[[m, other[0], other[1]]].conj()).sum()
        };
        for (at, other) in [([1, 2], [1, 2]), ([0, 3], [5, 6]), ([7, 7], [2, 0])] {
            let (a, b): (Complex32, Complex32) =
                (coherence(&given, at, other), coherence(&made, at, other));
            assert!((a - b).norm() < 1e-5, "{a} became {b}");
        }
        for (a, b) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
            let (x, y) = (made.index_axis(Axis(0), a), made.index_axis(Axis(0), b));
            let overlap: Complex32 = x.iter().zip(&y).map(|(x, y)| x.conj() * y).sum();
            assert!(overlap.norm() < 1e-4, "modes {a} and {b} overlap by {overlap}");
        }
        let powers = powers(made.view());
        assert!(powers.windows(2).all(|p| p[0] >= p[1]), "{powers:?}");
    }

    #[test]
    fn a_guess_gets_weak_modes_beside_it() {
        let guess = noise(1);
        let probe = with_count(guess.view(), 3);
        assert_eq!(probe.index_axis(Axis(0), 0), guess.index_axis(Axis(0), 0));
        let powers = powers(probe.view());
        assert!(powers[0] > 0.9 && powers[1] > powers[2] && powers[2] > 0.0, "{powers:?}");
    }
}
