//! What is said in words and numbers: the head of the page, figures, configuration, inputs, record.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::read::Folder;
use super::{Sections, escape};
use crate::report::ticks;

/// Title, verdict and the figures that matter most.
pub(super) fn head(sections: &mut Sections, folder: &Folder) {
    let record = main_record(folder);
    let text = |key: &str| escape(record[key].as_str().unwrap_or_default());
    sections.head = format!(
        "<header>\n<p class=\"kind\">{}</p>\n<h1>{}</h1>\n<p class=\"when\">{} {} · started {}</p>\n",
        escape(kind(record["command"].as_str().unwrap_or_default())),
        escape(&folder.name()),
        text("program"),
        text("version"),
        text("started"),
    );
    sections.head += &verdict(record);
    sections.head += &tiles(record, folder);
    sections.head += "</header>\n";
}

/// The record that the page is about: that of the result, where there is one.
fn main_record(folder: &Folder) -> &Value {
    folder.result.as_ref().map_or(&folder.record, |result| &result.record)
}

fn kind(command: &str) -> &str {
    match command {
        "train" => "Training of a network",
        "infer" => "Reconstruction by a network",
        "reconstruct" => "Direct reconstruction",
        "refine" => "Refined reconstruction",
        other => other,
    }
}

/// The figures of a run: `results`, or what a training has in it.
fn results(record: &Value) -> &Value {
    let results = &record["results"];
    if results["training"].is_object() { &results["training"] } else { results }
}

/// The word and its reasons, wherever the record has them.
fn verdict(record: &Value) -> String {
    let results = results(record);
    let found = [&results["verdict"], results].into_iter().find(|v| v["verdict"].is_string());
    let Some(found) = found else {
        return "<p class=\"verdict none\"><strong>No verdict</strong> the run predicts no patterns, \
                or did not come to its end</p>\n"
            .into();
    };
    let word = found["verdict"].as_str().unwrap_or_default();
    let (class, sign) = match word {
        "good" => ("good", "✓"),
        "usable" => ("usable", "≈"),
        _ => ("bad", "✕"),
    };
    let reasons: Vec<String> = found["reasons"]
        .as_array()
        .map_or_else(Vec::new, |all| all.iter().filter_map(|r| r.as_str().map(escape)).collect());
    format!(
        "<p class=\"verdict {class}\"><strong><span aria-hidden=\"true\">{sign}</span> {}</strong> {}</p>\n",
        escape(word),
        reasons.join("; ")
    )
}

fn tiles(record: &Value, folder: &Folder) -> String {
    let results = results(record);
    let data = &results["data_space"];
    let either = |key: &str| data[key].as_f64().or_else(|| results[key].as_f64());
    let mut tiles = Vec::new();
    let mut add = |name: &str, value: Option<f64>, unit: &str| {
        if let Some(value) = value {
            tiles.push((name.to_string(), format!("{}{unit}", ticks::short(value))));
        }
    };
    add("residual", either("residual"), "");
    add("shot noise alone", either("floor"), "");
    add("R factor", either("r_factor"), "");
    add("before refinement", results["before"]["residual"].as_f64(), "");
    add("best loss", results["best_loss"].as_f64(), "");
    add("patches disagree", results["spread"].as_f64().map(|s| 100.0 * s), " %");
    let half = &results["half_data_frc"]["resolution_pixels"];
    let pixel = folder.result.as_ref().and_then(|r| r.pixel_m);
    match (half.as_f64(), pixel) {
        (Some(pixels), Some([_, x])) => add("resolution", Some(pixels * x * 1e9), " nm"),
        (pixels, _) => add("resolution", pixels, " px"),
    }
    let outcome = &results["outcome"];
    let whole = |value: &Value| value.as_u64().map(|n| n.to_string());
    let epochs = whole(&outcome["epochs"]).or_else(|| whole(&results["epochs"]));
    let patterns = whole(&data["frames"]).or_else(|| whole(&record["inputs"][0]["patterns"]));
    let counted = [("patterns", patterns), ("epochs", epochs)];
    tiles.extend(counted.into_iter().filter_map(|(n, v)| v.map(|v| (n.to_string(), v))));
    if let Some(seconds) = record["timings_s"]["total_seconds"].as_f64() {
        tiles.push(("time".into(), duration(seconds)));
    }
    let tile = |(name, value): &(String, String)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value))
    };
    format!("<dl class=\"tiles\">{}</dl>\n", tiles.iter().map(tile).collect::<String>())
}

/// `42.3 s`, `3 min 20 s`, `1 h 05 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{} s", ticks::short(seconds)),
        (0, min, s) => format!("{min} min {s:02} s"),
        (h, min, _) => format!("{h} h {min:02} min"),
    }
}

/// Figures, inputs, configuration and record as tables.
pub(super) fn sections(sections: &mut Sections, folder: &Folder) {
    let record = main_record(folder);
    sections.add("figures", "Figures", &pairs("Figures", &record["results"]));
    sections.add("inputs", "Inputs", &inputs(record));
    let mut html = configuration("", record);
    if folder.record["command"] != record["command"] {
        html += &configuration("Of the training: ", &folder.record);
    }
    sections.add("configuration", "Configuration", &html);
    let mut rest = record.clone();
    if let Value::Object(rest) = &mut rest {
        for key in ["results", "inputs", "configuration", "options", "model"] {
            rest.remove(key);
        }
    }
    sections.add("record", "Record", &pairs("Record of the run", &rest));
}

/// Every number and text in `value` with the path to it.
fn flatten(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let below =
        |key: &str| if path.is_empty() { key.to_string() } else { format!("{path} › {key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&below(&words(k)), v, found)),
        Value::Array(all) if all.iter().any(|v| v.is_object() || v.is_array()) => {
            all.iter()
                .enumerate()
                .for_each(|(i, v)| flatten(&below(&(i + 1).to_string()), v, found));
        }
        other => found.push((path.to_string(), text(other))),
    }
}

fn words(key: &str) -> String {
    key.replace('_', " ")
}

/// Most numbers of a list that are written out.
const MOST_NUMBERS: usize = 32;

/// A value as it is written in a table; long lists of numbers are cut, as they are curves.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.iter().all(Value::is_number) && all.len() > MOST_NUMBERS => {
            let first: Vec<String> = all.iter().take(MOST_NUMBERS).map(text).collect();
            format!("{}, … ({} numbers)", first.join(", "), all.len())
        }
        Value::Array(all) if all.is_empty() => "–".into(),
        Value::Array(all) => {
            let separator = if all.iter().any(Value::is_string) { " " } else { ", " };
            all.iter().map(text).collect::<Vec<_>>().join(separator)
        }
        other => other.to_string(),
    }
}

fn scrolled(caption: &str, table: &str) -> String {
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{0}\"><table>\
         <caption>{0}</caption>{table}</table></div>\n",
        escape(caption)
    )
}

/// A table of names and values.
fn pairs(caption: &str, value: &Value) -> String {
    let mut found = Vec::new();
    flatten("", value, &mut found);
    if found.is_empty() || found[0].0.is_empty() {
        return "<p>Nothing is recorded.</p>".into();
    }
    let row = |(name, value): &(String, String)| {
        format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value))
    };
    let head = "<thead><tr><th scope=\"col\">name</th><th scope=\"col\">value</th></tr></thead>";
    let rows: String = found.iter().map(row).collect();
    scrolled(caption, &format!("{head}<tbody>{rows}</tbody>"))
}

fn inputs(record: &Value) -> String {
    let none = Vec::new();
    let inputs = record["inputs"].as_array().unwrap_or(&none);
    let mut html = String::new();
    for (index, input) in inputs.iter().enumerate() {
        html += &pairs(&format!("Scan {}", index + 1), input);
    }
    for (key, name) in [("checkpoint", "Network"), ("start", "Started from")] {
        if record[key].is_string() {
            let mut map = Map::new();
            map.insert(name.to_lowercase(), record[key].clone());
            if key == "checkpoint" {
                map.insert("weights SHA-256".into(), record["weights_sha256"].clone());
            }
            html += &pairs(name, &Value::Object(map));
        }
    }
    if html.is_empty() {
        "<p>No scan was read: the patterns were simulated.</p>".into()
    } else {
        html
    }
}

/// The configuration with the origin of every value, as far as the record has one.
fn configuration(prefix: &str, record: &Value) -> String {
    let Value::Object(values) = &record["configuration"] else {
        let options = [&record["options"], &record["model"]].into_iter().find(|o| o.is_object());
        let caption = if record["options"].is_object() { "Options" } else { "Network" };
        return options.map_or_else(
            || "<p>Nothing is recorded.</p>".into(),
            |options| pairs(&format!("{prefix}{caption}"), options),
        );
    };
    let mut rows = String::new();
    for (name, entry) in values {
        let origin = entry["origin"].as_str().unwrap_or("–");
        let class = if origin == "default" { "" } else { " class=\"set\"" };
        let _ = write!(
            rows,
            "<tr{class}><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
            escape(&words(name)),
            escape(&text(&entry["value"])),
            escape(origin)
        );
    }
    let head = "<thead><tr><th scope=\"col\">option</th><th scope=\"col\">value</th>\
                <th scope=\"col\">from</th></tr></thead>";
    let caption = format!("{prefix}Every option, its value, and what decided it");
    scrolled(&caption, &format!("{head}<tbody>{rows}</tbody>"))
}
