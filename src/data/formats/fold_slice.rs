//! The pair of files that fold_slice and PtychoShelves read: `NAME_dp.hdf5` with the patterns in `/dp`
//! [M, N, N], and `NAME_para.hdf5` with `/ppX` and `/ppY` [M], metres. Their programs take
//! (−ppY, −ppX) for the row and the column of a patch.
//!
//! Some pairs say in `/dx` how large a pixel of the object is (m), and in `/lambda` the wavelength; for
//! the others that is given by flags. Programs of Matlab have the rows of a pattern where others have its
//! columns, and templates of beamlines turn frames further: `inspect --orientation` tells.

use super::mapped::Mapped;
use super::{KEPT, beside};
use crate::Result;
use crate::data::hdf5::Hdf5;
use crate::data::instrument::{Cornered, HC, Instrument};
use crate::data::writers;

pub(super) const X: &str = "ppX";
const Y: &str = "ppY";
const PATTERNS: &str = "dp";

/// Whether the file beside `path` has positions of this format.
pub(super) fn is_beside(path: &std::path::Path) -> bool {
    let para = beside(path, "_dp", "_para").and_then(|path| Hdf5::open(path).ok());
    para.is_some_and(|file| file.has(X))
}

pub(super) fn open(file: Hdf5, given: Instrument) -> Result<Mapped> {
    let (dp, para) = match file.has(X) {
        true => match beside(file.path(), "_para", "_dp") {
            Some(path) => (Hdf5::open(path)?, file),
            None => {
                let problem = "are positions alone: their patterns were looked for in the file whose \
                               name has `_dp` in place of `_para`, which is not there";
                return Err(file.problem(X, problem));
            }
        },
        false => match beside(file.path(), "_dp", "_para") {
            Some(path) => (file, Hdf5::open(path)?),
            None => {
                let problem = "are patterns alone: their positions were looked for in the file whose \
                               name has `_para` in place of `_dp`, which is not there";
                return Err(file.problem(PATTERNS, problem));
            }
        },
    };
    let positive = |at: &str| para.number(at).ok().filter(|x| x.is_finite() && *x > 0.0);
    let stated = Instrument {
        object_pixel_m: positive("dx").map(|pixel| [pixel; 2]),
        energy_ev: positive("lambda").map(|wavelength| HC / wavelength),
        ..Instrument::default()
    };
    let given = given.or(stated);
    let side = dp.member("diffraction", PATTERNS)?.shape.last().copied().unwrap_or(0);
    let [height, width] = given.pixel_m(side).ok_or_else(|| {
        let problem = "are metres, and nothing here says how large a pixel of the object is: give \
                       --object-pixel, or --energy, --distance and --detector-pixel";
        para.problem(X, problem)
    })?;
    let (x, y) = (para.f64(X)?, para.f64(Y)?);
    if x.len() != y.len() {
        let problem = format!("has {} values, `/{X}` has {}", y.len(), x.len());
        return Err(para.problem(Y, &problem));
    }
    let places: Vec<[f64; 2]> = x.iter().zip(&y).map(|(x, y)| [-y, -x]).collect();
    let Cornered { positions, origin_m } = Instrument::from_corner(&places, [height, width], side);
    let mut scan = Mapped::new(vec![dp, para], true);
    scan.set_instrument(Instrument { origin_m: Some(origin_m), ..given });
    scan.note(format!(
        "positions are −`/{X}` and −`/{Y}`: 1 pixel of the object is {width:.4e} m; see which \
         way round the frames lie with `inspect --orientation`"
    ));
    scan.patterns(0, &[PATTERNS.to_owned()], None)?;
    scan.positions([X, Y], &positions);
    if scan.file(1).has("provenance") {
        scan.kept(1, writers::fold_slice::KEPT, &KEPT)?;
    }
    Ok(scan)
}
