//! Density and distribution function of the standard normal distribution, for GELU.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E, PI};

/// From here on Φ is 1, and at its negative 0, to the last bit of f64.
const FAR: f64 = 8.5;

/// 2²³ + 2²²: adding it leaves a whole number in the lowest bits of an f32.
const MAGIC: f32 = 12_582_912.0;

/// Bits of the fraction of an f32, and those of the number 1.
const FRACTION: u32 = 23;
const ONE: u32 = 0x3f80_0000;

/// Φ(x) and φ(x) = e^{−x²/2}/√(2π) in double precision, by the series
/// Φ = ½ + φ (x + x³/3 + x⁵/(3·5) + …).
pub fn double(x: f64) -> [f64; 2] {
    let density = (-0.5 * x * x).exp() * FRAC_1_SQRT_2 / PI.sqrt();
    if x.abs() > FAR {
        return [if x > 0.0 { 1.0 } else { 0.0 }, density];
    }
    let (mut sum, mut term, mut odd) = (0.0, x, 1.0);
    while sum + term != sum {
        sum += term;
        odd += 2.0;
        term *= x * x / odd;
    }
    [0.5 + density * sum, density]
}

/// The same in single precision, without branches or calls, so that it runs on vectors. Φ by
/// Abramowitz and Stegun 26.2.17, which is off by 7.5e-8; with rounding by less than 3e-7.
#[inline(always)]
pub fn single(x: f32) -> [f32; 2] {
    const P: f32 = 0.231_641_9;
    const B: [f32; 5] = [0.319_381_53, -0.356_563_78, 1.781_477_9, -1.821_256, 1.330_274_4];
    let density =
        power_of_two(-0.5 * LOG2_E as f32 * x * x) * (FRAC_1_SQRT_2 / 1.772_453_850_905_516) as f32;
    let t = 1.0 / (1.0 + P * x.abs());
    let tail = density * t * (B[0] + t * (B[1] + t * (B[2] + t * (B[3] + t * B[4]))));
    [if x < 0.0 { tail } else { 1.0 - tail }, density]
}

/// 2^x for x ≤ 0, and 0 where that is no normal number.
#[inline(always)]
fn power_of_two(x: f32) -> f32 {
    let x = x.max(-127.0);
    let shifted = x + MAGIC;
    // From −½ to ½, times ln 2.
    let f = (x - (shifted - MAGIC)) * LN_2 as f32;
    let series = 1.0 / 120.0 + f * (1.0 / 720.0 + f / 5040.0);
    let fraction = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * series))));
    fraction * f32::from_bits((shifted.to_bits() << FRACTION).wrapping_add(ONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_function_has_its_known_values() {
        // erf from tables of 15 digits.
        for (x, erf) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_047),
            (1.0, 0.842_700_792_949_715),
            (3.0, 0.999_977_909_503_001),
        ] {
            let x: f64 = x * 2.0_f64.sqrt();
            assert!((double(x)[0] - 0.5 * (1.0 + erf)).abs() < 1e-15);
            assert!((double(-x)[0] - 0.5 * (1.0 - erf)).abs() < 1e-15);
        }
        assert_eq!([double(40.0), double(-40.0)], [[1.0, 0.0], [0.0, 0.0]]);
    }

    #[test]
    fn single_precision_agrees_with_double() {
        for i in -1000..=1000 {
            let x = 0.012_34 * f64::from(i);
            let ([p, d], [want_p, want_d]) = (single(x as f32), double(f64::from(x as f32)));
            assert!((f64::from(p) - want_p).abs() < 3e-7, "Φ({x}) = {p}, not {want_p}");
            assert!((f64::from(d) - want_d).abs() < 1e-7, "φ({x}) = {d}, not {want_d}");
        }
    }
}
