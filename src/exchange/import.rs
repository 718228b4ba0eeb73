//! A checkpoint made of the weights of another program.
//!
//! Those weights were trained on inputs of a certain brightness and with a probe of a certain power,
//! and neither stands in the file. The published program scales amplitudes so that the mean over the
//! patterns of Σ x² is (N/2)² ([`Loader::Container`]), or N² ([`Loader::Mapped`]), and divides the
//! probe by `probe_scale`. With the scan that it was trained on both can be worked out again: with
//! x = r a, probe Q = P/`probe_scale` (or what the loader makes of it) and the network's patch o, the
//! training made |F(Q o)| = r a, so that the object in the gauge in which modulus 1 explains the mean
//! energy is f o, f = (r₀/r) √Σ|Q|² / (N/2), r₀ the scale that makes Σ x² = (N/2)².

use clap::ValueEnum;
use serde_json::{Value, json};

use super::PREFIX;
use super::recognise::{self, Known, Recognised};
use super::weights::{Setting, Weights};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::ModelConfig;
use crate::data::grouping::default_neighbor_count;
use crate::data::scan::Scan;
use crate::graph::Role;
use crate::models::plans;
use crate::train::state::{self, Learned, LearnedScan, Progress};
use crate::{Error, Result};

/// What the published program divides the probe by, where nothing says otherwise.
const PROBE_SCALE: f64 = 4.0;

/// How the training scaled its inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Loader {
    /// Mean Σx² = (N/2)²: the published command line.
    #[default]
    Container,
    /// Mean Σx² = N², and the probe divided by its mean modulus too: memory-mapped data sets.
    Mapped,
}

/// What the weights do not say.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// The scan that the network was trained on, or one like it.
    pub like: Option<&'a Scan>,
    /// What amplitudes are multiplied by; else it follows from the scan.
    pub input_scale: Option<f64>,
    /// What the network's amplitudes are multiplied by; else it follows from the scan, else 1.
    pub object_factor: Option<f64>,
    pub loader: Loader,
    /// What the training divided the probe by; else what stands beside the weights, else 4.
    pub probe_scale: Option<f64>,
    pub known: Known,
}

/// A network that was imported.
#[derive(Debug)]
pub struct Imported {
    pub checkpoint: Checkpoint,
    pub learned: Learned,
    pub recognised: Recognised,
}

/// Makes a checkpoint of `weights`.
///
/// Errors: the weights are of no network that is known here, a scan of another side, or what the
/// weights do not say is not given.
pub fn import(weights: &mut Weights, options: &Options) -> Result<Imported> {
    let recognised = recognised(weights, options.known)
        .map_err(|problem| Error::input(weights.path(), problem))?;
    let learned = learned(weights, &recognised.model, options)?;
    let tensors = tensors(weights, &recognised)?;
    let origin = json!({
        "imported": {
            "path": weights.path().to_string_lossy(),
            "sha256": weights.sha256,
            "format": weights.format,
            "settings": weights.settings,
            "assumed": recognised.assumed,
            "unused": recognised.unused,
        }
    });
    let mut metadata = state::metadata(&learned, &Progress::default(), &Value::Null, 0);
    if let (Some(metadata), Value::Object(origin)) = (metadata.as_object_mut(), origin) {
        metadata.extend(origin);
    }
    let checkpoint = Checkpoint { tensors: tensors.into_iter().collect(), metadata };
    Ok(Imported { checkpoint, learned, recognised })
}

/// Which network it is: said by this program when it was exported, or recognised.
fn recognised(weights: &Weights, known: Known) -> Result<Recognised, String> {
    let Some(about) = &weights.exported else {
        return recognise::recognise(&weights.shapes, &weights.settings, known);
    };
    about.model.validate_stored().map_err(|e| format!("what it says of the network {e}"))?;
    let (names, unused) = recognise::names(&about.model, PREFIX, &weights.shapes)?;
    let (model, assumed) = (about.model.clone(), Vec::new());
    Ok(Recognised { model, names, centre_alone: false, assumed, unused })
}

fn learned(weights: &Weights, model: &ModelConfig, options: &Options) -> Result<Learned> {
    if let Some(scan) = options.like.filter(|scan| scan.side() != model.n) {
        let (n, side) = (model.n, scan.side());
        let problem = format!("patterns are {side}×{side}, but the network sees {n}×{n}");
        return Err(Error::input(&scan.source.path, problem));
    }
    let exported = weights.exported.as_ref();
    let wider = if options.loader == Loader::Mapped { 2.0 } else { 1.0 };
    let scale = options
        .input_scale
        .or(options.like.map(|scan| wider * scan.input_scale()))
        .or(exported.map(|about| about.input_scale));
    let Some(input_scale) = scale else {
        return Err(Error::Config(
            "the weights do not say how bright their inputs were: name the scan that they were \
             trained on with --like SCAN, or give --input-scale, the factor on the amplitudes"
                .into(),
        ));
    };
    let stored = match weights.settings.get("probe_scale") {
        Some(Setting::Number(scale)) => *scale,
        _ => PROBE_SCALE,
    };
    let probe_scale = options.probe_scale.unwrap_or(stored);
    let object_factor = options
        .object_factor
        .or(exported.map(|about| about.object_factor))
        .or(options.like.map(|scan| factor(scan, options.loader, probe_scale)))
        .unwrap_or(1.0);
    for (what, number) in [("input scale", input_scale), ("object factor", object_factor)] {
        if !(number.is_finite() && number > 0.0) {
            let problem = format!("the {what} would be {number}, but must be above 0");
            return Err(Error::input(weights.path(), problem));
        }
    }
    let neighbor_count = exported.map(|about| about.neighbor_count);
    Ok(Learned {
        model: model.clone(),
        input_scale,
        object_factor,
        neighbor_count: neighbor_count.unwrap_or(default_neighbor_count(model.gridsize)),
        probe_trained: false,
        scans: options.like.map(scan_entry).into_iter().collect(),
    })
}

/// f of the head of this file.
fn factor(scan: &Scan, loader: Loader, probe_scale: f64) -> f64 {
    let moduli = || scan.probe.iter().map(|p| f64::from(p.re).hypot(f64::from(p.im)));
    let root = moduli().map(|p| p * p).sum::<f64>().sqrt();
    let half = scan.side() as f64 / 2.0;
    match loader {
        Loader::Container => root / probe_scale / half,
        Loader::Mapped => {
            let mean = moduli().sum::<f64>() / scan.probe.len() as f64;
            root / (probe_scale * mean) / probe_scale / (2.0 * half)
        }
    }
}

fn scan_entry(scan: &Scan) -> LearnedScan {
    LearnedScan {
        path: scan.source.path.to_string_lossy().into_owned(),
        sha256: scan.source.sha256.clone(),
        kappa: scan.dose.kappa,
        gauge: scan.probe_gauge(),
        trained: false,
        rejected: Vec::new(),
    }
}

/// The network's tensors, under the names and in the shapes that they have here.
fn tensors(weights: &mut Weights, recognised: &Recognised) -> Result<Vec<(String, Tensor)>> {
    let plan = plans::inference(&recognised.model, 1, None).plan;
    let slots = [Role::Param, Role::State].into_iter().flat_map(|role| plan.of_role(role));
    slots
        .map(|(_, slot)| {
            let mut data = weights.numbers(&recognised.names[&slot.name])?;
            if data.len() != slot.len() {
                let problem = format!("tensor `{}` has {} numbers", slot.name, data.len());
                return Err(Error::input(weights.path(), problem));
            }
            if recognised.centre_alone && outer_layer(&slot.name) {
                // SiLU of 0 is 0: nothing is added to path 1.
                data.fill(0.0);
            }
            Ok((slot.name.clone(), Tensor { shape: slot.shape.clone(), data }))
        })
        .collect()
}

/// Whether a weight belongs to the last layer of a head's path 2.
fn outer_layer(name: &str) -> bool {
    let heads = ["decoder_amp.amp.", "decoder_phase.phase."];
    let Some(inner) = heads.iter().find_map(|head| name.strip_prefix(head)) else { return false };
    matches!(inner, "conv2.weight" | "conv2.bias" | "bn2.weight" | "bn2.bias")
}
