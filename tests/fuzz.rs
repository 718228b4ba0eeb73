//! Whatever a file holds, reading it ends in a scan or in one error: no panic, no hang, no memory beyond
//! what the file can hold, and no file where none belongs.
//!
//! Two kinds of cases are run again here. Those of `tests/fuzz/corpus.txt` are a reader and a number, from
//! which the rules of `tests/fuzz/cases.rs` spoil a file, the same every time: they first led to a message, or
//! to a fault that was then mended. Those of `fixtures/fuzz/corpus` were found by libFuzzer (`scripts/fuzz`)
//! and reach what no shorter input reaches.

#[path = "fuzz/cases.rs"]
mod cases;
#[path = "fuzz/parts.rs"]
mod parts;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::data::hdf5::Hdf5;
use ptycho_gpu::data::{LoadOptions, survey};
use ptycho_gpu::random::{Purpose, Stream};

use serde_json::json;

use cases::{Input, READERS, files, outcome, repository, spoil};
use parts::Parts;

/// Seconds that one case may take: sound files of this size take thousandths.
const LONGEST: u64 = 20;

/// Bytes that the whole process may have had, for files of some kilobytes.
const MOST_MEMORY: u64 = 2 << 30;

/// A zip with the same members, one of which is spoiled: its checksum is right again.
fn spoil_member(bytes: &[u8], dice: &mut Stream) -> Option<Vec<u8>> {
    let mut zip = Parts::of_zip(bytes)?;
    let content = zip.choose(dice)?;
    // The header is text of some hundred bytes.
    let head = content.len().min(128);
    let mut part = content[..head].to_vec();
    (0..1 + dice.below(3)).for_each(|_| spoil(&mut part, dice));
    content.splice(..head, part);
    zip.join()
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
    write_all(&all, folder);
}

fn write_all(files: &BTreeMap<String, Vec<u8>>, folder: &Path) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Most memory that this process has had, bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// Case that runs, and when it began, in milliseconds: for the watch over hangs.
static RUNNING: Mutex<String> = Mutex::new(String::new());
static SINCE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Ends the process when a case takes too long: a loop without end cannot be stopped otherwise.
fn watch(started: Instant) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let (now, since) = (started.elapsed().as_millis() as u64, SINCE.load(Ordering::SeqCst));
            if now.saturating_sub(since) > LONGEST * 1000 {
                eprintln!("{}: hangs", RUNNING.lock().unwrap());
                std::process::exit(3);
            }
        }
    });
}

/// Reads the files in `root/in`; fails with what is wrong with it.
fn run(reader: &str, case: &str, filed: bool, root: &Path, started: Instant) {
    let folder = root.join("in");
    *RUNNING.lock().unwrap() = format!("{reader} {case}");
    SINCE.store(started.elapsed().as_millis() as u64, Ordering::SeqCst);
    let caught = catch_unwind(AssertUnwindSafe(|| outcome(reader, &folder, filed)));
    SINCE.store(u64::MAX, Ordering::SeqCst);
    assert!(caught.is_ok(), "{reader} {case}: panics");
    let memory = peak_memory();
    assert!(memory <= MOST_MEMORY, "{reader} {case}: took {memory} bytes");
    let stray = cases::stray(reader, &files(reader), root, &folder);
    assert!(stray.is_none(), "{reader} {case}: writes {}", stray.unwrap().display());
}

#[test]
fn the_files_that_are_spoiled_are_sound_themselves() {
    for (reader, _) in READERS {
        for filed in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            write_all(&files(reader), folder.path());
            let said = outcome(reader, folder.path(), filed);
            let sound = said.replace("read", "").is_empty() || said.starts_with("true ");
            assert!(sound, "{reader}: {said}");
        }
    }
}

/// Otherwise what is spoiled and mended would be refused at the door.
#[test]
fn sound_files_stay_as_they_are_when_they_are_mended() {
    for (reader, _) in READERS {
        for (name, bytes) in files(reader) {
            let mut mended = bytes.clone();
            parts::mend(&mut mended);
            assert!(mended == bytes, "{reader}: {name}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let sound = &files("network")["network.safetensors"];
    let joined = Parts::of(sound).unwrap().join().unwrap();
    fs::write(folder.path().join("network.safetensors"), joined).unwrap();
    assert_eq!(outcome("network", folder.path(), false), "read");
}

#[test]
fn recorded_cases_end_in_a_scan_or_in_one_error() {
    let corpus = fs::read_to_string(repository().join("tests/fuzz/corpus.txt")).unwrap();
    let started = Instant::now();
    let cases = corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    watch(started);
    let mut count = 0;
    for line in cases {
        let (reader, number) = line.split_once(' ').unwrap();
        let root = tempfile::tempdir().unwrap();
        prepare(reader, number.parse().unwrap(), &root.path().join("in"));
        run(reader, number, false, root.path(), started);
        count += 1;
    }
    assert!(count > 100, "{count} cases: the corpus is missing");
    for (reader, _) in READERS {
        again(reader, started);
    }
}

/// Runs the inputs again that libFuzzer has found for a reader.
fn again(reader: &str, started: Instant) {
    let (inputs, files) = (recorded(reader), files(reader));
    assert!(!inputs.is_empty(), "{reader}: the corpus is missing");
    for (number, bytes) in inputs.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let input = Input::of(bytes, files.len());
        cases::write(reader, &files, &input, &root.path().join("in"));
        run(reader, &format!("of the corpus, {number}"), input.filed, root.path(), started);
    }
}

/// The recorded inputs of a reader: one member of a zip, in which each stands behind its length. Together
/// they pack better than apart, as each is much like the one before.
fn recorded(reader: &str) -> Vec<Vec<u8>> {
    let path = repository().join("fixtures/fuzz/corpus").join(format!("{reader}.zip"));
    let mut zip = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut all = Vec::new();
    zip.by_name("inputs").unwrap().read_to_end(&mut all).unwrap();
    let (mut rest, mut inputs) = (all.as_slice(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (input, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        inputs.push(input.to_vec());
        rest = after;
    }
    inputs
}

/// Checksums right, content not: what a file says of its network is not believed.
#[test]
fn checkpoints_of_impossible_networks_are_refused_with_one_error() {
    let small = "`learned` in its metadata is of no network";
    let cases = [
        ("network", "/learned/model/width", json!(1_u64 << 60), small),
        ("network", "/learned/model/blocks", json!(1025), small),
        ("network", "/learned/model/n", json!(1 << 20), small),
        ("network", "/learned/model/fourier_modes", json!(0), small),
        // Possible, but not with these weights: known before there is memory for it.
        ("network", "/learned/model/width", json!(1024), "has shape"),
        ("network", "/learned/input_scale", json!(0.0), small),
        ("network", "/learned/scans/0/gauge", json!(-1.0), small),
        // There is no probe in it.
        ("network", "/learned/probe_trained", json!(true), small),
        ("resume", "/progress/epoch", json!(u64::MAX), "too many epochs or steps"),
        ("resume", "/progress/step", json!(u64::MAX), "too many epochs or steps"),
        ("resume", "/learned/scans/0/sha256", json!("1234567é8"), "was trained on"),
    ];
    for (reader, place, value, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        write_all(&files(reader), folder.path());
        let main = READERS.iter().find(|(name, _)| *name == reader).unwrap().1;
        let mut checkpoint = Checkpoint::load(folder.path().join(main)).unwrap();
        *checkpoint.metadata.pointer_mut(place).unwrap() = value.clone();
        checkpoint.save(folder.path().join(main)).unwrap();
        let said = outcome(reader, folder.path(), false);
        assert!(said.contains(words) && said.lines().count() == 1, "{place} {value}: {said}");
    }
}

/// What `work` comes to, or a failure after the time that a case may take.
fn in_time<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    let done = receive.recv_timeout(Duration::from_secs(LONGEST));
    done.unwrap_or_else(|_| panic!("{name}: hangs or panics"))
}

fn crafted(name: &str) -> PathBuf {
    repository().join("fixtures/crafted").join(name)
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
