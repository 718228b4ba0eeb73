//! Inference: a trained network over a scan, its patches stitched into one object.

use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3, ArrayView3, s};
use num_complex::Complex32;

use crate::backend::{Backend, Chosen};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::{ModelConfig, PatchWeighting};
use crate::data::grouping::Groups;
use crate::data::scan::{Position, Scan};
use crate::data::{Ahead, Stacks};
use crate::graph::{Precision, Stage};
use crate::models::physics::{checkerboard, probe_intensity};
use crate::models::plans::{self, Inference};
use crate::reconstruct::modes;
use crate::reconstruction::Exposure;
pub use crate::reconstruction::Reconstruction;
use crate::stitch::{self, BandStitcher, Banded, Canvas, Orientation, Stitched, Stitcher};
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

/// A trained network, ready to be applied.
pub struct Network {
    checkpoint: Checkpoint,
    path: PathBuf,
    learned: Learned,
    /// The network as it is applied: to single patterns wherever it sees them alone.
    model: ModelConfig,
    batch: usize,
    device: Chosen,
    precision: Precision,
    /// [S, P, N, N] learned probes with the checkerboard, in the engine's gauge.
    probe: Option<Tensor>,
}

/// Is shown the patches of some patterns, by their indices, [count, N, N] in the file's gauge, as they
/// go to the canvas. A pattern of several groups is shown with each of them.
pub type Witness<'a> = &'a mut dyn FnMut(&[usize], ArrayView3<Complex32>);

/// The network in the memory of the device.
struct Loaded {
    plan: Inference,
    backend: Box<dyn Backend>,
    /// Patterns of a batch.
    patterns: usize,
}

impl Network {
    /// Takes the network out of `checkpoint`, which was read from `path`, to `device`.
    pub fn new(
        checkpoint: &Checkpoint,
        path: &Path,
        batch_size: usize,
        device: &Chosen,
    ) -> Result<Network> {
        let learned = state::learned(checkpoint, path)?;
        // Larger batches of what has no such weights could be beyond what can be planned.
        let one = plans::inference(&learned.model.alone(), 1, None).plan;
        state::fits(&one, checkpoint, path)?;
        let probe =
            learned.probe_trained.then(|| checkpoint.tensors.get("probe").cloned()).flatten();
        let model = learned.model.alone();
        Ok(Network {
            checkpoint: checkpoint.clone(),
            path: path.to_path_buf(),
            learned,
            model,
            batch: batch_size,
            device: device.clone(),
            precision: Precision::Fp32,
            probe,
        })
    }

    /// The same network, applied with this precision; it is single precision else.
    pub fn in_precision(self, precision: Precision) -> Network {
        Network { precision, ..self }
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the network was trained as.
    pub fn model(&self) -> &ModelConfig {
        &self.learned.model
    }

    /// Reconstructs `scan`.
    pub fn reconstruct(&self, scan: &Scan, options: &Options) -> Result<Reconstruction> {
        self.reconstruct_before(scan, self.prepare(scan, options)?, options, None)
    }

    /// The same of what is `prepared`, before a witness of the patches, for whom they are stitched on the
    /// CPU.
    pub fn reconstruct_before(
        &self,
        scan: &Scan,
        prepared: Prepared,
        options: &Options,
        witness: Option<Witness>,
    ) -> Result<Reconstruction> {
        prepared.canvas.check_size()?;
        let place = witness.is_none().then_some(&prepared.canvas);
        let mut loaded = self.load(place, &prepared, &options.orientation)?;
        let mut job = prepared.job(scan);
        let stitched = match loaded.plan.stitched {
            Some(buffers) => loaded.stitch_on_device(&mut job, &prepared.weighting, buffers)?,
            None => loaded.stitch_on_host(
                &mut job,
                &prepared.weighting,
                &options.orientation,
                witness,
            )?,
        };
        Ok(self.reconstruction(prepared, stitched))
    }

    /// Reconstructs `scan`, as it is `prepared`, on a canvas of any size: `bytes` of it are in memory at once, and the rest in
    /// files in `folder`. The object has the bits of [`Network::reconstruct`] on the CPU. What comes with
    /// the canvas has an empty object.
    ///
    /// # Errors
    /// As of [`Network::reconstruct`] but for the memory, and the disk is full.
    pub fn reconstruct_in_bands(
        &self,
        scan: &Scan,
        prepared: Prepared,
        options: &Options,
        bytes: u64,
        folder: &Path,
    ) -> Result<(Banded, Reconstruction)> {
        let Prepared { canvas, weighting, groups, .. } = &prepared;
        let mut loaded = self.load(None, &prepared, &options.orientation)?;
        let mut stitcher =
            BandStitcher::new(canvas, weighting, groups.members.len(), bytes, folder)?;
        let mut job = prepared.job(scan);
        loaded.each_batch(&mut job, &options.orientation, |_, patches, centres| {
            stitcher.add(patches, centres)
        })?;
        let banded = stitcher.finish()?;
        let nothing = Stitched {
            object: Array2::zeros((0, 0)),
            weights: Array2::zeros((0, 0)),
            consistency: Array2::zeros((0, 0)),
        };
        Ok((banded, self.reconstruction(prepared, nothing)))
    }

    /// Bytes of the buffers that compute a batch, and of the weights that were read.
    pub fn bytes(&self) -> [u64; 2] {
        let plan = plans::inference_in(self.precision, &self.model, self.batch, None).plan;
        let buffers = if matches!(self.device, Chosen::Cpu) { plan.bytes() as u64 } else { 0 };
        let tensors = self.checkpoint.tensors.values();
        [buffers, tensors.map(|tensor| 4 * tensor.data.len() as u64).sum()]
    }

    fn reconstruction(&self, prepared: Prepared, stitched: Stitched) -> Reconstruction {
        let Prepared { canvas, probe, indices, positions, gauge, input_scale, .. } = prepared;
        Reconstruction {
            stitched,
            canvas,
            probe,
            probe_trained: self.probe.is_some(),
            indices,
            positions,
            gauge,
            input_scale: Some(input_scale),
            exposure: Exposure::default(),
        }
    }

    /// All that is known before the first batch.
    ///
    /// # Errors
    /// Patterns or crop of a size that is not the network's, positions that cannot be turned or grouped.
    pub fn prepare(&self, scan: &Scan, options: &Options) -> Result<Prepared> {
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
        let gauge = gauge * self.learned.object_factor;
        let lit = || centre(&probe_intensity(probe.view()), crop);
        let weights = match options.weighting {
            PatchWeighting::Uniform => stitch::Weights::Uniform,
            PatchWeighting::Probe => stitch::Weights::Map(lit()),
            PatchWeighting::Tapered => stitch::Weights::Map(lit() * taper(crop)),
        };
        let canvas = Canvas::of_any_size(&positions, crop)?;
        let weighting = stitch::Options { crop, weights };
        let input_scale = if options.recompute_normalisation {
            scan.input_scale()
        } else {
            self.learned.input_scale
        };
        let groups =
            Groups::covering(&positions, self.model.gridsize, self.learned.neighbor_count)?;
        Ok(Prepared { canvas, weighting, probe, groups, indices, positions, gauge, input_scale })
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

    /// Plans the network for one scan. A GPU stitches too, where there is a canvas and room for it.
    fn load(
        &self,
        canvas: Option<&Canvas>,
        prepared: &Prepared,
        orientation: &Orientation,
    ) -> Result<Loaded> {
        let (crop, input_scale) = (prepared.weighting.crop, prepared.input_scale);
        let build = |canvas| plans::inference_in(self.precision, &self.model, self.batch, canvas);
        let on_device = canvas.filter(|_| matches!(self.device, Chosen::Cuda(_))).map(|canvas| {
            let size = [canvas.height, canvas.width];
            plans::Canvas { size, crop, transpose: orientation.transpose }
        });
        let mut plan = build(on_device);
        let budget = self.device.budget(None)?;
        if plan.stitched.is_some() && budget.is_some_and(|budget| plan.plan.bytes() > budget) {
            log::info!("the device has no room for the canvas: it is stitched on the CPU");
            plan = build(None);
        }
        let mut backend = self.device.open(plan.plan.clone())?;
        state::apply(backend.as_mut(), &self.checkpoint, &self.path)?;
        backend.write(plan.training, &[0.0])?;
        let gain = plan.plan.slots[plan.gain.0].len();
        backend.write(plan.gain, &vec![input_scale as f32; gain])?;
        let patterns = gain * self.model.channels();
        Ok(Loaded { plan, backend, patterns })
    }

    /// The probe of a scan in its file's gauge, learned where the network has learned it, and the
    /// factor on the network's object that belongs to it.
    fn probe(&self, scan: &Scan) -> (Array3<Complex32>, f64) {
        let Some(tensor) = &self.probe else { return (scan.probe.clone(), scan.probe_gauge()) };
        let &[_, count, n, _, _] = tensor.shape.as_slice() else {
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
        let values = tensor.data[at * count * n * n * 2..][..count * n * n * 2].chunks_exact(2);
        let values = values.map(|z| Complex32::new(z[0], z[1])).collect();
        let probe = Array3::from_shape_vec((count, n, n), values).expect("a whole probe");
        let probe = checkerboard(probe.view(), 1.0 / gauge);
        if count == 1 {
            return (probe, gauge);
        }
        // Learned modes mix, and any mixture is the same beam: the orthogonal one has a meaning.
        let probe = modes::orthogonal(probe.view());
        let shares = modes::in_percent(&modes::powers(probe.view()));
        log::info!("power of the learned probe modes: {shares}");
        (probe, gauge)
    }
}

/// What is known of a reconstruction before the first batch.
#[derive(Debug)]
pub struct Prepared {
    canvas: Canvas,
    weighting: stitch::Options,
    probe: Array3<Complex32>,
    groups: Groups,
    indices: Vec<usize>,
    positions: Vec<Position>,
    /// Object in the file's gauge = this times what the network gives.
    gauge: f64,
    input_scale: f64,
}

impl Prepared {
    /// Where the patches go, of any size.
    pub fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// How many patterns are used.
    pub fn patterns(&self) -> usize {
        self.indices.len()
    }

    fn job(&self, scan: &Scan) -> Job<'_> {
        let Prepared { groups, positions, canvas, gauge, .. } = self;
        let patterns = Ahead::new(Stacks::new(vec![scan.amplitude.clone()]));
        Job { patterns, side: scan.side(), groups, positions, canvas, gauge: *gauge }
    }
}

/// What is reconstructed, and where it goes.
struct Job<'a> {
    patterns: Ahead,
    side: usize,
    groups: &'a Groups,
    positions: &'a [Position],
    canvas: &'a Canvas,
    gauge: f64,
}

impl Job<'_> {
    /// The patterns `members`, dark ones behind them up to `len` numbers. Those of `next` are begun to be
    /// read.
    fn amplitude(
        &mut self,
        members: &[usize],
        next: Option<&[usize]>,
        len: usize,
    ) -> Result<Vec<f32>> {
        let mut amplitude = self.patterns.take(members, next)?.to_vec();
        // The patches of the padding are not looked at.
        amplitude.resize(len, 0.0);
        Ok(amplitude)
    }
}

impl Loaded {
    /// The members of each batch, with those of the next.
    fn batches<'a>(
        &self,
        groups: &'a Groups,
    ) -> impl Iterator<Item = (&'a [usize], Option<&'a [usize]>)> + use<'a> {
        let next = groups.members.chunks(self.patterns).skip(1).map(Some).chain([None]);
        groups.members.chunks(self.patterns).zip(next)
    }

    /// Writes the patterns of some members and runs the network over them.
    fn run(&mut self, job: &mut Job, members: &[usize], next: Option<&[usize]>) -> Result<()> {
        let len = self.backend.plan().slots[self.plan.amplitude.0].len();
        let amplitude = job.amplitude(members, next, len)?;
        self.backend.write(self.plan.amplitude, &amplitude)?;
        self.backend.run(Stage::Forward)
    }

    fn stitch_on_device(
        &mut self,
        job: &mut Job,
        weighting: &stitch::Options,
        buffers: plans::Stitched,
    ) -> Result<Stitched> {
        let crop = weighting.crop;
        let weights = stitch::weight_map(&weighting.weights, crop)?;
        self.backend.write(buffers.weight, &weights)?;
        let cells = self.backend.plan().range(buffers.canvas).len();
        self.backend.write(buffers.canvas, &vec![0.0; cells])?;
        let places = stitch::places(job.canvas, crop, job.positions)?;
        for (members, next) in self.batches(job.groups) {
            let mut batch: Vec<f32> = members.iter().flat_map(|&m| places[m]).collect();
            // A negative row is no patch.
            batch.resize(4 * self.patterns, -1.0);
            self.backend.write(buffers.places, &batch)?;
            self.run(job, members, next)?;
        }
        let cells = self.backend.read(buffers.canvas)?;
        Stitched::of_cells(&cells, job.canvas, &weights, job.gauge as f32)
    }

    fn stitch_on_host(
        &mut self,
        job: &mut Job,
        weighting: &stitch::Options,
        orientation: &Orientation,
        mut witness: Option<Witness>,
    ) -> Result<Stitched> {
        let mut stitcher = Stitcher::new(job.canvas, weighting)?;
        self.each_batch(job, orientation, |members, patches, centres| {
            stitcher.add(patches, centres)?;
            if let Some(witness) = &mut witness {
                witness(members, patches);
            }
            Ok(())
        })?;
        stitcher.finish()
    }

    /// Shows the patches of every batch to `see`: whose they are, [count, N, N] in the file's gauge, and
    /// their centres.
    fn each_batch(
        &mut self,
        job: &mut Job,
        orientation: &Orientation,
        mut see: impl FnMut(&[usize], ArrayView3<Complex32>, &[Position]) -> Result<()>,
    ) -> Result<()> {
        for (members, next) in self.batches(job.groups) {
            self.run(job, members, next)?;
            let patches = self.patches(members.len(), job.side, job.gauge as f32)?;
            let centres: Vec<Position> = members.iter().map(|&m| job.positions[m]).collect();
            see(members, orientation.apply_patches(patches.view()), &centres)?;
        }
        Ok(())
    }

    /// The first patches of the last batch, [count, N, N], in the file's gauge.
    fn patches(&mut self, count: usize, n: usize, gauge: f32) -> Result<Array3<Complex32>> {
        let object = self.backend.read(self.plan.object)?;
        let patches = object.chunks_exact(2).take(count * n * n);
        let patches = patches.map(|z| Complex32::new(gauge * z[0], gauge * z[1])).collect();
        Ok(Array3::from_shape_vec((count, n, n), patches).expect("one patch for each pattern"))
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
