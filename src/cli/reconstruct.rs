//! `ptycho-gpu reconstruct`: the object behind a scan, solved for directly.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ndarray::{Array1, Array2};
use num_complex::Complex32;
use serde_json::{Value, json};

use super::bad_frames;
use super::pictures::{self, Pictures};
use super::report as page;
use crate::backend::Chosen;
use crate::config::Device;
use crate::data::bad_frames::ROUNDS;
use crate::data::npz::NpzWriter;
use crate::data::{self, BadFrame, LoadOptions, Scan};
use crate::metrics::Verdict;
use crate::models::object::{BackgroundKind, Loss};
use crate::reconstruct::guess::{self, ProbeChoice};
use crate::reconstruct::halves::{Halves, THRESHOLD, halves};
use crate::reconstruct::modes::in_percent;
use crate::reconstruct::{Options, Rates, Solved, Start, Watch, reconstruct_watched};
use crate::report::live::{Facts, Live};
use crate::report::{self, Curve, OutputFolder, RunRecord, Series};
use crate::save::SaveArgs;
use crate::signals::Asked;
use crate::{Error, Result, backend};

/// Fewest epochs of a run that looks for bad frames.
const SHORT: usize = 10;

#[derive(Clone, Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Scan to reconstruct
    #[arg(value_name = "SCAN")]
    pub scan: PathBuf,
    /// Folder for the reconstruction and its pictures
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    /// Most passes over the patterns; fewer where the loss stops falling
    #[arg(long, value_name = "EPOCHS", default_value_t = Options::default().epochs)]
    pub epochs: usize,
    /// Probe to start from: mean, disk:DIAMETER:DEFOCUS, gaussian:DIAMETER:DEFOCUS or
    /// fzp:DIAMETER:DEFOCUS:STOP [default: the file's, else mean]
    #[arg(long, value_name = "SHAPE", help_heading = "Probe")]
    pub probe: Option<ProbeChoice>,
    #[command(flatten)]
    pub solver: SolverArgs,
    /// Patterns used, from the first [default: all]
    #[arg(long, value_name = "PATTERNS", help_heading = "Data")]
    pub n_images: Option<usize>,
    #[command(flatten, next_help_heading = "Data")]
    pub load: LoadOptions,
}

/// The flags of the solver, which `refine` shares.
#[derive(Clone, Debug, clap::Args)]
pub struct SolverArgs {
    /// Patterns in a step [default: a 64th of all, but 8 to 64]
    #[arg(long, value_name = "PATTERNS")]
    pub batch_size: Option<usize>,
    /// Distance between measured and predicted pattern
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub loss: Loss,
    /// Epochs that the loss may stand still before the run is brought to its end
    #[arg(long, value_name = "EPOCHS", default_value_t = Options::default().patience)]
    pub patience: usize,
    /// Relative fall of the loss over these epochs that counts as progress
    #[arg(long, value_name = "FRACTION", default_value_t = Options::default().tolerance)]
    pub tolerance: f64,
    /// Rate of the object, whose modulus is about 1
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().object)]
    pub object_rate: f64,
    /// Rate of the object's smooth parts, in log amplitude and in phase; 0: no steps of their own
    /// [default: 0, or 0.03 to refine]
    #[arg(long, value_name = "RATE")]
    pub smooth_rate: Option<f64>,
    /// Weight of the object's total variation in the loss
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0)]
    pub tv: f64,
    /// Most amplitude of the object, such as 1 with a probe of known brightness [default: none]
    #[arg(long, value_name = "AMPLITUDE")]
    pub amplitude_limit: Option<f64>,

    /// Incoherent modes of the probe [default: as many as it starts with]
    #[arg(long, value_name = "COUNT", help_heading = "Probe")]
    pub modes: Option<usize>,
    /// Keep the probe as it is given
    #[arg(long, help_heading = "Probe")]
    pub fixed_probe: bool,
    /// Rate of the probe, in units of its rms amplitude
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().probe, help_heading = "Probe")]
    pub probe_rate: f64,
    /// Diameter of the circle that the probe is confined to [default: none]
    #[arg(long, value_name = "PIXELS", help_heading = "Probe")]
    pub probe_support: Option<f64>,

    /// Solve for the positions too
    #[arg(long, help_heading = "Positions and detector")]
    pub refine_positions: bool,
    /// Farthest that a position may move along each axis
    #[arg(long, value_name = "PIXELS", default_value_t = Options::default().max_shift,
          help_heading = "Positions and detector")]
    pub max_shift: f64,
    /// Rate of the positions, pixels
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().positions,
          help_heading = "Positions and detector")]
    pub position_rate: f64,
    /// Solve for the brightness of each pattern
    #[arg(long, help_heading = "Positions and detector")]
    pub frame_scale: bool,
    /// Rate of the brightness of each pattern
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().frame_scale,
          help_heading = "Positions and detector")]
    pub frame_scale_rate: f64,
    /// Light that no object shapes
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value_t,
        help_heading = "Positions and detector"
    )]
    pub background: BackgroundKind,
    /// Rate of the root of the background, in units of the rms of a pattern
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().background,
          help_heading = "Positions and detector")]
    pub background_rate: f64,

    /// Solve for the even and the odd patterns apart too, and correlate them ring by ring
    #[arg(long)]
    pub frc: bool,
    /// Governs the order of the patterns
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: auto, cpu, cuda or cuda:INDEX
    #[arg(long, visible_alias = "accelerator", value_name = "DEVICE", default_value_t)]
    pub device: Device,
    /// Bytes of buffers that the run may take, such as 8e9; patterns that do not fit are streamed
    /// from memory [default: what the device has]
    #[arg(long, value_parser = super::train::bytes, value_name = "BYTES")]
    pub device_memory_limit: Option<usize>,
    #[command(flatten)]
    pub save: SaveArgs,
    /// Show the run while it goes on, on a page for this machine alone; 0: any free port
    #[arg(long, value_name = "PORT")]
    pub live: Option<u16>,
    /// Leave no report.html
    #[arg(long)]
    pub no_report: bool,
    /// End with one line of JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
}

impl SolverArgs {
    /// What the flags ask for, within `epochs`; `smooth_rate` where they do not say it.
    pub fn options(&self, epochs: usize, smooth_rate: f64) -> Options {
        Options {
            epochs,
            batch_size: self.batch_size,
            loss: self.loss,
            modes: self.modes,
            refine_probe: !self.fixed_probe,
            refine_positions: self.refine_positions,
            max_shift: self.max_shift,
            frame_scale: self.frame_scale,
            background: self.background,
            probe_support: self.probe_support,
            tv: self.tv,
            amplitude_limit: self.amplitude_limit,
            rates: Rates {
                object: self.object_rate,
                smooth: self.smooth_rate.unwrap_or(smooth_rate),
                probe: self.probe_rate,
                positions: self.position_rate,
                frame_scale: self.frame_scale_rate,
                background: self.background_rate,
            },
            seed: self.seed,
            patience: self.patience,
            tolerance: self.tolerance,
            device_memory_limit: self.device_memory_limit,
        }
    }
}

impl SolverArgs {
    /// The page that shows the run, where it is asked for.
    pub(super) fn page(
        &self,
        command: &'static str,
        scan: &Scan,
        epochs: usize,
    ) -> Result<Option<Live>> {
        let Some(port) = self.live else { return Ok(None) };
        let facts = Facts { command, name: page::name(scan), epochs, checkpoints: false };
        page::live(port, facts).map(Some)
    }
}

/// Solves, and leaves arrays, pictures and record in the output folder.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.solver.quiet);
    let started = Instant::now();
    let options = args.solver.options(args.epochs, Rates::default().smooth);
    options.check()?;
    if args.n_images == Some(0) {
        let text = "--n-images is 0, but must be at least 1; leave it out for all";
        return Err(Error::Config(text.into()));
    }
    let device = backend::choose(args.solver.device)?;
    let load = LoadOptions { without_probe: true, ..args.load.clone() };
    let mut scan = data::load(&args.scan, &load)?;
    args.solver.save.check(&scan)?;
    let folder = &args.output_dir;
    let _guard = OutputFolder::create(folder)?;
    let mut start = start(&args, &scan, &options, &device)?;
    let live = args.solver.page("reconstruct", &scan, options.epochs)?;
    let history = folder.join("history.csv");
    let history = Some(history.as_path());
    let asked = Asked::by_signals()?;
    let rounds = if bad_frames::automatic(&args.load.reading) { ROUNDS } else { 0 };
    for _ in 0..rounds {
        let found = suspicious(&scan, &start, &options, &device, &asked)?;
        if !bad_frames::reject(&args.load.reading, &mut scan, &found)? {
            break;
        }
        start = self::start(&args, &scan, &options, &device)?;
    }
    let watch = Watch { live: live.as_ref(), asked: Some(&asked) };
    let solved = reconstruct_watched(&scan, &start, &options, &device, history, watch)?;
    drop(live);
    let halves = match args.solver.frc && asked.stop().is_none() {
        true => Some(halves(&scan, &start, &solved, &options, &device)?),
        false => None,
    };
    let mut record = record("reconstruct", &scan, &device, &options, &solved, halves.as_ref());
    bad_frames::leave(&scan, &solved.bad_frames(&scan)?, folder, &mut record)?;
    record.timing("total_seconds", started.elapsed().as_secs_f64());
    write(folder, &scan, &solved, halves.as_ref(), &record, None)?;
    save(&args.solver.save, folder, &scan, &solved, &record)?;
    record.write(folder.join("run.json"))?;
    say(&solved, halves.as_ref(), folder);
    page::leave(folder, args.solver.no_report);
    if args.solver.json {
        report::print_json(&summary(&solved, halves.as_ref()))?;
    }
    stopped(&asked, solved.outcome.epochs, &options, folder)
}

/// The frames that do not follow from what a short run makes of all.
fn suspicious(
    scan: &Scan,
    start: &Start,
    options: &Options,
    device: &Chosen,
    asked: &Asked,
) -> Result<Vec<BadFrame>> {
    let epochs = options.epochs.div_ceil(4).max(SHORT).min(options.epochs);
    log::info!("looking for bad frames by a run of {epochs} epochs (--reject-frames auto)");
    let options = Options { epochs, ..options.clone() };
    let watch = Watch { live: None, asked: Some(asked) };
    reconstruct_watched(scan, start, &options, device, None, watch)?.bad_frames(scan)
}

/// The error of a run that was asked to end early, once all it had is written.
pub(super) fn stopped(
    asked: &Asked,
    epochs: usize,
    options: &Options,
    folder: &Path,
) -> Result<()> {
    let Some(who) = asked.stop() else { return Ok(()) };
    Err(Error::Stopped(format!(
        "{who} ended the run after epoch {epochs} of {}; the reconstruction so far is in {}, and \
         `refine` goes on from it",
        options.epochs,
        folder.display()
    )))
}

/// What the run begins with.
fn start(args: &Args, scan: &Scan, options: &Options, device: &Chosen) -> Result<Start> {
    let mut start = Start::of(scan);
    let choice = match (&args.probe, scan.probe.is_empty()) {
        (Some(choice), _) => Some(choice.clone()),
        (None, true) => Some(ProbeChoice::MeanPattern),
        (None, false) => None,
    };
    if let Some(choice) = choice {
        start.probe = guess::probe(scan, &choice, options, device)?;
    }
    let used = args.n_images.unwrap_or(usize::MAX);
    start.indices.truncate(used);
    start.positions.truncate(used);
    Ok(start)
}

/// The record of a run.
pub(super) fn record(
    command: &str,
    scan: &Scan,
    device: &Chosen,
    options: &Options,
    solved: &Solved,
    halves: Option<&Halves>,
) -> RunRecord {
    let mut record = RunRecord::new(command);
    record.input(scan).device(device.describe()).seed(options.seed).set("options", options);
    record.set("gauge", solved.reconstruction.gauge);
    record.timing("solving_seconds", solved.outcome.seconds);
    record.result("outcome", &solved.outcome).result("data_space", &solved.figures);
    record.result("verdict", verdict(solved));
    if let Some(halves) = halves {
        record.result("half_data_frc", halves);
    }
    record
}

/// Whether it can be trusted.
pub(super) fn verdict(solved: &Solved) -> Verdict {
    Verdict::of(&solved.figures.evidence())
}

/// The figures that end up in the last line.
pub(super) fn summary(solved: &Solved, halves: Option<&Halves>) -> Value {
    let (figures, outcome) = (&solved.figures, &solved.outcome);
    let mut line = json!({
        "residual": figures.residual,
        "r_factor": figures.r_factor,
        "deviance": figures.deviance,
        "floor": figures.floor,
        "verdict": verdict(solved).verdict,
        "epochs": outcome.epochs,
        "seconds": outcome.seconds,
        "patterns_per_second": outcome.patterns_per_second,
        "stopped_early": outcome.stopped_early,
        "halvings": outcome.halvings,
        "mode_powers": outcome.mode_powers,
    });
    if let Some(moves) = &outcome.moves {
        line["moves"] = json!(moves);
    }
    if let Some(halves) = halves {
        line["frc_ring"] = json!(halves.ring);
        line["frc_side"] = json!(halves.side);
        line["resolution_pixels"] = json!(halves.resolution_pixels);
    }
    line
}

/// Says how it went.
pub(super) fn say(solved: &Solved, halves: Option<&Halves>, folder: &Path) {
    let (figures, outcome) = (&solved.figures, &solved.outcome);
    if outcome.mode_powers.len() > 1 {
        log::info!("power of the probe modes: {}", in_percent(&outcome.mode_powers));
    }
    if let Some(m) = &outcome.moves {
        log::info!(
            "positions moved by {:.2} pixels rms, {:.2} at most: shift ({:.2}, {:.2}), stretch \
             ({:.2e}, {:.2e}), rotation {:.1} mrad, drift ({:.2}, {:.2}), rest {:.2} rms",
            m.rms,
            m.largest,
            m.shift_xy[0],
            m.shift_xy[1],
            m.scale_xy[0],
            m.scale_xy[1],
            m.rotation_mrad,
            m.drift_xy[0],
            m.drift_xy[1],
            m.rms_rest
        );
        if m.at_limit > 0 {
            log::warn!("{} positions went as far as they may (--max-shift)", m.at_limit);
        }
    }
    if let Some(h) = halves {
        log::info!(
            "half of the data agrees with the other half up to ring {:.1} of {}: {:.2} pixels",
            h.ring,
            h.side / 2,
            h.resolution_pixels
        );
    }
    log::info!(
        "residual {:.5}, R factor {:.4} after {} epochs, {:.1} s: {}",
        figures.residual,
        figures.r_factor,
        outcome.epochs,
        outcome.seconds,
        folder.display()
    );
    verdict(solved).say();
}

/// The result in the files of other programs that are asked for.
pub(super) fn save(
    save: &SaveArgs,
    folder: &Path,
    scan: &Scan,
    solved: &Solved,
    record: &RunRecord,
) -> Result<()> {
    let metadata = Value::Object(record.json().clone());
    save.write(folder, &solved.reconstruction, scan, &metadata, &solved.outcome.losses)
}

/// Arrays and pictures of a solved scan; `before` is what was refined, on the canvas of the result.
pub(super) fn write(
    folder: &Path,
    scan: &Scan,
    solved: &Solved,
    halves: Option<&Halves>,
    record: &RunRecord,
    before: Option<&Array2<Complex32>>,
) -> Result<()> {
    let metadata = Value::Object(record.json().clone());
    let (result, figures) = (&solved.reconstruction, &solved.figures);
    let frames = pictures::frames(result, scan, figures)?;
    result.write_with(
        &folder.join("reconstruction.npz"),
        scan,
        &metadata,
        |file: &mut NpzWriter| {
            pictures::write_frames(file, figures, &frames)?;
            file.f64("mode_powers", &Array1::from(solved.outcome.mode_powers.clone()))?;
            if let Some(before) = before {
                file.c64("object_before", before)?;
            }
            match halves {
                Some(halves) => file.f64("frc", &Array1::from(halves.curve.clone())),
                None => Ok(()),
            }
        },
    )?;
    let pictures = Pictures::new(result, scan, result.lit(), folder);
    pictures.object()?;
    pictures.residual(figures)?;
    pictures.probe()?;
    let commanded = scan.nominal.as_ref().unwrap_or(&scan.positions);
    let commanded: Vec<_> = result.indices.iter().map(|&i| commanded[i]).collect();
    pictures.positions(&commanded)?;
    pictures.patterns(&frames)?;
    super::train::history_curve(folder, &[("loss", "loss")])?;
    halves.map_or(Ok(()), |halves| write_frc(folder, halves))
}

/// The correlation of the halves as table and curve.
fn write_frc(folder: &Path, halves: &Halves) -> Result<()> {
    let mut text = String::from("ring,cycles_per_pixel,frc\n");
    for (ring, frc) in halves.curve.iter().enumerate() {
        let frequency = ring as f64 / halves.side as f64;
        writeln!(text, "{ring},{frequency},{frc}").expect("a string grows as needed");
    }
    report::atomic_write(folder.join("frc.csv"), text.as_bytes())?;
    let nyquist = halves.side / 2;
    let points = |f: &dyn Fn(usize) -> f64| (0..=nyquist).map(|r| (r as f64, f(r))).collect();
    let series = [
        Series { label: "even against odd".into(), points: points(&|r| halves.curve[r]) },
        Series { label: "1/2".into(), points: points(&|_| THRESHOLD) },
    ];
    let curve = Curve {
        title: "Half of the data against the other half",
        x_label: "ring",
        y_label: "FRC",
        log_y: false,
    };
    report::write_curve(folder.join("frc.png"), &series, &curve)
}
