//! Every reader under libFuzzer: `PTYCHO_FUZZ_READER` names the one, scripts/fuzz does the rest.
//!
//! With `PTYCHO_FUZZ_SEEDS` it writes the sound files of the reader into that folder, as inputs, and ends.
#![no_main]

#[path = "../tests/fuzz/cases.rs"]
mod cases;
#[path = "../tests/fuzz/parts.rs"]
mod parts;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use ptycho_gpu::random::{Purpose, Stream};

use cases::Input;
use parts::Parts;

/// What is fuzzed, and where.
struct Bench {
    reader: String,
    files: BTreeMap<String, Vec<u8>>,
    /// Holds `folder` and nothing else.
    root: PathBuf,
    folder: PathBuf,
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let reader = std::env::var("PTYCHO_FUZZ_READER").expect("PTYCHO_FUZZ_READER=READER");
        assert!(cases::READERS.iter().any(|(name, _)| *name == reader), "no reader {reader}");
        // Of memory: TMPDIR says where.
        let root = tempfile::Builder::new().prefix("fuzz.").tempdir().expect("a folder").keep();
        // A file of no folder ends up where it is looked for too.
        std::env::set_current_dir(&root).expect("a folder");
        let files = cases::files(&reader);
        Bench { reader, files, folder: root.join("in"), root }
    })
}

fn init() {
    let Some(folder) = std::env::var_os("PTYCHO_FUZZ_SEEDS") else { return };
    for (index, bytes) in bench().files.values().enumerate() {
        for filed in [0, 0x80] {
            let first = index as u8 | filed;
            let input = [&[first], bytes.as_slice()].concat();
            fs::write(Path::new(&folder).join(format!("seed-{first}")), input).expect("a folder");
        }
    }
    let _ = fs::remove_dir_all(&bench().root);
    std::process::exit(0);
}

/// A panic, a hang and too much memory end the process: libFuzzer sees to that. The rest is looked at here.
fn execute(bytes: &[u8]) {
    let Bench { reader, files, root, folder } = bench();
    let input = Input::of(bytes, files.len());
    cases::write(reader, files, &input, folder);
    cases::outcome(reader, folder, input.filed);
    if let Some(path) = cases::stray(reader, files, root, folder) {
        panic!("{} was written", path.display());
    }
    fs::remove_dir_all(folder).expect("the folder is still there");
}

fuzz_target!(init: init(), |bytes: &[u8]| execute(bytes));

/// Room for what libFuzzer adds to a part of a file.
const MORE: usize = 256;

/// Changes by libFuzzer, which knows what the program compares bytes with, or by our rules.
fn change(part: &mut Vec<u8>, dice: &mut Stream) {
    if dice.below(2) == 0 {
        return (0..1 + dice.below(4)).for_each(|_| cases::spoil(part, dice));
    }
    let length = part.len();
    part.resize(length + MORE, 0);
    let length = fuzzer_mutate(part, length, length + MORE);
    part.truncate(length);
}

/// An input made of another one.
fn mutate(bytes: &[u8], dice: &mut Stream) -> Vec<u8> {
    let (mut first, mut content) = match bytes.split_first() {
        Some((first, rest)) => (*first, rest.to_vec()),
        None => (0, Vec::new()),
    };
    if dice.below(64) == 0 {
        first ^= 0x80;
    }
    // Inside of a member of a zip, or of the header of a checkpoint, three times of four.
    let parts = if dice.below(4) == 0 { None } else { Parts::of(&content) };
    let inside = parts.and_then(|mut parts| {
        change(parts.choose(dice)?, dice);
        parts.join()
    });
    match inside {
        Some(whole) => content = whole,
        None => change(&mut content, dice),
    }
    if dice.below(8) != 0 {
        parts::mend(&mut content);
    }
    [&[first], content.as_slice()].concat()
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Stream::new(u64::from(seed), Purpose::Noise, 0);
    let made = mutate(&data[..size], &mut dice);
    let length = made.len().min(max_size);
    data[..length].copy_from_slice(&made[..length]);
    length
});
