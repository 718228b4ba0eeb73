//! `ptycho-gpu fixture`: a deterministic subset of a scan, some of its patterns or a part of its area,
//! with its provenance.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::stdout::print;
use crate::data::geometry::bounds;
use crate::data::{LoadOptions, Scan, load, save_scan};
use crate::{Error, Result, report};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The scan to take patterns from
    #[arg(value_name = "SCAN")]
    pub source: PathBuf,
    /// Where to write the subset, an .npz file; its provenance goes beside it as .json
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
    /// Number of patterns to keep, evenly over the scan [default: 64, or all of a part that is named]
    #[arg(long, short = 'n')]
    pub patterns: Option<usize>,
    /// Part of the scanned width to keep, such as 0:0.6 for the left 60 %
    #[arg(long, value_name = "FROM:TO")]
    pub x: Option<Span>,
    /// Part of the scanned height to keep, 0 being the lowest y
    #[arg(long, value_name = "FROM:TO")]
    pub y: Option<Span>,
    /// Print one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Patterns unless a number or a part is asked for.
const PATTERNS: usize = 64;

/// A part of the range of one coordinate, from 0 to 1; the end does not belong to it, unless it is 1:
/// two parts that meet share no pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    from: f64,
    to: f64,
}

impl Span {
    const ALL: Span = Span { from: 0.0, to: 1.0 };

    /// Whether `x` lies in this part of `low` to `high`.
    fn holds(&self, x: f64, low: f64, high: f64) -> bool {
        let at = |share: f64| low + share * (high - low);
        x >= at(self.from) && (x < at(self.to) || self.to == 1.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Span, String> {
        let expected = || format!("`{text}` is no part: write FROM:TO with 0 ≤ FROM < TO ≤ 1");
        let (from, to) = text.split_once(':').ok_or_else(expected)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| expected());
        let (from, to) = (number(from)?, number(to)?);
        if 0.0 <= from && from < to && to <= 1.0 { Ok(Span { from, to }) } else { Err(expected()) }
    }
}

/// Writes the subset and its sidecar.
pub fn run(args: Args) -> Result<()> {
    let scan = load(&args.source, &args.load)?;
    let part = part(&scan, args.x.unwrap_or(Span::ALL), args.y.unwrap_or(Span::ALL))?;
    let whole = args.x.is_none() && args.y.is_none();
    let wanted = args.patterns.unwrap_or(if whole { PATTERNS } else { part.len() });
    let indices: Vec<usize> = spread(part.len(), wanted)?.iter().map(|&i| part[i]).collect();
    let subset = scan.subset(&indices)?;
    save_scan(&args.output, &subset)?;
    let sidecar = args.output.with_extension("json");
    let text = format!("{:#}\n", provenance(&args, &subset, [scan.len(), part.len()], &indices)?);
    fs::write(&sidecar, text).map_err(Error::io("write", &sidecar))?;
    let (chosen, all) = (indices.len(), scan.len());
    if args.json {
        let line =
            json!({ "file": args.output, "sidecar": sidecar, "patterns": chosen, "of": all });
        return report::print_json(&line);
    }
    print(format!("{}: {chosen} of {all} patterns\n", args.output.display()))
}

/// Patterns whose positions lie in a part of the scanned area.
fn part(scan: &Scan, x: Span, y: Span) -> Result<Vec<usize>> {
    let (low, high) = bounds(&scan.positions);
    let inside = |&i: &usize| {
        let p = scan.positions[i];
        x.holds(p.x, low.x, high.x) && y.holds(p.y, low.y, high.y)
    };
    let part: Vec<usize> = (0..scan.len()).filter(inside).collect();
    if part.is_empty() {
        return Err(Error::Config("no pattern lies in this part of the scan".to_owned()));
    }
    Ok(part)
}

/// floor(i · available / wanted): one list for patterns, positions and everything beside them.
pub fn spread(available: usize, wanted: usize) -> Result<Vec<usize>> {
    if wanted == 0 || wanted > available {
        let problem = format!("--patterns is {wanted}, there are {available} to choose from");
        return Err(Error::Config(problem));
    }
    Ok((0..wanted).map(|i| i * available / wanted).collect())
}

fn provenance(
    args: &Args,
    subset: &Scan,
    [all, available]: [usize; 2],
    indices: &[usize],
) -> Result<Value> {
    let path = &args.output;
    let share = |axis: &str, span: Option<Span>| {
        span.map(|Span { from, to }| {
            format!("positions from {from} to {to} of the range of {axis}")
        })
    };
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let mut operations = vec!["read into the canonical convention".to_owned()];
    operations.extend([share("x", args.x), share("y", args.y)].into_iter().flatten());
    operations.push(format!("patterns and positions floor(i * {available} / {})", indices.len()));
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generator": "ptycho-gpu fixture",
        "source": { "file": name(&subset.source.path), "sha256": subset.source.sha256, "patterns": all },
        "result": { "file": name(path), "sha256": digest, "bytes": bytes.len() },
        "size": indices.len(),
        "operations": operations,
        "indices": indices,
    }))
}
