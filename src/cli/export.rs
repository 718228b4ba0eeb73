//! `ptycho-gpu export`: a trained network for other programs.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::checkpoint::{self, Checkpoint};
use crate::exchange::plain::{self, About};
use crate::exchange::{PREFIX, onnx};
use crate::report::{self, atomic_write};
use crate::train::state;
use crate::{Error, Result, config};

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "ONNX: the input `diffraction` [batch, C, N, N] holds amplitudes as they stand in \
a scan, the square roots of counts, zero frequency at (N/2, N/2); their normalisation is in the model. \
The outputs `amplitude` and `phase` (rad) [batch, C, N, N] make the patch amplitude · exp(i phase), of \
modulus 1 where the probe of the scan explains the mean energy. Operator set 17.

safetensors: plain weights under the names that they have in PyTorch; the metadata say what the network \
is and the scale of its input."
)]
pub struct Args {
    /// Trained network: a checkpoint file, a run folder, or its checkpoints folder
    #[arg(value_name = "RUN")]
    pub model_path: PathBuf,
    /// File to write: .onnx or .safetensors
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub checkpoint: config::Checkpoint,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
    /// Only warnings and errors on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// A format, by the end of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Onnx,
    Safetensors,
}

impl Format {
    fn of(path: &Path) -> Result<Format> {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("onnx") => Ok(Format::Onnx),
            Some("safetensors") => Ok(Format::Safetensors),
            _ => Err(Error::Config(format!(
                "{} ends in no format that is known: .onnx or .safetensors",
                path.display()
            ))),
        }
    }
}

/// Writes the network.
pub fn run(args: Args) -> Result<()> {
    report::log::init(args.quiet);
    let format = Format::of(&args.output)?;
    let path = checkpoint::find(&args.model_path, args.checkpoint.into())?;
    let same = |path: &Path| path.canonicalize().ok();
    if same(&args.output).is_some_and(|output| Some(output) == same(&path)) {
        return Err(Error::input(&path, "is the checkpoint itself: name another file"));
    }
    let checkpoint = Checkpoint::load(&path)?;
    let learned = state::learned(&checkpoint, &path)?;
    let about = About::new(&learned);
    let bytes = match format {
        Format::Onnx => onnx::encode(&checkpoint, &about),
        Format::Safetensors => plain::encode(&checkpoint, &about),
    };
    let bytes = bytes.map_err(|problem| Error::input(&path, problem))?;
    atomic_write(&args.output, &bytes)?;
    log::info!("{}: {} bytes", args.output.display(), bytes.len());
    if learned.probe_trained {
        log::info!("the learned probe is not part of it");
    }
    if args.json {
        let seen = learned.model.alone();
        let mut line = json!({
            "source": path,
            "output": args.output,
            "format": format,
            "bytes": bytes.len(),
            "model": learned.model,
            "input_scale": learned.input_scale,
            "object_factor": learned.object_factor,
        });
        let of_format = match format {
            Format::Onnx => json!({
                "input": onnx::INPUT,
                "outputs": onnx::OUTPUTS,
                "shape": ["batch", seen.channels(), seen.n, seen.n],
            }),
            Format::Safetensors => json!({ "prefix": PREFIX }),
        };
        if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), of_format) {
            line.extend(more);
        }
        report::print_json(&line)?;
    }
    Ok(())
}
