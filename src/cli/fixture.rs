//! `ptycho-gpu fixture`: a small deterministic subset of a scan, with its provenance.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::data::{self, DoseOrigin, LoadOptions, Scan, ScanFile, load, write_scan};
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The scan to take patterns from
    #[arg(value_name = "SCAN")]
    pub source: PathBuf,
    /// Where to write the subset, an .npz file; its provenance goes beside it as .json
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
    /// Number of patterns to keep, evenly over the scan
    #[arg(long, short = 'n', default_value_t = 64)]
    pub patterns: usize,
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Counts above this are not recovered exactly from the square root in f32.
const EXACT_COUNT: f32 = 4_194_304.0;

/// Writes the subset and its sidecar.
pub fn run(args: Args) -> Result<()> {
    let scan = load(&args.source, &args.load)?;
    let indices = spread(scan.len(), args.patterns)?;
    let subset = scan.subset(&indices);
    write_subset(&args.output, &subset)?;
    let sidecar = args.output.with_extension("json");
    let text = format!("{:#}\n", provenance(&args.output, &subset, scan.len(), &indices)?);
    fs::write(&sidecar, text).map_err(Error::io("write", &sidecar))?;
    println!("{}: {} of {} patterns", args.output.display(), indices.len(), scan.len());
    Ok(())
}

/// floor(i · available / wanted): one list for patterns, positions and everything beside them.
pub fn spread(available: usize, wanted: usize) -> Result<Vec<usize>> {
    if wanted == 0 || wanted > available {
        let problem = format!("--patterns is {wanted}, the scan has {available} to choose from");
        return Err(Error::Config(problem));
    }
    Ok((0..wanted).map(|i| i * available / wanted).collect())
}

/// Counts stay counts, amplitudes stay amplitudes with their dose.
fn write_subset(path: &Path, subset: &Scan) -> Result<()> {
    let base = ScanFile::new(subset);
    let brightest = subset.amplitude.iter().fold(0f32, |max, &a| max.max(a * a));
    if subset.dose.origin != DoseOrigin::Counts || brightest > EXACT_COUNT {
        return write_scan(path, &base);
    }
    let counts = subset.amplitude.mapv(|a| (a * a).round() as u32);
    if brightest.round() <= f32::from(u16::MAX) {
        let short = counts.mapv(|n| n as u16);
        return write_scan(
            path,
            &ScanFile { patterns: data::Patterns::Counts16(short.view()), ..base },
        );
    }
    write_scan(path, &ScanFile { patterns: data::Patterns::Counts32(counts.view()), ..base })
}

fn provenance(path: &Path, subset: &Scan, available: usize, indices: &[usize]) -> Result<Value> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generator": "ptycho-gpu fixture",
        "source": { "file": name(&subset.source.path), "sha256": subset.source.sha256, "patterns": available },
        "result": { "file": name(path), "sha256": digest, "bytes": bytes.len() },
        "size": indices.len(),
        "operations": [
            "read into the canonical convention",
            format!("patterns and positions floor(i * {available} / {})", indices.len()),
        ],
        "indices": indices,
    }))
}
