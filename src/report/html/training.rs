//! Sections on how a run came to its end: loss, rates, what the patches looked like.

use super::plot::{Line, Plot};
use super::read::Folder;
use super::{Sections, escape};
use crate::report::history::Table;

/// The curves of history.csv, if there is one.
pub(super) fn sections(sections: &mut Sections, folder: &Folder) {
    let Some(history) = &folder.history else { return };
    let training = folder.command() == "train";
    let note = match training {
        true => {
            "Poisson likelihood or error of the amplitudes, as configured, averaged over an epoch."
        }
        false => "Misfit between measured and predicted patterns, averaged over an epoch.",
    };
    let loss = [("train_loss", "training"), ("val_loss", "validation"), ("loss", "loss")];
    let mut html = plot(history, "Loss", &loss, true, note);
    let rates = [("learning_rate", "learning rate"), ("rate", "factor on the rates")];
    html += &plot(history, "Learning rate", &rates, false, "");
    if training {
        html += &plot(
            history,
            "Patches",
            &[
                ("amplitude_mean", "amplitude, mean"),
                ("amplitude_std", "amplitude, spread"),
                ("phase_std", "phase, spread (rad)"),
            ],
            false,
            "Of the last patches of each epoch. A spread that falls to 0 is a collapse.",
        );
        let norm = [("gradient_norm", "norm")];
        html += &plot(history, "Gradient", &norm, true, "");
    }
    let speed = [("patterns_per_second", "patterns per second")];
    html += &plot(history, "Speed", &speed, false, "");
    let title = if training { "Training" } else { "Convergence" };
    sections.add("training", title, &format!("<div class=\"grid two\">\n{html}</div>"));
}

fn plot(history: &Table, title: &str, columns: &[(&str, &str)], log: bool, note: &str) -> String {
    let lines: Vec<Line> = columns.iter().filter_map(|(c, n)| line(history, c, n)).collect();
    if lines.is_empty() {
        return String::new();
    }
    let y = if lines.len() == 1 { lines[0].name.clone() } else { title.to_lowercase() };
    let note = escape(note);
    Plot { title, x: "epoch", y: &y, log, bars: false, level: None, note }.html(&lines)
}

fn line(history: &Table, column: &str, name: &str) -> Option<Line> {
    let at = history.columns.iter().position(|c| c == column)?;
    let epoch = history.columns.iter().position(|c| c == "epoch")?;
    let points = history.rows.iter().map(|row| (row[epoch], row[at]));
    let points: Vec<(f64, f64)> = points.filter(|p| p.1.is_finite()).collect();
    (!points.is_empty()).then(|| Line { name: name.into(), points })
}
