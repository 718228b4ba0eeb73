//! How much memory a run may take: what it is allowed, and what the machine has.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Share of the free memory that a run takes by itself: others want some too.
const MARGIN: f64 = 0.9;

/// Bytes of the program itself, with its threads and what they keep.
pub const BASE: u64 = 24 << 20;

/// `--memory-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Limit {
    Bytes(u64),
    /// Of the memory that there is.
    Percent(f64),
}

/// As a configuration file has it: a number of bytes, or text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Limit, String> {
        let wrong = || {
            format!(
                "`{text}` is no amount of memory: write bytes (8e9), 512MB, 16GB, 16GiB, or 50%"
            )
        };
        let text = text.trim();
        let end = text.find(|c: char| c.is_alphabetic() && !matches!(c, 'e' | 'E') || c == '%');
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "t" | "tb" => 1e12,
            "kib" => f64::from(1u32 << 10),
            "mib" => f64::from(1u32 << 20),
            "gib" => f64::from(1u32 << 30),
            "tib" => (1u64 << 40) as f64,
            "%" if number > 0.0 && number <= 100.0 => return Ok(Limit::Percent(number)),
            _ => return Err(wrong()),
        };
        let bytes = number * factor;
        if (1.0..9e18).contains(&bytes) { Ok(Limit::Bytes(bytes as u64)) } else { Err(wrong()) }
    }
}

impl TryFrom<Written> for Limit {
    type Error = String;

    fn try_from(written: Written) -> std::result::Result<Limit, String> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Limit::Bytes(bytes) => write!(f, "{bytes}"),
            Limit::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> String {
        limit.to_string()
    }
}

/// What a run may take, and why.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes of the whole process.
    pub bytes: u64,
    /// "`--memory-limit`", or what is free.
    said: &'static str,
}

impl Budget {
    /// What `limit` allows; without one, what is free with a margin.
    pub fn new(limit: Option<Limit>) -> Budget {
        Budget::on(Path::new("/"), limit)
    }

    /// The same on a machine whose `/proc` and `/sys` are in `root`.
    pub fn on(root: &Path, limit: Option<Limit>) -> Budget {
        let machine = Machine::read(root);
        let asked = "allowed by --memory-limit";
        match (limit, machine) {
            (Some(Limit::Bytes(bytes)), _) => Budget { bytes, said: asked },
            (Some(Limit::Percent(share)), Some(machine)) => {
                Budget { bytes: (machine.total as f64 * share / 100.0) as u64, said: asked }
            }
            (None, Some(machine)) => {
                Budget { bytes: (machine.free as f64 * MARGIN) as u64, said: "free here" }
            }
            // A system that does not say.
            (_, None) => Budget { bytes: u64::MAX, said: "assumed" },
        }
    }

    /// An error, with the figures, if the `needs`, each with its name, are more than that; `remedy` is
    /// what to do.
    pub fn check(&self, needs: &[(&str, u64)], remedy: &str) -> Result<()> {
        let sum = needs.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if sum <= self.bytes {
            return Ok(());
        }
        let parts: Vec<String> =
            needs.iter().map(|(name, bytes)| format!("{name} {}", megabytes(*bytes))).collect();
        Err(Error::Config(format!(
            "this needs {} of memory ({}), but {} are {}: {remedy}",
            megabytes(sum),
            parts.join(", "),
            megabytes(self.bytes),
            self.said
        )))
    }

    /// What is left of it for the job when the program itself is there.
    pub fn spare(&self) -> u64 {
        self.bytes.saturating_sub(BASE)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", megabytes(self.bytes), self.said)
    }
}

/// `12 MB`, rounded up.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", (bytes as f64 * 1e-6).ceil())
}

/// Memory of the machine, or of the control group that the program runs in where that has less.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Machine {
    total: u64,
    /// What can be had without swapping.
    free: u64,
}

impl Machine {
    /// None where the system does not say.
    fn read(root: &Path) -> Option<Machine> {
        let table = fs::read_to_string(root.join("proc/meminfo")).ok()?;
        // What the program has already is its own.
        let own = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
        let own = kibibytes(&own, "VmRSS:").unwrap_or(0);
        let line = |name: &str| kibibytes(&table, name);
        let machine = Machine { total: line("MemTotal:")?, free: line("MemAvailable:")? };
        let smaller = |least: Machine, group: Machine| Machine {
            total: least.total.min(group.total),
            free: least.free.min(group.free),
        };
        let groups = groups(root).into_iter().filter_map(|group| group.read());
        let least = groups.fold(machine, smaller);
        Some(Machine { free: least.free.saturating_add(own).min(least.total), ..least })
    }
}

/// A control group: its folder, and what its files are called.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
    /// Of the file cache that is given back when memory is wanted.
    cache: &'static str,
}

impl Group {
    /// None where it has no limit.
    fn read(&self) -> Option<Machine> {
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
        };
        let total = number(self.limit)?;
        let used = number(self.used).unwrap_or(0);
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let cache =
            stat.lines().find_map(|line| line.strip_prefix(self.cache)?.trim().parse().ok());
        let used = used.saturating_sub(cache.unwrap_or(0));
        Some(Machine { total, free: total.saturating_sub(used) })
    }
}

/// The control groups, of either version, that the program runs in, from the innermost on: each may set a
/// limit.
fn groups(root: &Path) -> Vec<Group> {
    let table = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut all = Vec::new();
    for line in table.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, limit, used, cache) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ")
        } else if controllers.split(',').any(|name| name == "memory") {
            let (limit, used) = ("memory.limit_in_bytes", "memory.usage_in_bytes");
            ("sys/fs/cgroup/memory", limit, used, "total_inactive_file ")
        } else {
            continue;
        };
        // In a container the path may be that outside of it: then only the root is there.
        for path in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = root.join(mount).join(path);
            all.push(Group { folder, limit, used, cache });
        }
    }
    all
}

/// The most memory that this process has had at once, bytes; none where the system does not say.
pub fn peak() -> Option<u64> {
    let table = fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&table, "VmHWM:")
}

/// The bytes that a table of the system gives under `name`.
fn kibibytes(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}
