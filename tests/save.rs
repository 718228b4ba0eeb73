//! A reconstruction in the files of other programs.

use std::fs::{self, File};
use std::path::Path;

use assert_cmd::Command;
use ndarray::{Array2, Array3};
use num_complex::Complex32;
use predicates::str::contains;
use ptycho_gpu::data::npz::Npz;
use ptycho_gpu::data::{Dose, DoseOrigin, Instrument, Position, Rejected, Scan, Source};
use ptycho_gpu::reconstruction::{Exposure, Reconstruction};
use ptycho_gpu::save::{Save, SaveArgs};
use ptycho_gpu::stitch::{Canvas, Stitched};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;

#[path = "support/python.rs"]
mod python;

const N: usize = 8;

/// Object coordinates (row, column) of the bright pixel.
const BRIGHT: [usize; 2] = [37, 52];

fn scan() -> Scan {
    Scan {
        amplitude: Array3::ones((3, N, N)).into(),
        dose: Dose { kappa: 1.0, origin: DoseOrigin::Counts },
        probe: Array3::ones((1, N, N)),
        positions: vec![Position { x: 50.0, y: 34.0 }; 3],
        nominal: None,
        mask: None,
        object: None,
        labels: None,
        instrument: Instrument {
            object_pixel_m: Some([2e-8, 3e-8]),
            origin_m: Some([1e-6, -2e-6]),
            ..Instrument::default()
        },
        rejected: Rejected::default(),
        source: Source { path: "sample.npz".into(), sha256: "ab".into() },
    }
}

/// A canvas that begins at (30, 45), its bright pixel, and positions of patterns 4, 0 and 9.
fn result() -> Reconstruction {
    let origin = [30, 45];
    let mut object = Array2::from_elem((13, 17), Complex32::from_polar(0.5, -1.25));
    object[[BRIGHT[0] - 30, BRIGHT[1] - 45]] = Complex32::from_polar(9.0, 2.5);
    let mut weights = Array2::ones((13, 17));
    weights[[0, 3]] = 0.0;
    let places = [(49.5, 33.25), (51.0, 35.0), (53.0, 38.0)];
    Reconstruction {
        stitched: Stitched { object, weights, consistency: Array2::zeros((13, 17)) },
        canvas: Canvas { height: 13, width: 17, origin_yx: origin },
        probe: Array3::from_elem((2, N, N), Complex32::new(0.0, 1.0)),
        probe_trained: false,
        indices: vec![4, 0, 9],
        positions: places.map(|(x, y)| Position { x, y }).to_vec(),
        gauge: 1.0,
        input_scale: None,
        exposure: Exposure::default(),
    }
}

fn save(folder: &Path, what: &[Save]) {
    let args = SaveArgs { save: what.to_vec() };
    args.check(&scan()).unwrap();
    let record = serde_json::json!({ "command": "test", "name": "Süd α" });
    args.write(folder, &result(), &scan(), &record, &[0.5, 0.25]).unwrap();
}

#[test]
fn a_picture_holds_the_numbers_their_size_and_the_record_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &[Save::Tiff]);
    for (name, part) in [
        ("amplitude.tiff", Complex32::norm as fn(Complex32) -> f32),
        ("phase.tiff", Complex32::arg),
    ] {
        let mut image = Decoder::new(File::open(folder.path().join(name)).unwrap()).unwrap();
        assert_eq!(image.dimensions().unwrap(), (17, 13));
        let record = image.get_tag_ascii_string(Tag::ImageDescription).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["name"], "Süd α");
        let tag = image.get_tag_u32_vec(Tag::XResolution).unwrap();
        let per_centimetre = f64::from(tag[0]) / f64::from(tag[1]);
        assert!((per_centimetre * 3e-6 - 1.0).abs() < 1e-5, "{tag:?}");
        let DecodingResult::F32(values) = image.read_image().unwrap() else { panic!("no f32") };
        let (want, weights) = (result().stitched.object, result().stitched.weights);
        for ((got, want), &weight) in values.iter().zip(&want).zip(&weights) {
            assert!(if weight > 0.0 { *got == part(*want) } else { got.is_nan() });
        }
    }
}

#[test]
fn the_rules_of_other_programs_place_the_bright_pixel_at_its_metre() {
    let Some(python) = python::with_h5py() else { return };
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &[Save::H5, Save::Cxi, Save::Npz, Save::Png]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/check_result.py");
    // x and y of the bright pixel.
    let metres = [-2e-6 + BRIGHT[1] as f64 * 3e-8, 1e-6 + BRIGHT[0] as f64 * 2e-8];
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(folder.path()).args(metres.map(|metre| metre.to_string()));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").unwrap()
}

#[test]
fn reconstruct_leaves_what_is_asked_for_beside_its_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let scan = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/siemens64.npz");
    let run = |output: &str, more: &[&str]| {
        let mut command = program();
        command.arg("reconstruct").arg(&scan).arg("--output-dir").arg(at(output));
        command.args(["--epochs", "2", "--n-images", "24", "--device", "cpu", "--quiet"]);
        command.args(more).assert()
    };
    // A product needs a pixel, which is said before anything is computed or made.
    run("none", &["--save", "h5"]).code(1).stderr(contains("--object-pixel"));
    assert!(!at("none").exists());
    let more = ["--save", "h5,cxi,TIFF,npz", "--object-pixel", "1e-8"];
    run("out", &more).success();
    for name in [
        "reconstruction.h5",
        "reconstruction.cxi",
        "amplitude.tiff",
        "phase.tiff",
        "reconstruction.npz",
    ] {
        assert!(at("out").join(name).metadata().is_ok_and(|file| file.len() > 0), "{name}");
    }
    let mut npz = Npz::open(at("out").join("reconstruction.npz")).unwrap();
    let amplitude = npz.f32("amplitude").unwrap();
    let file = File::open(at("out").join("amplitude.tiff")).unwrap();
    let DecodingResult::F32(values) = Decoder::new(file).unwrap().read_image().unwrap() else {
        panic!("no f32")
    };
    assert_eq!(values.len(), amplitude.len());
    let same = values.iter().zip(&amplitude).filter(|(a, b)| a == b).count();
    let nowhere = values.iter().filter(|a| a.is_nan()).count();
    assert!(same + nowhere == values.len() && same > nowhere, "{same} and {nowhere}");
}
