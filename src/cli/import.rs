//! `ptycho-gpu import`: weights of PyTorch as a checkpoint of this program.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::{AmpActivation, ModelConfig};
use crate::data::{self, LoadOptions};
use crate::exchange::import::{Imported, Loader, Options, import};
use crate::exchange::recognise::{Known, describe, list};
use crate::exchange::weights::Weights;
use crate::report::{self, OutputFolder, RunRecord};
use crate::{Error, Result};

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Nothing in the file is executed: its pickle is read as data, and one that asks \
for anything but weights is refused. The network is recognised by the names and shapes of its weights. \
What they do not say has to be known: how bright the inputs of the training were, which --like works out \
from the scan that was trained on."
)]
pub struct Args {
    /// Weights: a Lightning checkpoint, a state dict of torch.save, a bundle wts.h5.zip, or safetensors
    #[arg(value_name = "WEIGHTS")]
    pub weights: PathBuf,
    /// Run folder to make, or a file that ends in .safetensors
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Scan that the network was trained on: gives the scale of its inputs and of its answers
    #[arg(long, value_name = "SCAN")]
    pub like: Option<PathBuf>,
    /// Factor that the training put on the amplitudes of the file [default: from --like]
    #[arg(long, value_name = "FACTOR")]
    pub input_scale: Option<f64>,
    /// Factor on the network's amplitudes; 1: a network that was trained where an object of modulus 1
    /// explains the mean energy [default: from --like, else 1]
    #[arg(long, value_name = "FACTOR")]
    pub object_factor: Option<f64>,
    /// How the training scaled its inputs
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub loader: Loader,
    /// What the training divided the probe by [default: as in the file, else 4]
    #[arg(long, value_name = "FACTOR")]
    pub probe_scale: Option<f64>,
    /// What makes an amplitude of the last layer's numbers [default: as in the file, else silu]
    #[arg(long, value_enum, ignore_case = true)]
    pub amp_activation: Option<AmpActivation>,
    /// Whether patches reach beyond their central half [default: as in the file, else true]
    #[arg(long, value_name = "BOOL")]
    pub probe_big: Option<bool>,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten, next_help_heading = "Data of --like")]
    pub load: LoadOptions,
}

impl Args {
    /// Whether every factor is one.
    fn validate(&self) -> Result<()> {
        let factors = [
            ("input-scale", self.input_scale),
            ("object-factor", self.object_factor),
            ("probe-scale", self.probe_scale),
        ];
        for (name, factor) in factors {
            if let Some(factor) = factor.filter(|factor| !(factor.is_finite() && *factor > 0.0)) {
                return Err(Error::Config(format!("--{name} is {factor}, but must be above 0")));
            }
        }
        Ok(())
    }
}

/// Reads, recognises, and writes the checkpoint.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    args.validate()?;
    let mut weights = Weights::open(&args.weights)?;
    let scan = args.like.as_ref().map(|path| data::load(path, &args.load)).transpose()?;
    let options = Options {
        like: scan.as_ref(),
        input_scale: args.input_scale,
        object_factor: args.object_factor,
        loader: args.loader,
        probe_scale: args.probe_scale,
        known: Known { amp_activation: args.amp_activation, probe_big: args.probe_big },
    };
    let imported = import(&mut weights, &options)?;
    say(&args, &weights, &imported);
    let path = write(&args.output, &weights, &imported)?;
    if args.json {
        report::print_json(&json!({
            "source": args.weights,
            "format": weights.format,
            "sha256": weights.sha256,
            "checkpoint": path,
            "model": imported.learned.model,
            "input_scale": imported.learned.input_scale,
            "object_factor": imported.learned.object_factor,
            "settings": weights.settings,
            "assumed": imported.recognised.assumed,
            "unused": imported.recognised.unused,
            "weights_sha256": imported.checkpoint.weights_digest(""),
        }))?;
    }
    Ok(())
}

/// What was found, and what was taken for granted.
fn say(args: &Args, weights: &Weights, imported: &Imported) {
    let model: &ModelConfig = &imported.learned.model;
    log::info!("{}, a {}: {}", args.weights.display(), weights.format, describe(model));
    imported.recognised.assumed.iter().for_each(|sentence| log::warn!("assumed: {sentence}"));
    if imported.recognised.centre_alone {
        log::info!("its patches end with their central half");
    }
    if args.like.is_none() && args.object_factor.is_none() && weights.exported.is_none() {
        log::warn!(
            "without --like the amplitudes of its answers are known up to a factor alone, and the \
             verdict of infer, which compares them with the data, may be wrong"
        );
    }
    let unused = &imported.recognised.unused;
    if !unused.is_empty() {
        log::info!("left out, as nothing is computed with it: {}", list(unused));
    }
}

/// Writes a file, or a run folder with its record; gives the place of the checkpoint.
fn write(output: &Path, weights: &Weights, imported: &Imported) -> Result<PathBuf> {
    let same = |path: &Path| path.canonicalize().ok().filter(|_| path.exists());
    if same(output).is_some() && same(output) == same(weights.path()) {
        return Err(Error::input(
            output,
            "would be overwritten by what is made of it: name another",
        ));
    }
    if output.extension().is_some_and(|extension| extension == "safetensors") {
        imported.checkpoint.save(output)?;
        return Ok(output.to_path_buf());
    }
    let folder = output.join("checkpoints");
    if folder.exists() {
        let problem = "holds the checkpoints of a run already: name a new folder";
        return Err(Error::input(output, problem));
    }
    let _guards = [OutputFolder::create(output)?, OutputFolder::create(&folder)?];
    let path = folder.join("best.safetensors");
    imported.checkpoint.save(&path)?;
    let mut record = RunRecord::new("import");
    record.set("weights", weights.path().to_string_lossy()).set("sha256", &weights.sha256);
    record.set("learned", &imported.learned);
    record.set("imported", &imported.checkpoint.metadata["imported"]);
    record.write(output.join("run.json"))?;
    log::info!("checkpoint: {}", path.display());
    Ok(path)
}
