//! Which network a set of weights is, by their names and shapes.

use std::collections::{BTreeMap, BTreeSet};

use super::weights::{Setting, Settings};
use crate::config::{AmpActivation, Head, ModelConfig};
use crate::graph::Role;
use crate::models::plans;

/// Names in a list of an error; the rest is counted.
const LISTED: usize = 6;

/// Channels of the published network per unit of its width: at the end of the encoder and of the decoders.
const CODE: usize = 128;
const LAST: usize = 32;

/// Channels of path 2 per unit of width in the older head.
const OLDER_OUTER: usize = 4;

/// What the weights do not say, as the user knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub amp_activation: Option<AmpActivation>,
    /// Whether the network had its path 2, by which patches reach beyond their central half.
    pub probe_big: Option<bool>,
}

/// A network that is known here.
#[derive(Clone, Debug)]
pub struct Recognised {
    pub model: ModelConfig,
    /// Name here → name in the file.
    pub names: BTreeMap<String, String>,
    /// Path 2 is there but was not used: patches end with their central half.
    pub centre_alone: bool,
    /// What was taken for granted, one sentence each.
    pub assumed: Vec<String>,
    /// Names in the file that belong to nothing that computes.
    pub unused: Vec<String>,
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// Recognises the network of `shapes`. Error: one sentence that says what is missing, unexpected, or
/// of another shape, or what cannot be known.
pub fn recognise(shapes: &Shapes, settings: &Settings, known: Known) -> Result<Recognised, String> {
    let prefix = prefix(shapes)?;
    refuse_settings(settings)?;
    let inner = |name: &str| shapes.get(&format!("{prefix}{name}"));
    let mut model = layout(&inner)?;
    let has =
        |part: &str| shapes.keys().any(|name| name.starts_with(&prefix) && name.contains(part));
    model.cbam_encoder = has(".attention.ChannelGate.");
    model.batch_norm = has(".bn1.");
    if has("decoder_shared.") {
        return Err("its amplitude and phase share a decoder, which no network here does".into());
    }
    let newer = shapes.keys().any(|name| name.contains("forward_model."));
    model.head = head(&model, &inner, newer)?;
    let mut assumed = Vec::new();
    model.amp_activation = activation(settings, known, &mut assumed);
    let centre_alone = centre_alone(settings, known, model.head, &mut assumed)?;
    let (names, unused) = names(&model, &prefix, shapes)?;
    Ok(Recognised { model, names, centre_alone, assumed, unused })
}

/// Holds the names and shapes of the network `model` against those of a file, where every name begins
/// with `prefix`. Gives name here → name there, and what is left over but harmless.
pub fn names(
    model: &ModelConfig,
    prefix: &str,
    shapes: &Shapes,
) -> Result<(BTreeMap<String, String>, Vec<String>), String> {
    let plan = plans::inference(model, 1, None).plan;
    let slots = [Role::Param, Role::State].into_iter().flat_map(|role| plan.of_role(role));
    let (mut names, mut missing, mut other) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (_, slot) in slots {
        let (name, wanted) =
            (format!("{prefix}{}", slot.name), foreign_shape(&slot.name, &slot.shape));
        match shapes.get(&name) {
            None => missing.push(name.clone()),
            Some(found) if *found != wanted => {
                other.push(format!("{name} is {found:?} instead of {wanted:?}"));
            }
            Some(_) => drop(names.insert(slot.name.clone(), name.clone())),
        }
        seen.insert(name);
    }
    let rest = shapes.keys().filter(|name| !seen.contains(*name));
    let (unused, unexpected): (Vec<String>, Vec<String>) =
        rest.cloned().partition(|name| is_inert(name, prefix));
    let lists = [("missing", missing), ("unexpected", unexpected), ("of another shape", other)];
    let said: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", list(names)))
        .collect();
    if said.is_empty() {
        return Ok((names, unused));
    }
    Err(format!("its weights are not those of {}; {}", describe(model), said.join("; ")))
}

/// The shape that a weight has in PyTorch: layers on single numbers are matrices there, and 1×1
/// convolutions here.
pub fn foreign_shape(name: &str, shape: &[usize]) -> Vec<usize> {
    match shape {
        &[outputs, inputs, 1, 1] if name.contains(".ChannelGate.") => vec![outputs, inputs],
        shape => shape.to_vec(),
    }
}

/// One line about a network.
pub fn describe(model: &ModelConfig) -> String {
    let ModelConfig { n, gridsize, n_filters_scale, .. } = model;
    let extra = [(model.cbam_encoder, ", attention"), (model.batch_norm, ", batch normalisation")];
    let extra: String = extra.iter().filter(|(there, _)| *there).map(|(_, text)| *text).collect();
    format!(
        "the network {} for {n}×{n} pixels, gridsize {gridsize}, width {n_filters_scale}{extra}",
        model.architecture
    )
}

/// What stands before the names of the network's weights.
fn prefix(shapes: &Shapes) -> Result<String, String> {
    const FIRST: &str = "encoder.blocks.0.conv1.weight";
    let ends = shapes.keys().filter_map(|name| name.strip_suffix(FIRST));
    // `autoencoder.` where a program keeps a second copy under another name.
    let best = ends.min_by_key(|prefix| (!prefix.ends_with("autoencoder."), prefix.len()));
    if let Some(prefix) = best {
        return Ok(prefix.to_owned());
    }
    let fourier = ["ffno_stack", "lifter", "spectral", "fno"];
    let all: Vec<String> = shapes.keys().cloned().collect();
    if all.iter().any(|name| fourier.iter().any(|part| name.contains(part))) {
        return Err(format!(
            "a Fourier network by its names ({}): of foreign networks only the convolutional one can \
             be imported",
            list(&all)
        ));
    }
    Err(format!("no network that is known here: `…{FIRST}` is missing, there is {}", list(&all)))
}

/// Options under which the published program computes something that no network here does.
fn refuse_settings(settings: &Settings) -> Result<(), String> {
    let text = |name: &str| match settings.get(name) {
        Some(Setting::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    if let Some(other) = text("architecture").filter(|name| *name != "cnn") {
        return Err(format!("its architecture is `{other}`: only cnn can be imported"));
    }
    if text("cnn_output_mode") == Some("real_imag") {
        return Err("its outputs are real and imaginary parts in a box (`cnn_output_mode` is \
                    real_imag), which no network here gives"
            .into());
    }
    if text("physics_forward_mode") == Some("rectangular_scaled") {
        return Err("it was trained on counts with scales of its own (`physics_forward_mode` is \
                    rectangular_scaled), which no network here sees"
            .into());
    }
    if settings.get("intensity_scale_trainable") == Some(&Setting::Flag(true)) {
        return Err(
            "`intensity_scale_trainable` was on: its inputs were not normalised, which no \
                    network here does without"
                .into(),
        );
    }
    Ok(())
}

/// Side, group and width, from the encoder.
fn layout<'a>(inner: &impl Fn(&str) -> Option<&'a Vec<usize>>) -> Result<ModelConfig, String> {
    let block = |i: usize| inner(&format!("encoder.blocks.{i}.conv1.weight"));
    let blocks = (0..).take_while(|&i| block(i).is_some()).count();
    if !(3..=5).contains(&blocks) {
        return Err(format!(
            "its encoder has {blocks} blocks; 3, 4 or 5 are known, for patterns of 64, 128 or 256 pixels"
        ));
    }
    let (first, last) = (block(0), block(blocks - 1));
    let channels = first.and_then(|shape| shape.get(1)).copied().unwrap_or(0);
    let Some(gridsize) = (1..=3).find(|g| g * g == channels) else {
        return Err(format!(
            "its first layer sees {channels} patterns at once; 1, 4 or 9 are known, for gridsize 1, 2 or 3"
        ));
    };
    let outputs = last.and_then(|shape| shape.first()).copied().unwrap_or(0);
    let scale = outputs / CODE;
    if !(1..=64).contains(&scale) || outputs % CODE != 0 {
        return Err(format!("its encoder ends with {outputs} channels, no multiple of {CODE}"));
    }
    let n = 8 << blocks;
    Ok(ModelConfig { n, gridsize, n_filters_scale: scale, ..ModelConfig::default() })
}

/// The head, from the channels that go to its path 2.
fn head<'a>(
    model: &ModelConfig,
    inner: &impl Fn(&str) -> Option<&'a Vec<usize>>,
    newer: bool,
) -> Result<Head, String> {
    let (last, channels) = (LAST * model.n_filters_scale, model.channels());
    let Some(&[outputs, inputs, ..]) = inner("decoder_amp.amp.conv1.weight").map(Vec::as_slice)
    else {
        return Err("`decoder_amp.amp.conv1.weight` is missing".into());
    };
    let outer = last.saturating_sub(inputs);
    if outer == channels && outputs == channels {
        return Ok(Head::Border);
    }
    if outer != OLDER_OUTER * model.n_filters_scale || outputs != 1 {
        return Err(format!(
            "its amplitude head has {inputs} channels in and {outputs} out; {} in and {channels} out \
             are known, or {} in and 1 out of 2025",
            last - channels,
            last - OLDER_OUTER * model.n_filters_scale
        ));
    }
    if newer {
        return Err(
            "it has the older head in the newer program (`use_legacy_decoder_channel_override`), \
                    which no network here has"
                .into(),
        );
    }
    Ok(Head::Full)
}

fn activation(settings: &Settings, known: Known, assumed: &mut Vec<String>) -> AmpActivation {
    if let Some(given) = known.amp_activation {
        return given;
    }
    match settings.get("amp_activation") {
        // The published program knows two: this one, and SiLU under any other name.
        Some(Setting::Text(name)) if name == "sigmoid" => AmpActivation::Sigmoid,
        Some(_) => AmpActivation::Silu,
        None => {
            assumed.push(
                "the amplitudes go through SiLU, as the published command line has it \
                 (--amp-activation)"
                    .into(),
            );
            AmpActivation::Silu
        }
    }
}

/// Whether path 2 was left out.
fn centre_alone(
    settings: &Settings,
    known: Known,
    head: Head,
    assumed: &mut Vec<String>,
) -> Result<bool, String> {
    let stored = match settings.get("probe_big") {
        Some(Setting::Flag(flag)) => Some(*flag),
        _ => None,
    };
    match known.probe_big.or(stored) {
        Some(big) => Ok(!big),
        // In 2025 the command line and the library differed in this.
        None if head == Head::Full => {
            Err("its head is that of 2025, and nothing in it says whether \
                                           patches reach beyond their central half: say so with \
                                           --probe-big true or --probe-big false (the command line \
                                           of that time had false)"
                .into())
        }
        None => {
            assumed.push("patches reach beyond their central half (--probe-big)".into());
            Ok(false)
        }
    }
}

/// Weights that the published program keeps but never uses, or that belong to its physics.
fn is_inert(name: &str, prefix: &str) -> bool {
    match name.strip_prefix(prefix) {
        Some(inner) => {
            inner.ends_with(".num_batches_tracked")
                || inner.ends_with(".attention.conv.weight")
                || inner.contains(".attention_blocks.")
        }
        None => name.contains("forward_model."),
    }
}

/// Names, of many the first and how many more there are.
pub fn list(names: &[String]) -> String {
    let shown: Vec<String> =
        names.iter().take(LISTED).map(|name| super::pickle::shown(name)).collect();
    match names.len().saturating_sub(LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
