//! A scan goes from every format into every other and comes back with the same bits; other programs
//! find in the files what they look for.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ndarray::{Array2, Array3};
use num_complex::Complex32;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use ptycho_gpu::data::hdf5::Hdf5;
use ptycho_gpu::data::writers::{self, Target};
use ptycho_gpu::data::{
    Dose, DoseOrigin, Instrument, LoadOptions, Position, Reading, Rejected, Scan, Source, load,
    save_scan,
};

#[path = "support/python.rs"]
mod python;

const N: usize = 16;
const COUNT: usize = 7;

const TARGETS: [(&str, Target); 7] = [
    ("scan.npz", Target::Npz),
    ("scan.h5", Target::Ptychodus),
    ("scan_para.hdf5", Target::Ptychovit),
    ("scan.cxi", Target::Cxi),
    ("scan.ptyd", Target::Ptyd),
    ("fold_para.hdf5", Target::FoldSlice),
    ("scan_parts", Target::Folder),
];

/// A scan with all that there can be, positions that no power of two divides, and of counts, if so.
fn scan(counts: bool) -> Scan {
    let amplitude = Array3::from_shape_fn((COUNT, N, N), |(m, y, x)| {
        let count = ((m * 31 + y * 17 + x * 13) % 97) as f32 * if y == 8 { 900.0 } else { 1.0 };
        if counts { count.sqrt() } else { (count + 0.37).sqrt() / 211.0 }
    });
    let mut mask = Array2::ones((N, N));
    (mask[[2, 3]], mask[[0, 0]]) = (0.0, 0.0);
    let mut amplitude = amplitude;
    for mut pattern in amplitude.outer_iter_mut() {
        pattern.zip_mut_with(&mask, |a, &w: &f32| *a *= w);
    }
    let wave = |a: f32, b: f32| Complex32::from_polar(0.3 + a.sin().abs(), b);
    let place = |m: usize| Position { x: 11.1 + 2.3 * m as f64, y: 9.7 + 1.7 * (m % 3) as f64 };
    let origin = if counts { DoseOrigin::Counts } else { DoseOrigin::Metadata };
    Scan {
        amplitude: amplitude.into(),
        dose: Dose { kappa: if counts { 1.0 } else { 123.456_789_012_345_6 }, origin },
        probe: Array3::from_shape_fn((2, N, N), |(p, y, x)| wave((p + y) as f32, x as f32 * 0.7)),
        positions: (0..COUNT).map(place).collect(),
        nominal: Some((0..COUNT).map(|m| Position { x: place(m).x + 0.1, ..place(m) }).collect()),
        mask: Some(mask),
        object: Some(Array2::from_shape_fn((41, 47), |(y, x)| wave(y as f32, x as f32 * 0.1))),
        labels: Some(Array3::from_shape_fn((COUNT, N, N), |(m, y, x)| {
            wave((m * y) as f32, x as f32)
        })),
        instrument: Instrument {
            energy_ev: Some(8765.4321),
            distance_m: Some(1.93),
            detector_pixel_m: Some([7.5e-5, 7.6e-5]),
            object_pixel_m: None,
            origin_m: Some([-1.234e-6, 5.678e-6]),
        },
        rejected: Rejected::default(),
        source: Source { path: "scan".into(), sha256: String::new() },
    }
}

/// Everything of a scan but where it came from.
fn same(got: &Scan, want: &Scan, what: &str) {
    assert_eq!(got.amplitude.held(), want.amplitude.held(), "{what}: amplitude");
    assert_eq!(got.dose.kappa.to_bits(), want.dose.kappa.to_bits(), "{what}: dose");
    assert_eq!(got.probe, want.probe, "{what}: probe");
    assert_eq!(got.positions, want.positions, "{what}: positions");
    assert_eq!(got.nominal, want.nominal, "{what}: commanded positions");
    assert_eq!(got.mask, want.mask, "{what}: mask");
    assert_eq!(got.object, want.object, "{what}: object");
    assert_eq!(got.labels, want.labels, "{what}: true patches");
    assert_eq!(got.instrument, want.instrument, "{what}: instrument");
}

fn read(path: &Path) -> Scan {
    load(path, &LoadOptions { without_probe: true, ..LoadOptions::default() }).unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes of all that a writer made.
fn written(path: &Path, target: Target) -> Vec<u8> {
    let files = writers::files(path, target).unwrap();
    let inner = |path: PathBuf| match path.is_dir() {
        true => names(&path).iter().map(|name| path.join(name)).collect(),
        false => vec![path],
    };
    files.into_iter().flat_map(inner).flat_map(|path| bytes(&path)).collect()
}

#[test]
fn every_pair_of_formats_gives_back_the_very_scan() {
    for counts in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let want = scan(counts);
        let first = folder.path().join("first.npz");
        save_scan(&first, &want).unwrap();
        same(&read(&first), &want, "npz");
        for (name, target) in TARGETS {
            let one = folder.path().join(format!("one_{name}"));
            writers::write(&one, target, &read(&first), &serde_json::json!({})).unwrap();
            let there = read(&one);
            same(&there, &want, &format!("npz -> {name}"));
            for (other, target) in TARGETS {
                let two = folder.path().join(format!("two_{other}"));
                writers::write(&two, target, &there, &serde_json::json!({})).unwrap();
                same(&read(&two), &want, &format!("{name} -> {other}"));
            }
        }
    }
}

#[test]
fn intensities_that_are_no_whole_numbers_keep_their_photons() {
    let folder = tempfile::tempdir().unwrap();
    let counts = scan(true);
    let want = Scan { amplitude: counts.amplitude.held().mapv(|a| 0.7 * a).into(), ..counts };
    for (name, target) in TARGETS {
        let path = folder.path().join(name);
        writers::write(&path, target, &want, &serde_json::json!({})).unwrap();
        same(&read(&path), &want, name);
    }
}

#[test]
fn positions_in_metres_follow_a_crop_whatever_the_side_of_the_probe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.cxi");
    let narrow = Scan {
        probe: Array3::ones((1, N / 2, N / 2)),
        labels: None,
        nominal: None,
        object: None,
        ..scan(true)
    };
    writers::write(&path, Target::Cxi, &narrow, &serde_json::json!({})).unwrap();
    let reading = Reading { crop: Some(N / 2), ..Reading::default() };
    let cut = load(&path, &LoadOptions { reading, ..LoadOptions::default() }).unwrap();
    assert_eq!(cut.probe, narrow.probe);
    let metres =
        |scan: &Scan, i: usize| scan.instrument.metres(scan.side(), scan.positions[i]).unwrap();
    for i in 0..COUNT {
        assert_eq!(2.0 * cut.positions[i].x, narrow.positions[i].x);
        let (here, there) = (metres(&cut, i), metres(&narrow, i));
        assert!((0..2).all(|k| (here[k] - there[k]).abs() < 1e-15), "{i}: {here:?} {there:?}");
    }
}

#[test]
fn a_scan_without_probe_object_and_mask_does_not_get_any() {
    let folder = tempfile::tempdir().unwrap();
    let bare = Scan {
        probe: Array3::zeros((0, N, N)),
        object: None,
        mask: None,
        labels: None,
        nominal: None,
        ..scan(true)
    };
    for (name, target) in TARGETS {
        let path = folder.path().join(name);
        writers::write(&path, target, &bare, &serde_json::json!({})).unwrap();
        let got = read(&path);
        assert!(got.probe.is_empty() && got.object.is_none() && got.mask.is_none(), "{name}");
        same(&got, &bare, name);
    }
}

#[test]
fn the_same_scan_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, target) in TARGETS {
        let [one, two] = ["one", "two"].map(|part| folder.path().join(format!("{part}_{name}")));
        for path in [&one, &two] {
            writers::write(path, target, &scan(true), &serde_json::json!({})).unwrap();
        }
        assert!(written(&one, target) == written(&two, target), "{name}");
    }
    let mut left = names(folder.path());
    left.retain(|name| name.starts_with('.'));
    assert!(left.is_empty(), "{left:?}");
}

fn part(patterns: usize) -> NonZeroUsize {
    NonZeroUsize::new(patterns).unwrap()
}

#[test]
fn parts_of_any_size_are_the_scan_and_scans_themselves() {
    let holder = tempfile::tempdir().unwrap();
    let folder = holder.path().join("parts");
    for (want, size) in [true, false].into_iter().flat_map(|c| [1, 3, 7, 50].map(|n| (scan(c), n)))
    {
        writers::write_folder(&folder, &want, part(size)).unwrap();
        assert_eq!(names(&folder).len(), COUNT.div_ceil(size));
        same(&read(&folder), &want, &format!("{size} to a file"));
    }
    let want = scan(true);
    writers::write_folder(&folder, &want, part(3)).unwrap();
    assert_eq!(names(&folder), ["part_0000.npz", "part_0001.npz", "part_0002.npz"]);
    let second = Scan { object: None, ..want.subset(&[3, 4, 5]).unwrap() };
    same(&read(&folder.join("part_0001.npz")), &second, "one part");
}

#[test]
fn a_folder_with_other_things_in_it_stays_as_it_is() {
    let holder = tempfile::tempdir().unwrap();
    let folder = holder.path().join("parts");
    let (whole, half) = (scan(true), scan(true).subset(&[0, 1, 2]).unwrap());
    writers::write_folder(&folder, &whole, part(1)).unwrap();
    // Fewer parts than before: none of the old ones is left.
    writers::write_folder(&folder, &half, part(1)).unwrap();
    same(&read(&folder), &half, "replaced");
    for other in ["notes.txt", "scan.npz", "part_x.npz", ".hidden"] {
        std::fs::write(folder.join(other), "mine").unwrap();
        let refused = writers::write_folder(&folder, &whole, part(1)).unwrap_err().to_string();
        assert!(refused.contains(other) && refused.contains("would be gone"), "{refused}");
        assert_eq!(bytes(&folder.join(other)), b"mine");
        std::fs::remove_file(folder.join(other)).unwrap();
    }
    same(&read(&folder), &half, "kept");
    let file = holder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let refused = writers::write_folder(&file, &whole, part(1)).unwrap_err().to_string();
    assert!(refused.contains("is a file"), "{refused}");
    assert_eq!(names(holder.path()), ["file", "parts"]);
}

#[test]
fn nothing_is_left_of_a_folder_that_cannot_be_written() {
    let holder = tempfile::tempdir().unwrap();
    let folder = holder.path().join("parts");
    // A folder of that name cannot be made in one that is not there.
    assert!(writers::write_folder(&folder.join("inner"), &scan(true), part(2)).is_err());
    assert!(names(holder.path()).is_empty());
}

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").unwrap()
}

fn saved(folder: &Path, scan: &Scan) -> PathBuf {
    let path = folder.join("scan.npz");
    save_scan(&path, scan).unwrap();
    path
}

#[test]
fn convert_says_what_other_programs_will_not_find() {
    let folder = tempfile::tempdir().unwrap();
    let source = saved(folder.path(), &scan(false));
    let target = folder.path().join("out.cxi");
    program()
        .arg("convert")
        .args([&source, &target])
        .arg("--json")
        .assert()
        .success()
        .stderr(contains("true patches").and(contains("are no counts")))
        .stdout(contains("\"patterns\":7"));
    // A file that is there stays, unless it is said.
    let before = bytes(&target);
    program()
        .arg("convert")
        .args([&source, &target])
        .assert()
        .code(1)
        .stderr(contains("--overwrite"));
    assert!(bytes(&target) == before);
    program().arg("convert").args([&source, &target]).arg("--overwrite").assert().success();
}

#[test]
fn convert_writes_the_pair_of_fold_slice_where_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let source = saved(folder.path(), &scan(true));
    let target = folder.path().join("out.h5");
    let convert = |more: &[&str]| {
        let mut command = program();
        command.arg("convert").args([&source, &target]).args(["--to", "fold-slice"]).args(more);
        command.assert()
    };
    convert(&["--json"])
        .success()
        .stderr(contains("mask, object, probe").and(contains("no place for their height")))
        .stdout(contains("out_para.h5").and(contains("out_dp.h5")));
    let pair = ["out_para.h5", "out_dp.h5"].map(|name| folder.path().join(name));
    // Either of the two is in the way.
    for (kept, other) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
        convert(&["--overwrite"]).success();
        std::fs::remove_file(other).unwrap();
        let before = bytes(kept);
        convert(&[]).code(1).stderr(contains("--overwrite"));
        assert!(bytes(kept) == before && !other.exists(), "{}", kept.display());
    }
    convert(&["--part-size", "3"]).code(1).stderr(contains("--to folder"));
}

#[test]
fn the_pair_of_fold_slice_has_metres_the_pixel_and_the_wavelength() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan_para.hdf5");
    let want = Scan { instrument: square(), ..scan(true) };
    writers::write(&path, Target::FoldSlice, &want, &serde_json::json!({})).unwrap();
    let file = Hdf5::open(&path).unwrap();
    let pixel = want.instrument.pixel_m(N).unwrap()[1];
    assert_eq!(file.number("dx").unwrap(), pixel);
    assert_eq!(file.number("lambda").unwrap(), want.instrument.wavelength_m().unwrap());
    for (name, axis) in [("ppX", 1), ("ppY", 0)] {
        let got = file.f64(name).unwrap();
        for (got, place) in got.iter().zip(&want.positions) {
            assert_eq!(*got, -want.instrument.metres(N, *place).unwrap()[axis], "{name}");
        }
    }
}

/// An instrument whose pixels are as high as they are wide.
fn square() -> Instrument {
    Instrument { detector_pixel_m: Some([7.5e-5; 2]), ..scan(true).instrument }
}

#[test]
fn convert_writes_a_folder_where_the_name_asks_for_one() {
    let holder = tempfile::tempdir().unwrap();
    let source = saved(holder.path(), &scan(true));
    let target = format!("{}/", holder.path().join("parts").display());
    let convert = |more: &[&str]| {
        let mut command = program();
        command.arg("convert").arg(&source).arg(&target).args(more);
        command.assert()
    };
    convert(&["--part-size", "0"]).code(2);
    convert(&["--part-size", "3"]).success();
    assert_eq!(names(Path::new(&target)).len(), 3);
    same(&read(Path::new(&target)), &scan(true), "folder");
    convert(&[]).code(1).stderr(contains("--overwrite"));
    assert_eq!(names(Path::new(&target)).len(), 3);
    convert(&["--overwrite"]).success();
    assert_eq!(names(Path::new(&target)), ["part_0000.npz"]);
    // An empty folder is in nobody's way, and tells what is wanted without the stroke.
    let empty = holder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    program().arg("convert").args([&source, &empty]).assert().success();
    same(&read(&empty), &scan(true), "empty folder");
    assert_eq!(names(holder.path()), ["empty", "parts", "scan.npz"]);
}

#[test]
fn a_format_with_metres_asks_for_the_pixel_that_the_scan_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let unknown = Scan { instrument: Instrument::default(), ..scan(true) };
    let source = saved(folder.path(), &unknown);
    for (name, flag) in
        [("out.h5", "--object-pixel"), ("out.cxi", "--energy"), ("o.ptyd", "--dist")]
    {
        let target = folder.path().join(name);
        let mut command = program();
        command.arg("convert").args([&source, &target]);
        command.assert().code(1).stderr(contains(flag));
        assert!(!target.exists(), "{name} was left behind");
    }
    let target = folder.path().join("out.h5");
    let mut command = program();
    command.arg("convert").args([&source, &target]).args(["--object-pixel", "1e-8"]);
    command.assert().success();
    assert_eq!(read(&target).instrument.pixel_m(N), Some([1e-8; 2]));
    let target = folder.path().join("out.xyz");
    program()
        .arg("convert")
        .args([&source, &target])
        .assert()
        .code(1)
        .stderr(contains("names no format"));
}

#[test]
fn h5py_and_the_rules_of_other_readers_find_everything_at_its_place() {
    let Some(python) = python::with_h5py() else { return };
    let folder = tempfile::tempdir().unwrap();
    let scan = scan(true);
    saved(folder.path(), &scan);
    for (name, target) in TARGETS.into_iter().skip(1) {
        writers::write(&folder.path().join(name), target, &scan, &serde_json::json!({"a": 1}))
            .unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/check.py");
    let done = std::process::Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
