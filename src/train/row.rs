//! What history.csv and the progress line say of an epoch.

use super::collapse::Structure;

/// Columns of history.csv.
pub const COLUMNS: [&str; 11] = [
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "val_loss",
    "gradient_norm",
    "amplitude_mean",
    "amplitude_std",
    "phase_std",
    "patterns_per_second",
    "seconds",
];

/// One row of history.csv.
pub struct Row {
    pub epoch: usize,
    pub step: u64,
    pub rate: f64,
    pub train_loss: f64,
    pub val_loss: Option<f64>,
    pub norm: f64,
    pub structure: Structure,
    pub patterns: usize,
}

impl Row {
    pub fn columns(&self, seconds: f64) -> [f64; COLUMNS.len()] {
        let Structure { amplitude_mean, amplitude_std, phase_std } = self.structure;
        [
            self.epoch as f64,
            self.step as f64,
            self.rate,
            self.train_loss,
            self.val_loss.unwrap_or(f64::NAN),
            self.norm,
            amplitude_mean,
            amplitude_std,
            phase_std,
            self.patterns as f64 / seconds.max(1e-9),
            seconds,
        ]
    }

    pub fn summary(&self) -> String {
        let validation = self.val_loss.map(|v| format!(", validation {v:.5}")).unwrap_or_default();
        format!("loss {:.5}{validation}", self.train_loss)
    }
}
