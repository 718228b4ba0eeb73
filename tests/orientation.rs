//! Which way round frames lie relative to positions: what the patterns tell, what only the probe tells,
//! and what nothing tells.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use ndarray::{Array2, Array3, Axis};
use num_complex::{Complex32, Complex64};
use predicates::str::contains;
use ptycho_gpu::data::{
    Dose, DoseOrigin, Instrument, LoadOptions, Position, Rejected, Scan, ScanFile, Source, load,
    write_scan,
};
use ptycho_gpu::orientation::{Confidence, Options, ProbeFrame, Ranking, Turn, rank};
use ptycho_gpu::random::{Purpose, Stream};
use ptycho_gpu::simulate::probes::ProbeKind;
use ptycho_gpu::simulate::{Forward, ObjectSpec, ProbeSpec, objects, probes};

const SIDE: usize = 32;

/// What a test scan is made of.
struct Sample {
    object: fn(usize) -> Array2<Complex64>,
    probe: ProbeSpec,
    /// Positions along a side of the scan, and their distance.
    grid: usize,
    step: f64,
    photons: f64,
}

impl Default for Sample {
    /// Random lines under a curved beam with aberrations, which has no symmetry.
    fn default() -> Sample {
        Sample {
            object: |size| objects::make(&ObjectSpec::default(), size, 3),
            probe: ProbeSpec {
                kind: ProbeKind::Fzp,
                diameter: 12.0,
                aberration: 5.0,
                defocus: 0.0,
                ..ProbeSpec::default()
            },
            grid: 10,
            step: 3.0,
            photons: 1e6,
        }
    }
}

impl Sample {
    /// Counts with shot noise at jittered positions.
    fn scan(&self) -> Scan {
        let mut place = Stream::new(5, Purpose::Positions, 0);
        let first = SIDE as f64 / 2.0 + 2.0;
        let mut at = |cell: usize| first + self.step * cell as f64 + place.uniform() - 0.5;
        let cells = (0..self.grid * self.grid).map(|i| (i % self.grid, i / self.grid));
        let positions: Vec<Position> =
            cells.map(|(x, y)| Position { x: at(x), y: at(y) }).collect();
        let size = SIDE + 6 + (self.step * self.grid as f64) as usize;
        let object = (self.object)(size);
        let scale = self.photons.sqrt();
        let probe = probes::make(&self.probe, SIDE, 7).mapv(|z| z * scale);
        let forward = Forward::new(probe.clone());
        let mut amplitude = Array3::zeros((positions.len(), SIDE, SIDE));
        for (i, mut frame) in amplitude.outer_iter_mut().enumerate() {
            let mut noise = Stream::new(5, Purpose::Noise, i as u32);
            let expected = forward.intensity(object.view(), positions[i]);
            frame.zip_mut_with(&expected, |a, &mean| *a = (noise.poisson(mean) as f32).sqrt());
        }
        Scan {
            amplitude: amplitude.into(),
            dose: Dose { kappa: 1.0, origin: DoseOrigin::WholeSquares },
            probe: probe.mapv(|z| Complex32::new(z.re as f32, z.im as f32)),
            positions,
            nominal: None,
            mask: None,
            object: None,
            labels: None,
            instrument: Instrument::default(),
            rejected: Rejected::default(),
            source: Source { path: "sample.npz".into(), sha256: String::new() },
        }
    }
}

fn usual() -> &'static Scan {
    static USUAL: LazyLock<Scan> = LazyLock::new(|| Sample::default().scan());
    &USUAL
}

/// The scan with its frames stored the wrong way round, mask included.
fn with_frames(scan: &Scan, turn: Turn) -> Scan {
    let mut wrong = scan.clone();
    for mut frame in wrong.amplitude.held_mut().axis_iter_mut(Axis(0)) {
        let turned = turn.frame(frame.view());
        frame.assign(&turned);
    }
    wrong.mask = wrong.mask.map(|mask| turn.frame(mask.view()));
    wrong
}

fn with_positions(scan: &Scan, turn: Turn) -> Scan {
    let mut wrong = scan.clone();
    for p in &mut wrong.positions {
        [p.x, p.y] = turn.vector([p.x, p.y]);
    }
    wrong
}

fn quick() -> Options {
    Options { epochs: [3, 4, 6], ..Options::default() }
}

fn ranked(scan: &Scan) -> Ranking {
    rank(scan, &quick()).unwrap()
}

fn turn(transpose: bool, flip_x: bool, flip_y: bool) -> Turn {
    Turn { transpose, flip_x, flip_y }
}

#[test]
fn the_right_orientation_is_found_whichever_wrong_one_the_frames_are_stored_in() {
    for wrong in Turn::all() {
        let ranking = ranked(&with_frames(usual(), wrong));
        assert_eq!(ranking.best().turn, wrong.inverse(), "{ranking}");
        assert_eq!(ranking.best().probe, ProbeFrame::Positions, "{ranking}");
        assert!(ranking.margin() > 1.5 && ranking.twins_told(), "{ranking}");
        assert_eq!(ranking.confidence(), Confidence::High, "{ranking}");
        assert_eq!(ranking.twin().turn, wrong.inverse().twin());
        assert_eq!(ranking.json()["stored"], wrong.words());
        let flags = ranking.best().turn.frame_flags();
        let expected = if wrong == Turn::NONE { "as the file is" } else { flags };
        assert!(ranking.to_string().contains(expected), "{ranking}");
    }
}

#[test]
fn positions_that_are_wrong_are_told_from_frames_that_are_wrong_by_the_probe() {
    for wrong in [turn(false, true, false), turn(true, false, true)] {
        let ranking = ranked(&with_positions(usual(), wrong));
        // Frames turned by as much as the positions are the same experiment in a turned picture.
        assert_eq!(ranking.best().turn, wrong, "{ranking}");
        assert_eq!(ranking.best().probe, ProbeFrame::Detector, "{ranking}");
        let flags = wrong.inverse().position_flags();
        assert!(ranking.to_string().contains(&format!("positions with `{flags}`")), "{ranking}");
    }
}

#[test]
fn a_probe_of_the_opposite_curvature_makes_the_twin_of_it() {
    let mut scan = usual().clone();
    scan.probe.mapv_inplace(|z| z.conj());
    let ranking = ranked(&scan);
    assert_eq!(ranking.best().turn, Turn::NONE.twin(), "{ranking}");
    assert_eq!(ranking.twin().turn, Turn::NONE);
    assert!(ranking.to_string().contains("are twins"), "{ranking}");
}

#[test]
fn a_probe_that_is_its_own_twin_does_not_tell_twins_apart() {
    let flat = ProbeSpec {
        kind: ProbeKind::Gaussian,
        diameter: 9.0,
        aberration: 0.0,
        ..Sample::default().probe
    };
    let ranking = ranked(&Sample { probe: flat, ..Sample::default() }.scan());
    assert!([Turn::NONE, Turn::NONE.twin()].contains(&ranking.best().turn), "{ranking}");
    assert!(!ranking.twins_told() && ranking.twin_margin() < 1.05, "{ranking}");
    assert!(ranking.margin() > 1.3, "the other pairs are told apart all the same: {ranking}");
    let text = ranking.to_string();
    assert!(text.contains("suits both alike") && text.contains("`--rotate 180`"), "{ranking}");
    assert_eq!(ranking.json()["twin"]["told_by_the_probe"], false);
}

#[test]
fn an_object_that_is_its_own_mirror_image_tells_nothing() {
    // Stripes under a beam that is symmetric: turning top and bottom changes nothing.
    let stripes = |size: usize| {
        Array2::from_shape_fn((size, size), |(_, x)| {
            let x = x as f64;
            Complex64::from_polar(0.8, 0.5 * (0.9 * x).sin() + 0.4 * (0.37 * x + 1.0).sin())
        })
    };
    let probe = ProbeSpec { aberration: 0.0, ..Sample::default().probe };
    let ranking = ranked(&Sample { object: stripes, probe, ..Sample::default() }.scan());
    assert_eq!(ranking.confidence(), Confidence::CannotTell, "{ranking}");
    assert!(ranking.to_string().contains("the patterns cannot tell"), "{ranking}");
    assert_eq!(ranking.json()["stored"], serde_json::Value::Null);
}

#[test]
fn scans_that_cannot_tell_are_refused_with_the_reason() {
    let refuse = |scan: &Scan| rank(scan, &quick()).unwrap_err().to_string();
    let few: Vec<usize> = (0..9).collect();
    let text = refuse(&usual().subset(&few).unwrap());
    assert!(text.contains("sample.npz") && text.contains("there are 9, at least 16"), "{text}");
    let mut apart = usual().clone();
    apart.positions.iter_mut().for_each(|p| (p.x, p.y) = (10.0 * p.x, 10.0 * p.y));
    assert!(refuse(&apart).contains("at least 20 % are needed"), "{}", refuse(&apart));
    let flat = |size: usize| Array2::from_elem((size, size), Complex64::new(1.0, 0.0));
    let flat = Sample { object: flat, ..Sample::default() }.scan();
    assert!(refuse(&flat).contains("no structure"), "{}", refuse(&flat));
    let mut line = usual().clone();
    line.positions.iter_mut().for_each(|p| p.y = 20.0);
    assert!(refuse(&line).contains("on a line"), "{}", refuse(&line));
    let no_probe = Scan { probe: Array3::zeros((0, SIDE, SIDE)), ..usual().clone() };
    assert!(refuse(&no_probe).contains("there is no probe"), "{}", refuse(&no_probe));
}

#[test]
fn threads_change_no_digit_and_masked_pixels_turn_with_the_frames() {
    let mut scan = usual().clone();
    let mask =
        Array2::from_shape_fn((SIDE, SIDE), |(y, x)| if x < 14 && y > 17 { 0.0 } else { 1.0 });
    scan.amplitude.held_mut().outer_iter_mut().for_each(|mut frame| frame *= &mask);
    scan.mask = Some(mask);
    let wrong = turn(true, false, true);
    let scan = with_frames(&scan, wrong);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| ranked(&scan))
    };
    let one = on(1);
    assert_eq!(one.json(), on(2).json());
    assert_eq!(one.best().turn, wrong.inverse(), "{one}");
}

fn inspect(path: &Path, flags: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = Command::cargo_bin("ptycho-gpu").unwrap();
    command.arg("inspect").arg(path).arg("--orientation").args(flags).assert()
}

#[test]
fn inspect_prints_the_ranking_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scan.npz");
    let wrong = with_frames(usual(), turn(false, true, false));
    write_scan(&path, &ScanFile::new(&wrong)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let usual = inspect(&path, &[]).success().stdout(contains("photons"));
    let text = String::from_utf8(usual.get_output().stdout.clone()).unwrap();
    assert!(
        text.contains("stored with its frames flipped left-right: read it with `--flip lr`"),
        "{text}"
    );
    assert!(text.contains("positions with `--flip-x`") && text.contains("are twins"), "{text}");
    let json = inspect(&path, &["--json"]).success();
    let report: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    let orientation = &report["orientation"];
    assert_eq!(orientation["candidates"].as_array().unwrap().len(), 8);
    assert_eq!(orientation["candidates"][0]["frame_flags"], "--flip lr");
    assert_eq!(orientation["stored"], "flipped left-right");
    assert!(orientation["margin"].as_f64().unwrap() > 1.5, "{orientation}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is written");
    let few: Vec<usize> = (0..9).collect();
    write_scan(&path, &ScanFile::new(&wrong.subset(&few).unwrap())).unwrap();
    let refused = inspect(&path, &["--json"]).code(1).stderr(contains("at least 16"));
    assert!(refused.get_output().stdout.is_empty(), "no half of an answer");
}

/// `scripts/orientation FILE…`: every orientation applied to the frames of real scans.
#[test]
#[ignore = "needs scans, named in PTYCHO_ORIENTATION_SCANS, and minutes in a release build"]
fn the_right_orientation_of_given_scans_is_found() {
    let files = std::env::var("PTYCHO_ORIENTATION_SCANS").expect("paths, separated by :");
    let mut wrong_answers = 0;
    for file in files.split(':').map(PathBuf::from) {
        let scan = load(&file, &LoadOptions::default()).unwrap();
        println!("{}", file.display());
        for wrong in Turn::all() {
            let began = std::time::Instant::now();
            let ranking = rank(&with_frames(&scan, wrong), &Options::default()).unwrap();
            let right = ranking.best().turn == wrong.inverse();
            wrong_answers += usize::from(!right);
            let shares =
                [ranking.best(), ranking.second()].map(|c| c.curl_share.unwrap_or(f64::NAN));
            println!(
                "  stored {:35} {:5} margin {:.3}, {:.1} above noise, twin margin {:.3}, curl {:.3} and {:.3}, \
                 confidence {}, {:.0} s",
                wrong.words(),
                if right { "found" } else { "WRONG" },
                ranking.margin(),
                ranking.margin_above_noise(),
                ranking.twin_margin(),
                shares[0],
                shares[1],
                ranking.confidence(),
                began.elapsed().as_secs_f64()
            );
        }
    }
    assert_eq!(wrong_answers, 0);
}
