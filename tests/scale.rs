//! Scans and canvases that are larger than the memory that a run may take: the same bits, and never
//! more memory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ndarray::{Array1, Array2, Array3, s};
use num_complex::Complex32;
use ptycho_gpu::backend::Chosen;
use ptycho_gpu::checkpoint::Checkpoint;
use ptycho_gpu::cli::{Cli, Command as Job};
use ptycho_gpu::config::{self, DatasetFacts};
use ptycho_gpu::data::frames::{Center, Flip, Turn};
use ptycho_gpu::data::writers::{self, Target};
use ptycho_gpu::data::{
    Ahead, LoadOptions, Npz, NpzWriter, Reading, Room, Scan, Stack, Stacks, load,
};
use ptycho_gpu::memory::{Budget, Limit};
use ptycho_gpu::train::{Material, Trainer};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

/// Whether patterns are packed.
#[derive(Clone, Copy, PartialEq)]
enum Packing {
    Plain,
    Packed,
}

/// Counts about the middle of a frame, different in every one.
fn count(m: usize, y: usize, x: usize, side: usize) -> f32 {
    let half = side as f64 / 2.0;
    let (dy, dx) = (y as f64 - half, x as f64 - half + (m % 3) as f64);
    let bright = 900.0 * (-(dy * dy + dx * dx) / (0.03 * (side * side) as f64)).exp();
    bright.floor() as f32 + ((m * 31 + y * 17 + x * 13) % 3) as f32
}

fn probe(side: usize) -> Array2<Complex32> {
    let half = side as f32 / 2.0;
    Array2::from_shape_fn((side, side), |(y, x)| {
        let r2 = (y as f32 - half).powi(2) + (x as f32 - half).powi(2);
        Complex32::from_polar((-r2 / (0.05 * (side * side) as f32)).exp(), 0.01 * r2)
    })
}

/// A file of `patterns` frames, positions scattered over a square of `field` pixels.
fn write(path: &Path, patterns: usize, side: usize, field: f64, packing: Packing) {
    let file = NpzWriter::create(path).unwrap();
    let mut file = if packing == Packing::Plain { file.plain() } else { file };
    // Few different ones, over and over.
    let frames: Vec<Vec<f32>> = (0..5)
        .map(|m| (0..side * side).map(|i| count(m, i / side, i % side, side)).collect())
        .collect();
    let mut next = 0..patterns;
    let shape = [patterns, side, side];
    file.f32_parts("diffraction", &shape, || Ok(next.next().map(|m| frames[m % 5].clone())))
        .unwrap();
    file.c64("probeGuess", &probe(side)).unwrap();
    let place = |m: usize, by: f64| side as f64 + (m as f64 * by).fract() * field;
    file.f64("xcoords", &Array1::from_shape_fn(patterns, |m| place(m, 0.618_034))).unwrap();
    file.f64("ycoords", &Array1::from_shape_fn(patterns, |m| place(m, 0.754_878))).unwrap();
    file.finish().unwrap();
}

/// The scan in memory, and in a file.
fn both(path: &Path, options: LoadOptions) -> [Scan; 2] {
    let scratch = path.parent().unwrap().to_path_buf();
    let room = Some(Room { bytes: 0, scratch });
    let held = load(path, &options).unwrap();
    let filed = load(path, &LoadOptions { room, ..options }).unwrap();
    assert!(filed.amplitude.is_filed() && !held.amplitude.is_filed());
    [held, filed]
}

fn all(scan: &Scan) -> Array3<f32> {
    let (count, height, width) = scan.amplitude.dim();
    let (mut pixels, all) = (Vec::new(), (0..count).collect::<Vec<_>>());
    scan.amplitude.read(&all, &mut pixels).unwrap();
    Array3::from_shape_vec((count, height, width), pixels).unwrap()
}

fn assert_same(what: &str, [held, filed]: &[Scan; 2]) {
    assert!(all(filed) == *held.amplitude.held(), "{what}");
    let mut walked = Vec::new();
    let walk = filed.amplitude.walk(|part| {
        walked.extend(part.iter().copied());
        Ok(())
    });
    walk.unwrap();
    assert!(walked.iter().eq(held.amplitude.held()), "{what}");
    assert_eq!(filed.mean_energy().to_bits(), held.mean_energy().to_bits(), "{what}");
    assert_eq!((filed.dose, &filed.mask), (held.dose, &held.mask), "{what}");
    assert_eq!(filed.positions, held.positions, "{what}");
    let last = held.len() - 1;
    let pattern = filed.amplitude.pattern(last).unwrap();
    assert_eq!(pattern, held.amplitude.pattern(last).unwrap(), "{what}");
    assert!(
        filed.subset(&[last, 0]).unwrap().amplitude.held()
            == held.subset(&[last, 0]).unwrap().amplitude.held()
    );
}

#[test]
fn patterns_in_a_file_have_the_bits_of_those_in_memory() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    for packing in [Packing::Plain, Packing::Packed] {
        write(&path, 40, 16, 30.0, packing);
        assert_same("as they are", &both(&path, LoadOptions::default()));
        let turned = Reading {
            center: Some(Center::Auto),
            flip: Some(Flip::Lr),
            rotate: Some(Turn::Quarter),
            crop: Some(12),
            bin: Some(2),
            ..Reading::default()
        };
        assert_same(
            "turned",
            &both(&path, LoadOptions { reading: turned, ..LoadOptions::default() }),
        );
    }
    let names = folder.path().read_dir().unwrap().count();
    assert_eq!(names, 1, "scratch files have no name");
}

#[test]
fn every_format_is_read_by_parts() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    write(&path, 40, 16, 30.0, Packing::Packed);
    let mut scan = load(&path, &LoadOptions::default()).unwrap();
    scan.instrument.energy_ev = Some(8000.0);
    scan.instrument.distance_m = Some(2.0);
    scan.instrument.detector_pixel_m = Some([1e-4, 1e-4]);
    let mut mask = Array2::ones((16, 16));
    mask[[3, 4]] = 0.0;
    scan.mask = Some(mask);
    for (name, target) in [
        ("scan.h5", Target::Ptychodus),
        ("scan.cxi", Target::Cxi),
        ("scan.ptyd", Target::Ptyd),
        ("parts", Target::Folder),
    ] {
        let path = folder.path().join(name);
        writers::write(&path, target, &scan, &Value::Null).unwrap();
        assert_same(name, &both(&path, LoadOptions::default()));
    }
}

#[test]
fn amplitudes_and_other_types_are_read_where_they_lie() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let counts = Array3::from_shape_fn((9, 16, 16), |(m, y, x)| count(m, y, x, 16));
    let write = |dtype: &str, bytes: &dyn Fn(f32) -> Vec<u8>| {
        write(&path, 9, 16, 30.0, Packing::Plain);
        // The same members, but for the patterns.
        let mut old = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let other = folder.path().join("other.npz");
        let mut file = zip::ZipWriter::new(File::create(&other).unwrap());
        for name in ["probeGuess", "xcoords", "ycoords"] {
            file.raw_copy_file(old.by_name(&format!("{name}.npy")).unwrap()).unwrap();
        }
        let plain = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        file.start_file("diffraction.npy", plain).unwrap();
        let header =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': (9, 16, 16), }}\n");
        file.write_all(b"\x93NUMPY\x01\x00").unwrap();
        file.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        counts.iter().for_each(|&n| file.write_all(&bytes(n)).unwrap());
        file.finish().unwrap();
        other
    };
    let other = write(">u2", &|n| (n as u16).to_be_bytes().to_vec());
    assert_same("counts, big-endian", &both(&other, LoadOptions::default()));
    let other = write("<f8", &|n| (f64::from(n).sqrt() * 0.01).to_le_bytes().to_vec());
    assert_same("normalised", &both(&other, LoadOptions::default()));
}

#[test]
fn what_is_wrong_with_patterns_is_said_of_those_in_a_file_too() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let mut patterns = Array3::from_elem((6, 16, 16), 0.5f32);
    patterns[[2, 3, 4]] = f32::NAN;
    patterns[[5, 1, 1]] = -1.0;
    let mut file = NpzWriter::create(&path).unwrap();
    file.f32("diffraction", &patterns).unwrap();
    file.c64("probeGuess", &probe(16)).unwrap();
    file.f64("xcoords", &Array1::from_shape_fn(6, |m| 20.0 + m as f64)).unwrap();
    file.f64("ycoords", &Array1::from_elem(6, 20.0)).unwrap();
    file.finish().unwrap();
    let said = |room| load(&path, &LoadOptions { room, ..LoadOptions::default() }).unwrap_err();
    let room = Room { bytes: 0, scratch: folder.path().into() };
    let error = said(Some(room.clone())).to_string();
    assert!(error.contains("[2, 3, 4]") && error.contains("[5, 1, 1]"), "{error}");
    assert_eq!(error, said(None).to_string());
    // No place for what has to be unpacked.
    let nowhere = Room { scratch: folder.path().join("nowhere"), ..room };
    let error = said(Some(nowhere)).to_string();
    assert!(error.contains("nowhere") && error.contains("--scratch-dir"), "{error}");
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_and_names_the_pattern() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    write(&path, 40, 16, 30.0, Packing::Plain);
    let [_, scan] = both(&path, LoadOptions::default());
    File::options().write(true).open(&path).unwrap().set_len(20 * 16 * 16 * 4).unwrap();
    assert!(scan.amplitude.pattern(5).is_ok());
    let error = scan.amplitude.pattern(30).unwrap_err().to_string();
    assert!(error.contains("scan.npz") && error.contains("pattern 30"), "{error}");
    let mut ahead = Ahead::new(Stacks::new(vec![scan.amplitude.clone()]));
    assert!(ahead.take(&[0, 1], Some(&[2, 30])).is_ok());
    assert!(ahead.take(&[2, 30], None).is_err());
    // An error is no end: neither of what comes after it, nor of what nobody wants any more.
    assert!(ahead.take(&[3], Some(&[31])).is_ok());
    assert!(ahead.take(&[4], None).is_ok());
}

#[test]
fn patterns_are_read_ahead_in_the_order_in_which_they_are_wanted() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    write(&path, 40, 16, 30.0, Packing::Plain);
    let [held, filed] = both(&path, LoadOptions::default());
    // Of two scans, one in memory.
    let mut ahead = Ahead::new(Stacks::new(vec![held.amplitude.clone(), filed.amplitude]));
    let patterns = held.amplitude.held();
    let want = |indices: &[usize]| -> Vec<f32> {
        let pixels = indices.iter().flat_map(|&i| patterns.slice(s![i % 40, .., ..]).to_owned());
        pixels.collect()
    };
    let batches: [&[usize]; 4] = [&[3, 50, 7], &[79, 0], &[41, 41], &[5]];
    for pair in batches.windows(2) {
        assert!(ahead.take(pair[0], Some(pair[1])).unwrap() == want(pair[0]));
    }
    // Another batch than the one that was begun.
    assert!(ahead.take(&[78, 2], None).unwrap() == want(&[78, 2]));
}

/// What a training of these scans leaves.
fn trained(scans: Vec<Scan>, folder: &Path, flags: &str) -> Checkpoint {
    let line = format!(
        "ptycho-gpu train --train-data-file S.npz --output-dir {} --n-filters-scale 1 --batch-size 2 \
         --n-images 6 --max-epochs 2 {flags}",
        folder.display()
    );
    let Job::Train(args) = <Cli as clap::Parser>::parse_from(line.split_whitespace()).command
    else {
        panic!("{line}")
    };
    let facts = DatasetFacts { n: 64, nphotons: None, labels: false };
    let resolved = config::resolve(&args, &facts).unwrap();
    let material =
        Material { train: scans, test: None, supply: None, made_labels: false, made_probe: false };
    fs::create_dir_all(folder).unwrap();
    let mut trainer = Trainer::new(material, &resolved, &Chosen::Cpu).unwrap();
    trainer.run(&folder.join("history.csv")).unwrap();
    Checkpoint::load(folder.join("checkpoints/last.safetensors")).unwrap()
}

#[test]
fn a_training_from_disk_has_the_weights_of_one_from_memory() {
    let folder = tempdir().unwrap();
    let [one, two] = ["one.npz", "two.npz"].map(|name| folder.path().join(name));
    write(&one, 17, 64, 20.0, Packing::Plain);
    write(&two, 20, 64, 20.0, Packing::Packed);
    let [held, filed] = both(&one, LoadOptions::default());
    let [other, other_filed] = both(&two, LoadOptions::default());
    let run =
        |name: &str, scans: Vec<Scan>, flags| trained(scans, &folder.path().join(name), flags);
    let flags = "--validation-split 0.25 --gridsize 2";
    let memory = run("memory", vec![held, other.clone()], flags);
    let disk = run("disk", vec![filed.clone(), other_filed], flags);
    assert!(memory.tensors == disk.tensors);
    let mixed = run("mixed", vec![filed, other], flags);
    assert!(memory.tensors == mixed.tensors);
    let rows = |name: &str| {
        let text = fs::read_to_string(folder.path().join(name).join("history.csv")).unwrap();
        // All but the last two columns, which are times.
        text.lines().map(|line| line.rsplitn(3, ',').last().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rows("memory"), rows("disk"));
}

/// A limit for a scan ten times as large.
const LIMIT: &str = "64MB";
const LIMIT_BYTES: u64 = 64_000_000;
const PATTERNS: usize = 39_100;

/// Runs the program, which must succeed, and gives what it said.
fn run(arguments: &[&str]) -> String {
    let output = program().args(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

fn record(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("run.json")).unwrap()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_scan_ten_times_the_limit_trains_and_infers() {
    let folder: TempDir = tempdir().unwrap();
    let [scan, net, bands, whole] =
        ["scan.npz", "net", "bands", "whole"].map(|name| folder.path().join(name));
    // The canvas of the patterns that are used does not fit either.
    write(&scan, PATTERNS, 64, 1200.0, Packing::Plain);
    assert!(fs::metadata(&scan).unwrap().len() > 10 * LIMIT_BYTES);
    let [scan, net_dir, bands_dir, whole_dir] =
        [&scan, &net, &bands, &whole].map(|path| path.to_str().unwrap());
    let said = run(&[
        "train",
        "--train-data-file",
        scan,
        "--output-dir",
        net_dir,
        "--n-filters-scale",
        "1",
        "--batch-size",
        "1",
        "--n-images",
        "6",
        "--max-epochs",
        "1",
        "--memory-limit",
        LIMIT,
    ]);
    assert!(said.contains("read by batches from the file of the scan"), "{said}");
    let infer = |out: &str, more: &[&str]| {
        let common = ["infer", "--model-path", net_dir, "--test-data", scan, "--output-dir", out];
        let few = ["--batch-size", "1", "--n-images", "48"];
        run(&[&common[..], &few, more].concat())
    };
    let said = infer(bands_dir, &["--memory-limit", LIMIT]);
    assert!(said.contains("stitched by bands"), "{said}");
    for folder in [&net, &bands] {
        let peak = record(folder)["peak_memory_bytes"].as_u64().unwrap();
        assert!(peak <= LIMIT_BYTES, "{}: {peak} bytes", folder.display());
        assert!(names(folder).iter().all(|name| !name.contains("scratch")));
    }
    let said = infer(whole_dir, &["--memory-limit", "8GB"]);
    assert!(!said.contains("by batches") && !said.contains("by bands"), "{said}");
    let arrays = |folder: &PathBuf| {
        let mut npz = Npz::open(folder.join("reconstruction.npz")).unwrap();
        let object = npz.c64("object").unwrap();
        let real = ["weights", "consistency", "amplitude", "phase", "frame_residual"];
        (object, real.map(|name| npz.f32(name).unwrap()), npz.f64("positions").unwrap())
    };
    assert!(arrays(&bands) == arrays(&whole));
    let (bands, whole) = (record(&bands), record(&whole));
    assert_eq!(bands["results"], whole["results"], "to the last digit");
}

#[test]
fn what_cannot_be_done_within_the_limit_is_refused_with_figures() {
    let folder = tempdir().unwrap();
    let scan = folder.path().join("scan.npz");
    write(&scan, 40, 64, 30.0, Packing::Plain);
    let out = folder.path().join("out");
    let mut command = program();
    command.args(["train", "--n-images=2", "--memory-limit=30MB", "--train-data-file"]).arg(&scan);
    let output = command.arg("--output-dir").arg(&out).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["buffers ", "checkpoints ", "30 MB are allowed by --memory-limit", "--batch-size"]
    {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert!(!out.exists());
}

#[test]
fn limits_are_written_as_people_write_them() {
    let parse = |text: &str| text.parse::<Limit>();
    assert_eq!(parse("8e9"), Ok(Limit::Bytes(8_000_000_000)));
    assert_eq!(parse("512 MB"), Ok(Limit::Bytes(512_000_000)));
    assert_eq!(parse("1.5GiB"), Ok(Limit::Bytes(3 << 29)));
    assert_eq!(parse("50%"), Ok(Limit::Percent(50.0)));
    for wrong in ["", "much", "-1", "0", "101%", "0%", "8 apples", "1e99GB", "NaN"] {
        assert!(parse(wrong).unwrap_err().contains("amount of memory"), "{wrong}");
    }
}

/// A machine with 16 GiB, 8 of them free, whose control groups have these files.
fn machine(groups: &str, files: &[(&str, &str)]) -> TempDir {
    let root = tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/meminfo", "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n");
    write("proc/self/cgroup", groups);
    files.iter().for_each(|(name, text)| write(name, text));
    root
}

#[test]
fn the_memory_is_that_of_the_machine_or_of_its_control_group() {
    let gib = f64::from(1u32 << 30);
    let free = |root: &TempDir| Budget::on(root.path(), None).bytes as f64 / gib;
    let half =
        |root: &TempDir| Budget::on(root.path(), Some(Limit::Percent(50.0))).bytes as f64 / gib;
    let plain = machine("", &[]);
    assert!((free(&plain) - 0.9 * 8.0).abs() < 1e-6 && half(&plain) == 8.0);
    let second = machine(
        "0::/jobs/one\n",
        &[
            ("sys/fs/cgroup/jobs/one/memory.max", "max\n"),
            ("sys/fs/cgroup/jobs/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/jobs/memory.current", "3221225472\n"),
            ("sys/fs/cgroup/jobs/memory.stat", "anon 5\ninactive_file 1073741824\n"),
        ],
    );
    assert!((free(&second) - 0.9 * 2.0).abs() < 1e-6 && half(&second) == 2.0);
    let first = machine(
        "5:cpu,memory:/job\n",
        &[
            ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1073741824\n"),
        ],
    );
    assert!((free(&first) - 0.9).abs() < 1e-6);
    // In a container, whose path is that outside of it.
    let inner = machine("0::/../x\n", &[("sys/fs/cgroup/memory.max", "1073741824\n")]);
    assert!((free(&inner) - 0.9).abs() < 1e-6);
    // A limit in bytes needs no machine.
    let nothing = tempdir().unwrap();
    assert_eq!(Budget::on(nothing.path(), Some(Limit::Bytes(7))).bytes, 7);
}

#[test]
fn what_a_budget_does_not_hold_is_listed() {
    let budget = Budget::new(Some(Limit::Bytes(10_000_000)));
    assert!(budget.check(&[("a", 4_000_000), ("b", 6_000_000)], "less").is_ok());
    let error = budget.check(&[("a", 4_000_000), ("b", 6_000_001)], "take less").unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("11 MB of memory (a 4 MB, b 7 MB), but 10 MB")
            && error.ends_with("take less")
    );
}

#[test]
fn a_stack_in_memory_is_cloned_without_a_copy() {
    let stack = Stack::from(Array3::zeros((2, 4, 4)));
    let copy = stack.clone();
    assert!(std::ptr::eq(stack.held(), copy.held()));
}

#[test]
fn a_plan_says_where_the_patterns_would_be() {
    let plan = |limit: &str, more: &[&str]| {
        let small = ["plan", "--n-filters-scale=1", "--batch-size=1", "--frames=39100"];
        let output = program().args(small).arg(limit).args(more).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), text.concat())
    };
    let (code, text) = plan("--memory-limit=64MB", &[]);
    assert!(code == Some(0) && text.contains("the patterns are on disk"), "{text}");
    // A training leaves room for a copy as it loads them: what would just fit is read from disk too.
    let (_, text) = plan("--memory-limit=3GB", &[]);
    assert!(text.contains("the patterns are on disk"), "{text}");
    let (_, text) = plan("--memory-limit=5GB", &[]);
    assert!(text.contains("the patterns are in memory"), "{text}");
    let (_, text) = plan("--memory-limit=64GB", &["--json"]);
    let line: Value = serde_json::from_str(&text).unwrap();
    let machine = &line["machine"];
    assert_eq!(machine["patterns"], "in memory");
    // Twice in memory for a moment, and once in the buffers; the others are two of a batch.
    let patterns = 3 * 39_100 * 64 * 64 * 4;
    let [held, filed] =
        ["in_memory_bytes", "from_disk_bytes"].map(|n| machine[n].as_u64().unwrap());
    assert!((held - filed).abs_diff(patterns) < 1_000_000, "{machine}");
    let (code, text) = plan("--memory-limit=30MB", &[]);
    assert!(code == Some(1) && text.contains("30 MB are allowed"), "{text}");
}

#[test]
fn the_benchmark_of_scale_reads_from_disk_and_keeps_to_its_limit() {
    let folder = tempdir().unwrap();
    let mut command = program();
    command.args(["bench", "scale", "--patterns=1e2,3e3", "--steps=1", "--batch=2", "--json"]);
    command.args(["--device=cpu", "--memory-limit=250MB", "--scratch-dir"]).arg(folder.path());
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, (patterns, in_memory)) in lines.iter().zip([(100, true), (3000, false)]) {
        assert!(line["patterns"] == patterns && line["in_memory"] == in_memory, "{line}");
        for rate in ["load_per_s", "train_per_s", "infer_per_s", "stitch_per_s"] {
            assert!(line[rate].as_f64().unwrap() > 0.0, "{line}");
        }
        assert!(line["peak_mb"].as_f64().unwrap() < 250.0, "{line}");
    }
    assert_eq!(names(folder.path()), [""; 0], "the scans go again");
}

#[test]
fn patterns_that_have_to_be_put_in_order_need_memory() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let write = |key: &str, patterns: &Array3<f32>, more: Option<&Array3<f32>>| {
        let mut file = NpzWriter::create(&path).unwrap();
        file.f32(key, patterns).unwrap();
        more.iter().for_each(|more| file.f32("diff3d", *more).unwrap());
        file.c64("probeGuess", &probe(16)).unwrap();
        file.f64("xcoords", &Array1::from_shape_fn(6, |m| 20.0 + m as f64)).unwrap();
        file.f64("ycoords", &Array1::from_elem(6, 20.0)).unwrap();
        file.finish().unwrap();
    };
    let with = |bytes: u64| {
        let room = Some(Room { bytes, scratch: folder.path().into() });
        load(&path, &LoadOptions { room, ..LoadOptions::default() })
    };
    let first = Array3::from_shape_fn((6, 16, 16), |(m, y, x)| count(m, y, x, 16));
    let last = first.clone().permuted_axes([1, 2, 0]).as_standard_layout().into_owned();
    write("diff3d", &last, None);
    let error = with(6000).unwrap_err().to_string();
    assert!(error.contains("last axis") && error.contains("--memory-limit"), "{error}");
    // Just enough.
    assert!(!with(6 * 16 * 16 * 4).unwrap().amplitude.is_filed());
    // Two arrays that differ are still found out where there is room.
    write("diffraction", &first, Some(&(&first + 1.0)));
    assert!(with(1 << 20).unwrap_err().to_string().contains("differ"));
}
