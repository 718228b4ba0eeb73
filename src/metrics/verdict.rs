//! Whether a reconstruction can be trusted, in words: from what the data say of it, how much its
//! patches disagree, and whether it has collapsed. No truth is needed.

use std::fmt;
use std::sync::LazyLock;

use serde::{Serialize, Serializer};

/// Residual beyond that of the shot noise, in units of it, that a good reconstruction may have ...
const GOOD_EXCESS: f64 = 1.0;
/// ... and in absolute terms, where the shot noise is next to nothing.
const SMALL_EXCESS: f64 = 0.005;
/// Residual beyond that of the shot noise from which on the patterns are not explained.
const LARGE_EXCESS: f64 = 0.1;
/// Spread of the patches over the modulus of the object, in the middle of the scan, that is no
/// longer a matter of detail, and that leaves no object.
const NOTABLE_SPREAD: f64 = 0.2;
const LARGE_SPREAD: f64 = 0.5;

/// How far a reconstruction can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    Good,
    Usable,
    DoNotTrust,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Trust::Good => "good",
            Trust::Usable => "usable",
            Trust::DoNotTrust => "do not trust",
        })
    }
}

impl Serialize for Trust {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A word and its reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub verdict: Trust,
    pub reasons: Vec<String>,
}

/// What a verdict rests on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// e = Σ(√I − √Î)² / ΣI.
    pub residual: f64,
    /// What shot noise alone would leave of it: [`shot_noise`] over all pixels, over ΣI.
    pub floor: f64,
    /// Median spread of the patches over the object's modulus, where patches were stitched.
    pub spread: Option<f64>,
    /// What the collapse test of a training says.
    pub collapse: Option<&'a str>,
}

impl Verdict {
    /// The worst of what each piece of the evidence says.
    pub fn of(evidence: &Evidence) -> Verdict {
        let Evidence { residual, floor, spread, collapse } = *evidence;
        let excess = residual - floor;
        let by_residual = if excess <= (GOOD_EXCESS * floor).max(SMALL_EXCESS) {
            Trust::Good
        } else if excess <= LARGE_EXCESS {
            Trust::Usable
        } else {
            // Also where the residual is not a number.
            Trust::DoNotTrust
        };
        let says = match by_residual {
            Trust::Good => "the patterns are explained nearly to their noise",
            Trust::Usable => "the patterns are explained in the main, not to their noise",
            Trust::DoNotTrust => "the patterns are not explained",
        };
        let figures = format!("{says}: residual {residual:.4}, of which shot noise {floor:.4}");
        let mut found = vec![(by_residual, figures)];
        if let Some(spread) = spread.filter(|&s| s > NOTABLE_SPREAD) {
            let trust = if spread > LARGE_SPREAD { Trust::DoNotTrust } else { Trust::Usable };
            let percent = 100.0 * spread;
            found.push((trust, format!("patches that overlap disagree by {percent:.0} %")));
        }
        if let Some(collapse) = collapse {
            found.push((Trust::DoNotTrust, collapse.to_owned()));
        }
        let verdict = found.iter().map(|(trust, _)| *trust).max().unwrap_or(Trust::DoNotTrust);
        // What is better than the verdict is no reason for it.
        let reasons = found.into_iter().filter(|(trust, _)| *trust == verdict);
        Verdict { verdict, reasons: reasons.map(|(_, reason)| reason).collect() }
    }

    /// Says it in the log, louder where it is bad.
    pub fn say(&self) {
        match self.verdict {
            Trust::DoNotTrust => log::warn!("{self}"),
            _ => log::info!("{self}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "verdict: {} ({})", self.verdict, self.reasons.join("; "))
    }
}

/// Mean counts from which on E(√n − √λ)² is given by its first two terms.
const MANY: f64 = 20.0;

/// Nodes of the table for fewer, evenly in √λ: every pixel of every pattern asks.
const NODES: usize = 1024;

/// E(√n − √λ)² of a Poisson number n of mean λ: 1/4 for many photons, 2λ for few.
pub fn shot_noise(mean: f64) -> f64 {
    static TABLE: LazyLock<Vec<f64>> = LazyLock::new(|| {
        (0..=NODES).map(|i| few(MANY * (i as f64 / NODES as f64).powi(2))).collect()
    });
    if mean >= MANY {
        return 0.25 + 7.0 / (64.0 * mean);
    }
    let at = (mean.max(0.0) / MANY).sqrt() * NODES as f64;
    let below = (at as usize).min(NODES - 1);
    TABLE[below] + (at - below as f64) * (TABLE[below + 1] - TABLE[below])
}

/// The same by the sum over n.
fn few(mean: f64) -> f64 {
    // 2λ − 2√λ E√n, the mean of √n by its sum.
    let (mut chance, mut root) = ((-mean).exp(), 0.0);
    for n in 1..80 {
        chance *= mean / f64::from(n);
        root += chance * f64::from(n).sqrt();
    }
    2.0 * mean - 2.0 * mean.sqrt() * root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    #[test]
    fn shot_noise_is_that_of_drawn_counts() {
        let mut stream = Stream::new(5, Purpose::Noise, 0);
        for mean in [0.01, 0.3, 1.0, 4.0, 19.9, 50.0] {
            let draws = 40_000;
            let sum: f64 = (0..draws)
                .map(|_| ((stream.poisson(mean) as f64).sqrt() - mean.sqrt()).powi(2))
                .sum();
            let (drawn, said) = (sum / f64::from(draws), shot_noise(mean));
            assert!((drawn - said).abs() < 0.05 * said, "λ = {mean}: {drawn} drawn, {said} said");
        }
        assert!((shot_noise(MANY - 1e-9) - shot_noise(MANY)).abs() < 1e-3);
    }

    fn verdict(residual: f64, floor: f64) -> Verdict {
        Verdict::of(&Evidence { residual, floor, ..Evidence::default() })
    }

    #[test]
    fn a_residual_at_the_noise_is_good_whatever_its_size() {
        assert_eq!(verdict(0.0542, 0.055).verdict, Trust::Good);
        assert_eq!(verdict(0.0059, 0.0051).verdict, Trust::Good);
        assert_eq!(verdict(0.004, 0.0).verdict, Trust::Good);
    }

    #[test]
    fn a_residual_above_the_noise_is_usable_and_a_large_one_is_not() {
        assert_eq!(verdict(0.0163, 0.0051).verdict, Trust::Usable);
        let bad = verdict(0.3, 0.0051);
        assert_eq!(bad.verdict, Trust::DoNotTrust);
        assert!(bad.to_string().contains("do not trust") && bad.to_string().contains("0.3000"));
        assert_eq!(verdict(f64::NAN, 0.01).verdict, Trust::DoNotTrust);
    }

    #[test]
    fn the_worst_evidence_decides_and_is_the_reason() {
        let fine = Evidence { residual: 0.005, floor: 0.005, ..Evidence::default() };
        let spread = Verdict::of(&Evidence { spread: Some(0.3), ..fine });
        assert_eq!(spread.verdict, Trust::Usable);
        assert_eq!(spread.reasons, ["patches that overlap disagree by 30 %"]);
        let collapsed = Verdict::of(&Evidence { collapse: Some("it has collapsed"), ..fine });
        assert_eq!(collapsed.verdict, Trust::DoNotTrust);
        assert_eq!(collapsed.reasons, ["it has collapsed"]);
    }
}
