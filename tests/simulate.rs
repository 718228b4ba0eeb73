//! Simulated scans: dose, noise, probes, and the same bits from the same recipe.

use clap::ValueEnum;
use ndarray::{Array2, Array3, Axis};
use num_complex::Complex64;
use ptycho_gpu::data::scan::Position;
use ptycho_gpu::simulate::objects::ObjectKind;
use ptycho_gpu::simulate::probes::ProbeKind;
use ptycho_gpu::simulate::{
    DoseSpec, Forward, Patterns, ProbeSpec, Recipe, ScanSpec, SimulatedScan, forward, simulate,
};

fn small() -> Recipe {
    let mut recipe = Recipe { side: 32, seed: 5, ..Recipe::default() };
    recipe.scan = ScanSpec { patterns: 30, step: 3.0, jitter: 0.5 };
    recipe.probe.diameter = 12.0;
    recipe.dose = DoseSpec::MeanCount(50.0);
    recipe
}

fn counts(scan: &SimulatedScan) -> &Array3<u32> {
    match &scan.patterns {
        Patterns::Counts(counts) => counts,
        Patterns::Expected(_) => panic!("the recipe asks for noise"),
    }
}

fn mean(counts: &Array3<u32>) -> f64 {
    counts.iter().map(|&n| f64::from(n)).sum::<f64>() / counts.len() as f64
}

fn on_threads(threads: usize, recipe: &Recipe) -> SimulatedScan {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| simulate(recipe)).expect("a valid recipe")
}

#[test]
fn the_mean_count_is_the_dose_within_one_percent() {
    for &object in ObjectKind::value_variants() {
        let mut recipe = small();
        recipe.object.kind = object;
        let got = mean(counts(&simulate(&recipe).unwrap()));
        assert!((got / 50.0 - 1.0).abs() < 0.01, "{object:?}: {got} counts per pixel, wanted 50");
    }
    let photons = Recipe { dose: DoseSpec::Photons(2e5), ..small() };
    let got = mean(counts(&simulate(&photons).unwrap())) * 1024.0;
    assert!((got / 2e5 - 1.0).abs() < 0.01, "{got} photons per pattern, wanted 2e5");
}

#[test]
fn a_repeated_pattern_varies_like_poisson_counts() {
    let mut recipe = small();
    recipe.scan = ScanSpec { patterns: 400, step: 0.0, jitter: 0.0 };
    let scan = simulate(&recipe).unwrap();
    let counts = counts(&scan).mapv(f64::from);
    let mean = counts.mean_axis(Axis(0)).unwrap();
    let variance = counts.var_axis(Axis(0), 1.0);
    let bright: Vec<f64> =
        variance.iter().zip(&mean).filter(|(_, m)| **m > 1.0).map(|(v, m)| v / m).collect();
    let fano = bright.iter().sum::<f64>() / bright.len() as f64;
    // Each ratio has the standard error √(2/400); over `bright.len()` pixels it averages down.
    let limit = 5.0 * (2.0 / 400.0 / bright.len() as f64).sqrt();
    assert!(
        (fano - 1.0).abs() < limit,
        "variance/mean {fano} over {} pixels ±{limit}",
        bright.len()
    );
}

#[test]
fn the_same_seed_gives_the_same_bits_on_one_and_two_threads() {
    let recipe = small();
    assert!(on_threads(1, &recipe) == on_threads(2, &recipe));
}

#[test]
fn another_seed_gives_another_object_other_positions_and_other_noise() {
    let (a, b) = (simulate(&small()).unwrap(), simulate(&Recipe { seed: 6, ..small() }).unwrap());
    assert!(a.object != b.object && a.positions != b.positions && counts(&a) != counts(&b));
}

#[test]
fn noise_does_not_depend_on_how_the_object_was_drawn() {
    let flat = |kind| {
        let mut recipe = small();
        recipe.object.kind = kind;
        (recipe.object.amplitude_min, recipe.object.phase) = (1.0, 0.0);
        simulate(&recipe).unwrap()
    };
    assert_eq!(counts(&flat(ObjectKind::Lines)), counts(&flat(ObjectKind::Siemens)));
}

#[test]
fn modes_are_orthogonal_and_have_the_stated_powers() {
    for kind in [ProbeKind::Disk, ProbeKind::Fzp, ProbeKind::Gaussian] {
        let spec = ProbeSpec {
            kind,
            powers: vec![6.0, 3.0, 1.0],
            aberration: 0.5,
            ..ProbeSpec::default()
        };
        let modes = ptycho_gpu::simulate::probes::make(&spec, 64, 3);
        for (i, a) in modes.axis_iter(Axis(0)).enumerate() {
            for (j, b) in modes.axis_iter(Axis(0)).enumerate() {
                let product: Complex64 = a.iter().zip(b).map(|(a, b)| a.conj() * b).sum();
                let wanted = if i == j { spec.powers[i] / 10.0 } else { 0.0 };
                assert!((product - wanted).norm() < 1e-12, "{kind:?} ⟨{i},{j}⟩ = {product}");
            }
        }
    }
}

#[test]
fn a_probe_lies_in_the_middle_and_is_as_wide_as_asked() {
    for kind in [ProbeKind::Disk, ProbeKind::Fzp, ProbeKind::Gaussian] {
        let spec = ProbeSpec { kind, defocus: 0.0, ..ProbeSpec::default() };
        let power = ptycho_gpu::simulate::probes::make(&spec, 64, 1).mapv(|z| z.norm_sqr());
        let moment = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            power.indexed_iter().map(|((_, y, x), p)| p * f(y as f64 - 32.0, x as f64 - 32.0)).sum()
        };
        let (y, x) = (moment(&|y, _| y), moment(&|_, x| x));
        assert!(y.abs() < 0.1 && x.abs() < 0.1, "{kind:?}: centre of mass ({y}, {x})");
        // The root-mean-square radius: R/√2 of a disc, FWHM/√(4 ln 2) of a Gaussian.
        let radius = moment(&|y, x| y * y + x * x).sqrt();
        let wanted = if kind == ProbeKind::Gaussian { 24.0 / 1.665 } else { 12.0 / 1.414 };
        assert!((radius / wanted - 1.0).abs() < 0.25, "{kind:?}: radius {radius}, wanted {wanted}");
    }
}

#[test]
fn objects_stay_inside_the_range_of_the_network() {
    for &kind in ObjectKind::value_variants() {
        let mut recipe = small();
        (recipe.object.kind, recipe.object.phase) = (kind, 3.0);
        let object = simulate(&recipe).unwrap().object;
        let amplitudes: Vec<f64> = object.iter().map(|z| z.norm()).collect();
        assert!(amplitudes.iter().all(|a| (0.3 - 1e-12..1.0 + 1e-12).contains(a)), "{kind:?}");
        let spread = amplitudes.iter().cloned().fold(0.0, f64::max)
            - amplitudes.iter().cloned().fold(1.0, f64::min);
        assert!(spread > 0.3, "{kind:?} is nearly flat: its amplitudes span {spread}");
    }
}

#[test]
fn every_patch_lies_inside_the_object() {
    let mut recipe = small();
    recipe.scan.jitter = 4.0;
    let scan = simulate(&recipe).unwrap();
    let (height, width) = scan.object.dim();
    for p in &scan.positions {
        assert!(p.x >= 16.0 && p.x + 16.0 <= (width - 1) as f64, "{p:?} in {width} columns");
        assert!(p.y >= 16.0 && p.y + 16.0 <= (height - 1) as f64, "{p:?} in {height} rows");
    }
}

#[test]
fn a_patch_is_cut_around_its_position_and_interpolated_linearly() {
    let object = Array2::from_shape_fn((40, 50), |(y, x)| Complex64::new(y as f64, x as f64));
    let whole = forward::extract(object.view(), Position { x: 20.0, y: 16.0 }, 8);
    assert_eq!(whole[[4, 4]], Complex64::new(16.0, 20.0));
    let between = forward::extract(object.view(), Position { x: 20.25, y: 16.5 }, 8);
    assert!((between[[0, 7]] - Complex64::new(12.5, 23.25)).norm() < 1e-12);
    let outside = forward::extract(object.view(), Position { x: -30.0, y: 16.0 }, 8);
    assert!(outside.iter().all(|z| z.norm() == 0.0));
}

#[test]
fn a_flat_wave_lands_in_the_middle_of_the_detector_and_no_light_is_lost() {
    let forward = Forward::new(Array3::from_elem((1, 8, 8), Complex64::new(1.0, 0.0)));
    let object = Array2::from_elem((20, 20), Complex64::new(0.0, 1.0));
    let position = Position { x: 10.0, y: 10.0 };
    let pattern = forward.intensity(object.view(), position);
    assert!((pattern[[4, 4]] - 64.0).abs() < 1e-12 && (pattern.sum() - 64.0).abs() < 1e-12);
    assert!((forward.energy(object.view(), position) - 64.0).abs() < 1e-12);
}

#[test]
fn impossible_recipes_are_refused_with_a_sentence() {
    let refusal = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = small();
        change(&mut recipe);
        simulate(&recipe).expect_err("an impossible recipe").to_string()
    };
    assert!(refusal(&|r| r.side = 33).contains("even"));
    assert!(refusal(&|r| r.scan.patterns = 0).contains("at least one"));
    assert!(refusal(&|r| r.dose = DoseSpec::Photons(-1.0)).contains("positive"));
    assert!(refusal(&|r| r.object.phase = 4.0).contains("phase"));
    assert!(refusal(&|r| r.object.amplitude_min = 0.0).contains("amplitude"));
    assert!(refusal(&|r| r.probe.powers = vec![1.0, 0.0]).contains("powers"));
    assert!(refusal(&|r| r.probe.diameter = f64::NAN).contains("diameter"));
    assert!(refusal(&|r| r.dose = DoseSpec::Photons(1e15)).contains("lower the dose"));
}
