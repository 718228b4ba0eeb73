//! `ptycho-gpu report`: the folder of a run as one page.

use std::path::{Path, PathBuf};

use crate::data::Scan;
use crate::reconstruct::maps;
use crate::reconstruction::Saved;
use crate::report::html::{self, Before};
use crate::report::live::{Facts, Live};
use crate::report::{self, atomic_write};
use crate::{Error, Result};

/// Name of the page in the folder of a run.
pub(super) const FILE: &str = "report.html";

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Output folder of train, infer, reconstruct or refine
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Another reconstruction of the same scan to hold this one against: its folder or its
    /// reconstruction.npz
    #[arg(long, value_name = "OTHER")]
    pub compare: Option<PathBuf>,
    /// The page [default: report.html in RUN]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// Writes the page.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    let before = args.compare.as_deref().map(|other| before(&args.run, other)).transpose()?;
    if let Some(other) = &args.compare {
        warn_of_other_scans(&args.run, other);
    }
    let page = html::page(&args.run, before)?;
    let output = args.output.unwrap_or_else(|| args.run.join(FILE));
    atomic_write(&output, page.as_bytes())?;
    log::info!("{} ({:.1} MB)", output.display(), page.len() as f64 * 1e-6);
    Ok(())
}

/// Whether the records of two folders name other scans: then what is compared are two samples.
fn warn_of_other_scans(folder: &Path, other: &Path) {
    let scans = |folder: &Path| {
        let record = std::fs::read(folder.join("run.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        let inputs = record["inputs"].as_array()?;
        Some(inputs.iter().map(|input| input["sha256"].clone()).collect::<Vec<_>>())
    };
    if let (Some(here), Some(there)) = (scans(folder), scans(other))
        && here != there
    {
        log::warn!("{} and {} are of different scans", folder.display(), other.display());
    }
}

/// The object of `other` on the canvas and in the gauge of the one in `folder`.
fn before(folder: &Path, other: &Path) -> Result<Before> {
    let (now, other_saved) = (Saved::read(folder)?, Saved::read(other)?);
    let compared = maps::compare(&other_saved, &now.object, &now.weights, now.origin_yx)?;
    if !compared.size.iter().any(|x| x.is_finite()) {
        let text = "covers no part of the object that it is compared with: is it of another scan?";
        return Err(Error::input(other, text));
    }
    let named = if other.is_dir() { other } else { other.parent().unwrap_or(other) };
    let name = named.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Before { object: compared.before, name: name.unwrap_or_else(|| "other".into()) })
}

/// What a scan is called on a page.
pub(super) fn name(scan: &Scan) -> String {
    let name = scan.source.path.file_name();
    name.map_or_else(|| "scan".into(), |name| name.to_string_lossy().into_owned())
}

/// Opens the page of a run that is about to begin, and says where it is. The address holds the token:
/// it goes to the person at the keyboard, quiet or not, and into no log.
pub(super) fn live(port: u16, facts: Facts) -> Result<Live> {
    let live = Live::start(port, facts)?;
    eprintln!("live: {}", live.url());
    Ok(live)
}

/// Writes the page of a run that has just ended; what goes wrong here does not undo the run.
pub(super) fn leave(folder: &Path, unwanted: bool) {
    if unwanted {
        return;
    }
    let written =
        html::page(folder, None).and_then(|page| atomic_write(folder.join(FILE), page.as_bytes()));
    match written {
        Ok(()) => log::info!("to look at: {}", folder.join(FILE).display()),
        Err(error) => log::warn!("no {FILE}: {error}"),
    }
}
