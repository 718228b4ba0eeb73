//! `ptycho-gpu reconstruct`: the object behind a scan, solved for directly.

use std::path::PathBuf;
use std::time::Instant;

use crate::config::Device;
use crate::data::{self, LoadOptions};
use crate::models::object::{BackgroundKind, Loss};
use crate::reconstruct::{Options, Rates, Start, reconstruct};
use crate::report::{self, OutputFolder, RunRecord};
use crate::{Result, backend};

#[derive(Clone, Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Scan to reconstruct
    #[arg(value_name = "SCAN")]
    pub scan: PathBuf,
    /// Folder for the reconstruction and its pictures
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: PathBuf,
    #[command(flatten)]
    pub solver: SolverArgs,
    #[command(flatten)]
    pub load: LoadOptions,
    /// End with one line of JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// The flags of the solver, which `refine` shares.
#[derive(Clone, Debug, clap::Args)]
pub struct SolverArgs {
    /// Most passes over the patterns
    #[arg(long, value_name = "EPOCHS", default_value_t = Options::default().epochs)]
    pub epochs: usize,
    /// Patterns in a step
    #[arg(long, value_name = "PATTERNS", default_value_t = Options::default().batch_size)]
    pub batch_size: usize,
    /// Distance between measured and predicted pattern
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub loss: Loss,
    /// Incoherent modes of the probe
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub modes: usize,
    /// Keep the probe as it is given
    #[arg(long)]
    pub fixed_probe: bool,
    /// Solve for the positions too
    #[arg(long)]
    pub refine_positions: bool,
    /// Farthest that a position may move
    #[arg(long, value_name = "PIXELS", default_value_t = Options::default().max_shift)]
    pub max_shift: f64,
    /// Solve for the brightness of each pattern
    #[arg(long)]
    pub frame_scale: bool,
    /// Light that no object shapes: none, one number, or one for each pixel
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub background: BackgroundKind,
    /// Rate of the object, whose modulus is about 1
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().object)]
    pub object_rate: f64,
    /// Rate of the probe, in units of its rms amplitude
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().probe)]
    pub probe_rate: f64,
    /// Rate of the positions, pixels
    #[arg(long, value_name = "RATE", default_value_t = Rates::default().positions)]
    pub position_rate: f64,
    /// Epochs that the loss may stand still
    #[arg(long, value_name = "EPOCHS", default_value_t = Options::default().patience)]
    pub patience: usize,
    /// Relative fall of the loss over these epochs that counts as progress
    #[arg(long, value_name = "FRACTION", default_value_t = Options::default().tolerance)]
    pub tolerance: f64,
    /// Governs the order of the patterns
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: auto, cpu, cuda or cuda:INDEX
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: Device,
}

impl SolverArgs {
    /// What the flags ask for.
    pub fn options(&self) -> Options {
        Options {
            epochs: self.epochs,
            batch_size: self.batch_size,
            loss: self.loss,
            modes: self.modes,
            refine_probe: !self.fixed_probe,
            refine_positions: self.refine_positions,
            max_shift: self.max_shift,
            frame_scale: self.frame_scale,
            background: self.background,
            rates: Rates {
                object: self.object_rate,
                probe: self.probe_rate,
                positions: self.position_rate,
                ..Rates::default()
            },
            seed: self.seed,
            patience: self.patience,
            tolerance: self.tolerance,
        }
    }
}

/// Solves, and leaves arrays, pictures and record in the output folder.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    let started = Instant::now();
    let options = args.solver.options();
    options.check()?;
    let device = backend::choose(args.solver.device)?;
    let scan = data::load(&args.scan, &args.load)?;
    let folder = &args.output_dir;
    let _guard = OutputFolder::create(folder)?;
    let start = Start::of(&scan);
    let solved = reconstruct(&scan, &start, &options, &device, Some(&folder.join("history.csv")))?;
    let mut record = RunRecord::new("reconstruct");
    record.input(&scan).device(device.describe()).seed(options.seed).set("options", &options);
    record.timing("solving_seconds", solved.outcome.seconds);
    record.timing("total_seconds", started.elapsed().as_secs_f64());
    record.result("outcome", &solved.outcome).result("data_space", &solved.figures);
    let metadata = serde_json::Value::Object(record.json().clone());
    solved.reconstruction.write(&folder.join("reconstruction.npz"), &scan, &metadata)?;
    super::infer::pictures(&solved.reconstruction, folder)?;
    record.write(folder.join("run.json"))?;
    log::info!("residual {:.5}, R factor {:.4}", solved.figures.residual, solved.figures.r_factor);
    if args.json {
        let figures = serde_json::json!({
            "residual": solved.figures.residual,
            "r_factor": solved.figures.r_factor,
            "epochs": solved.outcome.epochs,
            "seconds": solved.outcome.seconds,
        });
        report::print_json(&figures)?;
    }
    Ok(())
}
