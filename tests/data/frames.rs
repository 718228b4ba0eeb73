//! Frames as a detector wrote them become patterns.

use std::path::Path;

use ndarray::{Array2, Array3, Axis, s};
use num_complex::Complex32;
use ptycho_gpu::data::frames::{Center, Flip, Turn};
use ptycho_gpu::data::{
    Instrument, LoadOptions, Patterns, Position, Reading, Scan, ScanFile, load, write_scan,
};
use ptycho_gpu::simulate::fourier::{Fft2, centre};

/// Counts that differ in every pixel, brightest at (row, column).
fn frames(height: usize, width: usize, (row, column): (usize, usize)) -> Array3<u16> {
    Array3::from_shape_fn((3, height, width), |(m, y, x)| {
        let (dy, dx) = (y as f64 - row as f64, x as f64 - column as f64);
        (20000.0 * (-(dy * dy + dx * dx) / 30.0).exp()) as u16 + ((m + 5 * y + 3 * x) % 7) as u16
    })
}

fn probe(side: usize) -> Array3<Complex32> {
    Array3::from_shape_fn((2, side, side), |(p, y, x)| {
        let (dy, dx) = (y as f32 - side as f32 / 2.0, x as f32 - side as f32 / 2.0);
        let size = (-(dy * dy + dx * dx) / (0.02 * (side * side) as f32)).exp();
        Complex32::from_polar(size, 0.02 * dx * dx + p as f32)
    })
}

fn write(path: &Path, counts: &Array3<u16>, probe: &Array3<Complex32>, mask: Option<&Array2<f32>>) {
    let positions = [20.0, 24.0, 31.0].map(|x| Position { x, y: 2.0 * x - 5.0 });
    let object = Array2::from_elem((90, 90), Complex32::ONE);
    let instrument = Instrument {
        energy_ev: Some(8000.0),
        distance_m: Some(2.0),
        detector_pixel_m: Some([1e-4, 1e-4]),
        ..Instrument::default()
    };
    let file = ScanFile {
        patterns: Patterns::Counts16(counts.view()),
        probe: probe.view(),
        positions: &positions,
        nominal: None,
        mask: mask.map(|mask| mask.view()),
        object: Some(object.view()),
        labels: None,
        metadata: Some(serde_json::json!({ "instrument": instrument })),
    };
    write_scan(path, &file).unwrap();
}

fn read(path: &Path, reading: Reading) -> Result<Scan, String> {
    let options = LoadOptions { reading, ..LoadOptions::default() };
    load(path, &options).map_err(|error| error.to_string())
}

fn counts(scan: &Scan) -> Array3<u16> {
    scan.amplitude.held().mapv(|a| (a * a).round() as u16)
}

#[test]
fn turned_and_mirrored_frames_keep_the_beam_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let original = frames(16, 16, (8, 8));
    write(&path, &original, &probe(16), None);
    let at = |i: usize| (16 - i) % 16;
    let expect = |reading: Reading, from: &dyn Fn(usize, usize) -> (usize, usize)| {
        let got = counts(&read(&path, reading.clone()).unwrap());
        let want = Array3::from_shape_fn((3, 16, 16), |(m, y, x)| {
            let (row, column) = from(y, x);
            original[[m, row, column]]
        });
        assert_eq!(got, want, "{reading:?}");
    };
    let plain = Reading::default();
    expect(Reading { transpose: Some(true), ..plain.clone() }, &|y, x| (x, y));
    expect(Reading { flip: Some(Flip::Ud), ..plain.clone() }, &|y, x| (at(y), x));
    expect(Reading { flip: Some(Flip::Lr), ..plain.clone() }, &|y, x| (y, at(x)));
    // The right side goes up.
    expect(Reading { rotate: Some(Turn::Quarter), ..plain.clone() }, &|y, x| (x, at(y)));
    expect(Reading { rotate: Some(Turn::Half), ..plain.clone() }, &|y, x| (at(y), at(x)));
    expect(Reading { rotate: Some(Turn::ThreeQuarters), ..plain.clone() }, &|y, x| (at(x), y));
    // First transposed, then mirrored, then turned.
    let all = Reading {
        transpose: Some(true),
        flip: Some(Flip::Ud),
        rotate: Some(Turn::Quarter),
        ..plain
    };
    expect(all, &|y, x| (at(y), at(x)));
}

#[test]
fn a_beam_off_the_middle_is_found_and_what_comes_in_from_outside_is_masked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let original = frames(32, 32, (19, 12));
    write(&path, &original, &probe(32), None);
    let given = Reading { center: Some(Center::At { row: 19, column: 12 }), ..Reading::default() };
    let auto = Reading { center: Some(Center::Auto), ..Reading::default() };
    let (given, auto) = (read(&path, given).unwrap(), read(&path, auto).unwrap());
    assert_eq!(given.amplitude.held(), auto.amplitude.held());
    let inside = s![.., ..29, 4..];
    assert_eq!(counts(&given).slice(inside), original.slice(s![.., 3.., ..28]));
    let mask = given.mask.unwrap();
    assert_eq!(mask.sum(), (29 * 28) as f32);
    assert_eq!(mask.slice(s![..29, 4..]).sum(), mask.sum());
}

#[test]
fn a_cropped_frame_has_coarser_pixels_of_the_object_and_the_probe_that_belongs_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    write(&path, &frames(32, 32, (16, 16)), &probe(32), None);
    let whole = read(&path, Reading::default()).unwrap();
    let cut = read(&path, Reading { crop: Some(16), ..Reading::default() }).unwrap();
    assert_eq!(cut.amplitude.held(), whole.amplitude.held().slice(s![.., 8..24, 8..24]));
    let half = |p: &Position| Position { x: p.x / 2.0, y: p.y / 2.0 };
    assert_eq!(cut.positions, whole.positions.iter().map(half).collect::<Vec<_>>());
    assert!(cut.object.is_none(), "an object of finer pixels");
    let pixels = [&whole, &cut].map(|scan| scan.instrument.pixel_m(scan.side()).unwrap()[0]);
    assert!((pixels[1] / pixels[0] - 2.0).abs() < 1e-12, "{pixels:?}");
    // Through an empty object the far field of the new probe is the middle of that of the old one.
    for (old, new) in whole.probe.axis_iter(Axis(0)).zip(cut.probe.axis_iter(Axis(0))) {
        let far = |probe: ndarray::ArrayView2<Complex32>| {
            let mut wide = probe.mapv(|z| num_complex::Complex64::new(z.re.into(), z.im.into()));
            Fft2::new(wide.dim().0, wide.dim().0).forward(&mut wide);
            centre(&wide).mapv(|z| z.norm_sqr())
        };
        let (old, new) = (far(old), far(new));
        let most = old.iter().fold(0f64, |a, &b| a.max(b));
        for (got, want) in new.iter().zip(old.slice(s![8..24, 8..24])) {
            assert!((got - want).abs() < 1e-5 * most, "{got} is not {want}");
        }
    }
}

#[test]
fn binned_frames_keep_their_counts_and_a_bad_pixel_spoils_its_square() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let original = frames(32, 32, (16, 16));
    let mut mask = Array2::ones((32, 32));
    mask[[5, 9]] = 0.0;
    write(&path, &original, &probe(32), Some(&mask));
    let whole = read(&path, Reading::default()).unwrap();
    let binned = read(&path, Reading { bin: Some(2), ..Reading::default() }).unwrap();
    let mut want = Array2::<f64>::zeros((16, 16));
    for ((y, x), &n) in original.index_axis(Axis(0), 1).indexed_iter() {
        want[[y / 2, x / 2]] += if (y, x) == (5, 9) { 0.0 } else { f64::from(n) };
    }
    for ((got, want), &lit) in binned
        .amplitude
        .held()
        .index_axis(Axis(0), 1)
        .iter()
        .zip(&want)
        .zip(binned.mask.as_ref().unwrap())
    {
        assert!((f64::from(*got).powi(2) - want).abs() <= 1e-6 * want + 1e-9 || lit == 0.0);
    }
    let dark: Vec<_> =
        binned.mask.as_ref().unwrap().indexed_iter().filter(|(_, w)| **w == 0.0).collect();
    assert_eq!(dark.len(), 1);
    assert_eq!(dark[0].0, (2, 4));
    // Coarser pixels of the detector: a smaller field of view of the same object.
    assert_eq!(binned.positions, whole.positions);
    assert_eq!(binned.object, whole.object);
    assert_eq!(binned.probe, whole.probe.slice(s![.., 8..24, 8..24]));
    assert_eq!(binned.instrument.detector_pixel_m, Some([2e-4, 2e-4]));
    let pixels = [&whole, &binned].map(|scan| scan.instrument.pixel_m(scan.side()).unwrap()[0]);
    assert!((pixels[1] / pixels[0] - 1.0).abs() < 1e-12, "{pixels:?}");
}

#[test]
fn a_square_is_cut_out_of_frames_that_are_not_square() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let original = frames(24, 40, (10, 27));
    write(&path, &original, &probe(16), None);
    let refused = read(&path, Reading::default()).unwrap_err();
    assert!(refused.contains("24 × 40") && refused.contains("--crop"), "{refused}");
    let center = Some(Center::At { row: 10, column: 27 });
    let cut = read(&path, Reading { center, crop: Some(16), ..Reading::default() }).unwrap();
    assert_eq!(counts(&cut), original.slice(s![.., 2..18, 19..35]));
    // The probe was made for the cut, and so were the positions.
    assert_eq!(cut.probe, probe(16));
    assert_eq!(cut.positions[0], Position { x: 20.0, y: 35.0 });
}

#[test]
fn frames_that_cannot_be_had_are_refused_by_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    write(&path, &frames(32, 32, (16, 16)), &probe(32), None);
    let refused = |reading: Reading, expected: &str| {
        let message = read(&path, reading).unwrap_err();
        assert!(message.contains(expected), "{message} does not say {expected}");
    };
    let plain = Reading::default;
    refused(Reading { crop: Some(7), ..plain() }, "--crop is 7");
    refused(Reading { crop: Some(64), ..plain() }, "at most 32");
    refused(Reading { bin: Some(3), ..plain() }, "--bin is 3");
    refused(Reading { bin: Some(0), ..plain() }, "--bin is 0");
    refused(Reading { energy: Some(-1.0), ..plain() }, "--energy is -1");
    let center = Some(Center::At { row: 40, column: 0 });
    refused(Reading { center, ..plain() }, "--center 40,0");
    assert!("12".parse::<Center>().unwrap_err().contains("ROW,COLUMN"));
}

#[test]
fn positions_of_a_text_file_take_the_place_of_the_files_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    write(&path, &frames(32, 32, (16, 16)), &probe(32), None);
    let list = folder.path().join("positions.csv");
    let with = |text: &str, unit| {
        std::fs::write(&list, text).unwrap();
        let positions = Some(list.clone());
        read(&path, Reading { positions, position_unit: unit, ..Reading::default() })
    };
    let scan = with("x, y\n# a remark\n40.5, 41\n44.25,43\n48 45.5\n", None).unwrap();
    assert_eq!(scan.positions[1], Position { x: 44.25, y: 43.0 });
    let unit = Some(ptycho_gpu::data::reading::PositionUnit::Um);
    let scan = with("0 0\n1 2\n3 5\n", unit).unwrap();
    let pixel = scan.instrument.pixel_m(32).unwrap()[0];
    assert_eq!(scan.positions[0], Position { x: 16.0, y: 16.0 });
    assert!((scan.positions[2].y - 16.0 - 5e-6 / pixel).abs() < 1e-9);
    let [y, x] = scan.instrument.metres(32, scan.positions[2]).unwrap();
    assert!((y - 5e-6).abs() < 1e-15 && (x - 3e-6).abs() < 1e-15, "{y} {x}");
    for (text, expected) in [
        ("1 2\n3 4\n", "3 patterns, but there are 2 positions"),
        ("1 2\nthree four\n5 6\n", "line 2"),
        ("", "no positions"),
        ("1 2\n3 nan\n5 6\n", "line 2"),
    ] {
        let message = with(text, None).unwrap_err();
        assert!(message.contains(expected), "{message} does not say {expected}");
    }
}
