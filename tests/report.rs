//! What a run leaves behind: pictures, history, record, and the rule that files are whole.

use std::f32::consts::PI;
use std::fs;
use std::path::Path;

use ndarray::{Array2, Array3};
use num_complex::Complex32;
use ptycho_gpu::backend::Description;
use ptycho_gpu::cli::{Cli, Command};
use ptycho_gpu::config::{self, DatasetFacts};
use ptycho_gpu::data::scan::{Dose, DoseOrigin, Scan, Source};
use ptycho_gpu::data::{Instrument, Rejected};
use ptycho_gpu::report::colormap::{UNCOVERED, hue_wheel};
use ptycho_gpu::report::{
    Colormap, ComplexPicture, Curve, History, Layout, Picture, Places, Range, RunRecord, Series,
    atomic_write, draw_complex, draw_curve, draw_image, draw_positions, history, write_curve,
    write_image,
};

type Rgb = [u8; 3];

struct Decoded {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    texts: Vec<(String, String)>,
}

fn decode(path: &Path) -> Decoded {
    let file = std::io::BufReader::new(fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    reader.finish().unwrap();
    let texts = &reader.info().uncompressed_latin1_text;
    let texts = texts.iter().map(|t| (t.keyword.clone(), t.text.clone())).collect();
    Decoded { width: frame.width as usize, height: frame.height as usize, pixels, texts }
}

/// The colour that shows the number at (row, column).
fn shown(values: &Array2<f32>, picture: &Picture, row: usize, column: usize) -> Rgb {
    let (x, y) = Layout::of(values.dim()).pixel(row, column);
    draw_image(values, picture).get(x, y)
}

/// The light of a colour: bytes are denser in the dark.
fn linear(color: Rgb) -> [f64; 3] {
    color.map(|byte| {
        let x = f64::from(byte) / 255.0;
        if x <= 0.04045 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
    })
}

/// How light a colour looks, from black 0 to white 1 (relative luminance of sRGB).
fn luminance(color: Rgb) -> f64 {
    let linear = linear(color);
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

fn distance(a: Rgb, b: Rgb) -> i32 {
    (0..3).map(|i| (i32::from(a[i]) - i32::from(b[i])).abs()).max().unwrap()
}

fn phase(range: Range) -> Picture<'static> {
    Picture { title: "phase", colormap: Colormap::Cyclic, range, unit: "rad", ..Picture::default() }
}

#[test]
fn png_decodes_to_the_size_the_layout_says_with_program_and_title() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let values = Array2::from_shape_fn((100, 150), |(y, x)| (x * y) as f32);
    write_image(&path, &values, &Picture { title: "amplitude", ..Picture::default() }).unwrap();
    let decoded = decode(&path);
    let layout = Layout::of((100, 150));
    assert_eq!((decoded.width, decoded.height), (layout.width, layout.height));
    assert_eq!(decoded.pixels.len(), layout.width * layout.height * 3);
    // 150 pixels become at least 512 by a whole factor.
    assert_eq!((layout.zoom, layout.image), (4, (600, 400)));
    assert!(decoded.texts.contains(&("Title".into(), "amplitude".into())));
    let software = format!("ptycho-gpu {}", env!("CARGO_PKG_VERSION"));
    assert!(decoded.texts.contains(&("Software".into(), software)));
}

#[test]
fn a_long_title_stays_above_the_image() {
    let values = Array2::from_shape_fn((132, 200), |(y, x)| (x * y) as f32);
    let layout = Layout::of(values.dim());
    let right = layout.origin.0 + layout.image.0;
    let beside = |title: &str| {
        let bitmap = draw_image(&values, &Picture { title, unit: "log10", ..Picture::default() });
        let line = |y| (right..layout.width).map(move |x| (x, y));
        (0..layout.origin.1).flat_map(line).map(|(x, y)| bitmap.get(x, y)).collect::<Vec<Rgb>>()
    };
    let long = "Photons in patterns 123456, 234567, 345678: measured, predicted";
    assert!(beside(long) == beside("short"), "it runs into the unit of the colour bar");
}

#[test]
fn the_same_picture_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let values = Array2::from_shape_fn((40, 30), |(y, x)| (x as f32 - y as f32).sin());
    let bytes = ["a.png", "b.png"].map(|name| {
        let path = folder.path().join(name);
        write_image(&path, &values, &phase(Range::default())).unwrap();
        fs::read(path).unwrap()
    });
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn minus_pi_and_pi_have_one_colour() {
    let values = Array2::from_shape_vec((1, 4), vec![-PI, PI, 0.0, PI / 2.0]).unwrap();
    for range in [Range::Fixed(-std::f64::consts::PI, std::f64::consts::PI), Range::default()] {
        let picture = phase(range);
        let at = |column| shown(&values, &picture, 0, column);
        assert!(distance(at(0), at(1)) <= 3, "{:?} {:?}", at(0), at(1));
        assert!(distance(at(0), at(2)) > 40 && distance(at(2), at(3)) > 40);
    }
}

#[test]
fn narrow_phase_around_pi_is_one_smooth_ramp() {
    // From just below π to just above −π: a weak object whose mean phase is π.
    let angle = |i: usize| PI - 0.4 + 0.8 * i as f32 / 63.0;
    let wrapped = |i: usize| if angle(i) > PI { angle(i) - 2.0 * PI } else { angle(i) };
    let values = Array2::from_shape_fn((1, 64), |(_, x)| wrapped(x));
    let picture = phase(Range::default());
    let bitmap = draw_image(&values, &picture);
    let layout = Layout::of(values.dim());
    let light: Vec<f64> = (0..64)
        .map(|column| layout.pixel(0, column))
        .map(|(x, y)| luminance(bitmap.get(x, y)))
        .collect();
    assert!(light.windows(2).all(|pair| pair[1] >= pair[0] - 0.005), "{light:?}");
    assert!(light[63] - light[0] > 0.3);
}

#[test]
fn the_cyclic_map_has_no_seam_and_the_sequential_map_gets_steadily_lighter() {
    for i in 0..360 {
        let step = |i: i32| Colormap::Cyclic.at(f64::from(i) / 360.0);
        let (from, to) = (linear(step(i)), linear(step(i + 1)));
        let widest = (0..3).map(|c| (from[c] - to[c]).abs()).fold(0.0, f64::max);
        assert!(widest < 0.04, "{widest} at {i} degrees");
    }
    let light: Vec<f64> =
        (0..=100).map(|i| luminance(Colormap::Sequential.at(f64::from(i) / 100.0))).collect();
    assert!(light.windows(2).all(|pair| pair[1] > pair[0]), "{light:?}");
}

#[test]
fn uncovered_pixels_are_gray_and_do_not_count_for_the_range() {
    let mut values = Array2::from_shape_fn((20, 20), |(y, _)| y as f32);
    values[(3, 4)] = 1e9;
    values[(5, 6)] = f32::NAN;
    let mask = Array2::from_shape_fn((20, 20), |index| index != (3, 4));
    let picture = Picture { mask: Some(&mask), ..Picture::default() };
    assert_eq!(shown(&values, &picture, 3, 4), UNCOVERED);
    assert_eq!(shown(&values, &picture, 5, 6), UNCOVERED);
    assert_eq!(shown(&values, &picture, 19, 0), Colormap::Sequential.at(1.0));
    assert_eq!(shown(&values, &picture, 0, 0), Colormap::Sequential.at(0.0));
}

#[test]
fn neither_map_comes_near_the_gray_of_uncovered_pixels() {
    for i in 0..=100 {
        let t = f64::from(i) / 100.0;
        assert!(distance(Colormap::Sequential.at(t), UNCOVERED) > 20);
        assert!(distance(Colormap::Cyclic.at(t), UNCOVERED) > 20);
    }
}

#[test]
fn the_hue_says_the_phase_and_the_lightness_the_modulus() {
    let turn = 2.0 * std::f64::consts::PI;
    for step in 0..360 {
        let (a, b) = (f64::from(step) / 360.0 * turn, f64::from(step + 1) / 360.0 * turn);
        assert!(distance(hue_wheel(a, 1.0), hue_wheel(b, 1.0)) <= 10, "a seam at {a}");
        assert_eq!(hue_wheel(a, 1.0), hue_wheel(a - turn, 1.0));
        assert_eq!(hue_wheel(a, 0.0), [0, 0, 0]);
        let light: Vec<f64> =
            (0..=10).map(|v| luminance(hue_wheel(a, 0.1 * f64::from(v)))).collect();
        assert!(light.windows(2).all(|pair| pair[1] >= pair[0]) && light[10] > 10.0 * light[4]);
    }
    // No phase looks like absorption.
    let light: Vec<f64> =
        (0..90).map(|i| luminance(hue_wheel(f64::from(i) / 90.0 * turn, 1.0))).collect();
    let (least, most) = light.iter().fold((1.0f64, 0.0f64), |(l, m), &x| (l.min(x), m.max(x)));
    assert!(most / least < 1.4, "{least} to {most}");
    let quarter = |i: i32| hue_wheel(f64::from(i) * turn / 4.0, 1.0);
    assert!((0..4).all(|i| (0..i).all(|j| distance(quarter(i), quarter(j)) > 40)));
}

#[test]
fn complex_numbers_are_drawn_where_they_are_known() {
    let mut values =
        Array2::from_shape_fn((40, 50), |(r, c)| Complex32::from_polar(1.0, (r + c) as f32 * 0.1));
    values[[3, 4]] = Complex32::new(f32::NAN, 0.0);
    let mut mask = Array2::from_elem((40, 50), true);
    mask[[5, 6]] = false;
    let picture =
        ComplexPicture { mask: Some(&mask), brightest: Some(2.0), ..ComplexPicture::default() };
    let drawn = draw_complex(&values, &picture);
    let layout = Layout::of(values.dim());
    let at = |row, column| {
        let (x, y) = layout.pixel(row, column);
        drawn.get(x, y)
    };
    assert_eq!((at(3, 4), at(5, 6)), (UNCOVERED, UNCOVERED));
    assert!(distance(at(10, 10), hue_wheel(2.0, 0.5)) <= 2);
}

#[test]
fn a_scale_bar_is_white_on_dark_over_any_picture_and_as_long_as_it_says() {
    for value in [0.0f32, 1.0] {
        let mut values = Array2::from_elem((100, 100), value);
        values[[0, 0]] = 1.0 - value;
        let range = Range::Fixed(0.0, 1.0);
        let base = Picture { colormap: Colormap::Gray, range, ..Picture::default() };
        let picture = Picture { pixel_m: Some([1e-8, 1e-7]), ..base };
        let (with, without) = (draw_image(&values, &picture), draw_image(&values, &base));
        let layout = Layout::of(values.dim());
        // 100 columns of 100 nm are 10 µm: the bar is 2 µm, 20 columns.
        let wanted = 20 * layout.zoom;
        let (left, top) = layout.origin;
        let row = |y: usize| (left..left + layout.image.0).map(move |x| (x, y));
        let new = |(x, y): &(usize, usize)| with.get(*x, *y) != without.get(*x, *y);
        if value == 0.0 {
            let white = |y| row(y).filter(|p| new(p) && with.get(p.0, p.1) == [255; 3]).count();
            assert_eq!((top..top + layout.image.1).map(white).max(), Some(wanted));
        }
        let darkest = (top..top + layout.image.1).flat_map(row).filter(new);
        let darkest = darkest.map(|(x, y)| luminance(with.get(x, y))).fold(1.0, f64::min);
        assert!(darkest < 0.15, "white on {darkest} cannot be read");
    }
}

#[test]
fn positions_are_dots_where_the_patterns_are() {
    let values = Array2::from_shape_fn((64, 64), |(r, c)| (r * c) as f32);
    let (used, commanded) = ([(10.0, 20.0), (40.0, 30.0)], [(14.0, 20.0), (40.0, 30.0)]);
    let picture = Picture::default();
    let layout = Layout::of(values.dim());
    let middle = |x: usize, y: usize| {
        let (left, top) = layout.pixel(y, x);
        (left + layout.zoom / 2, top + layout.zoom / 2)
    };
    let at = |places: &Places, x, y| {
        let (x, y) = middle(x, y);
        draw_positions(&values, places, &picture).get(x, y)
    };
    let gray = |[r, g, b]: Rgb| r == g && g == b;
    let moved = Places { used: &used, commanded: &commanded };
    assert!(moved.moved() && !Places { used: &used, commanded: &used }.moved());
    assert!(!gray(at(&moved, 10, 20)) && !gray(at(&moved, 40, 30)));
    assert!(!gray(at(&moved, 13, 20)), "a line to where it was commanded to be");
    let still = Places { used: &used, commanded: &[] };
    assert!(gray(at(&still, 13, 20)) && gray(at(&still, 25, 50)));
    // One that is outside of the array draws nothing.
    let outside = Places { used: &[(-30.0, 500.0)], commanded: &[] };
    assert!(gray(at(&outside, 0, 63)));
}

#[test]
fn odd_arrays_are_drawn_all_the_same() {
    let nothing = Array2::from_elem((4, 4), false);
    let cases = [
        (Array2::from_elem((4, 4), 7.0), None),
        (Array2::from_elem((4, 4), f32::NAN), None),
        (Array2::from_elem((4, 4), 1.0), Some(&nothing)),
        (Array2::from_elem((1, 900), 0.0), None),
        (Array2::from_elem((2000, 3), -1e-30), None),
        (Array2::from_elem((0, 0), 0.0), None),
    ];
    for (values, mask) in &cases {
        for colormap in [Colormap::Sequential, Colormap::Gray, Colormap::Cyclic] {
            let picture = Picture { colormap, mask: *mask, ..Picture::default() };
            let bitmap = draw_image(values, &picture);
            assert_eq!(bitmap.width, Layout::of(values.dim()).width);
        }
    }
}

fn falling(label: &str, floor: f64) -> Series {
    let points = (0..30).map(|i| (f64::from(i), floor + (-f64::from(i) / 5.0).exp())).collect();
    Series { label: label.into(), points }
}

#[test]
fn curves_are_drawn_whatever_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.png");
    let curve = Curve { title: "Loss", x_label: "epoch", y_label: "loss", log_y: true };
    write_curve(&path, &[falling("training", 0.01), falling("validation", 0.05)], &curve).unwrap();
    assert_eq!((decode(&path).width, decode(&path).height), (960, 600));
    let odd = [vec![], vec![(0.0, -1.0), (1.0, 2.0)], vec![(0.0, f64::NAN)], vec![(3.0, 0.0)]];
    let empty = draw_curve(&[], &curve);
    for points in odd {
        let bitmap = draw_curve(&[Series { label: "odd".into(), points }], &curve);
        assert_eq!((bitmap.width, bitmap.height), (empty.width, empty.height));
    }
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/folder/file.bin");
    let message = atomic_write(&missing, b"x").unwrap_err().to_string();
    assert!(message.contains("cannot write") && message.contains("file.bin"), "{message}");
    // A folder in the way of the file: the rename fails after the bytes were written.
    let occupied = folder.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("inside"), "x").unwrap();
    assert!(atomic_write(&occupied, b"x").is_err());
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["occupied"]);
}

#[test]
fn an_unwritable_folder_is_left_as_it_was() {
    // Not even the superuser may create files here.
    let message = atomic_write("/proc/self/file.bin", b"x").unwrap_err().to_string();
    assert!(message.contains("cannot write /proc/self/file.bin"), "{message}");
}

#[test]
fn a_write_replaces_the_file_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    atomic_write(&path, b"a long first version").unwrap();
    atomic_write(&path, b"short").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn history_resumes_where_the_checkpoint_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.csv");
    let columns = ["epoch", "loss", "validation"];
    let mut history = History::create(&path, &columns).unwrap();
    for epoch in 0..4 {
        history.append(&[f64::from(epoch), 0.1 + f64::from(epoch) / 3.0, f64::NAN]).unwrap();
    }
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}4,0.")).unwrap();
    let mut history = History::resume(&path, &columns, 2).unwrap();
    for epoch in 2..4 {
        history.append(&[f64::from(epoch), 0.1 + f64::from(epoch) / 3.0, f64::NAN]).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    let table = history::read(&path).unwrap();
    assert_eq!((table.columns.len(), table.rows.len()), (3, 4));
    assert_eq!(table.rows[3][1], 0.1 + 3.0 / 3.0);
    assert!(table.rows[0][2].is_nan());
}

#[test]
fn history_of_another_training_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.csv");
    History::create(&path, &["epoch", "loss"]).unwrap().append(&[0.0, 1.0]).unwrap();
    let message = History::resume(&path, &["epoch", "mae"], 1).unwrap_err().to_string();
    assert!(message.contains("epoch,loss") && message.contains("epoch,mae"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "epoch,loss\n0,1\n");
    let fresh = folder.path().join("fresh.csv");
    History::resume(&fresh, &["epoch", "loss"], 5).unwrap();
    assert_eq!(fs::read_to_string(&fresh).unwrap(), "epoch,loss\n");
}

fn scan() -> Scan {
    Scan {
        amplitude: Array3::zeros((5, 64, 64)).into(),
        dose: Dose { kappa: 2.5, origin: DoseOrigin::Metadata },
        probe: Array3::zeros((1, 64, 64)),
        positions: Vec::new(),
        nominal: None,
        mask: None,
        object: None,
        labels: None,
        instrument: Instrument::default(),
        rejected: Rejected::default(),
        source: Source { path: "scan.npz".into(), sha256: "ab12".into() },
    }
}

#[test]
fn run_record_holds_inputs_configuration_timings_and_results() {
    let folder = tempfile::tempdir().unwrap();
    let words = "ptycho-gpu train --train-data-file S.npz --output-dir OUT --seed 3";
    let Command::Train(args) = Cli::parse_args(words.split(' ').map(String::from)).command else {
        panic!("not train")
    };
    let facts = DatasetFacts { n: 64, nphotons: None, labels: false };
    let mut record = RunRecord::new("train");
    record.configuration(&config::resolve(&args, &facts).unwrap()).input(&scan());
    record.device(Description::cpu());
    record.seed(3).timing("train", 1.5).result("residual", 0.25).result("broken", f64::NAN);
    let path = folder.path().join("run.json");
    record.write(&path).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["configuration"]["seed"], serde_json::json!({"value": 3, "origin": "flag"}));
    let input = serde_json::json!({"path": "scan.npz", "sha256": "ab12", "patterns": 5,
        "side": 64, "kappa": 2.5, "dose_origin": "metadata"});
    assert_eq!(json["inputs"], serde_json::json!([input]));
    assert_eq!((&json["device"]["kind"], &json["seed"]), (&"cpu".into(), &3.into()));
    assert_eq!(json["timings_s"]["train"], 1.5);
    assert_eq!(json["results"], serde_json::json!({"residual": 0.25, "broken": null}));
}

#[test]
fn log_reaches_the_file_and_a_full_disk_does_not_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.txt");
    ptycho_gpu::report::log::init(true);
    ptycho_gpu::report::log::open_file(&path).unwrap();
    log::info!("dose from the metadata");
    assert_eq!(fs::read_to_string(&path).unwrap(), "info: dose from the metadata\n");
    if Path::new("/dev/full").exists() {
        ptycho_gpu::report::log::open_file("/dev/full").unwrap();
        log::info!("lost");
        log::info!("and nobody minds");
    }
    ptycho_gpu::report::log::close_file();
    assert!(ptycho_gpu::report::log::open_file(folder.path().join("no/log.txt")).is_err());
}

/// Writes example pictures for the eye into `$PTYCHO_PICTURES`, where that is set.
#[test]
fn example_pictures() {
    let Ok(folder) = std::env::var("PTYCHO_PICTURES") else { return };
    let folder = Path::new(&folder);
    let value = |y: usize, x: usize| {
        let (y, x) = (y as f32 / 230.0 - 0.5, x as f32 / 230.0 - 0.5);
        let star = (x.atan2(y) * 18.0).sin().clamp(-0.3, 0.3) * 1.6;
        star + 0.3 * (6.0 * x).sin() + 0.05 * (90.0 * x * y).sin()
    };
    let mask = Array2::from_shape_fn((230, 260), |(y, x)| {
        (y as f32 - 115.0).hypot(x as f32 - 130.0) < 110.0
            || (y < 200 && x > 40 && x < 220 && y > 30)
    });
    let values = Array2::from_shape_fn((230, 260), |(y, x)| value(y, x));
    let amplitude = values.mapv(|v| 1.0 + 0.3 * v);
    let base = Picture { title: "Amplitude", mask: Some(&mask), ..Picture::default() };
    write_image(folder.join("amplitude.png"), &amplitude, &base).unwrap();
    let angles = Picture { title: "Phase", unit: "rad", colormap: Colormap::Cyclic, ..base };
    write_image(folder.join("phase.png"), &values, &angles).unwrap();
    let wide = values.mapv(|v| (v * 12.0 + PI).rem_euclid(2.0 * PI) - PI);
    write_image(folder.join("phase_wide.png"), &wide, &angles).unwrap();
    let curve = Curve { title: "Training", x_label: "epoch", y_label: "loss", log_y: true };
    let series = [falling("training", 0.01), falling("validation", 0.02)];
    write_curve(folder.join("loss.png"), &series, &curve).unwrap();
}
