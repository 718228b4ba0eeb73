//! The object solved for directly: how near it comes to the truth, what it does with what it is not
//! told, and that it is the same everywhere.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use ndarray::Array2;
use num_complex::Complex32;
use predicates::str::contains;
use ptycho_gpu::backend::{self, Chosen};
use ptycho_gpu::config::Device;
use ptycho_gpu::data::{LoadOptions, Npz, NpzWriter, Position, Scan, load};
use ptycho_gpu::metrics::{self, TruthReport, against_truth};
use ptycho_gpu::models::object::{BackgroundKind, Loss};
use ptycho_gpu::random::{Purpose, Stream};
use ptycho_gpu::reconstruct::halves::halves;
use ptycho_gpu::reconstruct::{Options, Rates, Solved, Start, StartObject, reconstruct};
use ptycho_gpu::reconstruction::Saved;
use tempfile::TempDir;

const CPU: Chosen = Chosen::Cpu;

/// A scan of 100 patterns of 32 × 32 pixels with a curved beam, and where its file is.
struct Simulated {
    _folder: TempDir,
    path: PathBuf,
    scan: Scan,
}

/// A million photons in a pattern unless `more` says other.
fn simulated(more: &[&str]) -> Simulated {
    let usual = ["--patterns=100", "--step=3", "--probe-diameter=9", "--defocus=12"];
    let photons =
        if more.iter().any(|m| m.starts_with("--photons")) { None } else { Some("--photons=1e6") };
    simulated_as(&[usual.as_slice(), photons.as_slice(), more].concat())
}

fn simulated_as(recipe: &[&str]) -> Simulated {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let mut command = program();
    command.arg("simulate").arg(&path).args(["--side=32", "--probe=gaussian", "--seed=4"]);
    command.args(recipe).assert().success();
    let scan = load(&path, &LoadOptions::default()).unwrap();
    Simulated { _folder: folder, path, scan }
}

fn usual() -> &'static Simulated {
    static USUAL: LazyLock<Simulated> = LazyLock::new(|| simulated(&[]));
    &USUAL
}

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

fn options(epochs: usize) -> Options {
    Options { epochs, ..Options::default() }
}

fn solve(scan: &Scan, options: &Options) -> Solved {
    reconstruct(scan, &Start::of(scan), options, &CPU, None).unwrap()
}

fn truth(solved: &Solved, scan: &Scan) -> TruthReport {
    let result = &solved.reconstruction;
    let placed = metrics::Reconstruction {
        object: result.stitched.object.view(),
        weights: result.stitched.weights.view(),
        origin_yx: result.canvas.origin_yx.map(|o| o as f64),
        positions: &result.positions,
    };
    against_truth(&placed, scan.object.as_ref().unwrap().view()).unwrap()
}

fn bits(solved: &Solved) -> Vec<u32> {
    let result = &solved.reconstruction;
    let numbers = result.stitched.object.iter().chain(&result.probe);
    numbers.flat_map(|z| [z.re.to_bits(), z.im.to_bits()]).collect()
}

#[test]
fn a_simulated_object_is_found_to_the_noise() {
    let scan = &usual().scan;
    let solved = solve(scan, &options(40));
    let truth = truth(&solved, scan);
    assert!(truth.relative_l2 < 0.02 && truth.relative_l2 < 0.2 * truth.constant_l2, "{truth}");
    // Noise in √counts is 1/2, which makes this e of shot noise alone.
    let floor = 32.0 * 32.0 / 4.0 / scan.mean_photons();
    let e = solved.figures.residual;
    assert!(e < 3.0 * floor, "residual {e:.2e}, the shot noise alone makes {floor:.2e}");
    assert!((solved.outcome.loss / e - 1.0).abs() < 0.2, "the loss is close to the residual");
}

#[test]
fn both_losses_find_it() {
    let scan = &usual().scan;
    // The Poisson loss is steep where few photons were counted: it takes more passes than the other.
    let solved = solve(scan, &Options { loss: Loss::Poisson, ..options(80) });
    assert!(truth(&solved, scan).relative_l2 < 0.03, "{}", truth(&solved, scan));
}

#[test]
fn a_slow_error_of_the_start_is_smaller_after_as_many_epochs_with_smooth_steps() {
    let beam = ["--probe-diameter=12", "--defocus=3", "--photons=1e5"];
    let scan = &simulated_as(&[&["--patterns=400", "--step=2"], beam.as_slice()].concat()).scan;
    let solved = solve(scan, &options(20)).reconstruction;
    let (height, width) = solved.stitched.object.dim();
    // A wave of phase over the canvas, as networks leave them.
    let turn = |i: usize, points: usize| (std::f32::consts::TAU * i as f32 / points as f32).sin();
    let mut object = solved.stitched.object.clone();
    for ((y, x), z) in object.indexed_iter_mut() {
        *z *= Complex32::from_polar(1.0, 0.4 * turn(y, height) * turn(x, width));
    }
    let weights = solved.stitched.weights.clone();
    let origin_yx = solved.canvas.origin_yx.map(|o| o as f64);
    let start =
        Start { object: Some(StartObject { object, weights, origin_yx }), ..Start::of(scan) };
    let error = |smooth: f64| {
        let rates = Rates { smooth, ..Rates::default() };
        let options = Options { rates, ..options(2) };
        truth(&reconstruct(scan, &start, &options, &CPU, None).unwrap(), scan).relative_l2
    };
    let (with, without) = (error(0.03), error(0.0));
    assert!(with < 0.93 * without, "{with:.4}, and {without:.4} without");
}

#[test]
fn threads_and_repetition_change_no_bit() {
    let scan = &usual().scan;
    let options = Options {
        refine_positions: true,
        modes: Some(2),
        frame_scale: true,
        background: BackgroundKind::Pixels,
        tv: 1e-3,
        rates: Rates { smooth: 0.03, ..Rates::default() },
        amplitude_limit: Some(2.0),
        ..options(2)
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(&solve(scan, &options)))
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(2));
    let other = solve(scan, &Options { seed: 1, ..options });
    assert_ne!(one, bits(&other), "another seed takes another order");
}

#[test]
fn patterns_that_are_streamed_give_the_same_bits() {
    let scan = &usual().scan;
    let limit = Some(3 << 20);
    let whole = solve(scan, &options(2));
    let streamed = solve(scan, &Options { device_memory_limit: limit, ..options(2) });
    assert_eq!(bits(&whole), bits(&streamed));
    let refused = Options { device_memory_limit: Some(1 << 18), ..options(2) };
    let refused = reconstruct(scan, &Start::of(scan), &refused, &CPU, None).unwrap_err();
    assert!(refused.to_string().contains("--batch-size"), "{refused}");
}

#[test]
fn a_gpu_takes_the_same_steps() {
    let device = match backend::choose(Device::Cuda(0)) {
        Ok(device) => device,
        Err(why) => {
            assert!(std::env::var_os("PTYCHO_REQUIRE_CUDA").is_none(), "{why}");
            return eprintln!("not compared with CUDA: {why}");
        }
    };
    let scan = usual().scan.subset(&(0..12).collect::<Vec<_>>()).unwrap();
    let options = Options {
        batch_size: Some(4),
        refine_positions: true,
        modes: Some(2),
        frame_scale: true,
        background: BackgroundKind::Constant,
        tv: 1e-3,
        rates: Rates { smooth: 0.03, ..Rates::default() },
        ..options(2)
    };
    let start = Start::of(&scan);
    let [want, got] = [&CPU, &device]
        .map(|device| reconstruct(&scan, &start, &options, device, None).unwrap().reconstruction);
    let (mut off, mut all) = (0.0, 0.0);
    let lit = want.lit();
    for ((g, w), _) in
        got.stitched.object.iter().zip(&want.stitched.object).zip(&lit).filter(|(_, lit)| **lit)
    {
        off += f64::from((g - w).norm_sqr());
        all += f64::from(w.norm_sqr());
    }
    // Adam turns rounding of tiny gradients into whole steps where the beam hardly reaches.
    assert!(off < 1e-4 * all, "relative error {:.1e}", (off / all).sqrt());
    for (g, w) in got.positions.iter().zip(&want.positions) {
        assert!((g.x - w.x).hypot(g.y - w.y) < 0.02, "{g:?} is not {w:?}");
    }
}

#[test]
fn steps_that_are_too_large_are_halved_until_it_converges() {
    let scan = &usual().scan;
    let mut wild = options(30);
    (wild.rates.object, wild.rates.probe) = (20.0, 20.0);
    let solved = solve(scan, &wild);
    assert!(solved.outcome.halvings > 0);
    assert!(solved.reconstruction.stitched.object.iter().all(|z| z.is_finite()));
    let residual = solved.figures.residual;
    assert!(residual < 0.1, "residual {residual} after {} halvings", solved.outcome.halvings);
}

#[test]
fn a_run_ends_when_the_loss_stands_still() {
    let scan = &usual().scan;
    let patient = Options { patience: 3, tolerance: 0.5, ..options(200) };
    let solved = solve(scan, &patient);
    assert!(solved.outcome.stopped_early && solved.outcome.epochs < 100, "{:?}", solved.outcome);
}

#[test]
fn masked_pixels_are_free() {
    let mut scan = usual().scan.clone();
    let mut mask = Array2::ones((32, 32));
    mask.slice_mut(ndarray::s![10..14, ..]).fill(0.0);
    scan.mask = Some(mask);
    scan.amplitude.held_mut().slice_mut(ndarray::s![.., 10..14, ..]).fill(0.0);
    let solved = solve(&scan, &options(40));
    assert!(truth(&solved, &scan).relative_l2 < 0.05, "{}", truth(&solved, &scan));
}

#[test]
fn displaced_positions_are_found_again() {
    // An object of weak contrast says little about positions.
    let exact = simulated(&["--photons=1e8", "--object=lines"]).scan;
    let mut scan = exact.clone();
    let mut noise = Stream::new(9, Purpose::Positions, 0);
    for p in &mut scan.positions {
        (p.x, p.y) = (p.x + 0.7 * noise.normal(), p.y + 0.7 * noise.normal());
    }
    let refining = Options { refine_positions: true, ..options(80) };
    let (blind, solved) = (solve(&scan, &options(80)), solve(&scan, &refining));
    let before = distance(&scan.positions, &exact.positions);
    let after = distance(&solved.reconstruction.positions, &exact.positions);
    assert!(after < 0.35 * before, "{before:.3} pixels off before, {after:.3} after");
    assert!(solved.figures.residual < 0.5 * blind.figures.residual);
    let moves = solved.outcome.moves.unwrap();
    assert!(moves.largest < 4.0 * 2f64.sqrt() + 1e-3, "{moves:?}");
}

/// Root mean square distance without a common shift.
fn distance(a: &[Position], b: &[Position]) -> f64 {
    let moves = ptycho_gpu::reconstruct::positions::moves(a, b, 1e9);
    let shift = moves.shift_xy[0].hypot(moves.shift_xy[1]);
    (moves.rms.powi(2) - shift.powi(2)).sqrt()
}

#[test]
fn modes_share_a_partially_coherent_beam() {
    let mut scan = simulated(&["--modes=6,3,1", "--photons=1e8"]).scan;
    // All that is known is what the modes look like, not how strong they are.
    for mut mode in scan.probe.outer_iter_mut() {
        let power: f32 = mode.iter().map(|z| z.norm_sqr()).sum();
        mode.mapv_inplace(|z| z / power.sqrt());
    }
    let [one, three] =
        [1, 3].map(|modes| solve(&scan, &Options { modes: Some(modes), ..options(60) }));
    let (coherent, partial) = (one.figures.residual, three.figures.residual);
    assert!(partial < 0.1 * coherent, "{coherent:.1e} with one mode, {partial:.1e} with three");
    let powers = &three.outcome.mode_powers;
    for (power, want) in powers.iter().zip([0.6, 0.3, 0.1]) {
        assert!((power - want).abs() < 0.05, "{powers:?}");
    }
}

#[test]
fn brightness_and_background_are_told_from_the_object() {
    let mut scan = usual().scan.clone();
    let gain = |k: usize| 1.0 + 0.3 * (k as f64 * 2.4).sin();
    let light = 0.02 * scan.mean_energy() / 1024.0;
    for (k, mut pattern) in scan.amplitude.held_mut().outer_iter_mut().enumerate() {
        pattern.mapv_inplace(|a| (gain(k) * f64::from(a).powi(2) + light).sqrt() as f32);
    }
    let known = Options {
        frame_scale: true,
        background: BackgroundKind::Constant,
        refine_probe: false,
        ..options(80)
    };
    let solved = solve(&scan, &known);
    let exposure = &solved.reconstruction.exposure;
    let gains = exposure.gains.as_ref().unwrap();
    let mean = (0..gains.len()).map(gain).sum::<f64>() / gains.len() as f64;
    let worst = gains.iter().enumerate().map(|(k, g)| (g - gain(k) / mean).abs());
    let worst = worst.fold(0.0, f64::max);
    assert!(worst < 0.05, "gains are off by {worst:.3} at most");
    let found = f64::from(exposure.background.as_ref().unwrap()[[0, 0]]);
    assert!((found / light - 1.0).abs() < 0.2, "background {found:.2e} instead of {light:.2e}");
}

#[test]
fn halves_of_the_data_agree_where_the_object_is_known() {
    let scan = &usual().scan;
    let (start, options) = (Start::of(scan), options(30));
    let whole = reconstruct(scan, &start, &options, &CPU, None).unwrap();
    let halves = halves(scan, &start, &whole, &options, &CPU).unwrap();
    assert!(
        halves.ring > 0.6 * halves.side as f64 / 2.0,
        "ring {} of {}",
        halves.ring,
        halves.side
    );
    assert!(halves.curve.iter().all(|c| (0.0..=1.0 + 1e-9).contains(c)));
}

#[test]
fn an_amplitude_limit_holds() {
    let scan = &usual().scan;
    let solved =
        solve(scan, &Options { amplitude_limit: Some(0.9), refine_probe: false, ..options(3) });
    let largest =
        solved.reconstruction.stitched.object.iter().map(|z| z.norm()).fold(0.0, f32::max);
    assert!(largest < 0.9001, "amplitude {largest}");
}

#[test]
fn positions_that_the_data_do_not_determine_are_refused() {
    let refining = Options { refine_positions: true, ..options(2) };
    let refuse = |scan: &Scan| {
        reconstruct(scan, &Start::of(scan), &refining, &CPU, None).unwrap_err().to_string()
    };
    let scan = &usual().scan;
    assert!(refuse(&scan.subset(&[0, 1]).unwrap()).contains("at least 4"));
    let mut apart = scan.clone();
    apart.positions.iter_mut().for_each(|p| (p.x, p.y) = (10.0 * p.x, 10.0 * p.y));
    assert!(refuse(&apart).contains("share"), "{}", refuse(&apart));
    let mut same = scan.clone();
    let first = scan.amplitude.held().index_axis(ndarray::Axis(0), 0).to_owned();
    same.amplitude.held_mut().outer_iter_mut().for_each(|mut pattern| pattern.assign(&first));
    assert!(refuse(&same).contains("no structure"), "{}", refuse(&same));
}

fn run(command: &str, args: &[&Path], more: &[&str]) -> assert_cmd::assert::Assert {
    program().arg(command).args(args).args(["--device=cpu"]).args(more).assert()
}

#[test]
fn refine_improves_what_it_starts_from_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    let [first, better] = ["first", "better"].map(|name| place.path().join(name));
    let scan = usual().path.as_path();
    let folder = |path: &Path| format!("--output-dir={}", path.display());
    run("reconstruct", &[scan], &["--epochs=3", &folder(&first)]).success();
    let done = run("refine", &[&first, scan], &["--epochs=8", "--json", &folder(&better)]);
    let done = done.success();
    let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let number = |key: &str| line[key].as_f64().unwrap();
    assert!(number("residual") < 0.7 * number("residual_before"), "{line}");
    assert!(number("change") > 0.0 && number("epochs") == 8.0);
    let saved = Saved::read(&better).unwrap();
    let figures = metrics::data_space(&saved.explained(&usual().scan)).unwrap();
    assert!((figures.residual / number("residual") - 1.0).abs() < 1e-6, "the file says the same");
    let report = std::fs::read_to_string(better.join("report.md")).unwrap();
    assert!(report.contains("| residual"), "{report}");
    for picture in ["phase", "compare_phase", "compare_amplitude", "change", "residual", "probe"] {
        assert!(better.join(picture).with_extension("png").exists(), "{picture}");
    }
    // The smooth parts have steps of their own, unless they are switched off.
    let without = place.path().join("without");
    let more = ["--epochs=1", "--smooth-rate=0", &folder(&without)];
    run("refine", &[&first, scan], &more).success();
    for (result, rate) in [(&first, 0.0), (&better, 0.03), (&without, 0.0)] {
        let record = std::fs::read(result.join("run.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["options"]["rates"]["smooth"], rate, "{}", result.display());
    }
    // Over the start itself nothing is written.
    run("refine", &[&first, scan], &[&folder(&first)]).failure().stderr(contains("another folder"));
}

#[test]
fn a_file_without_a_probe_is_solved_from_its_mean_pattern() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("no-probe.npz");
    let scan = &usual().scan;
    let mut file = NpzWriter::create(&path).unwrap();
    file.f32("diffraction", scan.amplitude.held()).unwrap();
    let coordinates = |f: fn(&Position) -> f64| scan.positions.iter().map(f).collect();
    let [x, y]: [ndarray::Array1<f64>; 2] = [coordinates(|p| p.x), coordinates(|p| p.y)];
    file.f64("xcoords", &x).unwrap();
    file.f64("ycoords", &y).unwrap();
    file.finish().unwrap();
    let out = format!("--output-dir={}", place.path().join("out").display());
    run("reconstruct", &[&path], &["--epochs=40", &out]).success();
    let saved = Saved::read(&place.path().join("out")).unwrap();
    let figures = metrics::data_space(&saved.explained(scan)).unwrap();
    assert!(figures.residual < 0.02, "residual {}", figures.residual);
    let probe: ndarray::ArrayD<Complex32> =
        Npz::open(place.path().join("out/reconstruction.npz")).unwrap().c64("probe").unwrap();
    assert_eq!(probe.shape(), [1, 32, 32]);
}

#[test]
fn mistakes_are_named() {
    let place = tempfile::tempdir().unwrap();
    let out = format!("--output-dir={}", place.path().join("out").display());
    let scan = usual().path.as_path();
    for (flag, text) in [
        ("--epochs=0", "--epochs is 0"),
        ("--modes=0", "--modes is 0"),
        ("--modes=99", "at most 10"),
        ("--object-rate=-1", "--object-rate is -1"),
        ("--smooth-rate=-1", "--smooth-rate is -1"),
        ("--smooth-rate=0.5", "--smooth-rate is 0.5"),
        ("--tolerance=1", "--tolerance is 1"),
        ("--n-images=0", "--n-images is 0"),
        ("--probe=disk:99", "diameter"),
    ] {
        run("reconstruct", &[scan], &[flag, &out]).code(1).stderr(contains(text));
    }
    run("reconstruct", &[scan], &["--probe=lens:3", &out]).code(2).stderr(contains("no probe"));
    run("reconstruct", &[Path::new("none.npz")], &[&out]).code(1).stderr(contains("none.npz"));
    assert!(!place.path().join("out").exists(), "nothing is left behind");
}
