//! `ptycho-gpu inspect`: what a scan file holds, and every problem with it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::stdout::print;
use crate::data::geometry;
use crate::data::{
    LoadOptions, Position, Problem, Scan, Severity, Survey, check_network_side, survey,
};
use crate::orientation::{self, Ranking};
use crate::report::log::hush;
use crate::{Error, Result};

/// Characters across and down the map of positions. A character is about twice as high as wide.
const MAP: (usize, usize) = (64, 20);
/// Few to many positions in one character.
const DENSITY: &[u8] = b".:+*#@";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The scan, an .npz file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Find out by short fits which way round the frames lie relative to the positions: mirrored,
    /// turned or transposed. Takes a minute or two, and changes nothing
    #[arg(long)]
    pub orientation: bool,
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Prints what the file holds; fails when it cannot be used.
pub fn run(args: Args) -> Result<()> {
    let mut survey = survey(&args.file, &args.load)?;
    if let Some(scan) = &survey.scan
        && check_network_side(scan.side()).is_err()
    {
        survey.problems.push(Problem::NetworkSide { side: scan.side() });
    }
    let scan = survey.scan.as_ref().filter(|_| args.orientation);
    if args.json {
        let mut report = report(&args.file, &survey);
        if let Some(scan) = scan {
            report["orientation"] = ranking(scan)?.json();
        }
        print(format!("{report:#}\n"))?;
    } else {
        print(describe(&args.file, &survey))?;
        if let Some(scan) = scan {
            print(format!("\n{}", ranking(scan)?))?;
        }
    }
    if survey.scan.is_some() {
        return Ok(());
    }
    let errors =
        survey.problems.iter().filter(|problem| problem.severity() == Severity::Error).count();
    let plural = if errors == 1 { "" } else { "s" };
    Err(Error::input(&args.file, format!("cannot be used: {errors} error{plural}, listed above")))
}

fn ranking(scan: &Scan) -> Result<Ranking> {
    hush();
    orientation::rank(scan, &orientation::Options::default())
}

fn report(path: &Path, survey: &Survey) -> Value {
    let keys: serde_json::Map<String, Value> = survey
        .members
        .iter()
        .map(|member| {
            (
                member.name.clone(),
                json!({ "dtype": member.dtype, "shape": member.shape, "at": member.at }),
            )
        })
        .collect();
    let problems: Vec<Value> = survey
        .problems
        .iter()
        .map(|problem| {
            json!({
                "severity": problem.severity(),
                "sentence": problem.sentence(),
                "remedy": problem.remedy(),
                "problem": problem,
            })
        })
        .collect();
    json!({
        "file": path,
        "usable": survey.scan.is_some(),
        "keys": keys,
        "units": survey.units,
        "scan": survey.scan.as_ref().map(numbers),
        "overlap": survey.overlap,
        "notes": survey.notes,
        "problems": problems,
    })
}

/// What follows from a usable scan.
fn numbers(scan: &Scan) -> Value {
    let (low, high) = geometry::bounds(&scan.positions);
    json!({
        "sha256": scan.source.sha256,
        "patterns": scan.len(),
        "side": scan.side(),
        "probe_modes": scan.probe.dim().0,
        "object": scan.object.as_ref().map(|object| object.dim()),
        "kappa": scan.dose.kappa,
        "dose_origin": scan.dose.origin,
        "mean_photons_per_pattern": scan.mean_photons(),
        "mean_count_per_pixel": scan.mean_count_per_pixel(),
        "instrument": scan.instrument,
        "object_pixel_m": scan.instrument.pixel_m(scan.side()),
        "input_scale": scan.input_scale(),
        "probe_gauge": scan.probe_gauge(),
        "x": [low.x, high.x],
        "y": [low.y, high.y],
    })
}

fn describe(path: &Path, survey: &Survey) -> String {
    let mut lines = vec![path.display().to_string(), String::new()];
    let width = survey.members.iter().map(|member| member.name.len()).max().unwrap_or(0);
    for member in &survey.members {
        lines.push(format!(
            "  {:width$}  {:5}  {}{}",
            member.name,
            member.dtype,
            shape(&member.shape),
            member.at.as_ref().map(|at| format!("  {at}")).unwrap_or_default()
        ));
    }
    if survey.scan.is_some() {
        lines.push(String::new());
        lines.extend(facts(survey));
    }
    if let Some(scan) = &survey.scan
        && scan.len() > 1
    {
        lines.extend([String::new(), "Positions (x to the right, y down):".to_owned()]);
        lines.extend(map(&scan.positions));
    }
    lines.extend(survey.notes.iter().map(|note| format!("note: {note}")));
    for problem in &survey.problems {
        let severity = match problem.severity() {
            Severity::Error => "ERROR",
            Severity::Warning => "warning",
        };
        lines.push(format!("{severity}: {problem}: {}", problem.remedy()));
    }
    if survey.problems.is_empty() {
        lines.push("No problems found.".to_owned());
    }
    lines.iter().fold(String::new(), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    })
}

fn shape(sides: &[usize]) -> String {
    match sides {
        [] => "scalar".to_owned(),
        sides => sides.iter().map(usize::to_string).collect::<Vec<_>>().join(" × "),
    }
}

/// "name  value" lines about a usable scan.
fn facts(survey: &Survey) -> Vec<String> {
    let Some(scan) = &survey.scan else { return Vec::new() };
    let (low, high) = geometry::bounds(&scan.positions);
    let modes = scan.probe.dim().0;
    let mut facts = vec![
        ("patterns", format!("{} of {side} × {side} pixels", scan.len(), side = scan.side())),
        ("probe", format!("{modes} mode{}", if modes == 1 { "" } else { "s" })),
        ("units", survey.units.clone().unwrap_or_default()),
        (
            "photons",
            format!(
                "{:.4e} per pattern, {:.4} per pixel",
                scan.mean_photons(),
                scan.mean_count_per_pixel()
            ),
        ),
        ("dose κ", format!("{:.6} in counts = (κ a)²", scan.dose.kappa)),
        ("probe gauge", format!("{:.6}", scan.probe_gauge())),
        ("x", format!("{:.2} to {:.2} pixels", low.x, high.x)),
        ("y", format!("{:.2} to {:.2} pixels", low.y, high.y)),
    ];
    if let Some(overlap) = &survey.overlap {
        let [least, median, most] = overlap.step;
        let (near, six) = (100.0 * overlap.nearest, 100.0 * overlap.six_nearest);
        facts.push(("step", format!("{median:.2} pixels (median; {least:.2} to {most:.2})")));
        facts.push(("overlap", format!(
            "{near:.0} % with the nearest, {six:.0} % with six neighbours, for a probe of {:.1} pixels",
            overlap.probe_diameter
        )));
    }
    let instrument = scan.instrument.describe(scan.side());
    if !instrument.is_empty() {
        facts.push(("instrument", instrument));
    }
    facts.push(("SHA-256", scan.source.sha256.clone()));
    facts.into_iter().map(|(name, value)| format!("  {name:12} {value}")).collect()
}

/// A map of the positions: the denser, the heavier the character.
fn map(positions: &[Position]) -> Vec<String> {
    let (low, high) = geometry::bounds(positions);
    let bin = |value: f64, low: f64, high: f64, bins: usize| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        ((share * bins as f64) as usize).min(bins - 1)
    };
    let (columns, rows) = MAP;
    let mut counts = vec![vec![0usize; columns]; rows];
    for p in positions {
        counts[bin(p.y, low.y, high.y, rows)][bin(p.x, low.x, high.x, columns)] += 1;
    }
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    let character = |count: usize| match count {
        0 => ' ',
        count => char::from(DENSITY[(count * DENSITY.len()).div_ceil(most.max(DENSITY.len())) - 1]),
    };
    let frame = format!("  +{}+", "-".repeat(columns));
    let mut lines = vec![frame.clone()];
    for row in counts {
        let mut line = String::from("  |");
        row.into_iter().for_each(|count| line.push(character(count)));
        line.push('|');
        lines.push(line);
    }
    lines.push(frame);
    lines
}
