//! `ptycho-gpu refine`: a reconstruction, a network's for example, brought closer to the data.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ndarray::Array2;
use num_complex::Complex32;
use serde_json::{Value, json};

use super::bad_frames;
use super::pictures::Pictures;
use super::reconstruct::{self as output, SolverArgs};
use super::report as page;
use crate::backend::Chosen;
use crate::data::{self, LoadOptions, Scan};
use crate::metrics::{self, DataSpace, data_space};
use crate::reconstruct::halves::halves;
use crate::reconstruct::maps::{self, Change};
use crate::reconstruct::{Options, Solved, Start, Watch, reconstruct_watched};
use crate::reconstruction::Saved;
use crate::report::live::Live;
use crate::report::{self, Colormap, OutputFolder, Picture, Range};
use crate::save::SaveArgs;
use crate::signals::Asked;
use crate::{Error, Result, backend};

/// Epochs unless other are asked for: a start that is nearly right needs few.
pub const EPOCHS: usize = 20;

/// Rate of the smooth parts unless another is asked for: they are what a network gets wrong
/// (docs/defaults.md).
pub const SMOOTH_RATE: f64 = 0.03;

#[derive(Clone, Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// A reconstruction.npz, or the folder that holds it
    #[arg(value_name = "RECONSTRUCTION")]
    pub reconstruction: PathBuf,
    /// The scan that was reconstructed
    #[arg(value_name = "SCAN")]
    pub scan: PathBuf,
    /// Folder for the refined reconstruction, its pictures and the report
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    /// Most passes over the patterns; fewer where the loss stops falling
    #[arg(long, value_name = "EPOCHS", default_value_t = EPOCHS)]
    pub epochs: usize,
    #[command(flatten)]
    pub solver: SolverArgs,
    #[command(flatten, next_help_heading = "Data")]
    pub load: LoadOptions,
}

/// Refines, and leaves arrays, pictures, record and report in the output folder.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.solver.quiet);
    let options = args.solver.options(args.epochs, SMOOTH_RATE);
    options.check()?;
    let device = backend::choose(args.solver.device)?;
    let mut before = Saved::read(&args.reconstruction)?;
    let load = LoadOptions { without_probe: true, ..args.load.clone() };
    let mut scan = data::load(&args.scan, &load)?;
    args.solver.save.check(&scan)?;
    before = before.without_rejected(&scan)?;
    if bad_frames::automatic(&args.load.reading) {
        let scene = before.explained(&scan);
        let found = metrics::bad_frames(&scan, &scene, &data_space(&scene)?)?;
        if bad_frames::reject(&args.load.reading, &mut scan, &found)? {
            before = before.without_rejected(&scan)?;
        }
    }
    let own = |folder: &Path| folder.join("reconstruction.npz").canonicalize().ok();
    let source = args.reconstruction.canonicalize().ok();
    let source = source.map(|p| if p.is_dir() { p.join("reconstruction.npz") } else { p });
    if source.is_some() && own(&args.output_dir) == source {
        return Err(Error::Config(format!(
            "--output-dir {} holds the reconstruction to start from, which would be lost: name \
             another folder",
            args.output_dir.display()
        )));
    }
    let _guard = OutputFolder::create(&args.output_dir)?;
    let from = args.reconstruction.to_string_lossy().into_owned();
    let live = args.solver.page("refine", &scan, options.epochs)?;
    let job = Job {
        scan: &scan,
        before: &before,
        from,
        options: &options,
        device: &device,
        save: &args.solver.save,
        live: live.as_ref(),
        asked: &Asked::by_signals()?,
    };
    let (line, epochs) = refine(&job, &args.output_dir, args.solver.frc)?;
    page::leave(&args.output_dir, args.solver.no_report);
    if args.solver.json {
        report::print_json(&line)?;
    }
    output::stopped(job.asked, epochs, &options, &args.output_dir)
}

/// What is refined.
pub(super) struct Job<'a> {
    pub scan: &'a Scan,
    pub before: &'a Saved,
    /// Where that came from, for the record.
    pub from: String,
    pub options: &'a Options,
    pub device: &'a Chosen,
    pub save: &'a SaveArgs,
    /// The page that shows it.
    pub live: Option<&'a Live>,
    /// Who may end it early.
    pub asked: &'a Asked,
}

/// The job itself, which `infer --refine` does too; the figures of its last line, and the epochs that it
/// took.
pub(super) fn refine(job: &Job, folder: &Path, frc: bool) -> Result<(Value, usize)> {
    let started = Instant::now();
    let Job { scan, before, options, device, .. } = *job;
    let was = data_space(&before.explained(scan))?;
    let start = Start::from(before);
    let history = folder.join("history.csv");
    let watch = Watch { live: job.live, asked: Some(job.asked) };
    let solved = reconstruct_watched(scan, &start, options, device, Some(&history), watch)?;
    let halves = if frc && job.asked.stop().is_none() {
        Some(halves(scan, &start, &solved, options, device)?)
    } else {
        None
    };
    let change = maps::change(before, &solved.reconstruction)?;
    let mut record = output::record("refine", scan, device, options, &solved, halves.as_ref());
    record.set("start", &job.from).result("before", &was).result("change", change.relative);
    record.timing("total_seconds", started.elapsed().as_secs_f64());
    bad_frames::leave(scan, &solved.bad_frames(scan)?, folder, &mut record)?;
    let before = Some(&change.before);
    output::write(folder, scan, &solved, halves.as_ref(), &record, before)?;
    output::save(job.save, folder, scan, &solved, &record)?;
    pictures(&change, &solved, scan, folder)?;
    let text = report_text(&job.from, &was, &solved, &change);
    report::atomic_write(folder.join("report.md"), text.as_bytes())?;
    record.write(folder.join("run.json"))?;
    log::info!("before: residual {:.5}, R factor {:.4}", was.residual, was.r_factor);
    output::say(&solved, halves.as_ref(), folder);
    let mut line = output::summary(&solved, halves.as_ref());
    line["residual_before"] = json!(was.residual);
    line["r_factor_before"] = json!(was.r_factor);
    line["change"] = json!(change.relative);
    Ok((line, solved.outcome.epochs))
}

/// Before and after side by side, and where they differ.
fn pictures(change: &Change, solved: &Solved, scan: &Scan, folder: &Path) -> Result<()> {
    let after = &solved.reconstruction;
    let pixel_m = scan.instrument.pixel_m(scan.side());
    let known = after.lit();
    let trusted = after.trusted();
    let pair = |f: fn(&Complex32) -> f32| {
        let [before, after] = [&change.before, &after.stitched.object].map(|object| {
            let mut image = object.map(f);
            let shown = ndarray::Zip::from(object).and(&known);
            ndarray::Zip::from(&mut image)
                .and(&shown.map_collect(|z, &k| k && z.norm_sqr() > 0.0))
                .for_each(|x, &shown| {
                    if !shown {
                        *x = f32::NAN;
                    }
                });
            image
        });
        maps::beside(&[&before, &after])
    };
    let both = |mask: &Array2<bool>| {
        let numbers = mask.map(|&m| f32::from(u8::from(m)));
        maps::beside(&[&numbers, &numbers]).mapv(|x| x == 1.0)
    };
    let trusted = both(&trusted);
    let draw = |file: &str, values: &Array2<f32>, title, colormap, unit| {
        let (range, mask, trusted) = (Range::default(), None, Some(&trusted));
        let picture = Picture { title, colormap, range, mask, trusted, unit, pixel_m };
        report::write_image(folder.join(file), values, &picture)
    };
    let amplitude = pair(|z| z.norm());
    draw(
        "compare_amplitude.png",
        &amplitude,
        "Amplitude, before and after",
        Colormap::Sequential,
        "",
    )?;
    draw(
        "compare_phase.png",
        &pair(|z| z.arg()),
        "Phase, before and after",
        Colormap::Cyclic,
        "rad",
    )?;
    Pictures::new(after, scan, known, folder).plain(
        "change.png",
        &change.size,
        "Change by refinement",
    )
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The report as Markdown.
fn report_text(from: &str, was: &DataSpace, solved: &Solved, change: &Change) -> String {
    let (now, outcome) = (&solved.figures, &solved.outcome);
    let row =
        |name: &str, before: f64, after: f64| format!("| {name} | {before:.5} | {after:.5} |\n");
    let mut frames: Vec<_> = now.per_frame.iter().collect();
    frames.sort_by(|a, b| b.residual.total_cmp(&a.residual));
    let worst: Vec<String> =
        frames.iter().take(5).map(|f| format!("{} ({:.4})", f.index, f.residual)).collect();
    let mut text = format!(
        "# Refinement\n\nStarted from `{from}`; {} epochs, {:.1} s.\n\n\
         | | before | after |\n|---|---|---|\n",
        outcome.epochs, outcome.seconds
    );
    text += &row("residual Σ(√I−√Î)²/ΣI", was.residual, now.residual);
    text += &row("R factor Σ|√I−√Î|/Σ√I", was.r_factor, now.r_factor);
    text += &row("Poisson deviance per pixel", was.deviance, now.deviance);
    text += &row("best factor on √Î", was.scale, now.scale);
    text += &row("residual of shot noise alone", was.floor, now.floor);
    text += &format!("\n{}.\n", capitalised(&output::verdict(solved).to_string()));
    text + &format!(
        "\nThe object changed by {:.1} % (relative L2 in the scanned area, without a factor and a \
         phase ramp). Patterns that are explained worst: {}.\n\n\
         ![amplitude](compare_amplitude.png)\n![phase](compare_phase.png)\n\
         ![change](change.png)\n![residual of each pattern](residual.png)\n",
        100.0 * change.relative,
        worst.join(", ")
    )
}
