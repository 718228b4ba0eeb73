//! The ranking for the terminal.

use std::fmt;

use super::ranking::{Candidate, Confidence, ProbeFrame, Ranking};
use super::turn::Turn;

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Confidence::High => "high",
            Confidence::Fair => "fair",
            Confidence::Low => "low",
            Confidence::CannotTell => "none",
        })
    }
}

impl fmt::Display for Ranking {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "Orientation of the frames relative to the positions, by short fits of {} patterns of \
             {side} × {side} pixels:\n",
            self.frames,
            side = self.side
        )?;
        self.table(f)?;
        writeln!(f)?;
        let lines = [
            ("verdict", self.verdict()),
            ("margin", self.margin_line()),
            ("confidence", format!("{}: {}", self.confidence(), self.rule())),
            ("twins", self.twins()),
            ("applied", "nothing: give the flags to the command that reads the file".to_owned()),
        ];
        lines.iter().try_for_each(|(name, text)| writeln!(f, "  {name:12} {text}"))
    }
}

impl Ranking {
    fn table(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "  rank  {:35} {:24} {:31} {:>8}  {:>12}  {:>5}",
            "frames", "flags", "or for the positions", "residual", "file's probe", "curl"
        )?;
        for (rank, candidate) in self.candidates.iter().enumerate() {
            let number = |r: Option<f64>| r.map_or("diverged".to_owned(), |r| format!("{r:.4}"));
            let curl =
                candidate.curl_share.map_or("-".to_owned(), |c| format!("{:.0} %", 100.0 * c));
            let given_up =
                if candidate.epochs < self.best().epochs { "  given up early" } else { "" };
            writeln!(
                f,
                "  {:4}  {:35} {:24} {:31} {:>8}  {:>12}  {curl:>5}{given_up}",
                rank + 1,
                candidate.turn.words(),
                none_if_empty(candidate.turn.frame_flags()),
                none_if_empty(&candidate.turn.inverse().position_flags()),
                number(candidate.residual),
                number(candidate.residual_known_probe),
            )?;
        }
        Ok(())
    }

    /// What the file seems to be, and what to do.
    fn verdict(&self) -> String {
        let best = self.best();
        match self.confidence() {
            Confidence::CannotTell => format!(
                "the patterns cannot tell: frames {} and {} explain them alike; more overlap, more \
                 light or a part of the sample with more structure would help",
                best.turn.words(),
                self.second().turn.words()
            ),
            _ if best.turn == Turn::NONE => "as the file is".to_owned(),
            _ => format!("the file seems to be stored with {}", remedy(best)),
        }
    }

    fn margin_line(&self) -> String {
        format!(
            "{:.2}, {:.2} above the shot noise of {:.4}: residual of the best other orientation that \
             patterns can tell apart (frames {}), in units of the best",
            self.margin(),
            self.margin_above_noise(),
            self.floor,
            self.second().turn.words()
        )
    }

    fn twins(&self) -> String {
        let (best, twin) = (self.best().turn, self.twin().turn);
        let pair = format!(
            "frames {} and {} are twins: with a free probe they explain any patterns equally well, by \
             the complex conjugates of each other's object and probe",
            best.words(),
            twin.words()
        );
        let margin = self.twin_margin();
        match self.twins_told() {
            true => format!(
                "{pair}. The probe of the file decides for {} (from it, the twin is left with \
                 {margin:.2} times the residual): right if the sign of its curvature is",
                best.words()
            ),
            false => format!(
                "{pair}. The probe of the file suits both alike (from it, the twin is left with \
                 {margin:.2} times the residual): only the sign of the beam's curvature or of the sample's phase can tell, \
                 {} or {}",
                flags(best),
                flags(twin)
            ),
        }
    }
}

/// "its frames flipped left-right: read it with `--flip lr`, or …".
fn remedy(candidate: &Candidate) -> String {
    let (turn, undone) = (candidate.turn, candidate.turn.inverse());
    let frames = turn.frame_flags();
    let positions = undone.position_flags();
    let words = undone.words();
    match candidate.probe {
        ProbeFrame::Positions => format!(
            "its frames {words}: read it with `{frames}`; the same in a turned picture: turn the \
             positions with `{positions}`"
        ),
        ProbeFrame::Detector => format!(
            "its frames {words} relative to its positions, and its probe fits the frames: turn the \
             positions with `{positions}`; the same in a turned picture: read it with `{frames}`"
        ),
    }
}

fn flags(turn: Turn) -> String {
    match turn.frame_flags() {
        "" => "no flags".to_owned(),
        flags => format!("`{flags}`"),
    }
}

fn none_if_empty(flags: &str) -> &str {
    if flags.is_empty() { "none" } else { flags }
}
