//! A process that goes on for long stays as it was: no memory, descriptors or threads are left behind, and steps
//! do not become slower. `PTYCHO_CYCLES` and `PTYCHO_STEPS` say for how long; scripts/reliability asks for more.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ptycho_gpu::backend::Chosen;
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::cli::train;
use ptycho_gpu::config::Architecture;
use ptycho_gpu::data::{LoadOptions, load, save_scan};
use ptycho_gpu::infer::Network;
use ptycho_gpu::report::history;

#[path = "library/small.rs"]
mod small;

use small::{small_scan, small_training, usual};

/// Bytes that the process may grow by: the allocator's own affairs.
const GROWTH: u64 = 2 << 20;

/// How much slower the steps of the second half may be.
const SLOWER: f64 = 1.1;

/// The same of a short run, where little else is enough to be slower.
const SHORT_SLOWER: f64 = 1.5;

/// From so many steps on a run is no short one.
const MANY_STEPS: usize = 5000;

/// Steps of an epoch of the long training.
const EPOCH: usize = 50;

/// Parts of a run after which it is looked at; before the first nothing is known.
const PARTS: usize = 10;

/// What this process has of the system.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Resident memory, bytes.
    memory: u64,
    descriptors: usize,
    threads: u64,
}

impl Taken {
    fn now() -> Taken {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        Taken { memory: 1024 * number("VmRSS:"), descriptors, threads: number("Threads:") }
    }

    /// What all of some have in common: the most memory, and the least of what is opened for a moment, as a
    /// file is while it is written. What is left behind is there every time.
    fn of(all: impl Iterator<Item = Taken>) -> Taken {
        all.reduce(|a, b| Taken {
            memory: a.memory.max(b.memory),
            descriptors: a.descriptors.min(b.descriptors),
            threads: a.threads.min(b.threads),
        })
        .expect("it was looked at")
    }

    /// What there is more of than before.
    fn check(&self, before: &Taken) {
        let grown = self.memory.saturating_sub(before.memory);
        eprintln!("memory {} + {grown} bytes, {before:?}, then {self:?}", before.memory);
        assert!(grown <= GROWTH, "memory grew by {grown} bytes, {GROWTH} are allowed");
        assert!(self.descriptors <= before.descriptors, "descriptors are left open");
        assert!(self.threads <= before.threads, "threads are left behind");
    }
}

/// One test at a time, or they would count each other's.
static ALONE: Mutex<()> = Mutex::new(());

fn count(name: &str, short: usize) -> usize {
    std::env::var(name).map_or(short, |text| text.parse().expect("a number"))
}

/// A training of the least network of all.
fn tiny(folder: &Path, run: &Path) -> train::Args {
    train::Args {
        architecture: Some(Architecture::Ffno),
        n_filters_scale: None,
        width: Some(2),
        fourier_modes: Some(2),
        blocks: Some(1),
        refiners: Some(0),
        ..small_training(folder, run)
    }
}

#[test]
fn cycles_of_training_and_inference_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cycles = count("PTYCHO_CYCLES", 60);
    let folder = tempfile::tempdir().unwrap();
    let (scan, run) = (folder.path().join("scan.npz"), folder.path().join("run"));
    save_scan(&scan, &small_scan(4)).unwrap();
    let mut first = Vec::new();
    for cycle in 0..cycles {
        // A network of convolutions now and then: its buffers are another matter.
        let of = if cycle % 10 == 0 { small_training } else { tiny };
        train::train(&of(folder.path(), &run)).unwrap();
        let scan = load(&scan, &LoadOptions::default()).unwrap();
        let path = run.join("checkpoints/best.safetensors");
        let network =
            Network::new(&Checkpoint::load(&path).unwrap(), &path, 2, &Chosen::Cpu).unwrap();
        network.reconstruct(&scan, &usual()).unwrap();
        fs::remove_dir_all(&run).unwrap();
        let done = cycle + 1;
        // What a first few leave is kept for the others.
        if done <= (cycles / PARTS).max(20) {
            first.push(Taken::now());
        } else if done % (cycles / PARTS).max(1) == 0 {
            Taken::now().check(&Taken::of(first.iter().copied()));
        }
    }
}

#[test]
fn a_long_training_is_as_fast_and_as_small_in_the_end_as_in_the_beginning() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let steps = count("PTYCHO_STEPS", 500);
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    save_scan(folder.path().join("scan.npz"), &small_scan(EPOCH)).unwrap();
    let args = train::Args {
        n_images: None,
        batch_size: Some(1),
        max_epochs: Some(steps / EPOCH),
        ..tiny(folder.path(), &run)
    };
    let watch = Watch::start(run.join("history.csv"));
    train::train(&args).unwrap();
    let (first, second) = watch.halves(steps / EPOCH);
    second.check(&first);
    let rows = history::read(run.join("history.csv")).unwrap().rows;
    assert_eq!(rows.last().unwrap()[1], steps as f64);
    let seconds: Vec<f64> = rows.iter().skip(1).map(|row| row[10]).collect();
    let halves = seconds.split_at(seconds.len() / 2);
    let [first, second] = [halves.0, halves.1].map(|part| 1e3 * quartile(part) / EPOCH as f64);
    eprintln!("a step takes {first:.3} ms, later {second:.3} ms");
    let limit = if steps < MANY_STEPS { SHORT_SLOWER } else { SLOWER };
    assert!(second <= limit * first, "a step took {first:.3} ms, and later {second:.3} ms");
}

/// The lower one: other programs of the machine disturb the faster epochs least.
fn quartile(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 4]
}

/// Looks at the process while it trains.
struct Watch {
    over: Arc<AtomicBool>,
    /// Epochs that were done, and what there was then.
    seen: thread::JoinHandle<Vec<(usize, Taken)>>,
}

impl Watch {
    fn start(history: std::path::PathBuf) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let asked = over.clone();
        let look = move || {
            let mut seen = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let began = Instant::now();
                // The first line has the names of the columns.
                let lines = fs::read_to_string(&history).unwrap_or_default().lines().count();
                seen.push((lines.saturating_sub(1), Taken::now()));
                thread::sleep(Duration::from_millis(5).max(5 * began.elapsed()));
            }
            seen
        };
        Watch { over, seen: thread::spawn(look) }
    }

    /// What the first half of so many epochs took, without the very first of them, and the second.
    fn halves(self, epochs: usize) -> (Taken, Taken) {
        self.over.store(true, Ordering::Relaxed);
        let seen = self.seen.join().expect("it only looks");
        let half = |of: std::ops::Range<usize>| {
            Taken::of(seen.iter().filter(|(done, _)| of.contains(done)).map(|&(_, taken)| taken))
        };
        (half(1..epochs / 2), half(epochs / 2..epochs))
    }
}
