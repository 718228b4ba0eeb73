//! What a scan is turned into: the object and all that is needed to judge it, and its file.

use std::path::Path;

use ndarray::{Array2, Array3, Ix1, Ix2, Ix3};
use num_complex::Complex32;

use crate::data::npz::{Npz, NpzWriter};
use crate::data::scan::{Position, Scan};
use crate::metrics::{self, Explained};
use crate::stitch::{Canvas, Stitched};
use crate::{Error, Result};

/// Illumination, relative to that of the middle of the scan, below which the object is noise.
pub(crate) const RIM: f32 = 0.02;

/// Share of the typical weight above which an object is trusted.
pub(crate) const TRUSTED: f32 = 0.5;

/// An object, and all that is needed to judge it.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// Of a network: its patches, stitched. Solved for directly: the object itself, its weights the
    /// illumination, its consistency 0, as all patches are cut out of one object.
    pub stitched: Stitched,
    pub canvas: Canvas,
    /// [P, N, N] probe in the gauge of the file, learned or given.
    pub probe: Array3<Complex32>,
    /// Whether the probe was learned.
    pub probe_trained: bool,
    /// Patterns used.
    pub indices: Vec<usize>,
    /// Where they were put, after the orientation.
    pub positions: Vec<Position>,
    /// Object in the file's gauge = this times the engine's.
    pub gauge: f64,
    /// s in x = a·s that a network was given.
    pub input_scale: Option<f64>,
    /// What the detector saw beside the object.
    pub exposure: Exposure,
}

/// What a pattern holds beside the object and the probe: I = gain Σ|F(P O)|² + background.
#[derive(Clone, Debug, Default)]
pub struct Exposure {
    /// [K], one for each pattern used.
    pub gains: Option<Vec<f64>>,
    /// [N, N], in the unit of the measured intensity a².
    pub background: Option<Array2<f32>>,
}

impl Reconstruction {
    /// Where at least one patch reaches.
    pub fn covered(&self) -> Array2<bool> {
        self.stitched.weights.mapv(|w| w > 0.0)
    }

    /// [H, W] the object, NaN where it is not `shown`.
    pub fn seen(&self, shown: &Array2<bool>) -> Array2<Complex32> {
        let mut object = self.stitched.object.clone();
        object.zip_mut_with(shown, |z, &shown| {
            if !shown {
                *z = Complex32::new(f32::NAN, f32::NAN);
            }
        });
        object
    }

    /// Where an object that was solved for directly means something: a dim rim that only the tails of
    /// the probe reach is noise, though it counts for the patterns.
    pub fn lit(&self) -> Array2<bool> {
        lit(&self.stitched.weights)
    }

    /// Where patches overlap as they do in the middle of the scan: the border of the canvas, which
    /// the rims of a few patches reach, is left out.
    pub fn trusted(&self) -> Array2<bool> {
        trusted(&self.stitched.weights)
    }

    /// Median of the patches' spread over the object's modulus, where it is trusted: how much patches
    /// that overlap disagree.
    pub fn spread(&self) -> f64 {
        let Stitched { object, consistency, .. } = &self.stitched;
        let trusted = self.trusted();
        let all = object.iter().zip(consistency).zip(&trusted).filter(|(_, trusted)| **trusted);
        let relative = all.map(|((z, c), _)| c / z.norm().max(f32::MIN_POSITIVE));
        quantile(relative, 0.5).into()
    }

    /// What the data say about it.
    pub fn explained<'a>(&'a self, scan: &'a Scan) -> Explained<'a> {
        Explained {
            amplitude: &scan.amplitude,
            kappa: scan.dose.kappa,
            mask: scan.mask.as_ref().map(|mask| mask.view()),
            probe: self.probe.view(),
            object: self.stitched.object.view().into(),
            origin_yx: self.canvas.origin_yx.map(|o| o as f64),
            positions: &self.positions,
            indices: &self.indices,
            gains: self.exposure.gains.as_deref(),
            background: self.exposure.background.as_ref().map(|b| b.view()),
        }
    }

    /// Writes `reconstruction.npz`, atomically. `scan` is what was reconstructed.
    pub fn write(&self, path: &Path, scan: &Scan, metadata: &serde_json::Value) -> Result<()> {
        self.write_with(path, scan, metadata, |_| Ok(()))
    }

    /// The same, with `more` arrays.
    pub fn write_with(
        &self,
        path: &Path,
        scan: &Scan,
        metadata: &serde_json::Value,
        more: impl FnOnce(&mut NpzWriter) -> Result<()>,
    ) -> Result<()> {
        let Stitched { object, weights, consistency } = &self.stitched;
        let mut file = NpzWriter::create(path)?;
        file.c64("object", object)?;
        file.f32("weights", weights)?;
        file.f32("consistency", consistency)?;
        file.f32("amplitude", &object.mapv(|z| z.norm()))?;
        file.f32("phase", &object.mapv(|z| z.arg()))?;
        self.write_rest(file, scan, metadata, more)
    }

    /// Writes what is no array of the canvas, and ends the file.
    pub(crate) fn write_rest(
        &self,
        mut file: NpzWriter,
        scan: &Scan,
        metadata: &serde_json::Value,
        more: impl FnOnce(&mut NpzWriter) -> Result<()>,
    ) -> Result<()> {
        let xy = |p: &[Position]| {
            let flat = p.iter().flat_map(|p| [p.x, p.y]).collect();
            Array2::from_shape_vec((p.len(), 2), flat).expect("two coordinates each")
        };
        let count = self.positions.len().max(1) as f64;
        let mean =
            self.positions.iter().fold([0.0, 0.0], |m, p| [m[0] + p.x / count, m[1] + p.y / count]);
        let mut offsets = xy(&self.positions);
        offsets.outer_iter_mut().for_each(|mut o| (0..2).for_each(|i| o[i] -= mean[i]));
        let nominal = scan.nominal.as_deref().unwrap_or(&scan.positions);
        let known = |&i: &usize| {
            let problem =
                || format!("pattern {i} was reconstructed, the scan has only {}", nominal.len());
            nominal.get(i).copied().ok_or_else(|| Error::Run(problem()))
        };
        let nominal: Vec<Position> = self.indices.iter().map(known).collect::<Result<_>>()?;
        let indices: Vec<i64> = self.indices.iter().map(|&i| i as i64).collect();
        let origin = self.canvas.origin_yx.map(|o| o as f64);
        file.f64("origin_yx", &ndarray::arr1(&origin))?;
        file.c64("probe", &self.probe)?;
        file.f64("positions", &xy(&self.positions))?;
        file.i64("indices", &ndarray::Array1::from(indices))?;
        file.f64("global_offsets", &offsets)?;
        file.f64("coords_nominal", &xy(&nominal))?;
        if let Some(gains) = &self.exposure.gains {
            file.f64("frame_scale", &ndarray::Array1::from(gains.clone()))?;
        }
        if let Some(background) = &self.exposure.background {
            file.f32("background", background)?;
        }
        more(&mut file)?;
        file.text("metadata", &metadata.to_string())?;
        file.finish()
    }
}

/// [`Reconstruction::lit`] of these weights.
pub fn lit(weights: &Array2<f32>) -> Array2<bool> {
    let typical = quantile(weights.iter().copied(), 0.9);
    weights.mapv(|w| w > RIM * typical)
}

/// [`Reconstruction::trusted`] of these weights.
pub fn trusted(weights: &Array2<f32>) -> Array2<bool> {
    let lit = lit(weights);
    let bright = weights.iter().zip(&lit).filter(|(_, lit)| **lit).map(|(w, _)| *w);
    let median = quantile(bright, 0.5);
    weights.mapv(|w| w > TRUSTED * median)
}

/// The number below which a `share` of the positive ones lies; 0 for none.
fn quantile(values: impl Iterator<Item = f32>, share: f64) -> f32 {
    let mut positive: Vec<f32> = values.filter(|&v| v > 0.0).collect();
    positive.sort_by(f32::total_cmp);
    positive.get((share * positive.len() as f64) as usize).copied().unwrap_or(0.0)
}

/// What a reconstruction file holds; shapes as in [`Reconstruction`].
#[derive(Clone, Debug)]
pub struct Saved {
    pub object: Array2<Complex32>,
    pub weights: Array2<f32>,
    pub origin_yx: [f64; 2],
    pub probe: Array3<Complex32>,
    pub positions: Vec<Position>,
    pub indices: Vec<usize>,
    pub exposure: Exposure,
}

impl Saved {
    /// Reads a `reconstruction.npz`, or that of a result folder.
    pub fn read(path: &Path) -> Result<Saved> {
        let path = if path.is_dir() { path.join("reconstruction.npz") } else { path.to_path_buf() };
        let npz = &mut Npz::open(&path)?;
        let object = shaped::<_, Ix2>(npz, "object", Npz::c64)?;
        let weights = shaped::<_, Ix2>(npz, "weights", Npz::f32)?;
        let origin = shaped::<_, Ix1>(npz, "origin_yx", Npz::f64)?;
        let probe = shaped::<_, Ix3>(npz, "probe", Npz::c64)?;
        let positions = shaped::<_, Ix2>(npz, "positions", Npz::f64)?;
        let indices = shaped::<_, Ix1>(npz, "indices", Npz::i64)?;
        let gains = match npz.find("frame_scale") {
            Some(_) => Some(shaped::<_, Ix1>(npz, "frame_scale", Npz::f64)?.to_vec()),
            None => None,
        };
        let background = match npz.find("background") {
            Some(_) => Some(shaped::<_, Ix2>(npz, "background", Npz::f32)?),
            None => None,
        };
        let consistent = weights.dim() == object.dim()
            && origin.len() == 2
            && positions.dim() == (indices.len(), 2)
            && gains.as_ref().is_none_or(|gains| gains.len() == indices.len())
            && origin.iter().chain(&positions).all(|v| v.is_finite())
            && object.iter().all(|z| z.is_finite());
        if !consistent {
            return Err(Error::input(
                &path,
                describe(&object, &weights, positions.dim(), indices.len()),
            ));
        }
        // No run leaves any, and there are no pictures without pixels.
        if object.is_empty() || probe.is_empty() {
            let (object, probe) = (object.dim(), probe.dim());
            let problem = format!("object {object:?} or probe {probe:?} has no pixels");
            return Err(Error::input(&path, problem));
        }
        let index = |&i: &i64| {
            usize::try_from(i).map_err(|_| Error::input(&path, format!("`indices` holds {i}")))
        };
        Ok(Saved {
            weights,
            origin_yx: [origin[0], origin[1]],
            positions: positions
                .rows()
                .into_iter()
                .map(|p| Position { x: p[0], y: p[1] })
                .collect(),
            indices: indices.iter().map(index).collect::<Result<_>>()?,
            object,
            probe,
            exposure: Exposure { gains, background },
        })
    }

    /// Without the frames that are left out of `scan`.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn without_rejected(mut self, scan: &Scan) -> Result<Saved> {
        let rejected = scan.rejected.frames();
        let kept = |i: &usize| rejected.iter().all(|bad| bad.frame != *i);
        let kept: Vec<bool> = self.indices.iter().map(kept).collect();
        if !kept.contains(&true) {
            let path = scan.source.path.display();
            return Err(Error::Config(format!(
                "--reject-frames leaves out every frame of {path} that the reconstruction is of"
            )));
        }
        retain(&mut self.indices, &kept);
        retain(&mut self.positions, &kept);
        self.exposure.gains.iter_mut().for_each(|gains| retain(gains, &kept));
        Ok(self)
    }

    /// The same, with coordinates that count from `origin_yx`.
    pub fn seen_from(mut self, origin_yx: [f64; 2]) -> Saved {
        let [y, x] = origin_yx;
        self.origin_yx = [self.origin_yx[0] - y, self.origin_yx[1] - x];
        self.positions.iter_mut().for_each(|p| (p.x, p.y) = (p.x - x, p.y - y));
        self
    }

    /// For a comparison with the truth.
    pub fn placed(&self) -> metrics::Reconstruction<'_> {
        metrics::Reconstruction {
            object: self.object.view(),
            weights: self.weights.view(),
            origin_yx: self.origin_yx,
            positions: &self.positions,
        }
    }

    /// What the data say about it.
    pub fn explained<'a>(&'a self, scan: &'a Scan) -> Explained<'a> {
        Explained {
            amplitude: &scan.amplitude,
            kappa: scan.dose.kappa,
            mask: scan.mask.as_ref().map(|mask| mask.view()),
            probe: self.probe.view(),
            object: self.object.view().into(),
            origin_yx: self.origin_yx,
            positions: &self.positions,
            indices: &self.indices,
            gains: self.exposure.gains.as_deref(),
            background: self.exposure.background.as_ref().map(|b| b.view()),
        }
    }
}

fn retain<T>(values: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    values.retain(|_| kept.next() == Some(&true));
}

fn describe(
    object: &Array2<Complex32>,
    weights: &Array2<f32>,
    positions: (usize, usize),
    indices: usize,
) -> String {
    format!(
        "object {:?} (finite), weights {:?}, origin_yx (2), positions {positions:?} and {indices} \
         indices do not belong together: expected (H, W), (H, W), (2), (M, 2) and M",
        object.dim(),
        weights.dim()
    )
}

/// The array `key` with the number of axes of `D`.
pub(crate) fn shaped<T, D: ndarray::Dimension>(
    npz: &mut Npz,
    key: &str,
    read: impl Fn(&mut Npz, &str) -> Result<ndarray::ArrayD<T>>,
) -> Result<ndarray::Array<T, D>> {
    let array = read(npz, key)?;
    let problem =
        format!("`{key}` has shape {:?}, expected {} axes", array.shape(), D::NDIM.unwrap_or(0));
    array.into_dimensionality::<D>().map_err(|_| Error::input(npz.path(), problem))
}
