//! Recognises a training that comes to nothing: a reconstruction without structure, or a loss that rises.
//!
//! A network can lower its loss for a while by a flat amplitude, or by one that has slid to the
//! negative floor of its activation, and stay there. Its loss then stands still. With steps that are too
//! large it forgets all it has learned, and the loss goes above what it began with.

use serde::{Deserialize, Serialize};

/// Spread of the amplitude over its mean below which it is flat.
const FLAT_AMPLITUDE: f64 = 5e-3;

/// Spread of the phase in rad below which it is flat.
const FLAT_PHASE: f64 = 1e-2;

/// Epochs over which the loss is looked at.
const WINDOW: usize = 3;

/// Relative fall of the loss over the window that counts as learning.
const PROGRESS: f64 = 0.01;

/// A loss has exploded if it rises from the best one by this many times what it had fallen ...
const RISE: f64 = 2.0;
/// ... and by this part of it, in each of so many epochs.
const LEAST_RISE: f64 = 0.5;
const EXPLODED: usize = 2;

/// Mean and spread of patches where the probe lights them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Structure {
    pub amplitude_mean: f64,
    pub amplitude_std: f64,
    /// rad, about the mean direction.
    pub phase_std: f64,
}

impl Structure {
    /// `amplitude` and `phase` (rad) hold whole N×N patches; `lit` is [N, N].
    pub fn of(amplitude: &[f32], phase: &[f32], lit: &[f32], side: usize) -> Structure {
        let moments = |values: &[f32], f: &dyn Fn(f64) -> f64| {
            let (mut total, mut sum) = (0.0, 0.0);
            for patch in values.chunks_exact(side * side) {
                for (&x, &w) in patch.iter().zip(lit) {
                    total += f64::from(w);
                    sum += f64::from(w) * f(x.into());
                }
            }
            sum / total
        };
        let mean = moments(amplitude, &|a| a);
        let variance = moments(amplitude, &|a| (a - mean).powi(2));
        let (cos, sin) = (moments(phase, &f64::cos), moments(phase, &f64::sin));
        // Spread on the circle: √(−2 ln r), r the length of the mean direction (Mardia 1972).
        let length = cos.hypot(sin).clamp(f64::MIN_POSITIVE, 1.0);
        let phase_std = (-2.0 * length.ln()).sqrt();
        Structure { amplitude_mean: mean, amplitude_std: variance.sqrt(), phase_std }
    }

    fn problem(&self) -> Option<String> {
        if self.amplitude_mean <= 0.0 {
            return Some(format!("the amplitude is negative (mean {:.3})", self.amplitude_mean));
        }
        let amplitude = self.amplitude_std / self.amplitude_mean;
        let flat = amplitude < FLAT_AMPLITUDE && self.phase_std < FLAT_PHASE;
        flat.then(|| {
            let phase = self.phase_std;
            format!(
                "amplitude (spread {amplitude:.1e}) and phase (spread {phase:.1e} rad) are flat"
            )
        })
    }
}

/// Whether the loss has exploded, from the (loss, structure) of all epochs, whose losses are of one kind.
pub fn explosion(epochs: &[(f64, Structure)]) -> Option<String> {
    let losses: Vec<f64> = epochs.iter().map(|(loss, _)| *loss).collect();
    let (before, last) = losses.split_at_checked(losses.len().checked_sub(EXPLODED)?)?;
    let (first, best) = (*before.first()?, before.iter().copied().fold(f64::INFINITY, f64::min));
    let limit = best + (RISE * (first - best)).max(LEAST_RISE * best.abs());
    let exploded = last.iter().all(|&loss| loss > limit);
    exploded.then(|| {
        let now = last.last().copied().unwrap_or_default();
        format!(
            "the training has exploded: the loss has risen from {best:.4} to {now:.4}, above what it began \
             with; try a lower --learning-rate, or --gradient-clip-val 1"
        )
    })
}

/// What has collapsed, from the (loss, structure) of all epochs; `None` if nothing has.
pub fn collapse(epochs: &[(f64, Structure)]) -> Option<String> {
    let (loss, structure) = epochs.last()?;
    let earlier = epochs.len().checked_sub(1 + WINDOW).map(|i| epochs[i].0)?;
    let stagnates = *loss > earlier * (1.0 - PROGRESS);
    let problem = structure.problem()?;
    stagnates.then(|| {
        format!(
            "the reconstruction has collapsed: {problem} and the loss has not fallen for {WINDOW} \
             epochs; try another --seed, --head joint with --amp-activation softplus, or a lower \
             --learning-rate"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(loss: impl Fn(usize) -> f64, structure: Structure) -> Vec<(f64, Structure)> {
        (0..6).map(|e| (loss(e), structure)).collect()
    }

    const FLAT: Structure = Structure { amplitude_mean: 1.0, amplitude_std: 1e-4, phase_std: 1e-4 };

    #[test]
    fn a_flat_patch_with_a_standing_loss_has_collapsed() {
        assert!(collapse(&epochs(|_| 1.0, FLAT)).is_some_and(|s| s.contains("flat")));
    }

    #[test]
    fn a_flat_patch_that_still_learns_has_not() {
        assert!(collapse(&epochs(|e| 1.0 - 0.05 * e as f64, FLAT)).is_none());
    }

    #[test]
    fn a_negative_amplitude_has_collapsed_even_with_structure() {
        let negative = Structure { amplitude_mean: -0.2, amplitude_std: 0.1, phase_std: 1.0 };
        assert!(collapse(&epochs(|_| 1.0, negative)).is_some_and(|s| s.contains("negative")));
    }

    #[test]
    fn structure_is_measured_where_the_probe_lights_the_patch() {
        let (amplitude, phase) = ([1.0, 2.0, 9.0, 9.0], [0.0; 4]);
        let structure = Structure::of(&amplitude, &phase, &[1.0, 1.0, 0.0, 0.0], 2);
        assert!((structure.amplitude_mean - 1.5).abs() < 1e-12);
        assert!((structure.amplitude_std - 0.5).abs() < 1e-12);
        assert!(structure.phase_std < 1e-6);
    }

    #[test]
    fn a_loss_that_goes_above_its_beginning_and_stays_there_has_exploded() {
        let structure = Structure { amplitude_mean: 1.0, amplitude_std: 0.3, phase_std: 0.3 };
        let run = |losses: &[f64]| {
            let epochs: Vec<_> = losses.iter().map(|&loss| (loss, structure)).collect();
            explosion(&epochs)
        };
        let said = run(&[1.0, 0.6, 0.5, 1.7, 1.9]).expect("it has exploded");
        assert!(said.contains("exploded") && said.contains("0.5000 to 1.9000"), "{said}");
        // From the first epoch on.
        assert!(run(&[1.0, 2.0, 3.0]).is_some());
        // One bad epoch, noise about a plateau, and a loss below 0 that rises a little are none.
        assert_eq!(run(&[1.0, 0.6, 0.5, 1.9, 0.5]), None);
        assert_eq!(run(&[1.0, 0.99, 1.02, 1.03]), None);
        assert_eq!(run(&[-3.0, -3.2, -3.1, -3.1]), None);
        assert_eq!(run(&[2.0, 3.0]), None);
    }
}
