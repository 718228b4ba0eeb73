//! Whatever a file holds, reading it ends in a scan or in one error: no panic, no hang, no memory beyond
//! what the file can hold.
//!
//! Files are spoiled by rules that know where their formats are touchy. A case is a reader and a number,
//! and comes out the same every time: `tests/fuzz/corpus.txt` keeps those that first led to a message,
//! or to a fault that was then mended. `scripts/fuzz` looks for new ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ptycho_gpu::checkpoint::{Checkpoint, Tensor};
use ptycho_gpu::data::hdf5::Hdf5;
use ptycho_gpu::data::reading::PositionUnit;
use ptycho_gpu::data::{LoadOptions, Reading, survey};
use ptycho_gpu::exchange::weights::Weights;
use ptycho_gpu::random::{Purpose, Stream};

/// A reader, the file of `fixtures/fuzz/NAME` that it is given, and whether its frames are cut.
const READERS: [(&str, &str); 10] = [
    ("npz", "scan.npz"),
    ("product", "product.h5"),
    ("pair", "pair_para.hdf5"),
    ("cxi", "scan.cxi"),
    ("nexus", "scan.nxs"),
    ("eiger", "scan_master.h5"),
    ("ptyd", "scan.ptyd"),
    ("fold-slice", "fold_para.hdf5"),
    ("weights", "attention.ckpt"),
    ("checkpoint", "network.safetensors"),
];

/// Seconds that one case may take: sound files of this size take thousandths.
const LONGEST: u64 = 20;

/// Bytes that the whole process may have had, for files of some kilobytes.
const MOST_MEMORY: u64 = 2 << 30;

/// Numbers that sizes, counts and addresses are afraid of.
const AWKWARD: [u64; 14] = [
    0,
    1,
    2,
    7,
    255,
    256,
    65535,
    1 << 20,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Marks of the structures of HDF5, near which every byte has a meaning.
const MARKS: [&[u8]; 12] = [
    b"OHDR", b"OCHK", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"FRHP", b"FHDB", b"BTHD", b"BTLF",
    b"EAHD", b"FAHD",
];

fn seeds(reader: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match reader {
        "weights" => root.join("tests/exchange/fixtures"),
        _ => root.join("fixtures/fuzz").join(reader),
    }
}

/// Files of a reader by name.
fn files(reader: &str) -> BTreeMap<String, Vec<u8>> {
    // Written by the program itself.
    if reader == "checkpoint" {
        return BTreeMap::from([("network.safetensors".to_owned(), checkpoint())]);
    }
    let entries = fs::read_dir(seeds(reader)).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let wanted =
        |path: &PathBuf| reader != "weights" || path.extension().is_none_or(|e| e != "f32");
    entries.filter(wanted).map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// A checkpoint of a few tensors.
fn checkpoint() -> Vec<u8> {
    let tensor = |shape: &[usize]| Tensor {
        shape: shape.to_vec(),
        data: (0..shape.iter().product()).map(|i| i as f32 * 0.5).collect(),
    };
    let tensors = [("a.weight", tensor(&[4, 3, 3, 3])), ("a.bias", tensor(&[4]))];
    let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    let metadata = serde_json::json!({ "learned": { "input_scale": 1.5 } });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    Checkpoint { tensors, metadata }.save(&path).unwrap();
    fs::read(path).unwrap()
}

/// What reading weights comes to: every tensor, or the reason.
fn weights(path: &Path) -> String {
    let read = || {
        let mut weights = Weights::open(path)?;
        let names: Vec<String> = weights.shapes.keys().cloned().collect();
        // A counter of batches, which is no weight.
        for name in names.iter().filter(|name| !name.ends_with("num_batches_tracked")) {
            weights.numbers(name)?;
        }
        Ok::<usize, ptycho_gpu::Error>(names.len())
    };
    read().map_or_else(|error| error.to_string(), |_| "read".to_owned())
}

/// Where to spoil: anywhere, near the beginning, or at a structure.
fn place(bytes: &[u8], dice: &mut Stream) -> usize {
    let marks: Vec<usize> = match dice.below(3) {
        0 => Vec::new(),
        _ => bytes
            .windows(4)
            .enumerate()
            .filter(|(_, window)| MARKS.contains(window))
            .map(|(at, _)| at)
            .collect(),
    };
    let at = match (marks.is_empty(), dice.below(4)) {
        (false, _) => marks[dice.below(marks.len())] + dice.below(64),
        (true, 0) => dice.below(bytes.len().clamp(1, 2048)),
        (true, _) => dice.below(bytes.len().max(1)),
    };
    at.min(bytes.len().saturating_sub(1))
}

/// One change to a file.
fn spoil(bytes: &mut Vec<u8>, dice: &mut Stream) {
    if bytes.is_empty() {
        return;
    }
    let at = place(bytes, dice);
    match dice.below(8) {
        0 | 1 => bytes[at] ^= 1 << dice.below(8),
        2 => bytes[at] = dice.next_u32() as u8,
        3 | 4 => {
            let (value, width) = (AWKWARD[dice.below(AWKWARD.len())], 1 << dice.below(4));
            let at = at - at % width.min(at.max(1));
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        5 => {
            let length = dice.below(32).min(bytes.len() - at);
            let from = dice.below(bytes.len() - length + 1);
            bytes.copy_within(from..from + length, at);
        }
        6 => {
            let end = (at + dice.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ if dice.below(4) == 0 => bytes.truncate(at),
        _ => {
            let piece: Vec<u8> = (0..dice.below(16)).map(|_| dice.next_u32() as u8).collect();
            bytes.splice(at..at, piece);
        }
    }
}

/// A zip with the same members, one of which is spoiled: its checksum is right again.
fn spoil_member(bytes: &[u8], dice: &mut Stream) -> Option<Vec<u8>> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let chosen = dice.below(zip.len());
    for index in 0..zip.len() {
        let mut member = zip.by_index(index).ok()?;
        let (name, mut content) = (member.name().to_owned(), Vec::new());
        member.read_to_end(&mut content).ok()?;
        if index == chosen {
            // The header is text of some hundred bytes.
            let head = content.len().min(128);
            let mut part = content[..head].to_vec();
            (0..1 + dice.below(3)).for_each(|_| spoil(&mut part, dice));
            content.splice(..head, part);
        }
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        out.start_file(name, options).ok()?;
        out.write_all(&content).ok()?;
    }
    Some(out.finish().ok()?.into_inner())
}

/// The files of case `number` in `folder`.
fn prepare(reader: &str, number: u64, folder: &Path) {
    let mut dice = Stream::new(number, Purpose::Noise, 0);
    let mut all = files(reader);
    let names: Vec<String> = all.keys().cloned().collect();
    let chosen = all.get_mut(&names[dice.below(names.len())]).unwrap();
    let member = (["npz", "weights"].contains(&reader) && dice.below(4) != 0)
        .then(|| spoil_member(chosen, &mut dice));
    match member.flatten() {
        Some(spoiled) => *chosen = spoiled,
        None => (0..1 + dice.below(4)).for_each(|_| spoil(chosen, &mut dice)),
    }
    for (name, bytes) in all {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn options(reader: &str, folder: &Path) -> LoadOptions {
    let mut reading = Reading::default();
    match reader {
        "eiger" => {
            reading.positions = Some(folder.join("positions.txt"));
            reading.position_unit = Some(PositionUnit::Um);
            reading.crop = Some(8);
        }
        "fold-slice" => reading.object_pixel = Some(1e-8),
        _ => {}
    }
    LoadOptions { reading, without_probe: true, ..LoadOptions::default() }
}

/// What came of it, without the numbers in it.
fn outcome(reader: &str, folder: &Path) -> String {
    let main = READERS.iter().find(|(name, _)| *name == reader).unwrap().1;
    let path = folder.join(main);
    if reader == "weights" || reader == "checkpoint" {
        let said = match reader {
            "weights" => files(reader).keys().map(|name| weights(&folder.join(name))).collect(),
            _ => Checkpoint::load(&path)
                .map_or_else(|error| error.to_string(), |_| "read".to_owned()),
        };
        let said = said.replace(folder.to_str().unwrap(), "");
        return said.chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
    }
    let said = match survey(&folder.join(main), &options(reader, folder)) {
        Ok(survey) => {
            let problems = survey.problems.iter().map(|problem| problem.sentence());
            format!("{} {}", survey.scan.is_some(), problems.collect::<Vec<_>>().join("; "))
        }
        Err(error) => error.to_string(),
    };
    let said = said.replace(folder.to_str().unwrap(), "");
    said.chars().filter(|c| !c.is_ascii_digit()).take(160).collect()
}

/// Most memory that this process has had, bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// Case that runs, and when it began, in milliseconds: for the watch over hangs.
static RUNNING: AtomicU64 = AtomicU64::new(0);
static SINCE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Ends the process when a case takes too long: a loop without end cannot be stopped otherwise.
fn watch(reader: &'static str, started: Instant) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let (now, since) = (started.elapsed().as_millis() as u64, SINCE.load(Ordering::SeqCst));
            if now.saturating_sub(since) > LONGEST * 1000 {
                eprintln!("{reader} {}: hangs", RUNNING.load(Ordering::SeqCst));
                std::process::exit(3);
            }
        }
    });
}

/// Runs one case; what it said, or what is wrong with it.
fn run(reader: &str, number: u64, started: Instant) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    prepare(reader, number, folder.path());
    RUNNING.store(number, Ordering::SeqCst);
    SINCE.store(started.elapsed().as_millis() as u64, Ordering::SeqCst);
    let caught = catch_unwind(AssertUnwindSafe(|| outcome(reader, folder.path())));
    SINCE.store(u64::MAX, Ordering::SeqCst);
    let said = caught.map_err(|_| format!("{reader} {number}: panics"))?;
    match peak_memory() {
        bytes if bytes > MOST_MEMORY => Err(format!("{reader} {number}: took {bytes} bytes")),
        _ => Ok(said),
    }
}

#[test]
fn the_files_that_are_spoiled_are_sound_themselves() {
    for (reader, main) in READERS {
        if reader == "weights" || reader == "checkpoint" {
            let folder = tempfile::tempdir().unwrap();
            files(reader).iter().for_each(|(name, bytes)| {
                fs::write(folder.path().join(name), bytes).unwrap();
            });
            let said = outcome(reader, folder.path());
            assert!(said.replace("read", "").is_empty(), "{reader}: {said}");
            continue;
        }
        let folder = seeds(reader);
        let found = survey(&folder.join(main), &options(reader, &folder)).unwrap();
        assert!(found.scan.is_some(), "{reader}: {:?}", found.problems);
    }
}

#[test]
fn recorded_cases_end_in_a_scan_or_in_one_error() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus.txt");
    let corpus = fs::read_to_string(corpus).unwrap();
    let started = Instant::now();
    let cases = corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    watch("corpus", started);
    let mut count = 0;
    for line in cases {
        let mut words = line.split_whitespace();
        let (reader, number) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
        run(reader, number, started).unwrap_or_else(|fault| panic!("{fault}"));
        count += 1;
    }
    assert!(count > 100, "{count} cases: the corpus is missing");
}

/// What `work` comes to, or a failure after the time that a case may take.
fn in_time<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    let done = receive.recv_timeout(Duration::from_secs(LONGEST));
    done.unwrap_or_else(|_| panic!("{name}: hangs or panics"))
}

fn crafted(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/crafted").join(name)
}

/// Files of `tests/fuzz/craft.py`: no chance finds them, as their checksums are right.
#[test]
fn virtual_data_sets_that_come_to_no_end_are_refused_with_one_error() {
    let repeated = ["virtual data set without end", "`%b`", "repeated.h5"];
    let cases: [(&str, &[&str]); 4] = [
        ("repeated.h5", &repeated),
        ("absolute.h5", &["virtual data set without end", "`/%b/absolute.h5`"]),
        // The file that is to be mended is the one that is said.
        ("outer.h5", &repeated),
        ("circle_a.h5", &["more than 10000 files", "circle_a.h5"]),
    ];
    for (name, words) in cases {
        let open = move || survey(&crafted(name), &LoadOptions::default()).map(drop);
        let said = in_time(name, open).unwrap_err().to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
    }
}

#[test]
fn a_link_into_such_a_file_is_refused_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(crafted("repeated.h5"), folder.path().join("repeated.h5")).unwrap();
    let path = folder.path().join("master.h5");
    let file = rust_hdf5::H5File::create(&path).unwrap();
    file.create_external_link("dp", "repeated.h5", "/src").unwrap();
    file.close().unwrap();
    let open = move || Hdf5::open(&path).and_then(|file| file.f32("dp")).map(drop);
    let said = in_time("master.h5", open).unwrap_err().to_string();
    assert!(said.contains("virtual data set without end"), "{said}");
}

#[test]
fn sound_virtual_data_sets_without_a_fixed_end_are_opened() {
    let growing = in_time("growing.h5", || Hdf5::open(crafted("growing.h5")).unwrap().f32("dp"));
    let want: Vec<f32> = (0..48).map(|i| i as f32).collect();
    assert_eq!(growing.unwrap().into_raw_vec_and_offset().0, want);
    let numbered =
        in_time("numbered.h5", || Hdf5::open(crafted("numbered.h5")).unwrap().f32("src"));
    assert_eq!(numbered.unwrap().len(), 16);
}

/// Wherever in the file the list of sources is, also behind other data and on no round address.
#[test]
fn lists_of_sources_are_found_behind_other_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (sound, path) = (fs::read(crafted("repeated.h5")).unwrap(), folder.path().join("moved.h5"));
    let mark = sound.windows(4).position(|window| window == b"GCOL").unwrap();
    // A block for the user in front, as Matlab has it; an odd place; an end of a block of the search.
    for before in [512, 1001, (1 << 20) - mark - 2] {
        let mut bytes = vec![b'G'; before];
        bytes.extend(&sound);
        fs::write(&path, bytes).unwrap();
        let opened = path.clone();
        let said = in_time("moved.h5", || Hdf5::open(opened).map(drop).unwrap_err().to_string());
        assert!(said.contains("virtual data set without end"), "{before}: {said}");
    }
}

/// Looks for new cases: `PTYCHO_FUZZ=READER:SECONDS:FIRST`. Prints every case that leads to a message
/// that no earlier one led to, and fails at the first fault.
#[test]
#[ignore = "takes as long as it is told to: scripts/fuzz"]
fn search() {
    let task = std::env::var("PTYCHO_FUZZ").expect("PTYCHO_FUZZ=READER:SECONDS:FIRST");
    let parts: Vec<&str> = task.split(':').collect();
    let reader = READERS.iter().find(|(name, _)| *name == parts[0]).expect("a reader").0;
    let seconds: u64 = parts[1].parse().unwrap();
    let mut number: u64 = parts[2].parse().unwrap();
    let (started, first) = (Instant::now(), number);
    watch(reader, started);
    let mut seen = BTreeMap::new();
    // What takes the whole process with it leaves its number here.
    let last = std::env::var_os("PTYCHO_FUZZ_CASE");
    while started.elapsed() < Duration::from_secs(seconds) {
        if let Some(path) = &last {
            fs::write(path, number.to_string()).unwrap();
        }
        match run(reader, number, started) {
            Ok(said) => {
                seen.entry(said).or_insert_with(|| {
                    println!("{reader} {number}");
                    number
                });
            }
            Err(fault) => panic!("{fault}"),
        }
        number += 1;
    }
    eprintln!("{reader}: {} cases in {seconds} s, {} outcomes", number - first, seen.len());
}
