//! run.json: what was run, on what, and what came out.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::atomic_write;
use crate::config::Resolved;
use crate::data::scan::Scan;
use crate::{Error, Result};

/// The record of a run, filled as things become known and written any number of times.
#[derive(Clone, Debug)]
pub struct RunRecord {
    map: Map<String, Value>,
}

impl RunRecord {
    /// Begins the record of `command` ("train", "infer", …) with program, version, command line
    /// and the time of day.
    pub fn new(command: &str) -> RunRecord {
        let mut map = Map::new();
        map.insert("program".into(), env!("CARGO_PKG_NAME").into());
        map.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        map.insert("command".into(), command.into());
        let line: Vec<String> =
            std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
        map.insert("command_line".into(), line.into());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        map.insert("started".into(), utc(since.as_secs()).into());
        RunRecord { map }
    }

    /// Every value of the configuration with its origin.
    pub fn configuration(&mut self, resolved: &Resolved) -> &mut Self {
        self.set("configuration", resolved)
    }

    /// Adds a scan to the inputs.
    pub fn input(&mut self, scan: &Scan) -> &mut Self {
        let mut entry = json!({
            "path": scan.source.path.to_string_lossy(),
            "sha256": scan.source.sha256,
            "patterns": scan.len(),
            "side": scan.side(),
            "kappa": scan.dose.kappa,
            "dose_origin": scan.dose.origin,
        });
        if !scan.instrument.is_unknown() {
            entry["instrument"] = json!(scan.instrument);
        }
        if let Some(pixel) = scan.instrument.pixel_m(scan.side()) {
            entry["object_pixel_m"] = json!(pixel);
        }
        if !scan.rejected.frames().is_empty() {
            entry["rejected_frames"] = json!(scan.rejected.frames());
        }
        let inputs = self.map.entry("inputs").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(inputs) = inputs {
            inputs.push(entry);
        }
        self
    }

    /// What computed.
    pub fn device(&mut self, description: impl Serialize) -> &mut Self {
        self.set("device", description)
    }

    pub fn seed(&mut self, seed: u64) -> &mut Self {
        self.set("seed", seed)
    }

    /// How long a part took, in seconds.
    pub fn timing(&mut self, part: &str, seconds: f64) -> &mut Self {
        self.within("timings_s", part, seconds)
    }

    /// A figure that came out.
    pub fn result(&mut self, name: &str, value: impl Serialize) -> &mut Self {
        self.within("results", name, value)
    }

    /// Anything else. A value that is no JSON, such as NaN, becomes null.
    pub fn set(&mut self, name: &str, value: impl Serialize) -> &mut Self {
        self.map.insert(name.into(), serde_json::to_value(value).unwrap_or(Value::Null));
        self
    }

    fn within(&mut self, group: &str, name: &str, value: impl Serialize) -> &mut Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        let group = self.map.entry(group).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(group) = group {
            group.insert(name.into(), value);
        }
        self
    }

    pub fn json(&self) -> &Map<String, Value> {
        &self.map
    }

    /// Writes the record as it is by now; the old file or the new one is there at any time.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut text = serde_json::to_string_pretty(&self.map)
            .map_err(|error| Error::Run(format!("{}: no record: {error}", path.display())))?;
        text.push('\n');
        atomic_write(path, text.as_bytes())
    }
}

/// `2026-01-31T23:59:59Z`.
fn utc(seconds: u64) -> String {
    let (mut day, time) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn time_of_day_knows_leap_years() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(utc(1_767_225_599), "2025-12-31T23:59:59Z");
    }
}
