//! The one loader: reads a scan file of any accepted layout, checks everything, and says what it
//! found, what it decided, and why.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use log::{info, warn};
use sha2::{Digest, Sha256};

use super::archive::Member;
use super::check::{Problem, Severity};
use super::formats;
use super::geometry::Overlap;
use super::reader::Reader;
use super::reading::Reading;
use super::scan::{self, Scan};
use super::units::InputDomain;
use crate::{Error, Result};

pub use super::layout::FrameOrder;

/// How to read a scan file: [`load`] has an example.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LoadOptions {
    /// What the patterns hold: amplitudes or photon counts
    #[arg(long, value_enum, default_value_t)]
    pub input_domain: InputDomain,
    /// Photons per pattern, for normalised amplitudes [default: the file's metadata, else 1e9]
    #[arg(long, value_name = "PHOTONS")]
    pub nphotons: Option<f64>,
    /// Which axis of the patterns counts them: first is (M,N,N), last is (N,N,M)
    #[arg(long, value_enum, default_value_t)]
    pub order: FrameOrder,
    #[command(flatten)]
    pub reading: Reading,
    /// How much memory the patterns may take; none: as much as they need.
    #[arg(skip)]
    pub room: Option<Room>,
    /// Take a file without a probe too: [`Scan::probe`] then has no modes.
    #[arg(skip)]
    pub without_probe: bool,
}

/// Room for patterns. Those that do not fit stay in a file, from which they are read by batches: in
/// that of the scan where they lie there as they are, else in a scratch file.
#[derive(Clone, Debug)]
pub struct Room {
    /// Most bytes that the patterns of a scan may take as numbers of 32 bits.
    pub bytes: u64,
    /// Folder for the scratch file.
    pub scratch: PathBuf,
}

/// Everything that one reading of a file brought to light.
#[derive(Debug)]
pub struct Survey {
    /// The arrays of the file.
    pub members: Vec<Member>,
    /// Everything that is wrong, errors and warnings.
    pub problems: Vec<Problem>,
    /// Decisions and conversions, one sentence each.
    pub notes: Vec<String>,
    /// What the numbers are and how that was decided; `None` when it did not come to that.
    pub units: Option<String>,
    /// `None` for fewer than two positions.
    pub overlap: Option<Overlap>,
    /// `None` exactly when a problem is an error.
    pub scan: Option<Scan>,
}

/// Loads a scan; warnings and decisions go to the log.
///
/// # Errors
/// [`Error::Config`] for an option out of range, [`Error::Io`] for a file that cannot be read, and
/// [`Error::Input`] with everything that is wrong with the scan and what to do about it.
///
/// ```
/// use ptycho_gpu::data::{LoadOptions, Reading, load};
/// # use ptycho_gpu::simulate::{Recipe, ScanSpec, simulate};
///
/// # fn main() -> ptycho_gpu::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("scan.npz");
/// # let spec = ScanSpec { patterns: 9, ..ScanSpec::default() };
/// # simulate(&Recipe { side: 128, scan: spec, ..Recipe::default() })?.write(&file)?;
/// // Patterns of 128 × 128 pixels; two by two are added up.
/// let reading = Reading { bin: Some(2), ..Reading::default() };
/// let scan = load(&file, &LoadOptions { reading, ..LoadOptions::default() })?;
/// assert_eq!((scan.len(), scan.side()), (9, 64));
/// println!("{:.0} photons in a pattern", scan.mean_photons());
/// # Ok(())
/// # }
/// ```
pub fn load(path: &Path, options: &LoadOptions) -> Result<Scan> {
    let survey = survey(path, options)?;
    let (errors, warnings): (Vec<_>, Vec<_>) =
        survey.problems.iter().partition(|problem| problem.severity() == Severity::Error);
    if let Some(scan) = survey.scan {
        survey.notes.iter().for_each(|note| info!("{}: {note}", path.display()));
        for problem in warnings {
            warn!("{}: {problem}: {}", path.display(), problem.remedy());
        }
        return Ok(scan);
    }
    let described: Vec<_> =
        errors.iter().map(|problem| format!("{problem}: {}", problem.remedy())).collect();
    Err(Error::input(path, described.join("; ")))
}

/// Reads and checks a scan without giving up at the first problem. Fails only when the file cannot
/// be read, is no archive, or an option is out of range.
pub fn survey(path: &Path, options: &LoadOptions) -> Result<Survey> {
    if let Some(photons) = options.nphotons
        && !(photons.is_finite() && photons > 0.0)
    {
        return Err(Error::Config(format!("--nphotons is {photons}, expected a number above 0")));
    }
    let archive = formats::open(path, &options.reading)?;
    let mut files = archive.files();
    files.extend(options.reading.positions.clone());
    let origin = scan::Source { path: path.into(), sha256: identity(&files)? };
    let members = archive.members().to_vec();
    let mut reader = Reader::new(archive);
    let scan = reader.scan(options, origin);
    let Reader { problems, notes, units, overlap, .. } = reader;
    let usable = problems.iter().all(|problem| problem.severity() == Severity::Warning);
    Ok(Survey { members, problems, notes, units, overlap, scan: scan.filter(|_| usable) })
}

/// The SHA-256 of a file; of several that of their digests.
fn identity(files: &[PathBuf]) -> Result<String> {
    let digests = files.iter().map(|file| sha256(file)).collect::<Result<Vec<String>>>()?;
    match digests.as_slice() {
        [one] => Ok(one.clone()),
        all => Ok(hexadecimal(&Sha256::digest(all.concat()))),
    }
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of the whole file, in lower-case hexadecimal digits.
fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            length => hasher.update(&buffer[..length]),
        }
    }
}
