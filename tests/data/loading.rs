use ndarray::{Array2, Array3, ArrayD, Axis, array};
use num_complex::Complex32;
use proptest::prelude::*;
use ptycho_gpu::data::{
    BadFrame, DoseOrigin, Fault, FrameOrder, InputDomain, LoadOptions, NpzWriter, Patterns,
    Position, Problem, Room, Scan, ScanFile, check_network_side, load, write_scan,
};

use super::{Draft, names, outside};

fn options() -> LoadOptions {
    LoadOptions::default()
}

/// A draft that must load.
fn loaded(draft: &Draft, options: &LoadOptions) -> Scan {
    let survey = draft.survey(options);
    survey.scan.unwrap_or_else(|| panic!("{:?}", survey.problems))
}

/// √k for whole k, so the amplitudes are those of counts.
fn roots(v: f32) -> f32 {
    (40.0 * v).round().sqrt()
}

#[test]
fn a_sound_scan_loads_without_a_complaint() {
    let survey = Draft::sound(25, 16).survey(&options());
    assert_eq!(survey.problems, []);
    let scan = survey.scan.unwrap();
    assert_eq!((scan.len(), scan.side(), scan.probe.dim()), (25, 16, (1, 16, 16)));
    assert_eq!(scan.positions[6], Position { x: 9.25, y: 9.5 });
    assert_eq!(scan.nominal, None);
}

#[test]
fn missing_keys_are_listed_with_those_found_and_a_likely_alias() {
    let mut draft = Draft::sound(5, 8);
    (draft.key, draft.x) = ("dp", None);
    let problems = draft.problems();
    assert_eq!(names(&problems), ["missing_keys"]);
    assert_eq!(
        problems[0].to_string(),
        "missing `diffraction`, `xcoords`; the file holds `dp`, `probeGuess`, `ycoords`"
    );
    assert_eq!(problems[0].remedy(), "rename `dp` to `diffraction`");
}

#[test]
fn diff3d_is_accepted_and_two_different_arrays_are_not() {
    let mut draft = Draft::sound(5, 8);
    draft.key = "diff3d";
    let scan = loaded(&draft, &options());
    let patterns = draft.pixels().clone();
    draft.more.push(("diffraction", patterns.clone()));
    assert_eq!(loaded(&draft, &options()).amplitude.held(), scan.amplitude.held());
    draft.more[0].1 = patterns * 2.0;
    assert_eq!(names(&draft.problems()), ["two_diffractions"]);
}

#[test]
fn every_probe_layout_is_accepted_and_nonsense_is_not() {
    let shapes: [(&[usize], usize); 4] =
        [(&[8, 8], 1), (&[8, 8, 1], 1), (&[1, 8, 8], 1), (&[3, 8, 8], 3)];
    for (shape, modes) in shapes {
        let mut draft = Draft::sound(5, 8);
        draft.probe = Some(ArrayD::from_elem(shape, Complex32::ONE));
        assert_eq!(loaded(&draft, &options()).probe.dim(), (modes, 8, 8));
    }
    for (shape, name) in
        [(&[8, 7][..], "wrong_shape"), (&[8], "wrong_shape"), (&[9, 9], "probe_side")]
    {
        let mut draft = Draft::sound(5, 8);
        draft.probe = Some(ArrayD::from_elem(shape, Complex32::ONE));
        assert_eq!(names(&draft.problems()), [name]);
    }
}

#[test]
fn a_dark_or_broken_probe_is_an_error() {
    let mut draft = Draft::sound(5, 8);
    draft.probe = Some(ArrayD::zeros(vec![8, 8]));
    assert_eq!(names(&draft.problems()), ["dark_probe"]);
    draft.probe.as_mut().unwrap()[[1, 1]] = Complex32::new(f32::NAN, 0.0);
    assert_eq!(names(&draft.problems()), ["non_finite"]);
}

#[test]
fn legacy_order_is_recognised_by_the_probe() {
    let mut draft = Draft::sound(5, 8);
    let first = loaded(&draft, &options());
    let last = draft.pixels().clone().permuted_axes(vec![1, 2, 0]);
    draft.patterns = Some(last.as_standard_layout().into_owned());
    let survey = draft.survey(&options());
    assert!(survey.notes.iter().any(|note| note.contains("along its last axis")));
    assert_eq!(survey.scan.unwrap().amplitude.held(), first.amplitude.held());
}

#[test]
fn a_cube_is_decided_by_where_the_energy_is_or_by_the_flag() {
    let mut draft = Draft::sound(16, 16);
    let first = loaded(&draft, &options()).amplitude.held().clone();
    let last = first.clone().permuted_axes([1, 2, 0]).as_standard_layout().into_owned();
    draft.patterns = Some(last.into_dyn());
    assert_eq!(loaded(&draft, &options()).amplitude.held(), &first);
    draft.pixels().fill(0.5);
    assert_eq!(names(&draft.problems()), ["ambiguous_order"]);
    for order in [FrameOrder::First, FrameOrder::Last] {
        assert_eq!(loaded(&draft, &LoadOptions { order, ..options() }).len(), 16);
    }
}

#[test]
fn shapes_that_fit_nothing_are_named() {
    let cases: [(&[usize], &str); 6] = [
        (&[5, 8, 7], "not_square"),
        (&[5, 9, 9], "probe_side"),
        (&[6, 8, 8], "count_mismatch"),
        (&[8, 8, 6], "count_mismatch"),
        (&[8, 8], "wrong_shape"),
        (&[0, 8, 8], "empty"),
    ];
    for (shape, name) in cases {
        let mut draft = Draft::sound(5, 8);
        draft.patterns = Some(ArrayD::from_elem(shape, 0.5));
        assert_eq!(names(&draft.problems()), [name], "{shape:?}");
    }
    let mut draft = Draft::sound(5, 8);
    draft.patterns = Some(draft.pixels().clone().insert_axis(Axis(3)));
    assert_eq!(loaded(&draft, &options()).amplitude.held().dim(), (5, 8, 8));
}

#[test]
fn values_that_no_detector_gives_are_errors_with_a_place() {
    for (value, name) in
        [(f32::NAN, "non_finite"), (f32::INFINITY, "non_finite"), (-0.1, "negative")]
    {
        let mut draft = Draft::sound(5, 8);
        draft.pixels()[[2, 3, 4]] = value;
        let problems = draft.problems();
        assert_eq!(names(&problems), [name]);
        assert!(problems[0].to_string().contains("[2, 3, 4]"), "{}", problems[0]);
    }
}

#[test]
fn a_masked_pixel_may_hold_anything_and_counts_for_nothing() {
    let mut draft = Draft::sound(5, 8);
    let mut mask = Array2::ones((8, 8));
    mask[[3, 4]] = 0.0;
    draft.mask = Some(mask);
    draft.pixels()[[2, 3, 4]] = f32::NAN;
    let scan = loaded(&draft, &options());
    assert!(scan.amplitude.held().slice(ndarray::s![.., 3, 4]).iter().all(|&a| a == 0.0));
    let expected = scan.mean_photons() / 63.0;
    assert!((scan.mean_count_per_pixel() / expected - 1.0).abs() < 1e-12);
    draft.mask = Some(Array2::zeros((8, 8)));
    assert_eq!(names(&draft.problems()), ["masked_out"]);
    draft.mask = Some(Array2::ones((8, 7)));
    assert_eq!(names(&draft.problems()), ["wrong_shape"]);
}

#[test]
fn dark_patterns_are_counted_and_a_dark_scan_is_an_error() {
    let mut draft = Draft::sound(5, 8);
    draft.pixels().index_axis_mut(Axis(0), 2).fill(0.0);
    let survey = draft.survey(&options());
    let dark = BadFrame { frame: 2, fault: Fault::Dead, residual: None };
    assert_eq!(survey.problems, [Problem::BadFrames { bad: vec![dark], patterns: 5 }]);
    // They are counted as they are read, where they are not held.
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().to_path_buf();
    let filed = LoadOptions { room: Some(Room { bytes: 0, scratch }), ..options() };
    let problems = draft.survey(&filed).problems;
    assert_eq!(problems, [Problem::DarkPatterns { count: 1, patterns: 5, first: 2 }]);
    assert!(survey.scan.is_some());
    assert_eq!(names(&draft.map(|_| 0.0).problems()), ["all_dark"]);
}

#[test]
fn positions_that_cannot_be_right_are_named() {
    let cases: [(Vec<f64>, &str); 4] = [
        (vec![f64::NAN; 5], "non_finite"),
        (vec![1.0; 4], "wrong_shape"),
        (vec![], "wrong_shape"),
        (vec![9.0, 9.0, 9.5, 10.0, 10.5], "duplicate_positions"),
    ];
    for (x, name) in cases {
        let mut draft = Draft::sound(5, 8);
        draft.x = Some(x);
        assert_eq!(names(&draft.problems()), [name]);
    }
    let mut draft = Draft::sound(5, 8);
    for axis in [&mut draft.x, &mut draft.y] {
        axis.as_mut().unwrap().iter_mut().for_each(|c| *c *= 1e-8);
    }
    assert_eq!(names(&draft.problems())[0], "metres");
}

#[test]
fn one_position_loads_with_a_warning_and_none_does_not() {
    let survey = Draft::sound(1, 8).survey(&options());
    assert_eq!(survey.problems, [Problem::SinglePosition]);
    assert_eq!(survey.scan.unwrap().len(), 1);
    assert_eq!(names(&Draft::sound(0, 8).problems()), ["empty"]);
}

#[test]
fn patches_outside_the_object_and_exchanged_axes_are_noticed() {
    let mut draft = Draft::sound(25, 16);
    // x reaches 13, y reaches 14.
    draft.object = Some(Array2::ones((22, 21)));
    assert_eq!(draft.problems(), []);
    draft.object = Some(Array2::ones((22, 18)));
    assert_eq!(names(&draft.problems()), ["outside_object"]);
    draft.y.as_mut().unwrap().iter_mut().for_each(|y| *y += 20.0);
    draft.object = Some(Array2::ones((21, 42)));
    assert_eq!(names(&draft.problems()), ["outside_object", "swapped_axes"]);
    draft.more.push(("Y", ArrayD::zeros(vec![3, 3])));
    assert!(names(&draft.problems()).iter().any(|name| name == "ignored"));
}

#[test]
fn a_coarse_scan_is_warned_of() {
    let mut draft = Draft::sound(25, 16);
    for axis in [&mut draft.x, &mut draft.y] {
        axis.as_mut().unwrap().iter_mut().for_each(|c| *c *= 6.0);
    }
    assert_eq!(names(&draft.problems()), ["little_overlap"]);
}

#[test]
fn whole_numbers_are_counts_and_their_roots_are_amplitudes_of_counts() {
    let counts = Draft::sound(25, 16).map(|v| (40.0 * v).round());
    let scan = loaded(&counts, &options());
    assert_eq!((scan.dose.kappa, scan.dose.origin), (1.0, DoseOrigin::Counts));
    let amplitudes = Draft::sound(25, 16).map(roots);
    let same = loaded(&amplitudes, &options());
    assert_eq!((same.dose.kappa, same.dose.origin), (1.0, DoseOrigin::WholeSquares));
    assert_eq!(scan.amplitude.held(), same.amplitude.held());
    let forced = LoadOptions { input_domain: InputDomain::Amplitude, ..options() };
    let scan = loaded(&counts, &forced);
    assert_eq!(
        (scan.dose.origin, scan.amplitude.held()[[0, 8, 8]]),
        (DoseOrigin::WholeSquares, 28.0)
    );
}

#[test]
fn bright_counts_are_recognised_through_the_rounding_of_f32() {
    let scan = loaded(&Draft::sound(25, 16).map(|v| (3e6 * v * v).round().sqrt()), &options());
    assert_eq!(scan.dose.origin, DoseOrigin::WholeSquares);
    let scan = loaded(&Draft::sound(25, 16).map(|v| 1e-3 * v), &options());
    assert_eq!(scan.dose.origin, DoseOrigin::Default, "small amplitudes are no roots of counts");
}

#[test]
fn the_dose_of_normalised_amplitudes_comes_from_flag_then_metadata_then_default() {
    let mut draft = Draft::sound(25, 16);
    let photons = |draft: &Draft, nphotons| {
        let scan = loaded(draft, &LoadOptions { nphotons, ..options() });
        ((scan.mean_photons() / 10.0).round() * 10.0, scan.dose.origin)
    };
    assert_eq!(photons(&draft, None), (1e9, DoseOrigin::Default));
    draft.metadata = Some(r#"{"physics_parameters": {"nphotons": 5e6}}"#.to_owned());
    assert_eq!(photons(&draft, None), (5e6, DoseOrigin::Metadata));
    assert_eq!(photons(&draft, Some(3e5)), (3e5, DoseOrigin::Flag));
}

#[test]
fn units_that_look_wrong_are_warned_of() {
    assert_eq!(names(&Draft::sound(25, 16).map(|v| 100.3 * v).problems()), ["suspicious_units"]);
    let counts = Draft::sound(25, 16).map(|v| (900.0 * v).round());
    let flag = LoadOptions { nphotons: Some(1e5), ..options() };
    assert_eq!(counts.survey(&flag).problems, [Problem::PhotonsIgnored]);
    let mut draft = Draft::sound(25, 16);
    draft.metadata = Some("not JSON".to_owned());
    assert_eq!(names(&draft.problems()), ["metadata"]);
    let folder = tempfile::tempdir().unwrap();
    let path = draft.write(folder.path());
    for nphotons in [0.0, -1.0, f64::NAN] {
        assert!(load(&path, &LoadOptions { nphotons: Some(nphotons), ..options() }).is_err());
    }
}

#[test]
fn saturated_detector_pixels_are_pointed_out() {
    let folder = tempfile::tempdir().unwrap();
    let draft = Draft::sound(5, 8);
    let path = draft.write(folder.path());
    let scan = load(&path, &options()).unwrap();
    let mut counts =
        Array3::from_shape_fn((5, 8, 8), |(m, y, x)| 20_000 + (97 * m + 31 * y + 7 * x) as u16);
    counts[[1, 1, 1]] = u16::MAX;
    let file = ScanFile { patterns: Patterns::Counts16(counts.view()), ..ScanFile::new(&scan) };
    write_scan(&path, &file).unwrap();
    let survey = ptycho_gpu::data::survey(&path, &options()).unwrap();
    assert_eq!(survey.problems, [Problem::Saturated { count: 1, limit: 65_535.0 }]);
    assert_eq!(survey.scan.unwrap().dose.origin, DoseOrigin::Counts);
}

#[test]
fn a_text_where_numbers_belong_is_an_error_and_load_says_which_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.npz");
    let mut writer = NpzWriter::create(&path).unwrap();
    writer.text("diffraction", "none").unwrap();
    writer.c64("probeGuess", &array![[Complex32::ONE]]).unwrap();
    writer.f64("xcoords", &array![1.0]).unwrap();
    writer.f64("ycoords", &array![1.0]).unwrap();
    writer.finish().unwrap();
    let error = load(&path, &options()).unwrap_err().to_string();
    assert!(error.contains("text.npz") && error.contains("expected (M,N,N)"), "{error}");
}

#[test]
fn the_scales_of_a_scan_do_what_they_promise() {
    let scan = loaded(&Draft::sound(25, 16), &options());
    let scaled = scan.amplitude.held().mapv(|a| f64::from(a) * scan.input_scale());
    let energy = scaled.mapv(|x| x * x).sum() / 25.0;
    assert!((energy - 64.0).abs() < 1e-9, "{energy}");
    let power: f64 = scan.probe.iter().map(|p| f64::from(p.norm_sqr())).sum();
    let explained = scan.probe_gauge().powi(2) * power;
    assert!((explained / scan.mean_energy() - 1.0).abs() < 1e-6);
}

#[test]
fn a_subset_keeps_what_belongs_together() {
    let scan = loaded(&Draft::sound(25, 16), &options());
    let subset = scan.subset(&[7, 3]).unwrap();
    assert_eq!(subset.len(), 2);
    assert_eq!(
        subset.amplitude.held().index_axis(Axis(0), 0),
        scan.amplitude.held().index_axis(Axis(0), 7)
    );
    assert_eq!(subset.positions, [scan.positions[7], scan.positions[3]]);
    assert_eq!((subset.dose, subset.source), (scan.dose, scan.source));
}

#[test]
fn only_the_sides_of_the_network_pass_its_check() {
    assert!([64, 128, 256].into_iter().all(|side| check_network_side(side).is_ok()));
    assert!(check_network_side(96).unwrap_err().to_string().contains("64, 128 or 256"));
}

#[test]
fn the_legacy_scan_equals_its_canonical_form() {
    let Some(data) = outside("PTYCHO_DATA", "data") else { return };
    let legacy = load(&data.join("run1084_legacy.npz"), &options()).unwrap();
    let all = load(&data.join("run1084_sim.npz"), &options()).unwrap();
    let find = |p: &Position| all.positions.iter().position(|q| p == q).unwrap();
    let canonical = all.subset(&legacy.positions.iter().map(find).collect::<Vec<_>>()).unwrap();
    assert_eq!(legacy.amplitude.held(), canonical.amplitude.held());
    assert_eq!((&legacy.probe, &legacy.object), (&canonical.probe, &canonical.object));
    assert_eq!(legacy.dose, canonical.dose);
    assert_eq!(legacy.nominal.as_ref(), Some(&legacy.positions));
    assert!((all.probe_gauge() - 1.0).abs() < 1e-4);
}

#[test]
fn counts_and_amplitudes_of_the_same_measurement_load_alike() {
    let Some(data) = outside("PTYCHO_DATA", "data") else { return };
    let amplitudes = load(&data.join("siemens_upper.npz"), &options()).unwrap();
    let counts = load(&data.join("siemens_upper_counts.npz"), &options()).unwrap();
    assert_eq!(amplitudes.amplitude.held(), counts.amplitude.held());
    assert_eq!((amplitudes.dose.kappa, counts.dose.kappa), (1.0, 1.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_scan_round_trips_bit_for_bit(m in 2usize..12, modes in 1usize..4, masked in any::<bool>(), seed in 0.1f32..1.0) {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = Draft::sound(m, 8);
        draft.probe = Some(ArrayD::from_shape_fn(vec![modes, 8, 8], |i| Complex32::new(seed, i[1] as f32)));
        draft.object = Some(Array2::from_elem((30, 31), Complex32::new(0.3, seed)));
        draft.mask = masked.then(|| Array2::from_shape_fn((8, 8), |(y, _)| y.min(1) as f32));
        draft.more.push(("Y", ArrayD::from_elem(vec![m, 8, 8], seed)));
        let mut scan = load(&draft.map(|v| v * seed).write(folder.path()), &options()).unwrap();
        scan.nominal = Some(scan.positions.iter().map(|p| Position { x: p.x + 0.1, y: p.y }).collect());
        let path = folder.path().join("again.npz");
        write_scan(&path, &ScanFile::new(&scan)).unwrap();
        let again = load(&path, &options()).unwrap();
        prop_assert_eq!(&again.amplitude.held(), &scan.amplitude.held());
        prop_assert_eq!((&again.probe, &again.object, &again.labels), (&scan.probe, &scan.object, &scan.labels));
        prop_assert_eq!((&again.positions, &again.nominal, &again.mask), (&scan.positions, &scan.nominal, &scan.mask));
        prop_assert!((again.dose.kappa / scan.dose.kappa - 1.0).abs() < 1e-12);
    }

    #[test]
    fn counts_round_trip_exactly(counts in prop::collection::vec(1u32..4_000_000, 64)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counts.npz");
        let scan = loaded(&Draft::sound(1, 8), &options());
        let patterns = Array3::from_shape_vec((1, 8, 8), counts.clone()).unwrap();
        write_scan(&path, &ScanFile { patterns: Patterns::Counts32(patterns.view()), ..ScanFile::new(&scan) }).unwrap();
        let read = load(&path, &options()).unwrap();
        prop_assert_eq!(read.dose.origin, DoseOrigin::Counts);
        let back: Vec<u32> = read.amplitude.held().iter().map(|a| (a * a).round() as u32).collect();
        prop_assert!(back.iter().zip(&counts).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
}
