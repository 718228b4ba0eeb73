//! How far a training is: a bar on a terminal, a line per epoch elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log::{self as run_log, EPOCH};

/// Shows the progress of a training. Quiet when the log is.
#[derive(Debug)]
pub struct Progress {
    epochs: usize,
    steps_per_epoch: usize,
    steps_left: usize,
    steps_done: usize,
    started: Instant,
    epoch_started: Instant,
    epoch: usize,
    patterns: usize,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For `epochs` of `steps_per_epoch` each, of which those before `first_epoch` (counted from
    /// 0) are done.
    pub fn new(epochs: usize, steps_per_epoch: usize, first_epoch: usize) -> Progress {
        let steps_left = epochs.saturating_sub(first_epoch).saturating_mul(steps_per_epoch);
        let bar = (!run_log::is_quiet() && io::stderr().is_terminal()).then(|| bar(steps_left));
        run_log::set_bar(bar.clone());
        let now = Instant::now();
        Progress {
            epochs,
            steps_per_epoch,
            steps_left,
            steps_done: 0,
            started: now,
            epoch_started: now,
            epoch: first_epoch,
            patterns: 0,
            bar,
        }
    }

    /// `patterns` more are learned from; `loss` where it is known by now.
    pub fn step(&mut self, patterns: usize, loss: Option<f64>) {
        self.steps_done += 1;
        self.patterns += patterns;
        let Some(bar) = &self.bar else { return };
        bar.inc(1);
        if let Some(loss) = loss {
            bar.set_message(self.line(&format!("loss {loss:.5}")));
        }
    }

    /// The epoch is over; `summary` says how it went ("loss 0.1234, validation 0.1301").
    pub fn end_epoch(&mut self, summary: &str) {
        let line = self.line(summary);
        log::info!(target: EPOCH, "{line}");
        if let Some(bar) = &self.bar {
            bar.set_message(line);
        }
        self.epoch += 1;
        self.patterns = 0;
        self.epoch_started = Instant::now();
    }

    fn line(&self, summary: &str) -> String {
        let seconds = self.epoch_started.elapsed().as_secs_f64().max(1e-9);
        let rate = self.patterns as f64 / seconds;
        let left = match self.steps_done {
            0 => String::new(),
            done => {
                let share = self.steps_left.saturating_sub(done) as f64 / done as f64;
                format!(", {} left", short(self.started.elapsed().mul_f64(share)))
            }
        };
        let width = self.epochs.to_string().len();
        let epoch = self.epoch + 1;
        format!("epoch {epoch:>width$}/{}: {summary}, {rate:.0} patterns/s{left}", self.epochs)
    }

    /// Steps of one epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        run_log::set_bar(None);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(steps: usize) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(5);
    let style = ProgressStyle::with_template("{bar:24.cyan} {percent:>3}% {wide_msg}")
        .expect("the template is well formed");
    ProgressBar::with_draw_target(Some(steps as u64), target).with_style(style)
}

/// `42 s`, `3 min 20 s`, `1 h 05 min`.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s:02} s"),
        (h, min, _) => format!("{h} h {min:02} min"),
    }
}
