//! `ptycho-gpu infer`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ndarray::{Array3, ArrayView3, Axis};
use num_complex::Complex32;

use super::bad_frames;
use super::bands;
use super::pictures::{self, Pictures};
use super::refine;
use super::report as page;
use super::train::Compat;
use crate::backend::Chosen;
use crate::checkpoint::{self, Checkpoint};
use crate::config::{Device, FrameOrder, InputDomain, PatchWeighting, Precision};
use crate::data::bad_frames::ROUNDS;
use crate::data::{self, BadFrame, LoadOptions, NpzWriter, Reading, Room, Scan};
use crate::infer::{Network, Options, Prepared, Reconstruction, Witness};
use crate::memory::{self, Budget};
use crate::metrics::{self, DataSpace, Evidence, Shown, Verdict};
use crate::reconstruct::Rates;
use crate::reconstruction::Saved;
use crate::report::{self, OutputFolder, RunRecord};
use crate::save::SaveArgs;
use crate::signals::Asked;
use crate::stitch::Orientation;
use crate::{Error, Result, backend, config, graph, reconstruct};

#[derive(Clone, Debug, Default, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Trained network: a checkpoint file, a run folder, or its checkpoints folder
    #[arg(long, value_name = "PATH")]
    pub model_path: PathBuf,
    /// Scan to reconstruct
    #[arg(long, value_name = "SCAN.npz")]
    pub test_data: PathBuf,
    /// Folder for the reconstruction and its pictures
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub checkpoint: config::Checkpoint,
    /// Where to compute: auto, cpu, cuda or cuda:INDEX
    #[arg(long, visible_alias = "accelerator", value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// Of convolutions on a GPU, whatever it was in training: tf32 and bf16 are for tensor cores, auto
    /// means fp32
    #[arg(long, value_enum, ignore_case = true, value_name = "PRECISION", default_value_t)]
    pub precision: Precision,
    /// Groups computed at once
    #[arg(
        long,
        visible_alias = "inference-batch-size",
        value_name = "GROUPS",
        default_value_t = 16
    )]
    pub batch_size: usize,

    /// Memory of the machine that the run may take, such as 8e9, 16GB or 50%: a scan that does not fit
    /// is read from disk by batches, a canvas is stitched by bands, with the same result [default: what is
    /// free]
    #[arg(long, value_name = "BYTES")]
    pub memory_limit: Option<memory::Limit>,
    /// Folder for what does not fit in memory; nothing is left there [default: the output folder]
    #[arg(long, value_name = "FOLDER")]
    pub scratch_dir: Option<PathBuf>,

    /// Patterns used, from the first [default: all]
    #[arg(long, value_name = "PATTERNS", help_heading = "Data")]
    pub n_images: Option<usize>,
    /// Mean photons per pattern of data that are not in counts [default: the file's, else 1e9]
    #[arg(long, visible_alias = "n-photons", value_name = "PHOTONS", help_heading = "Data")]
    pub nphotons: Option<f64>,
    /// What the numbers in the file are
    #[arg(long, value_enum, ignore_case = true, default_value_t, help_heading = "Data")]
    pub input_domain: InputDomain,
    /// Which axis of the pattern array counts the frames
    #[arg(long, value_enum, ignore_case = true, default_value_t, help_heading = "Data")]
    pub order: FrameOrder,
    #[command(flatten)]
    pub reading: Reading,
    /// Scale the patterns by their own mean instead of by the training scan's
    #[arg(long, help_heading = "Data")]
    pub recompute_normalisation: bool,

    /// Weight of a patch's pixels on the canvas
    #[arg(long, value_enum, ignore_case = true, default_value_t, help_heading = "Stitching")]
    pub patch_weighting: PatchWeighting,
    /// Side of the central square of each patch that is used, even [default: N/2]
    #[arg(long, value_name = "PIXELS", help_heading = "Stitching")]
    pub stitch_crop_size: Option<usize>,
    /// Mirror the x coordinates of the scan
    #[arg(long, help_heading = "Stitching")]
    pub flip_x: bool,
    /// Mirror the y coordinates of the scan
    #[arg(long, help_heading = "Stitching")]
    pub flip_y: bool,
    /// Exchange rows and columns of every patch; goes with --swap-xy. Where the frames of the detector
    /// are stored transposed, --transpose is right instead
    #[arg(long, help_heading = "Stitching")]
    pub transpose_patches: bool,
    /// Exchange the x and y coordinates of the scan
    #[arg(long, help_heading = "Stitching")]
    pub swap_xy: bool,
    /// Factor on the coordinates of the scan
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Stitching")]
    pub coord_scale: f64,
    /// Write the patch of each pattern too, before stitching: patches.npz
    #[arg(long, help_heading = "Stitching")]
    pub patches: bool,

    /// Epochs of refinement after the stitching: the object is brought closer to the data, as by
    /// `refine`; the network's own answer is then in network.npz
    #[arg(long, value_name = "EPOCHS", help_heading = "Refinement")]
    pub refine: Option<usize>,
    /// Solve for the positions too while refining
    #[arg(long, requires = "refine", help_heading = "Refinement")]
    pub refine_positions: bool,
    /// Incoherent modes of the refined probe [default: as many as it has]
    #[arg(long, requires = "refine", value_name = "COUNT", help_heading = "Refinement")]
    pub refine_modes: Option<usize>,

    #[command(flatten)]
    pub save: SaveArgs,
    /// Leave no report.html
    #[arg(long)]
    pub no_report: bool,
    /// End with one line of JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    pub compat: Compat,
}

impl Args {
    pub(super) fn options(&self) -> Options {
        Options {
            batch_size: self.batch_size,
            n_images: self.n_images,
            recompute_normalisation: self.recompute_normalisation,
            weighting: self.patch_weighting,
            crop: self.stitch_crop_size,
            orientation: Orientation {
                flip_x: self.flip_x,
                flip_y: self.flip_y,
                transpose: self.transpose_patches,
                swap_xy: self.swap_xy,
                coord_scale: self.coord_scale,
            },
        }
    }

    /// How the stitched object is refined, if it is.
    fn refinement(&self) -> Option<reconstruct::Options> {
        self.refine.map(|epochs| reconstruct::Options {
            epochs,
            modes: self.refine_modes,
            refine_positions: self.refine_positions,
            rates: Rates { smooth: refine::SMOOTH_RATE, ..Rates::default() },
            ..reconstruct::Options::default()
        })
    }

    /// Whether every value lies in its range. What depends on the patch side is left to stitching.
    pub fn validate(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::Config(text));
        if self.batch_size == 0 {
            return refuse("--batch-size is 0, but must be at least 1; 16 is the default".into());
        }
        if self.n_images == Some(0) {
            return refuse("--n-images is 0, but must be at least 1; leave it out for all".into());
        }
        self.refinement().map_or(Ok(()), |options| options.check())?;
        if self.refine.is_some() && self.transpose_patches {
            return refuse(
                "--refine works with the patterns, and --transpose-patches turns the patches of \
                 the network alone: turn the frames instead, with --transpose"
                    .into(),
            );
        }
        if self.refine.is_some() && self.output_dir.join("checkpoints").exists() {
            return refuse(format!(
                "--refine would overwrite the history of the training in {}: name another \
                 --output-dir",
                self.output_dir.display()
            ));
        }
        if let Some(photons) = self.nphotons.filter(|p| !(p.is_finite() && *p > 0.0)) {
            return refuse(format!(
                "--nphotons is {photons}, but must be above 0: the mean photons per pattern"
            ));
        }
        if let Some(side) = self.stitch_crop_size.filter(|side| *side == 0 || side % 2 == 1) {
            return refuse(format!(
                "--stitch-crop-size is {side}, but must be even and at least 2, at most the side \
                 of a patch; leave it out for half of it"
            ));
        }
        if !(self.coord_scale.is_finite() && self.coord_scale > 0.0) {
            return refuse(format!(
                "--coord-scale is {}, but must be above 0; mirror with --flip-x and --flip-y",
                self.coord_scale
            ));
        }
        Ok(())
    }
}

/// Reconstructs, and leaves arrays, pictures and record in the output folder.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    infer(&args).map(drop)
}

/// The job itself; the demo runs it too.
pub fn infer(args: &Args) -> Result<DataSpace> {
    args.validate()?;
    args.compat.notes().iter().for_each(|note| log::info!("{note}"));
    let device = backend::choose(args.device)?;
    let precision = device.precision(args.precision, graph::Precision::Fp32)?;
    let started = Instant::now();
    let path = checkpoint::find(&args.model_path, args.checkpoint.into())?;
    let checkpoint = Checkpoint::load(&path)?;
    let network = Network::new(&checkpoint, &path, args.batch_size, &device)?;
    let network = network.in_precision(precision);
    let (input_domain, nphotons, order) = (args.input_domain, args.nphotons, args.order);
    compare_frames(&checkpoint, &args.reading);
    let reading = args.reading.clone();
    let folder = &args.output_dir;
    let _guard = OutputFolder::create(folder)?;
    let memory = Budget::new(args.memory_limit);
    let scratch = args.scratch_dir.clone().unwrap_or_else(|| folder.clone());
    // A solver has the patterns in memory.
    let room = args.refine.is_none().then(|| Room { bytes: bands::for_patterns(&memory), scratch });
    let options =
        LoadOptions { input_domain, nphotons, order, reading, room, ..LoadOptions::default() };
    let mut scan = data::load(&args.test_data, &options)?;
    args.save.check(&scan)?;
    let prepared = network.prepare(&scan, &args.options())?;
    if let Some(bytes) = bands::needed(args, &network, &scan, &prepared, &memory)? {
        let job = bands::Job { args, network: &network, scan: &mut scan, bytes, started };
        return job.run(prepared, &checkpoint, &device, &path);
    }
    let mut applied = apply(args, &network, &scan, prepared)?;
    for _ in 0..ROUNDS {
        if !bad_frames::reject(&args.reading, &mut scan, &applied.bad)? {
            break;
        }
        applied = apply(args, &network, &scan, network.prepare(&scan, &args.options())?)?;
    }
    let Applied { result, patches, figures, bad, seconds } = applied;
    let mut record = record(&network, &checkpoint, &path, &scan, &device);
    let times = [seconds, started.elapsed().as_secs_f64()];
    let verdict = judged(&mut record, &result, &figures, result.spread(), times);
    bad_frames::leave(&scan, &bad, folder, &mut record)?;
    let metadata = serde_json::Value::Object(record.json().clone());
    let file = if args.refine.is_some() { "network.npz" } else { "reconstruction.npz" };
    if let Some(patches) = patches {
        patches.write(&folder.join("patches.npz"))?;
    }
    let frames = pictures::frames(&result, &scan, &figures)?;
    result.write_with(&folder.join(file), &scan, &metadata, |file| {
        pictures::write_frames(file, &figures, &frames)
    })?;
    if args.refine.is_none() {
        args.save.write(folder, &result, &scan, &metadata, &[])?;
    }
    leave_pictures(&result, &scan, &figures, &frames, folder)?;
    record.write(record_path(folder, args.refine.is_some()))?;
    say(&result, &figures, &verdict, folder);
    let Some(options) = args.refinement() else {
        page::leave(folder, args.no_report);
        if args.json {
            report::print_json(&Line { figures: &figures, verdict: &verdict })?;
        }
        return Ok(figures);
    };
    let before = Saved::read(&folder.join(file))?;
    let (from, device) = (file.to_owned(), &device);
    let job = refine::Job {
        scan: &scan,
        before: &before,
        from,
        options: &options,
        device,
        save: &args.save,
        live: None,
        asked: &Asked::by_signals()?,
    };
    let (line, epochs) = refine::refine(&job, folder, false)?;
    page::leave(folder, args.no_report);
    if args.json {
        report::print_json(&line)?;
    }
    super::reconstruct::stopped(job.asked, epochs, &options, folder)?;
    Ok(figures)
}

/// The record of a run as it is before the first batch.
pub(super) fn record(
    network: &Network,
    checkpoint: &Checkpoint,
    path: &Path,
    scan: &data::Scan,
    device: &Chosen,
) -> RunRecord {
    let mut record = RunRecord::new("infer");
    record.input(scan).device(device.describe()).set("checkpoint", path.to_string_lossy());
    record.set("weights_sha256", checkpoint.weights_digest("")).set("model", network.model());
    record.set("precision", Precision::from(network.precision()));
    record
}

/// What the network makes of a scan.
struct Applied {
    result: Reconstruction,
    patches: Option<Patches>,
    figures: DataSpace,
    bad: Vec<BadFrame>,
    /// Of network and stitching.
    seconds: f64,
}

fn apply(args: &Args, network: &Network, scan: &data::Scan, prepared: Prepared) -> Result<Applied> {
    let computed = Instant::now();
    let mut patches = args.patches.then(|| Patches::new(prepared.patterns(), scan.side()));
    let mut witness = |which: &[usize], seen: ArrayView3<Complex32>| {
        patches.iter_mut().for_each(|patches| patches.add(which, seen));
    };
    let witness: Option<Witness> = if args.patches { Some(&mut witness) } else { None };
    let result = network.reconstruct_before(scan, prepared, &args.options(), witness)?;
    let seconds = computed.elapsed().as_secs_f64();
    let scene = result.explained(scan);
    let figures = metrics::data_space(&scene)?;
    let bad = metrics::bad_frames(scan, &scene, &figures)?;
    Ok(Applied { result, patches, figures, bad, seconds })
}

/// The verdict on a result, which goes into the `record` with its figures; `seconds` of network and stitching,
/// and of all.
pub(super) fn judged(
    record: &mut RunRecord,
    result: &Reconstruction,
    figures: &DataSpace,
    spread: f64,
    seconds: [f64; 2],
) -> Verdict {
    let evidence = Evidence { spread: Some(spread), ..figures.evidence() };
    let verdict = Verdict::of(&evidence);
    record.set("input_scale", result.input_scale).set("gauge", result.gauge);
    record.timing("network_and_stitching_seconds", seconds[0]);
    record.timing("total_seconds", seconds[1]);
    record.set("peak_memory_bytes", memory::peak());
    record.result("patterns", result.indices.len()).result("data_space", figures);
    record.result("spread", evidence.spread).result("verdict", &verdict);
    verdict
}

/// What came out, in a line, and whether it can be trusted.
pub(super) fn say(result: &Reconstruction, figures: &DataSpace, verdict: &Verdict, folder: &Path) {
    log::info!(
        "{} patterns, {}x{} pixels, residual {:.4}, R factor {:.4}: {}",
        result.indices.len(),
        result.canvas.height,
        result.canvas.width,
        figures.residual,
        figures.r_factor,
        folder.display()
    );
    verdict.say();
}

/// Warns where frames are turned in another way than in the training: a network knows those.
fn compare_frames(checkpoint: &Checkpoint, reading: &Reading) {
    let now = serde_json::to_value(reading).unwrap_or_default();
    for name in ["center", "transpose", "flip", "rotate", "crop", "bin"] {
        let before = &checkpoint.metadata["configuration"][name]["value"];
        let off = |v: &serde_json::Value| v.is_null() || *v == false || *v == 1 || *v == "0";
        if *before == now[name] || off(before) && off(&now[name]) {
            continue;
        }
        let said = |value: &serde_json::Value| match off(value) {
            true => format!("no --{name}"),
            false if *value == true => format!("--{name}"),
            false => format!("--{name} {}", value.to_string().trim_matches('"')),
        };
        log::warn!("the network was trained with {}, here is {}", said(before), said(&now[name]));
    }
}

/// What the network says of each pattern.
struct Patches {
    /// [M, N, N] sums over the patterns that are used, in the gauge of the file.
    sum: Array3<Complex32>,
    /// How often each pattern was seen: more than once in several groups.
    seen: Vec<f32>,
}

impl Patches {
    /// Of `count` patterns of `n` pixels a side.
    fn new(count: usize, n: usize) -> Patches {
        Patches { sum: Array3::zeros((count, n, n)), seen: vec![0.0; count] }
    }

    fn add(&mut self, which: &[usize], patches: ArrayView3<Complex32>) {
        for (&pattern, patch) in which.iter().zip(patches.outer_iter()) {
            let mut sum = self.sum.index_axis_mut(Axis(0), pattern);
            sum += &patch;
            self.seen[pattern] += 1.0;
        }
    }

    /// `patches`, [M, N, N], the mean over all groups of a pattern.
    fn write(mut self, path: &Path) -> Result<()> {
        for (mut patch, &seen) in self.sum.outer_iter_mut().zip(&self.seen) {
            patch.mapv_inplace(|z| z / seen.max(1.0));
        }
        let mut file = NpzWriter::create(path)?;
        file.c64("patches", &self.sum)?;
        file.finish()
    }
}

/// The last line of `--json`.
#[derive(serde::Serialize)]
pub(super) struct Line<'a> {
    #[serde(flatten)]
    pub figures: &'a DataSpace,
    #[serde(flatten)]
    pub verdict: &'a Verdict,
}

/// Where the record goes: run.json, but not over that of a training in the same folder, and not where
/// that of a refinement will be.
pub(super) fn record_path(folder: &Path, refined: bool) -> PathBuf {
    let usual = folder.join("run.json");
    if refined {
        return folder.join("run-infer.json");
    }
    let there = std::fs::read(&usual).ok();
    let there = there.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    if there.is_some_and(|record| record["command"] == "train") {
        let other = folder.join("run-infer.json");
        log::info!("run.json is the record of a training: this one goes to {}", other.display());
        return other;
    }
    usual
}

/// All pictures of a stitched object.
fn leave_pictures(
    result: &Reconstruction,
    scan: &Scan,
    figures: &DataSpace,
    frames: &[Shown],
    folder: &Path,
) -> Result<()> {
    let pictures = Pictures::new(result, scan, result.covered(), folder);
    pictures.object()?;
    let consistency = &result.stitched.consistency;
    pictures.map("consistency.png", consistency, ("Overlap consistency", ""))?;
    pictures.probe()?;
    pictures.positions(&[])?;
    pictures.residual(figures)?;
    pictures.patterns(frames)
}
