//! Inference: a trained network over a scan, its patches stitched into one object.

use std::path::Path;

use ndarray::{Array2, Array3, s};
use num_complex::Complex32;

use crate::backend::{Backend, Chosen};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::{ModelConfig, PatchWeighting};
use crate::data::grouping::Groups;
use crate::data::npz::NpzWriter;
use crate::data::scan::{Position, Scan};
use crate::graph::Stage;
use crate::metrics::Explained;
use crate::models::physics::{checkerboard, probe_intensity};
use crate::models::plans::{self, Inference};
use crate::stitch::{self, Canvas, Orientation, Stitched, Stitcher};
use crate::train::state::{self, Learned, LearnedScan};
use crate::{Error, Result};

/// How a scan is reconstructed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Groups computed at once.
    pub batch_size: usize,
    /// Patterns used, from the first; none = all.
    pub n_images: Option<usize>,
    /// Normalise by this scan's own mean energy instead of the training scan's.
    pub recompute_normalisation: bool,
    pub weighting: PatchWeighting,
    /// Side of the central square of each patch that is used; none = N/2.
    pub crop: Option<usize>,
    pub orientation: Orientation,
}

/// An object, and all that is needed to judge it.
#[derive(Clone, Debug)]
pub struct Reconstruction {
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
    /// Object in the file's gauge = this times what the network gave.
    pub gauge: f64,
    /// s in x = a·s that was used.
    pub input_scale: f64,
}

/// A trained network, ready to be applied.
pub struct Network {
    learned: Learned,
    plan: Inference,
    backend: Box<dyn Backend>,
    /// [S, P, N, N] learned probes with the checkerboard, in the engine's gauge.
    probe: Option<Tensor>,
}

impl Network {
    /// Takes the network out of `checkpoint`, which was read from `path`, to `device`.
    pub fn new(
        checkpoint: &Checkpoint,
        path: &Path,
        batch_size: usize,
        device: &Chosen,
    ) -> Result<Network> {
        let learned: Learned = state::part(checkpoint, "learned", path)?;
        let plan = plans::inference(&learned.model, batch_size);
        let mut backend = device.open(plan.plan.clone())?;
        state::apply(backend.as_mut(), checkpoint, path)?;
        backend.write(plan.training, &[0.0])?;
        let probe =
            learned.probe_trained.then(|| checkpoint.tensors.get("probe").cloned()).flatten();
        Ok(Network { learned, plan, backend, probe })
    }

    /// What the network was trained as.
    pub fn model(&self) -> &ModelConfig {
        &self.learned.model
    }

    /// Reconstructs `scan`.
    pub fn reconstruct(&mut self, scan: &Scan, options: &Options) -> Result<Reconstruction> {
        self.check(scan)?;
        let used = options.n_images.unwrap_or(scan.len()).min(scan.len());
        let indices: Vec<usize> = (0..used).collect();
        let positions = options.orientation.apply_positions(&scan.positions[..used])?;
        let n = scan.side();
        let crop = options.crop.unwrap_or(n / 2);
        if crop > n {
            return Err(Error::Config(format!(
                "--stitch-crop-size is {crop}, larger than the patches of {n} pixels"
            )));
        }
        let (probe, gauge) = self.probe(scan);
        let lit = || centre(&probe_intensity(probe.view()), crop);
        let weights = match options.weighting {
            PatchWeighting::Uniform => stitch::Weights::Uniform,
            PatchWeighting::Probe => stitch::Weights::Map(lit()),
            PatchWeighting::Tapered => stitch::Weights::Map(lit() * taper(crop)),
        };
        let canvas = Canvas::around(&positions, crop)?;
        let mut stitcher = Stitcher::new(&canvas, &stitch::Options { crop, weights })?;
        let input_scale = if options.recompute_normalisation {
            scan.input_scale()
        } else {
            self.learned.input_scale
        };
        let groups =
            Groups::covering(&positions, self.model().gridsize, self.learned.neighbor_count)?;
        let batch = self.backend.plan().slots[self.plan.gain.0].len();
        self.backend.write(self.plan.gain, &vec![input_scale as f32; batch])?;
        for members in groups.members.chunks(batch * groups.size) {
            let patches = self.patches(scan, members, gauge)?;
            let centres: Vec<Position> = members.iter().map(|&m| positions[m]).collect();
            stitcher.add(options.orientation.apply_patches(patches.view()), &centres)?;
        }
        let probe_trained = self.probe.is_some();
        let stitched = stitcher.finish()?;
        Ok(Reconstruction {
            stitched,
            canvas,
            probe,
            probe_trained,
            indices,
            positions,
            gauge,
            input_scale,
        })
    }

    fn check(&self, scan: &Scan) -> Result<()> {
        let (found, wanted) = (scan.side(), self.model().n);
        if found != wanted {
            let problem = format!(
                "patterns are {found}×{found}, but the network was trained on {wanted}×{wanted}"
            );
            return Err(Error::input(&scan.source.path, problem));
        }
        let scale = scan.input_scale() / self.learned.input_scale;
        if !(0.5..2.0).contains(&scale) {
            log::warn!(
                "the patterns are {:.3} times as bright as those of the training scan; if their \
                 units differ, use --recompute-normalisation",
                1.0 / (scale * scale)
            );
        }
        Ok(())
    }

    /// The patches of some patterns, [members, N, N], in the file's gauge.
    fn patches(&mut self, scan: &Scan, members: &[usize], gauge: f64) -> Result<Array3<Complex32>> {
        let n = scan.side();
        let len = self.backend.plan().slots[self.plan.amplitude.0].len();
        let mut amplitude = Vec::with_capacity(len);
        for &m in members {
            amplitude.extend(scan.amplitude.slice(s![m, .., ..]).iter());
        }
        // Dark padding; its patches are not looked at.
        amplitude.resize(len, 0.0);
        self.backend.write(self.plan.amplitude, &amplitude)?;
        self.backend.run(Stage::Forward)?;
        let object = self.backend.read(self.plan.object)?;
        let gauge = gauge as f32;
        let patches = object.chunks_exact(2).take(members.len() * n * n);
        let patches = patches.map(|z| Complex32::new(gauge * z[0], gauge * z[1])).collect();
        Ok(Array3::from_shape_vec((members.len(), n, n), patches)
            .expect("one patch for each pattern"))
    }

    /// The probe of a scan in its file's gauge, learned where the network has learned it, and the
    /// factor on the network's object that belongs to it.
    fn probe(&self, scan: &Scan) -> (Array3<Complex32>, f64) {
        let Some(tensor) = &self.probe else { return (scan.probe.clone(), scan.probe_gauge()) };
        let &[_, modes, n, _, _] = tensor.shape.as_slice() else {
            return (scan.probe.clone(), scan.probe_gauge());
        };
        let trained = |s: &LearnedScan| s.trained && s.sha256 == scan.source.sha256;
        let at = self.learned.scans.iter().position(trained).unwrap_or_else(|| {
            log::info!(
                "the network has not learned from this scan: the probe learned from {} is used",
                self.learned.scans[0].path
            );
            0
        });
        let gauge = self.learned.scans[at].gauge;
        let values = tensor.data[at * modes * n * n * 2..][..modes * n * n * 2].chunks_exact(2);
        let values = values.map(|z| Complex32::new(z[0], z[1])).collect();
        let probe = Array3::from_shape_vec((modes, n, n), values).expect("a whole probe");
        (checkerboard(probe.view(), 1.0 / gauge), gauge)
    }
}

/// The central `side`×`side` pixels, of which pixel (side/2, side/2) is that of `image`'s centre.
fn centre(image: &Array2<f32>, side: usize) -> Array2<f32> {
    let first = image.dim().0 / 2 - side / 2;
    image.slice(s![first..first + side, first..first + side]).to_owned()
}

/// Least taper: a pixel that only the corner of a crop covers is still covered.
const TAPER_FLOOR: f64 = 1e-4;

/// A squared Hann window about pixel (side/2, side/2), [side, side], nowhere 0.
fn taper(side: usize) -> Array2<f32> {
    let window = |i: usize| {
        let t = (i as f64 - (side / 2) as f64) / side as f64;
        (std::f64::consts::PI * t).cos().powi(4)
    };
    Array2::from_shape_fn((side, side), |(r, c)| (window(r) * window(c)).max(TAPER_FLOOR) as f32)
}

impl Reconstruction {
    /// Where at least one patch reaches.
    pub fn covered(&self) -> Array2<bool> {
        self.stitched.weights.mapv(|w| w > 0.0)
    }

    /// What the data say about it.
    pub fn explained<'a>(&'a self, scan: &'a Scan) -> Explained<'a> {
        Explained {
            amplitude: scan.amplitude.view(),
            kappa: scan.dose.kappa,
            mask: scan.mask.as_ref().map(|mask| mask.view()),
            probe: self.probe.view(),
            object: self.stitched.object.view(),
            origin_yx: self.canvas.origin_yx.map(|o| o as f64),
            positions: &self.positions,
            indices: &self.indices,
        }
    }

    /// Writes `reconstruction.npz`, atomically. `scan` is what was reconstructed.
    pub fn write(&self, path: &Path, scan: &Scan, metadata: &serde_json::Value) -> Result<()> {
        let Stitched { object, weights, consistency } = &self.stitched;
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
        let nominal: Vec<Position> = self.indices.iter().map(|&i| nominal[i]).collect();
        let indices: Vec<i64> = self.indices.iter().map(|&i| i as i64).collect();
        let origin = self.canvas.origin_yx.map(|o| o as f64);
        let mut file = NpzWriter::create(path)?;
        file.c64("object", object)?;
        file.f32("weights", weights)?;
        file.f32("consistency", consistency)?;
        file.f32("amplitude", &object.mapv(|z| z.norm()))?;
        file.f32("phase", &object.mapv(|z| z.arg()))?;
        file.f64("origin_yx", &ndarray::arr1(&origin))?;
        file.c64("probe", &self.probe)?;
        file.f64("positions", &xy(&self.positions))?;
        file.i64("indices", &ndarray::Array1::from(indices))?;
        file.f64("global_offsets", &offsets)?;
        file.f64("coords_nominal", &xy(&nominal))?;
        file.text("metadata", &metadata.to_string())?;
        file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taper_falls_from_the_patch_centre_and_covers_every_pixel() {
        let window = taper(32);
        assert_eq!(window[[16, 16]], 1.0);
        assert!((17..32).all(|i| window[[16, i]] < window[[16, i - 1]]));
        assert!((1..16).all(|i| window[[16 + i, 16]] == window[[16 - i, 16]]));
        assert!(window.iter().all(|&w| w > 0.0));
    }
}
