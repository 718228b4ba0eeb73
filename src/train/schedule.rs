//! The learning rate, and the share of true patches in the loss, over the epochs.

use serde::{Deserialize, Serialize};

use crate::config::{LossConfig, OptimiserConfig, Schedule};

/// First share of the learning rate during warm-up.
const WARMUP_START: f64 = 0.1;

/// What a schedule remembers from epoch to epoch; saved in the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Factor that the plateau rule has come to.
    pub plateau: f64,
    /// Lowest loss that the plateau rule has seen.
    pub lowest: Option<f64>,
    /// Epochs since then.
    pub waited: usize,
}

impl Default for State {
    fn default() -> State {
        State { plateau: 1.0, lowest: None, waited: 0 }
    }
}

/// Factor on the learning rate in `epoch` (from 0) of `epochs`.
pub fn factor(config: &OptimiserConfig, state: &State, epoch: usize, epochs: usize) -> f64 {
    match config.schedule {
        Schedule::Constant => 1.0,
        Schedule::Exponential => config.exponential_decay.powi(epoch as i32),
        Schedule::Cosine => cosine(config, epoch, epochs),
        Schedule::Plateau => {
            state.plateau.max(config.plateau_min_lr / config.learning_rate).min(1.0)
        }
    }
}

/// A straight line from a tenth to 1 in the warm-up, then half a cosine to `lr_min_ratio` in the
/// last epoch.
fn cosine(config: &OptimiserConfig, epoch: usize, epochs: usize) -> f64 {
    let warmup = config.warmup_epochs;
    if epoch < warmup {
        return WARMUP_START + (1.0 - WARMUP_START) * epoch as f64 / warmup as f64;
    }
    let span = epochs.saturating_sub(warmup + 1).max(1) as f64;
    let t = ((epoch - warmup) as f64 / span).min(1.0);
    let low = config.lr_min_ratio;
    low + (1.0 - low) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
}

/// Share of the true patches in a mixed loss in `epoch` (from 0) of `epochs`.
pub fn label_share(config: &LossConfig, epoch: usize, epochs: usize) -> f64 {
    let t = epoch as f64 / epochs.saturating_sub(1).max(1) as f64;
    config.label_share + (config.label_share_end - config.label_share) * t.min(1.0)
}

/// Tells the schedule the loss of an epoch.
pub fn observe(config: &OptimiserConfig, state: &mut State, loss: f64) {
    let better = state.lowest.is_none_or(|low| loss < low * (1.0 - config.plateau_threshold));
    if better {
        state.lowest = Some(loss);
        state.waited = 0;
        return;
    }
    state.waited += 1;
    if state.waited > config.plateau_patience {
        state.plateau *= config.plateau_factor;
        state.waited = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(schedule: Schedule) -> OptimiserConfig {
        OptimiserConfig { schedule, warmup_epochs: 2, ..OptimiserConfig::default() }
    }

    #[test]
    fn cosine_warms_up_and_ends_at_its_lowest_ratio() {
        let (c, s) = (config(Schedule::Cosine), State::default());
        let factors: Vec<f64> = (0..12).map(|e| factor(&c, &s, e, 12)).collect();
        assert!((factors[0] - 0.1).abs() < 1e-12 && (factors[2] - 1.0).abs() < 1e-12);
        assert!((factors[11] - c.lr_min_ratio).abs() < 1e-12);
        assert!(factors[2..].windows(2).all(|w| w[1] < w[0]));
    }

    #[test]
    fn plateau_halves_after_patience_and_stops_at_the_lowest_rate() {
        let (c, mut s) = (config(Schedule::Plateau), State::default());
        observe(&c, &mut s, 1.0);
        for expected in [1.0, 1.0, 0.5] {
            observe(&c, &mut s, 1.0);
            assert_eq!(factor(&c, &s, 0, 10), expected);
        }
        (0..100).for_each(|_| observe(&c, &mut s, 1.0));
        assert_eq!(factor(&c, &s, 0, 10), 5e-5 / 1e-3);
    }

    #[test]
    fn exponential_multiplies_every_epoch() {
        let c = config(Schedule::Exponential);
        assert!((factor(&c, &State::default(), 3, 10) - 0.95f64.powi(3)).abs() < 1e-15);
    }
}
