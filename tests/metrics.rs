//! Metrics: what is perfect scores perfectly, what is nothing scores nothing, and the gauge that
//! ptychography cannot know does not count.

use std::sync::OnceLock;

use ndarray::{Array2, Array3, ArrayView2, s};
use num_complex::{Complex32, Complex64};
use ptycho_gpu::data::npz::Npz;
use ptycho_gpu::data::scan::Position;
use ptycho_gpu::metrics::gauge::{Gauge, registration};
use ptycho_gpu::metrics::image::{ImageReport, PhaseAlign, compare, pearson, psnr, ssim};
use ptycho_gpu::metrics::{
    DataSpace, Explained, Reconstruction, TruthReport, against_truth, data_space, is_guess,
};
use ptycho_gpu::simulate::{
    DoseSpec, Patterns, Recipe, ScanSpec, SimulatedScan, objects, simulate,
};

/// The folder of reference vectors, where this machine has it.
fn golden(path: &str) -> Option<std::path::PathBuf> {
    let beside = || format!("{}/../shared/golden", env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var("PTYCHO_GOLDEN").unwrap_or_else(|_| beside());
    let found = std::path::Path::new(&root).join(path);
    if !found.exists() {
        eprintln!("skipped: {} is not here; set PTYCHO_GOLDEN", found.display());
        return None;
    }
    Some(found)
}

#[test]
fn published_metrics_are_reproduced() {
    let Some(folder) = golden("metrics") else { return };
    let text = std::fs::read_to_string(folder.join("metrics.json")).unwrap();
    let wanted: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut pair = Npz::open(folder.join("pair.npz")).unwrap();
    let mut image = |key| {
        let image = pair.c64(key).unwrap().into_dimensionality::<ndarray::Ix2>().unwrap();
        image.mapv(|z| Complex64::new(z.re.into(), z.im.into()))
    };
    let (truth, guess) = (image("target"), image("pred"));
    for (name, align) in [("plane", PhaseAlign::Plane), ("mean", PhaseAlign::Mean)] {
        let report = compare(guess.view(), truth.view(), align).unwrap();
        check_published(name, &report, &wanted[name]);
    }
}

/// The reference computes in f32: 1e-6 of each figure, and of 1 for a correlation.
fn check_published(name: &str, report: &ImageReport, wanted: &serde_json::Value) {
    let got = serde_json::to_value(report).unwrap();
    for key in ["mae", "mse", "psnr", "ssim", "ms_ssim", "frc50", "frc1over7"] {
        let ours = if key == "psnr" { "psnr_255" } else { key };
        for part in 0..2 {
            let (got, want) =
                (got[ours][part].as_f64().unwrap(), wanted[key][part].as_f64().unwrap());
            assert!((got / want - 1.0).abs() < 1e-6, "{name} {key}[{part}]: {got}, wanted {want}");
        }
    }
    for (part, frc) in report.frc.iter().enumerate() {
        let want: Vec<f64> = serde_json::from_value(wanted["frc"][part].clone()).unwrap();
        assert_eq!(frc.curve.len(), want.len());
        // The outermost rings hold so little power that f32 shows: 3e-6.
        let error = frc.curve.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error < 3e-6, "{name} frc[{part}] is off by {error}");
    }
}

/// A scan that several tests measure, simulated once.
fn scan() -> &'static SimulatedScan {
    static SCAN: OnceLock<SimulatedScan> = OnceLock::new();
    SCAN.get_or_init(|| {
        let mut recipe = Recipe { side: 32, seed: 9, ..Recipe::default() };
        recipe.scan = ScanSpec { patterns: 49, step: 5.0, jitter: 0.5 };
        recipe.probe.diameter = 12.0;
        recipe.probe.powers = vec![3.0, 1.0];
        recipe.dose = DoseSpec::MeanCount(100.0);
        simulate(&recipe).expect("a valid recipe")
    })
}

fn narrow(z: &Complex64) -> Complex32 {
    Complex32::new(z.re as f32, z.im as f32)
}

fn truth() -> Array2<Complex32> {
    scan().object.map(narrow)
}

fn judge(object: &Array2<Complex32>, origin_yx: [f64; 2]) -> TruthReport {
    let weights = Array2::from_elem(object.dim(), 1.0);
    let positions = &scan().positions;
    let reconstruction =
        Reconstruction { object: object.view(), weights: weights.view(), origin_yx, positions };
    against_truth(&reconstruction, truth().view()).expect("areas that overlap")
}

fn amplitudes(scan: &SimulatedScan) -> Array3<f32> {
    match &scan.patterns {
        Patterns::Counts(counts) => counts.mapv(|n| (n as f32).sqrt()),
        Patterns::Expected(expected) => expected.mapv(f32::sqrt),
    }
}

fn explain(
    object: ArrayView2<Complex32>,
    origin_yx: [f64; 2],
    mask: Option<&Array2<f32>>,
) -> DataSpace {
    let (amplitude, probe) = (amplitudes(scan()), scan().probe.map(narrow));
    let indices: Vec<usize> = (0..amplitude.dim().0).collect();
    data_space(&Explained {
        amplitude: &amplitude.clone().into(),
        kappa: 1.0,
        mask: mask.map(|m| m.view()),
        probe: probe.view(),
        object: object.into(),
        origin_yx,
        positions: &scan().positions,
        indices: &indices,
        gains: None,
        background: None,
    })
    .expect("arrays that belong together")
}

#[test]
fn a_perfect_reconstruction_scores_perfectly() {
    let report = judge(&truth(), [0.0, 0.0]);
    assert!(report.relative_l2 < 1e-9 && report.amplitude_mae < 1e-9 && report.phase_mae < 1e-9);
    assert!(report.amplitude_ncc > 1.0 - 1e-9 && report.phase_ncc > 1.0 - 1e-9);
    assert!(report.image.ssim.iter().chain(&report.image.ms_ssim).all(|s| *s > 1.0 - 1e-9));
    assert!(report.image.psnr_1.iter().all(|&p| p > 150.0), "{:?}", report.image.psnr_1);
    assert_eq!(report.image.frc50, [report.image.frc[0].curve.len() as f64; 2]);
    assert!(report.registration_yx.iter().all(|s| s.abs() < 1e-6), "{:?}", report.registration_yx);
    assert_eq!(report.covered, 1.0);
}

#[test]
fn a_canvas_with_another_origin_is_compared_with_the_same_object_pixels() {
    let canvas = truth().slice(s![7..60, 11..58]).to_owned();
    let report = judge(&canvas, [7.0, 11.0]);
    assert!(report.relative_l2 < 1e-9, "relative L2 {}", report.relative_l2);
    let wrong = judge(&canvas, [8.0, 11.0]);
    assert!(wrong.relative_l2 > 0.03, "a misplaced canvas has relative L2 {}", wrong.relative_l2);
    assert!((wrong.registration_yx[0] + 1.0).abs() < 0.05, "{:?}", wrong.registration_yx);
}

#[test]
fn a_factor_and_a_phase_ramp_are_taken_out() {
    let gauge =
        |y: usize, x: usize| Complex64::from_polar(3.7, 1.1 + 0.043 * y as f64 - 0.111 * x as f64);
    let object =
        Array2::from_shape_fn(truth().dim(), |at| narrow(&(scan().object[at] * gauge(at.0, at.1))));
    let report = judge(&object, [0.0, 0.0]);
    assert!(report.relative_l2 < 1e-5, "relative L2 {}", report.relative_l2);
    assert!((report.gauge_amplitude * 3.7 - 1.0).abs() < 1e-5);
    assert!((report.gauge_ramp_yx[0] + 0.043).abs() < 1e-6, "{:?}", report.gauge_ramp_yx);
    assert!((report.gauge_ramp_yx[1] - 0.111).abs() < 1e-6, "{:?}", report.gauge_ramp_yx);
}

#[test]
fn a_ramp_of_several_turns_is_found_under_noise() {
    let object = &scan().object;
    let mut noise = ptycho_gpu::random::Stream::new(3, ptycho_gpu::random::Purpose::Noise, 0);
    let ramped = Array2::from_shape_fn(object.dim(), |(y, x)| {
        let noise = Complex64::new(noise.normal(), noise.normal()) * 0.3;
        object[[y, x]] * Complex64::from_polar(0.2, 0.9 * y as f64 - 1.3 * x as f64) + noise * 0.2
    });
    let weight = Array2::ones(object.dim());
    let found = Gauge::fit(ramped.view(), object.view(), weight.view()).unwrap().ramp_yx;
    assert!((found[0] + 0.9).abs() < 1e-3 && (found[1] - 1.3).abs() < 1e-3, "{found:?}");
}

#[test]
fn a_known_shift_is_registered_within_a_twentieth_of_a_pixel() {
    // A band-limited object, moved by cutting it at another fractional position.
    let spec = objects::ObjectSpec { kind: objects::ObjectKind::Lines, ..Default::default() };
    let object = ptycho_gpu::metrics::gauge::shift(
        &ptycho_gpu::simulate::fourier::Fft2::new(160, 160),
        objects::make(&spec, 160, 4).view(),
        [0.37, -2.81],
    );
    let still = objects::make(&spec, 160, 4);
    let cut = s![40..120, 40..120];
    let found = registration(object.slice(cut), still.slice(cut)).unwrap();
    // The content went by (0.37, −2.81), so it must go back by the opposite.
    assert!((found[0] + 0.37).abs() < 0.05 && (found[1] - 2.81).abs() < 0.05, "{found:?}");
}

#[test]
fn a_constant_image_scores_badly() {
    let report = judge(&Array2::from_elem(truth().dim(), Complex32::new(0.7, 0.0)), [0.0, 0.0]);
    assert_eq!([report.amplitude_ncc, report.phase_ncc], [0.0, 0.0]);
    let (got, flat) = (report.relative_l2, report.constant_l2);
    assert!(
        got > 0.1 && (got / flat - 1.0).abs() < 1e-6,
        "relative L2 {got}, of a constant {flat}"
    );
    // The published similarity of phases has the range 2π and forgives a flat weak phase.
    assert!(report.image.ssim[0] < 0.5 && report.image.ssim[1] < 0.9, "{:?}", report.image.ssim);
    assert!(report.image.frc50[0] < 1.0 && report.image.frc50[1] < 1.0, "{:?}", report.image.frc50);
}

#[test]
fn an_empty_image_earns_no_credit() {
    let report = judge(&Array2::zeros(truth().dim()), [0.0, 0.0]);
    assert_eq!(report.relative_l2, 1.0);
    assert_eq!([report.amplitude_ncc, report.phase_ncc], [0.0, 0.0]);
    assert!((report.phase_mae - std::f64::consts::FRAC_PI_2).abs() < 1e-12);
    assert!(
        report.image.ssim[0] < 0.1 && report.image.frc50 == [0.0, 0.0],
        "{:?}",
        report.image.ssim
    );
}

#[test]
fn uncovered_pixels_do_not_count_but_are_reported() {
    let mut object = truth();
    let mut weights = Array2::<f32>::ones(object.dim());
    weights.slice_mut(s![..30, ..30]).fill(0.0);
    object.slice_mut(s![..30, ..30]).fill(Complex32::default());
    let reconstruction = Reconstruction {
        object: object.view(),
        weights: weights.view(),
        origin_yx: [0.0, 0.0],
        positions: &scan().positions,
    };
    let report = against_truth(&reconstruction, truth().view()).unwrap();
    assert!(report.relative_l2 < 1e-6 && report.covered < 0.9, "{report:?}");
}

#[test]
fn the_true_object_leaves_only_shot_noise_in_the_data() {
    let figures = explain(truth().view(), [0.0, 0.0], None);
    // √n of a Poisson count has the variance 1/4: a quarter photon of Σ(√I−√Î)² a bright pixel.
    assert!(figures.residual < 0.25 / 100.0, "residual {}", figures.residual);
    assert!(figures.deviance < 1.0, "deviance {}", figures.deviance);
    assert!((figures.scale - 1.0).abs() < 0.002, "scale {}", figures.scale);
    assert_eq!(figures.per_frame.len(), 49);
    let worst = figures.per_frame.iter().map(|f| f.residual).fold(0.0, f64::max);
    assert!(worst < 3.0 * figures.residual, "the worst frame has {worst}");
}

#[test]
fn the_deviance_of_bright_pixels_is_one_for_the_true_object() {
    let mean = amplitudes(scan()).mapv(|a| a * a).mean_axis(ndarray::Axis(0)).unwrap();
    let bright = mean.mapv(|count| f32::from(count > 50.0));
    let deviance = explain(truth().view(), [0.0, 0.0], Some(&bright)).deviance;
    // The deviance has the variance 2 a pixel; some pixels are dark in some of the frames.
    assert!((deviance - 1.0).abs() < 0.1, "deviance {deviance} of {} pixels", 49.0 * bright.sum());
}

#[test]
fn a_flat_object_does_not_explain_the_data() {
    let flat = Array2::from_elem(truth().dim(), Complex32::new(0.7, 0.0));
    let (right, wrong) =
        (explain(truth().view(), [0.0; 2], None), explain(flat.view(), [0.0; 2], None));
    assert!(
        wrong.residual > 10.0 * right.residual,
        "{} against {}",
        wrong.residual,
        right.residual
    );
    assert!(wrong.r_factor > 2.0 * right.r_factor, "{wrong:?}");
    assert!(wrong.deviance > 5.0 * right.deviance, "{} against {}", wrong.deviance, right.deviance);
    let dark = explain(Array2::zeros((90, 90)).view(), [0.0; 2], None);
    assert_eq!([dark.residual, dark.r_factor, dark.scale], [1.0, 1.0, 0.0]);
}

#[test]
fn the_origin_of_the_canvas_says_where_the_data_belong() {
    let padded = {
        let mut canvas = Array2::zeros((truth().nrows() + 9, truth().ncols() + 4));
        canvas.slice_mut(s![9.., 4..]).assign(&truth());
        canvas
    };
    let figures = explain(padded.view(), [-9.0, -4.0], None);
    let plain = explain(truth().view(), [0.0, 0.0], None);
    assert!((figures.residual - plain.residual).abs() < 1e-12);
    assert!(explain(padded.view(), [0.0, 0.0], None).residual > 3.0 * plain.residual);
}

#[test]
fn masked_pixels_do_not_count() {
    let mut mask = Array2::<f32>::ones((32, 32));
    mask.slice_mut(s![10..20, ..]).fill(0.0);
    let masked = explain(truth().view(), [0.0, 0.0], Some(&mask));
    assert!(
        masked.deviance.is_finite()
            && masked.residual != explain(truth().view(), [0.0; 2], None).residual
    );
    let nothing = Array2::<f32>::zeros((32, 32));
    let amplitude = amplitudes(scan());
    let probe = scan().probe.map(narrow);
    let object = truth();
    let refused = data_space(&Explained {
        amplitude: &amplitude.clone().into(),
        kappa: 1.0,
        mask: Some(nothing.view()),
        probe: probe.view(),
        object: object.view().into(),
        origin_yx: [0.0; 2],
        positions: &[Position { x: 40.0, y: 40.0 }],
        indices: &[0],
        gains: None,
        background: None,
    });
    assert!(refused.unwrap_err().to_string().contains("no light"));
}

#[test]
fn a_constant_object_is_a_guess() {
    assert!(is_guess(Array2::from_elem((9, 9), Complex32::new(1.0, 0.0)).view()));
    assert!(!is_guess(truth().view()));
}

#[test]
fn nothing_is_similar_to_an_image_without_range() {
    let flat = Array2::from_elem((20, 20), 0.4);
    assert_eq!(ssim(&flat, &flat, 0.0), 0.0);
    assert_eq!(pearson(&[(0.1, 1.0), (0.1, 2.0), (0.1, 4.0)]), 0.0);
    assert!((psnr(0.00196447, 255.0) - 75.198).abs() < 1e-3);
}

#[test]
fn images_of_different_size_are_refused() {
    let [a, b] = [30, 31].map(|n| Array2::<Complex64>::ones((n, n)));
    let error = compare(a.view(), b.view(), PhaseAlign::Mean).unwrap_err().to_string();
    assert!(error.contains("30×30") && error.contains("31×31"), "{error}");
}
