//! `ptycho-gpu convert`: a scan from one format into another.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::data::writers::{self, Target};
use crate::data::{LoadOptions, Scan, load};
use crate::{Error, Result, report};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The scan, in any format that is read
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file to write; its ending names the format: .npz, .h5 (ptychodus), _para.h5 (PtychoViT),
    /// .cxi, .nxs, .ptyd, / (a folder of .npz)
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Format to write [default: from the ending of OUT]
    #[arg(long, value_enum, ignore_case = true)]
    pub to: Option<Target>,
    /// Patterns in each file of a folder [default: 1024]
    #[arg(long, value_name = "PATTERNS")]
    pub part_size: Option<NonZeroUsize>,
    /// Write over a file, or a folder of .npz, that is there already
    #[arg(long)]
    pub overwrite: bool,
    /// End with one line of JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Reads, checks, writes, and says what the target cannot hold.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    let target = args.to.map_or_else(|| Target::of(&args.output), Ok)?;
    if target != Target::Folder && args.part_size.is_some() {
        let problem = "--part-size is for a folder of .npz: leave it out, or say --to folder";
        return Err(Error::Config(problem.into()));
    }
    let files = writers::files(&args.output, target)?;
    if let Some(there) = writers::taken(&args.output, target)?.filter(|_| !args.overwrite) {
        let problem = "is there already: give another name, or --overwrite";
        return Err(Error::input(there, problem));
    }
    let options = LoadOptions { without_probe: true, ..args.load };
    let mut scan = load(&args.input, &options)?;
    if !scan.rejected.frames().is_empty() {
        scan = scan.subset(&scan.used())?;
    }
    let notes = match args.part_size {
        Some(part) => writers::write_folder(&args.output, &scan, part).map(|()| Vec::new())?,
        None => writers::write(&args.output, target, &scan, &provenance(&scan))?,
    };
    notes.iter().for_each(|note| log::info!("{}: {note}", args.output.display()));
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let (names, side) = (names.join(", "), scan.side());
    log::info!("{names}: {} patterns of {side} × {side} pixels", scan.len());
    if args.json {
        let line = json!({ "files": files, "patterns": scan.len(), "notes": notes });
        report::print_json(&line)?;
    }
    Ok(())
}

/// Which program made the file, and of what.
fn provenance(scan: &Scan) -> Value {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    json!({
        "program": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "command": "convert",
        "source": { "file": name(&scan.source.path), "sha256": scan.source.sha256 },
        "kappa": scan.dose.kappa,
        "instrument": scan.instrument,
    })
}
