//! What the numbers of a pattern mean: photon counts, or amplitudes, and how many photons an
//! amplitude stands for.

use log::debug;
use ndarray::Array3;
use serde::{Deserialize, Serialize};

use super::scan::{Dose, DoseOrigin};
use super::values::Census;

/// Photons per pattern when neither flag nor file says.
pub const DEFAULT_PHOTONS: f64 = 1e9;
/// How far the square of an amplitude may be from a whole number to pass for a count.
const WHOLE: f64 = 1e-3;
/// Relative error of the square of an f32: twice its half unit in the last place, and a margin.
const SQUARE_ERROR: f64 = 3e-7;
/// Where rounding blurs a square by more than this, being near a whole number says nothing.
const BLUR: f64 = 0.1;

/// [M, N, N] photon counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts(pub Array3<f32>);

/// [M, N, N] amplitudes √I, in any unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Amplitude(pub Array3<f32>);

impl Counts {
    /// √ of every count, in place.
    pub fn into_amplitude(mut self) -> Amplitude {
        self.0.mapv_inplace(f32::sqrt);
        Amplitude(self.0)
    }
}

/// What the numbers in the file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputDomain {
    /// Decided from type, metadata and values; the log says how
    #[default]
    Auto,
    /// Square roots of intensities
    Amplitude,
    /// Photon counts
    Counts,
}

/// What a decision about units needs to know besides the values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    pub domain: InputDomain,
    /// The file's type is an integer type.
    pub integer: bool,
    /// The metadata says that the file holds counts.
    pub metadata_counts: bool,
    /// The format holds intensities.
    pub format_counts: bool,
    pub flag_photons: Option<f64>,
    pub metadata_photons: Option<f64>,
    /// κ, where one of our own programs wrote it.
    pub metadata_kappa: Option<f64>,
}

/// What the values are, and the reasons for a person to read.
#[derive(Debug)]
pub struct Resolved {
    /// They are intensities, of which amplitudes are the roots.
    pub roots: bool,
    pub dose: Dose,
    pub reason: String,
}

/// Decides between counts and amplitudes and finds κ in counts = (κ a)².
///
/// The values of the `census` are finite, ≥ 0 and not all 0. In order: the flag; an integer type or metadata that
/// names counts; values that are all whole numbers, which are counts, since a measured amplitude is
/// whole in every pixel only by chance; everything else is an amplitude. The square of an integer is
/// whole too, so whole squares are looked for only after whole values.
pub fn resolve(census: &Census, hints: Hints) -> Resolved {
    let undecided = hints.domain == InputDomain::Auto && !hints.integer;
    let counts = match hints.domain {
        InputDomain::Counts => Some("counts, because --input-domain says so"),
        InputDomain::Amplitude => None,
        InputDomain::Auto if hints.integer => Some("counts, because the type is an integer"),
        InputDomain::Auto if hints.metadata_counts => Some("counts, because the metadata says so"),
        InputDomain::Auto if hints.format_counts => {
            Some("counts, because files of this format hold intensities")
        }
        InputDomain::Auto if census.whole => Some(
            "counts, because every value is a whole number (--input-domain amplitude if they are \
             amplitudes)",
        ),
        InputDomain::Auto => None,
    };
    match (counts, hints.metadata_kappa.filter(|_| undecided)) {
        // Intensities in the unit of the amplitudes that they were made of.
        (_, Some(kappa)) if hints.format_counts && hints.flag_photons.is_none() => Resolved {
            roots: true,
            dose: Dose { kappa, origin: DoseOrigin::Metadata },
            reason: format!("intensities, of which 1 is {:.6e} photons (metadata)", kappa * kappa),
        },
        (_, Some(_)) if !(hints.metadata_counts || hints.format_counts) => calibrate(census, hints),
        (Some(reason), _) => Resolved {
            roots: true,
            dose: Dose { kappa: 1.0, origin: DoseOrigin::Counts },
            reason: reason.to_owned(),
        },
        (None, _) => calibrate(census, hints),
    }
}

fn calibrate(census: &Census, hints: Hints) -> Resolved {
    let energy = census.mean_energy(false);
    if census.squares.proven() {
        let reason =
            "amplitudes whose squares are whole numbers: one unit is one photon".to_owned();
        let dose = Dose { kappa: 1.0, origin: DoseOrigin::WholeSquares };
        return Resolved { roots: false, dose, reason };
    }
    if let (Some(kappa), None) = (hints.metadata_kappa, hints.flag_photons) {
        let photons = kappa.powi(2) * energy;
        let reason = format!("normalised amplitudes, {photons:.4e} photons per pattern (metadata)");
        let dose = Dose { kappa, origin: DoseOrigin::Metadata };
        return Resolved { roots: false, dose, reason };
    }
    let (photons, origin, from) = match (hints.flag_photons, hints.metadata_photons) {
        (Some(photons), _) => (photons, DoseOrigin::Flag, "from --nphotons"),
        (None, Some(photons)) => (photons, DoseOrigin::Metadata, "from the file's metadata"),
        (None, None) => {
            (DEFAULT_PHOTONS, DoseOrigin::Default, "the default; set it with --nphotons")
        }
    };
    let kappa = (photons / energy).sqrt();
    let reason = format!("normalised amplitudes, {photons:.4e} photons per pattern ({from})");
    Resolved { roots: false, dose: Dose { kappa, origin }, reason }
}

/// Whether every amplitude is the square root of a whole number, as far as f32 can tell. Bright
/// pixels, whose squares are blurred by rounding, do not testify; patterns with no other fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct WholeSquares {
    witnesses: usize,
    refuted: bool,
}

impl WholeSquares {
    /// Hears of an amplitude, and whether that is a whole number itself, whose square is one too.
    pub fn add(&mut self, a: f32, whole: bool) {
        if self.refuted || a == 0.0 {
            return;
        }
        let square = f64::from(a).powi(2);
        let tolerance = WHOLE + SQUARE_ERROR * square;
        if tolerance > BLUR {
            return;
        }
        // A small amplitude is near 0, but the square root of no count.
        let off = if whole { 0.0 } else { (square - square.round()).abs() };
        if square < 0.5 || off > tolerance {
            debug!("{square} is no whole number of photons");
            self.refuted = true;
            return;
        }
        self.witnesses += 1;
    }

    pub fn proven(&self) -> bool {
        self.witnesses > 0 && !self.refuted
    }
}
