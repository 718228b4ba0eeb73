//! Sums and maxima of slices, shared by the ops: fixed order, and wide enough to fill the lanes of
//! a vector unit.

use crate::backend::cpu::Real;

/// Partial results that a reduction keeps side by side.
const LANES: usize = 8;

/// Pixels of one parallel task in ops that work pixel by pixel.
pub const TILE: usize = 4096;

/// Σ f(a_i) in double precision.
pub fn sum<T: Real>(a: &[T], f: impl Fn(T) -> f64) -> f64 {
    sum_pairs(a, a, |a, _| f(a))
}

/// Σ f(a_i, b_i, c_i) in double precision.
pub fn sum_triples<T: Real>(a: &[T], b: &[T], c: &[T], f: impl Fn(T, T, T) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let whole = a.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let triples = a[i..].iter().zip(&b[i..]).zip(&c[i..]);
        for (lane, ((&a, &b), &c)) in lanes.iter_mut().zip(triples) {
            *lane += f(a, b, c);
        }
    }
    let rest = a[whole..].iter().zip(&b[whole..]).zip(&c[whole..]);
    lanes.iter().sum::<f64>() + rest.map(|((&a, &b), &c)| f(a, b, c)).sum::<f64>()
}

/// Σ f(a_i, b_i) in double precision.
pub fn sum_pairs<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f(a, b)).sum();
    for (a, b) in a.zip(b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(a, b);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The larger number; the first on a tie.
#[inline(always)]
pub fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Largest number of a slice that is not empty.
pub fn maximum<T: Real>(x: &[T]) -> T {
    let mut lanes = [x[0]; LANES];
    let blocks = x.chunks_exact(LANES);
    let rest = blocks.remainder().iter().fold(x[0], |max, &x| larger(max, x));
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, x);
        }
    }
    lanes.into_iter().fold(rest, larger)
}

/// −1, 0 or 1; 0 at 0.
#[inline(always)]
pub fn sign<T: Real>(x: T) -> T {
    let one_if = |yes: bool| if yes { T::one() } else { T::zero() };
    one_if(x > T::zero()) - one_if(x < T::zero())
}
