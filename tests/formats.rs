//! Scans in the layouts of other programs, written by h5py, are the scan that they were made of; files
//! that cannot be used get one error.
//!
//! Needs a Python with h5py and hdf5plugin: `PTYCHO_PYTHON`, else `python3`. With
//! `PTYCHO_REQUIRE_H5PY=1` its absence is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use ndarray::{Array2, Array3, Axis};
use num_complex::Complex32;
use predicates::str::contains;
use ptycho_gpu::data::frames::Center;
use ptycho_gpu::data::reading::{Format, PositionUnit};
use ptycho_gpu::data::{
    LoadOptions, Patterns, Position, Reading, Scan, ScanFile, load, survey, write_scan,
};
use tempfile::TempDir;

#[path = "support/python.rs"]
mod python;

/// Side of the patterns.
const N: usize = 16;
const COUNT: usize = 12;

/// Files of every layout, and the scan that they hold.
struct Files {
    folder: TempDir,
    scan: Scan,
}

fn files() -> Option<&'static Files> {
    static FILES: LazyLock<Option<Files>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source.npz");
        original(&source);
        let python = python::with_h5py()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/write.py");
        let done = Command::new(python).arg(script).arg(&source).arg(folder.path()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let scan = load(&source, &LoadOptions::default()).unwrap();
        Some(Files { folder, scan })
    });
    FILES.as_ref()
}

/// A scan of whole counts with a mask, whose positions lie between pixels.
fn original(path: &Path) {
    let spot = |y: usize, x: usize| {
        let (y, x) = (y as f64 - 8.0, x as f64 - 8.0);
        200.0 * (-(x * x + y * y) / 20.0).exp()
    };
    let counts = Array3::from_shape_fn((COUNT, N, N), |(m, y, x)| {
        (spot(y, x) + ((3 * m + 5 * y + 7 * x) % 11) as f64) as u16
    });
    let probe = Array3::from_shape_fn((1, N, N), |(_, y, x)| {
        Complex32::from_polar(spot(y, x) as f32 / 200.0, 0.1 * (y + 2 * x) as f32)
    });
    let object = Array2::from_shape_fn((40, 44), |(y, x)| {
        Complex32::from_polar(1.0, 0.01 * (y * x % 50) as f32)
    });
    let position = |m: usize| Position {
        x: 12.0 + 2.3 * (m % 4) as f64 + 0.1 * m as f64,
        y: 11.0 + 3.1 * (m / 4) as f64 + 0.07 * m as f64,
    };
    let mut mask = Array2::ones((N, N));
    (mask[[3, 4]], mask[[15, 0]]) = (0.0, 0.0);
    let positions: Vec<Position> = (0..COUNT).map(position).collect();
    let file = ScanFile {
        patterns: Patterns::Counts16(counts.view()),
        probe: probe.view(),
        positions: &positions,
        nominal: None,
        mask: Some(mask.view()),
        object: Some(object.view()),
        labels: None,
        metadata: None,
    };
    write_scan(path, &file).unwrap();
}

fn read(name: &str) -> Option<(Scan, &'static Scan)> {
    let files = files()?;
    Some((load(&files.folder.path().join(name), &LoadOptions::default()).unwrap(), &files.scan))
}

/// Amplitudes of the original without its mask: most layouts have none.
fn unmasked(scan: &Scan, got: &Scan) {
    let lit = scan.mask.as_ref().unwrap();
    assert_eq!(got.amplitude.held().dim(), scan.amplitude.held().dim());
    for (got, want) in
        got.amplitude.held().axis_iter(Axis(0)).zip(scan.amplitude.held().axis_iter(Axis(0)))
    {
        for ((at, &got), &want) in got.indexed_iter().zip(&want) {
            assert!(lit[at] == 0.0 || got == want, "{at:?}: {got} is not {want}");
        }
    }
}

/// Positions agree to rounding, but for a common shift where the layout knows no object.
fn placed(got: &[Position], want: &[Position], shifted: bool) {
    assert_eq!(got.len(), want.len());
    let by = match shifted {
        true => (got[0].x - want[0].x, got[0].y - want[0].y),
        false => (0.0, 0.0),
    };
    for (got, want) in got.iter().zip(want) {
        let off = (got.x - want.x - by.0).hypot(got.y - want.y - by.1);
        assert!(off < 1e-6, "{got:?} is not {want:?} + {by:?}");
    }
}

/// The same with options; the layout has no probe.
fn read_with(name: &str, reading: Reading) -> Option<(Scan, &'static Scan)> {
    let files = files()?;
    let options = LoadOptions { reading, without_probe: true, ..LoadOptions::default() };
    Some((load(&files.folder.path().join(name), &options).unwrap(), &files.scan))
}

#[test]
fn the_master_file_of_an_eiger_is_read_with_positions_of_their_own_and_cut_to_a_square() {
    let Some(files) = files() else { return };
    let path = files.folder.path().join("eiger/scan_master.h5");
    let message = load(&path, &LoadOptions { without_probe: true, ..LoadOptions::default() })
        .unwrap_err()
        .to_string();
    assert!(message.contains("--positions"), "{message}");
    let reading = Reading {
        positions: Some(files.folder.path().join("eiger/positions.txt")),
        position_unit: Some(PositionUnit::Um),
        center: Some(Center::At { row: 1 + N / 2, column: 6 + N / 2 }),
        crop: Some(N),
        ..Reading::default()
    };
    let (got, want) = read_with("eiger/scan_master.h5", reading).unwrap();
    assert_eq!((&got.amplitude.held(), &got.mask), (&want.amplitude.held(), &want.mask));
    assert_eq!(got.dose, want.dose);
    // The pixel of the object is that of the cut, not that of the wide frame.
    placed(&got.positions, &want.positions, true);
    let pixel = got.instrument.pixel_m(N).unwrap()[0];
    let metre = 1.239_841_984_332_002_6e-6 / 8000.0 * 2.0 / (N as f64 * 75e-6);
    assert!((pixel / metre - 1.0).abs() < 1e-12, "{pixel}");
}

#[test]
fn the_pair_of_fold_slice_is_read_from_either_file_with_the_pixel_that_is_given() {
    let metre = 1.239_841_984_332_002_6e-6 / 8000.0 * 2.0 / (N as f64 * 75e-6);
    for name in ["fold_para.hdf5", "fold_dp.hdf5"] {
        let given = Reading { object_pixel: Some(metre), ..Reading::default() };
        let Some((got, want)) = read_with(name, given) else { return };
        unmasked(want, &got);
        placed(&got.positions, &want.positions, true);
        let path = files().unwrap().folder.path().join(name);
        let message = load(&path, &LoadOptions::default()).unwrap_err().to_string();
        assert!(message.contains("ppX") && message.contains("--object-pixel"), "{message}");
    }
}

#[test]
fn a_folder_is_one_scan_in_parts_and_other_scans_are_refused() {
    let Some((got, want)) = read("parts") else { return };
    assert_eq!((&got.amplitude.held(), &got.probe), (&want.amplitude.held(), &want.probe));
    assert_eq!((&got.positions, &got.mask), (&want.positions, &want.mask));
    assert_eq!(got.object, want.object);
    let path = files().unwrap().folder.path().join("others");
    let message = load(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("scan_1.npz") && message.contains("several scans"), "{message}");
}

#[test]
fn the_format_that_is_named_is_the_one_that_is_tried() {
    let Some(files) = files() else { return };
    let named = |name: &str, format| {
        let reading = Reading { format: Some(format), ..Reading::default() };
        let options = LoadOptions { reading, ..LoadOptions::default() };
        load(&files.folder.path().join(name), &options).map_err(|error| error.to_string())
    };
    assert!(named("scan.cxi", Format::Nexus).is_ok());
    let message = named("scan.cxi", Format::Ptyd).unwrap_err();
    assert!(message.contains("chunks"), "{message}");
    let message = named("source.npz", Format::Cxi).unwrap_err();
    assert!(message.contains("no HDF5 file"), "{message}");
}

#[test]
fn a_product_is_the_scan_with_its_positions_in_the_order_of_the_patterns() {
    let Some((got, want)) = read("product.h5") else { return };
    unmasked(want, &got);
    placed(&got.positions, &want.positions, false);
    assert_eq!((&got.probe, &got.object), (&want.probe, &want.object));
    assert_eq!(got.dose, want.dose);
}

#[test]
fn patterns_without_a_position_are_left_out() {
    let Some((got, want)) = read("fewer.h5") else { return };
    let part = want.subset(&[2, 5, 7, 9]).unwrap();
    unmasked(&part, &got);
    placed(&got.positions, &part.positions, false);
}

#[test]
fn either_file_of_a_pair_is_the_scan() {
    for name in ["pair_para.hdf5", "pair_dp.hdf5"] {
        let Some((got, want)) = read(name) else { return };
        placed(&got.positions, &want.positions, false);
        let half = want.amplitude.held().mapv(|a| (0.5 * (a * a).round()).sqrt());
        let lit = want.mask.as_ref().unwrap();
        for ((m, y, x), &a) in got.amplitude.held().indexed_iter() {
            assert!(lit[[y, x]] == 0.0 || (a - half[[m, y, x]]).abs() < 1e-6);
        }
        assert_eq!(got.probe, want.probe);
    }
}

#[test]
fn raw_data_have_amplitudes_pixels_and_metadata_of_their_own() {
    let Some((got, want)) = read("raw.h5") else { return };
    let lit = want.mask.as_ref().unwrap();
    for ((m, y, x), &a) in got.amplitude.held().indexed_iter() {
        assert!(lit[[y, x]] == 0.0 || (50.0 * a - want.amplitude.held()[[m, y, x]]).abs() < 1e-4);
    }
    assert!((got.mean_photons() / 12345.0 - 1.0).abs() < 1e-6, "{}", got.mean_photons());
    assert_eq!(got.positions, want.positions);
}

#[test]
fn positions_from_the_corner_of_the_object_are_recognised() {
    let Some((got, want)) = read("corner.h5") else { return };
    unmasked(want, &got);
    placed(&got.positions, &want.positions, false);
}

#[test]
fn basis_vectors_turn_the_positions() {
    let Some((got, want)) = read("turned.cxi") else { return };
    unmasked(want, &got);
    placed(&got.positions, &want.positions, true);
}

#[test]
fn all_files_of_a_scan_make_its_hash() {
    let Some(files) = files() else { return };
    let hash = |name: &str| load(&files.folder.path().join(name), &LoadOptions::default());
    let [para, dp] =
        ["pair_para.hdf5", "pair_dp.hdf5"].map(|name| hash(name).unwrap().source.sha256);
    assert_eq!(para, dp);
    let place = tempfile::tempdir().unwrap();
    for name in ["pair_para.hdf5", "pair_dp.hdf5"] {
        std::fs::copy(files.folder.path().join(name), place.path().join(name)).unwrap();
    }
    // A byte that means nothing, at the end of the patterns.
    let patterns = place.path().join("pair_dp.hdf5");
    let mut bytes = std::fs::read(&patterns).unwrap();
    bytes.push(0);
    std::fs::write(&patterns, bytes).unwrap();
    let other = load(&place.path().join("pair_para.hdf5"), &LoadOptions::default()).unwrap();
    assert_ne!(other.source.sha256, para);
}

#[test]
fn cxi_has_joules_a_mask_of_bits_and_translations_of_the_sample() {
    let Some((got, want)) = read("scan.cxi") else { return };
    assert_eq!(got.amplitude.held(), want.amplitude.held());
    assert_eq!((&got.mask, &got.probe), (&want.mask, &want.probe));
    placed(&got.positions, &want.positions, true);
}

#[test]
fn nexus_follows_links_virtual_data_sets_and_units() {
    let Some((got, want)) = read("scan.nxs") else { return };
    unmasked(want, &got);
    placed(&got.positions, &want.positions, true);
    assert_eq!(got.probe, want.probe);
}

#[test]
fn chunks_of_ptypy_are_joined() {
    let Some(files) = files() else { return };
    let options = LoadOptions { without_probe: true, ..LoadOptions::default() };
    let got = load(&files.folder.path().join("scan.ptyd"), &options).unwrap();
    assert_eq!(got.amplitude.held(), files.scan.amplitude.held());
    assert_eq!(got.mask, files.scan.mask);
    placed(&got.positions, &files.scan.positions, true);
}

#[test]
fn inspect_says_where_each_array_is_and_how_large_a_pixel_is() {
    let Some(files) = files() else { return };
    let found = survey(&files.folder.path().join("scan.nxs"), &LoadOptions::default()).unwrap();
    let patterns = found.members.iter().find(|member| member.name == "diffraction").unwrap();
    assert_eq!(patterns.at.as_deref(), Some("/entry_1/data_1/data"));
    assert_eq!((patterns.dtype.as_str(), patterns.shape.as_slice()), ("<u2", &[COUNT, N, N][..]));
    // λ z / (N Δ) = 1.5498e-10 · 2 / (16 · 75e-6) m.
    assert!(found.notes.iter().any(|note| note.contains("2.5830e-7 m")), "{:?}", found.notes);
}

#[test]
fn files_that_cannot_be_used_get_one_error() {
    let Some(files) = files() else { return };
    let bad = files.folder.path().join("bad");
    let cases: [(&str, &[&str]); 18] = [
        ("truncated.h5", &["truncated.h5"]),
        ("head.h5", &["sound HDF5"]),
        ("outside.cxi", &["../virtual.h5", "out of the folder"]),
        ("absolute.cxi", &["/etc/hostname", "out of the folder"]),
        ("dangling.cxi", &["nowhere.h5"]),
        ("circle.cxi", &["links without end"]),
        ("alone_dp.hdf5", &["`_para`"]),
        ("nothing.h5", &["`something`", "no layout"]),
        ("text.h5", &["`/dp`"]),
        ("records.h5", &["`/dp`"]),
        ("bomb.h5", &["1048576"]),
        ("index.h5", &["pattern 1000", "12"]),
        ("unit.cxi", &["parsec"]),
        ("alias.cxi", &["../virtual.h5", "out of the folder"]),
        ("missing.h5", &["part_9.h5"]),
        ("kinds.h5", &["`/dp`", "different types"]),
        ("ring.nxs", &["3.0000e9 eV"]),
        ("twice.h5", &["probe_position_indexes", "which of 12 patterns"]),
    ];
    for (name, words) in cases {
        let out = files.folder.path().join("out");
        let mut command = assert_cmd::Command::cargo_bin("ptycho-gpu").unwrap();
        command.arg("reconstruct").arg(bad.join(name)).arg("--output-dir").arg(&out);
        let mut done = command.args(["--device=cpu", "--quiet"]).assert().code(1);
        for &word in words {
            done = done.stderr(contains(word));
        }
        let said = String::from_utf8(done.get_output().stderr.clone()).unwrap();
        assert!(said.starts_with("error: ") && !said.contains("panicked"), "{name}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{name}: {said}");
        assert!(!out.exists(), "{name} left something behind");
    }
}

/// Every flipped byte and every truncation is read or refused: nothing panics, nothing hangs.
#[test]
fn damaged_files_do_not_bring_the_program_down() {
    let Some(files) = files() else { return };
    let place = tempfile::tempdir().unwrap();
    let names = ["product.h5", "scan.cxi", "scan.ptyd", "pair_para.hdf5"];
    for (kind, name) in names.into_iter().enumerate() {
        let sound = std::fs::read(files.folder.path().join(name)).unwrap();
        let path: PathBuf = place.path().join(name);
        let mut state = 1 + kind as u64;
        for round in 0..150 {
            let mut bytes = sound.clone();
            for _ in 0..=round % 4 {
                // Knuth's constants: any sequence will do.
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len().min(6000);
                bytes[at] = (state >> 24) as u8;
            }
            if round % 10 == 9 {
                bytes.truncate((state >> 33) as usize % sound.len());
            }
            std::fs::write(&path, bytes).unwrap();
            let _either = survey(&path, &LoadOptions::default());
        }
    }
}
