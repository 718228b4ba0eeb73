//! Stitching: patches land where they were taken, whatever the threads and the batches.

#[path = "stitch/golden.rs"]
mod golden;
#[path = "stitch/measures.rs"]
mod measures;

use golden::Golden;
use measures::{correlation, offset, relative_l2};
use ndarray::{Array2, Array3, ArrayView2, Axis, Ix2, Ix3, Ix4, s};
use num_complex::{Complex32, Complex64};
use proptest::prelude::*;
use ptycho_gpu::data::scan::Position;
use ptycho_gpu::random::{Purpose, Stream};
use ptycho_gpu::stitch::{
    BandStitcher, Canvas, Options, Orientation, Stitched, Stitcher, Weights, extract, stitch,
};

const SIDE: usize = 32;

fn uniform(crop: usize) -> Options {
    Options { crop, weights: Weights::Uniform }
}

/// Weights that differ in every pixel, some of them zero.
fn uneven(crop: usize) -> Options {
    let map = Array2::from_shape_fn((crop, crop), |(j, k)| ((j * 7 + k * 3) % 11) as f32);
    Options { crop, weights: Weights::Map(map) }
}

fn at(x: f64, y: f64) -> Position {
    Position { x, y }
}

/// Positions in a rectangle of 60 × 40 pixels that starts at (−25, −12), rounded or not.
fn positions(count: usize, whole: bool, seed: u64) -> Vec<Position> {
    let mut random = Stream::new(seed, Purpose::Positions, 0);
    let mut draw = |low: f64, size: f64| {
        let value = low + size * random.uniform();
        if whole { value.round() } else { value }
    };
    (0..count).map(|_| at(draw(-25.0, 60.0), draw(-12.0, 40.0))).collect()
}

/// Amplitude near 1 and phase of a few waves of at least 20 pixels, because two bilinear
/// interpolations damp shorter ones; its pixel (0, 0) is object pixel (−45, −60).
fn smooth_object(seed: u64) -> (Array2<Complex32>, [i64; 2]) {
    let mut random = Stream::new(seed, Purpose::Object, 0);
    let waves: Vec<[f64; 4]> = (0..8)
        .map(|_| {
            let (angle, period) =
                (std::f64::consts::TAU * random.uniform(), 20.0 + 30.0 * random.uniform());
            [
                std::f64::consts::TAU / period * angle.cos(),
                std::f64::consts::TAU / period * angle.sin(),
                std::f64::consts::TAU * random.uniform(),
                random.normal(),
            ]
        })
        .collect();
    let field = |y: f64, x: f64, shift: f64| {
        waves
            .iter()
            .map(|[ky, kx, phase, size]| size * (ky * y + kx * x + phase + shift).cos())
            .sum::<f64>()
    };
    let pixel = |(y, x)| {
        let (y, x) = (y as f64, x as f64);
        let value = Complex64::from_polar((0.1 * field(y, x, 0.0)).exp(), 0.3 * field(y, x, 1.0));
        Complex32::new(value.re as f32, value.im as f32)
    };
    (Array2::from_shape_fn((125, 150), pixel), [-45, -60])
}

fn random_patches(count: usize, seed: u64) -> Array3<Complex32> {
    let mut random = Stream::new(seed, Purpose::Object, 1);
    Array3::from_shape_simple_fn((count, SIDE, SIDE), || {
        Complex32::new(random.normal() as f32, random.normal() as f32)
    })
}

/// The part of `object` that lies under the canvas.
fn under<'a>(
    object: &'a Array2<Complex32>,
    origin: [i64; 2],
    canvas: &Canvas,
) -> ArrayView2<'a, Complex32> {
    let top = usize::try_from(canvas.origin_yx[0] - origin[0])
        .expect("the canvas lies inside the object");
    let left = usize::try_from(canvas.origin_yx[1] - origin[1])
        .expect("the canvas lies inside the object");
    object.slice(s![top..top + canvas.height, left..left + canvas.width])
}

fn bits(result: &Stitched) -> Vec<u32> {
    let object = result.object.iter().flat_map(|z| [z.re.to_bits(), z.im.to_bits()]);
    let rest = result.weights.iter().chain(&result.consistency).map(|v| v.to_bits());
    object.chain(rest).collect()
}

fn message<T: std::fmt::Debug>(result: ptycho_gpu::Result<T>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn perfect_patches_rebuild_the_object_where_it_was() {
    let (object, origin) = smooth_object(1);
    for (whole, options) in
        [(true, uniform(20)), (false, uniform(20)), (false, uneven(16)), (false, uniform(SIDE))]
    {
        let positions = positions(300, whole, 2);
        let canvas = Canvas::around(&positions, options.crop).unwrap();
        let patches = extract(object.view(), origin, &positions, SIDE).unwrap();
        let result = stitch(patches.view(), &positions, &canvas, &options).unwrap();
        let truth = under(&object, origin, &canvas);
        // Pixels of the rim hold but a share of one edge pixel, which lies up to a pixel away.
        let rim = if let Weights::Map(_) = options.weights { 10.0 } else { 0.999 };
        let inside = result.weights.mapv(|w| if w > rim { w } else { 0.0 });
        let ncc = correlation(result.object.view(), truth, &inside);
        assert!(ncc > 0.9999, "whole {whole}, crop {}: NCC {ncc}", options.crop);
        let shift = offset(result.object.view(), truth, &inside);
        println!("whole {whole}, crop {}: NCC {ncc}, offset {shift:?}", options.crop);
        assert!(shift.iter().all(|s| s.abs() < 0.05), "whole {whole}: shifted by {shift:?}");
    }
}

#[test]
fn the_measure_of_the_offset_sees_a_shift() {
    let (object, origin) = smooth_object(1);
    let positions = positions(300, false, 2);
    let moved: Vec<_> = positions.iter().map(|p| at(p.x + 0.3, p.y - 0.2)).collect();
    let canvas = Canvas::around(&positions, 22).unwrap();
    let patches = extract(object.view(), origin, &positions, SIDE).unwrap();
    let result = stitch(patches.view(), &moved, &canvas, &uniform(20)).unwrap();
    let [y, x] = offset(result.object.view(), under(&object, origin, &canvas), &result.weights);
    assert!((y + 0.2).abs() < 0.05 && (x - 0.3).abs() < 0.05, "measured ({y}, {x})");
}

#[test]
fn whole_positions_are_exact() {
    let (object, origin) = smooth_object(3);
    let positions = positions(60, true, 4);
    let canvas = Canvas::around(&positions, 20).unwrap();
    let patches = extract(object.view(), origin, &positions, SIDE).unwrap();
    let result = stitch(patches.view(), &positions, &canvas, &uniform(20)).unwrap();
    let truth = under(&object, origin, &canvas);
    for ((index, value), weight) in result.object.indexed_iter().zip(&result.weights) {
        let expected = if *weight > 0.0 { truth[index] } else { Complex32::default() };
        assert!((value - expected).norm() <= 1e-6, "{index:?}: {value} for {expected}");
        assert_eq!(weight.fract(), 0.0, "the weight counts the patches");
    }
    let spread = result.consistency.iter().copied().fold(0.0, f32::max);
    assert!(spread < 1e-6, "equal values spread by {spread}");
}

#[test]
fn extraction_follows_the_index_convention() {
    let object = Array2::from_shape_fn((9, 11), |(y, x)| Complex32::new((100 * y + x) as f32, 1.0));
    let patch = extract(object.view(), [0, 0], &[at(5.0, 4.0)], 4).unwrap();
    assert_eq!(patch.index_axis(Axis(0), 0), object.slice(s![2..6, 3..7]));
    let moved = extract(object.view(), [-7, 20], &[at(25.0, -3.0)], 4).unwrap();
    assert_eq!(moved, patch, "the origin names the object pixel of the array's first");
    let between = extract(object.view(), [0, 0], &[at(5.25, 4.5)], 4).unwrap();
    assert_eq!(between[[0, 0, 0]], Complex32::new(250.0 + 3.25, 1.0));
    let edge = extract(object.view(), [0, 0], &[at(0.5, 1e300)], 4).unwrap();
    assert!(edge.iter().all(|z| *z == Complex32::default()), "outside is zero");
    let corner = extract(object.view(), [0, 0], &[at(0.5, 0.0)], 4).unwrap();
    assert_eq!(corner[[0, 2, 1]], Complex32::new(0.0, 0.5), "half of the first column");
}

#[test]
fn the_reference_stitch_is_matched() {
    let Some(golden) = Golden::open("stitching/stitching.npz") else { return };
    let patches = golden.complex::<Ix3>("patches");
    let offsets = golden.f32s("offsets");
    let expected = golden.complex::<Ix2>("tf_reassemble_position_M20");
    // The reference puts the mean of the coordinates on the centre of an even square.
    let positions: Vec<_> = offsets.chunks(2).map(|o| at(o[0].into(), o[1].into())).collect();
    let (height, width) = expected.dim();
    let canvas = Canvas { height, width, origin_yx: [-(height as i64) / 2, -(width as i64) / 2] };
    let result = stitch(patches.view(), &positions, &canvas, &uniform(20)).unwrap();
    let error = relative_l2(result.object.iter(), expected.iter());
    // The reference interpolates in f32; its coordinates near 50 have an error of 4e-6.
    assert!(error < 5e-6, "relative L2 {error:e}");
    for (ours, theirs) in result.object.iter().zip(&expected) {
        assert_eq!(
            *ours == Complex32::default(),
            *theirs == Complex32::default(),
            "the same pixels are covered"
        );
    }
}

#[test]
fn the_own_canvas_shows_the_same_object_as_the_reference() {
    let Some(golden) = Golden::open("stitching/stitching.npz") else { return };
    let patches = golden.complex::<Ix3>("patches");
    let positions: Vec<_> = golden
        .f32s("x")
        .iter()
        .zip(golden.f32s("y"))
        .map(|(x, y)| at((*x).into(), y.into()))
        .collect();
    let expected = golden.complex::<Ix2>("tf_reassemble_position_M20");
    let canvas = Canvas::around(&positions, 20).unwrap();
    let result = stitch(patches.view(), &positions, &canvas, &uniform(20)).unwrap();
    // Seen from the reference's frame, our canvas is an object with a fractional position.
    let mean = |pick: fn(&Position) -> f64| {
        positions.iter().map(pick).sum::<f64>() / positions.len() as f64
    };
    let centre = at(mean(|p| p.x), mean(|p| p.y));
    let seen =
        extract(result.object.view(), canvas.origin_yx, &[centre], expected.nrows()).unwrap();
    let inside = expected.mapv(|z| if z == Complex32::default() { 0.0 } else { 1.0 });
    let ncc = correlation(seen.index_axis(Axis(0), 0), expected.view(), &inside);
    assert!(ncc > 0.99, "NCC {ncc}: only the resampling and the rim may differ");
}

#[test]
fn the_reference_patches_are_matched() {
    let Some(golden) = Golden::open("patches/image_patches.npz") else { return };
    let object = golden.complex::<Ix2>("objectGuess");
    let positions: Vec<_> = golden.f64s("offsets_gs1").chunks(2).map(|o| at(o[0], o[1])).collect();
    let expected = golden.complex::<Ix4>("Y_gs1");
    let patches = extract(object.view(), [0, 0], &positions, expected.dim().1).unwrap();
    let error = relative_l2(patches.iter(), expected.index_axis(Axis(3), 0).iter());
    // The reference's coordinates, near 140 in f32, have an error of 8e-6.
    assert!(error < 1e-5, "relative L2 {error:e}");
}

#[test]
fn the_consistency_is_the_weighted_deviation() {
    let values = [1.0, 4.0, 4.0].map(|v| Complex32::new(v, -v));
    let patches = Array3::from_shape_fn((3, 2, 2), |(i, _, _)| values[i]);
    let positions = [at(0.0, 0.0), at(1.0, 0.0), at(1.0, 0.0)];
    let canvas = Canvas::around(&positions, 2).unwrap();
    let result = stitch(patches.view(), &positions, &canvas, &uniform(2)).unwrap();
    // Columns: one patch; 1, 4, 4 with mean 3 and variance 2 in each part; 4, 4.
    assert_eq!(result.weights.row(0).to_vec(), [1.0, 3.0, 2.0]);
    assert_eq!(result.object.row(1).to_vec(), [1.0, 3.0, 4.0].map(|v| Complex32::new(v, -v)));
    for (found, expected) in result.consistency.row(0).iter().zip([0.0, 2.0, 0.0]) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
}

#[test]
fn the_weights_count_in_mean_and_deviation() {
    // Two patches, one column apart: in the middle the first counts 3, the second 1.
    let patches =
        Array3::from_shape_fn((2, 2, 2), |(i, _, _)| Complex32::new(0.0, 4.0 + 8.0 * i as f32));
    let map = Array2::from_shape_fn((2, 2), |(_, k)| if k == 0 { 1.0 } else { 3.0 });
    let positions = [at(0.0, 0.0), at(1.0, 0.0)];
    let canvas = Canvas::around(&positions, 2).unwrap();
    let options = Options { crop: 2, weights: Weights::Map(map) };
    let result = stitch(patches.view(), &positions, &canvas, &options).unwrap();
    assert_eq!(result.weights.row(0).to_vec(), [1.0, 4.0, 3.0]);
    assert_eq!(result.object[[0, 1]], Complex32::new(0.0, 6.0));
    // √(3 · 2² + 1 · 6²) / √4.
    assert!((result.consistency[[0, 1]] - 12f32.sqrt()).abs() < 1e-6);
}

/// Patches whose sums cancel down to the rounding of f64, so that any other order of adding shows.
fn cancelling(pairs: usize) -> (Array3<Complex32>, Vec<Position>) {
    let mut patches = random_patches(2 * pairs, 6);
    let (mut first, mut second) = patches.view_mut().split_at(Axis(0), pairs);
    for (i, mut patch) in first.outer_iter_mut().enumerate() {
        patch.mapv_inplace(|z| z * 10f32.powi((5 * i % 17) as i32));
    }
    second.assign(&first.mapv(|z| -z));
    let places = positions(pairs, false, 5);
    (patches, [&places[..], &places[..]].concat())
}

#[test]
fn the_size_of_the_batches_does_not_change_a_bit() {
    let ((patches, positions), options) = (cancelling(19), uneven(20));
    let canvas = Canvas::around(&positions, 20).unwrap();
    let whole = bits(&stitch(patches.view(), &positions, &canvas, &options).unwrap());
    for batch in [1, 4, 16, 36] {
        let mut stitcher = Stitcher::new(&canvas, &options).unwrap();
        for (part, positions) in
            patches.axis_chunks_iter(Axis(0), batch).zip(positions.chunks(batch))
        {
            stitcher.add(part, positions).unwrap();
        }
        assert!(bits(&stitcher.finish().unwrap()) == whole, "batches of {batch}");
    }
}

#[test]
fn bands_of_any_height_have_the_bits_of_the_whole_canvas() {
    let (patches, positions) = cancelling(40);
    let (canvas, options) = (Canvas::around(&positions, 20).unwrap(), uneven(20));
    let whole = stitch(patches.view(), &positions, &canvas, &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for rows in [1, 7, canvas.height - 1, canvas.height] {
        // What a pixel takes while its band is made, and so much of it that there are no more rows.
        let bytes = (rows * canvas.width * 56 + 55) as u64;
        let mut stitcher =
            BandStitcher::new(&canvas, &options, patches.dim().0, bytes, folder.path()).unwrap();
        for (part, positions) in patches.axis_chunks_iter(Axis(0), 9).zip(positions.chunks(9)) {
            stitcher.add(part, positions).unwrap();
        }
        let banded = stitcher.finish().unwrap();
        assert_eq!(banded.bands().count(), canvas.height.div_ceil(rows));
        for rows in banded.bands() {
            let part = |all: &Array2<f32>| all.slice(s![rows.clone(), ..]).to_owned();
            let want = Stitched {
                object: whole.object.slice(s![rows.clone(), ..]).to_owned(),
                weights: part(&whole.weights),
                consistency: part(&whole.consistency),
            };
            assert!(bits(&banded.band(rows.clone()).unwrap()) == bits(&want), "rows {rows:?}");
        }
        let window = banded.window([-2, canvas.width as i64 - 3], (5, 6)).unwrap();
        assert_eq!(window.slice(s![2.., ..3]), whole.object.slice(s![..3, canvas.width - 3..]));
        assert!(window.slice(s![.., 3..]).iter().chain(window.row(0)).all(|z| z.norm() == 0.0));
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "scratch files have no name");
}

#[test]
fn a_canvas_that_patches_hardly_cover_is_refused_whatever_the_disk_has() {
    let positions = [at(0.0, 0.0), at(1e5, 1e5)];
    let canvas = Canvas::of_any_size(&positions, 20).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = BandStitcher::new(&canvas, &uniform(20), 2, 1 << 20, folder.path());
    let error = message(refused);
    assert!(error.contains("next to nothing") && error.contains("stray"), "{error}");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (patches, positions) = cancelling(100);
    let canvas = Canvas::around(&positions, 20).unwrap();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(&stitch(patches.view(), &positions, &canvas, &uneven(20)).unwrap()))
    };
    let one = with(1);
    assert!(with(2) == one && with(7) == one);
}

#[test]
fn the_canvas_fits_its_positions() {
    let canvas = |positions: &[Position]| Canvas::around(positions, 4).unwrap();
    assert_eq!(canvas(&[at(5.0, -3.0)]), Canvas { height: 4, width: 4, origin_yx: [-5, 3] });
    assert_eq!(canvas(&[at(5.5, -3.0)]), Canvas { height: 4, width: 5, origin_yx: [-5, 3] });
    assert_eq!(
        canvas(&[at(0.0, 0.0), at(30.0, 9.1)]),
        Canvas { height: 14, width: 34, origin_yx: [-2, -2] }
    );
}

#[test]
fn one_position_and_equal_positions_are_stitched() {
    let patches = random_patches(3, 9);
    let crop = patches.slice(s![.., 6..26, 6..26]);
    let canvas = Canvas::around(&[at(7.0, 8.0)], 20).unwrap();
    let one =
        stitch(patches.slice(s![..1, .., ..]), &[at(7.0, 8.0)], &canvas, &uniform(20)).unwrap();
    assert_eq!(one.object, crop.index_axis(Axis(0), 0));
    assert!(one.consistency.iter().all(|c| *c == 0.0), "one patch agrees with itself");
    let all = stitch(patches.view(), &[at(7.0, 8.0); 3], &canvas, &uniform(20)).unwrap();
    assert!(all.weights.iter().all(|w| *w == 3.0), "duplicates count as often as they occur");
    let mean = crop.sum_axis(Axis(0)) / 3.0;
    assert!(relative_l2(all.object.iter(), mean.iter()) < 1e-6);
}

#[test]
fn a_patch_that_is_not_finite_is_named() {
    let (positions, mut patches) = (positions(8, false, 10), random_patches(8, 11));
    patches[[6, 0, 3]].im = f32::NAN;
    let canvas = Canvas::around(&positions, 20).unwrap();
    let mut stitcher = Stitcher::new(&canvas, &uniform(20)).unwrap();
    stitcher.add(patches.slice(s![..4, .., ..]), &positions[..4]).unwrap();
    let error = message(stitcher.add(patches.slice(s![4.., .., ..]), &positions[4..]));
    assert!(error.contains("patch 6 "), "{error}");
    let mut unharmed = Stitcher::new(&canvas, &uniform(20)).unwrap();
    unharmed.add(patches.slice(s![..4, .., ..]), &positions[..4]).unwrap();
    assert!(bits(&stitcher.finish().unwrap()) == bits(&unharmed.finish().unwrap()));
}

#[test]
fn a_patch_off_the_canvas_is_an_error() {
    let canvas = Canvas::around(&[at(0.0, 0.0)], 20).unwrap();
    let patches = random_patches(1, 12);
    let add = |x, y| Stitcher::new(&canvas, &uniform(20)).unwrap().add(patches.view(), &[at(x, y)]);
    add(0.0, 0.0).unwrap();
    for (x, y) in [(0.1, 0.0), (-0.1, 0.0), (0.0, 1.0), (0.0, -1.0), (1e300, 0.0)] {
        let error = message(add(x, y));
        assert!(
            error.contains("patch 0 ") && error.contains("leaves the canvas of 20 × 20"),
            "{error}"
        );
    }
    assert!(message(add(f64::NAN, 0.0)).contains("not finite"));
}

#[test]
fn impossible_canvases_are_refused() {
    assert!(message(Canvas::around(&[], 20)).contains("at least one position"));
    let error = message(Canvas::around(&[at(0.0, 0.0), at(0.0, f64::INFINITY)], 20));
    assert!(error.contains("position 1 ") && error.contains("finite"), "{error}");
    let error = message(Canvas::around(&[at(0.0, 0.0), at(1e9, 2e9)], 20));
    assert!(error.contains("2000000020 × 1000000020 pixels"), "{error}");
    let empty = Canvas { height: 0, width: 5, origin_yx: [0, 0] };
    assert!(message(Stitcher::new(&empty, &uniform(20))).contains("0 × 5"));
    let huge = Canvas { height: usize::MAX, width: usize::MAX, origin_yx: [0, 0] };
    assert!(message(Stitcher::new(&huge, &uniform(20))).contains("GiB"));
}

#[test]
fn impossible_options_and_shapes_are_refused() {
    let canvas = Canvas::around(&[at(0.0, 0.0)], 20).unwrap();
    let with = |crop, weights| message(Stitcher::new(&canvas, &Options { crop, weights }));
    assert!(with(5, Weights::Uniform).contains("even"));
    assert!(with(0, Weights::Uniform).contains("even"));
    assert!(with(4, Weights::Map(Array2::ones((4, 6)))).contains("4 × 6"));
    assert!(with(2, Weights::Map(Array2::zeros((2, 2)))).contains("zero everywhere"));
    assert!(with(2, Weights::Map(Array2::from_elem((2, 2), -1.0))).contains("negative"));
    let mut stitcher = Stitcher::new(&canvas, &uniform(20)).unwrap();
    let mut add = |shape, count| {
        message(stitcher.add(Array3::zeros(shape).view(), &vec![at(0.0, 0.0); count]))
    };
    assert!(add((2, 32, 32), 1).contains("2 patches come with 1 positions"));
    assert!(add((1, 32, 30), 1).contains("32 × 30"));
    assert!(add((1, 18, 18), 1).contains("crop of 20 pixels exceeds the patch of 18"));
    assert!(message(stitcher.finish()).contains("no patches"));
}

#[test]
fn each_adapter_does_what_it_says() {
    let adapt = |o: Orientation| o.apply_positions(&[at(2.0, -3.0)]).unwrap()[0];
    let none = Orientation::default();
    assert_eq!(adapt(none), at(2.0, -3.0));
    assert_eq!(adapt(Orientation { flip_x: true, ..none }), at(-2.0, -3.0));
    assert_eq!(adapt(Orientation { flip_y: true, ..none }), at(2.0, 3.0));
    assert_eq!(adapt(Orientation { swap_xy: true, ..none }), at(-3.0, 2.0));
    assert_eq!(
        adapt(Orientation { swap_xy: true, flip_x: true, coord_scale: 0.5, ..none }),
        at(1.5, 1.0)
    );
    for coord_scale in [0.0, -1.0, f64::NAN] {
        assert!(
            message(Orientation { coord_scale, ..none }.apply_positions(&[])).contains("positive")
        );
    }
}

#[test]
fn a_transposed_scan_gives_the_transposed_object() {
    let (positions, patches) = (positions(20, false, 13), random_patches(20, 14));
    let straight = {
        let canvas = Canvas::around(&positions, 20).unwrap();
        stitch(patches.view(), &positions, &canvas, &uniform(20)).unwrap()
    };
    let adapter = Orientation { transpose: true, swap_xy: true, ..Orientation::default() };
    let turned = adapter.apply_positions(&positions).unwrap();
    let canvas = Canvas::around(&turned, 20).unwrap();
    let result =
        stitch(adapter.apply_patches(patches.view()), &turned, &canvas, &uniform(20)).unwrap();
    assert_eq!(result.object.dim(), (straight.object.ncols(), straight.object.nrows()));
    assert!(relative_l2(result.object.t().iter(), straight.object.iter()) < 1e-6);
}

fn inner(a: impl Iterator<Item = Complex64>, b: impl Iterator<Item = Complex64>) -> Complex64 {
    a.zip(b).map(|(a, b)| a * b.conj()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    /// ⟨Σ shares of P, Z⟩ = ⟨P, patches of Z⟩: stitching spreads with the weights that extraction
    /// gathers with. Both sides are rounded to f32, hence 1e-5.
    #[test]
    fn stitching_is_the_adjoint_of_extraction(
        points in prop::collection::vec((-30.0..30.0f64, -9.0..9.0f64), 1..6), seed: u64
    ) {
        let positions: Vec<_> = points.iter().map(|(x, y)| at(*x, *y)).collect();
        let canvas = Canvas::around(&positions, SIDE).unwrap();
        let patches = random_patches(positions.len(), seed);
        let result = stitch(patches.view(), &positions, &canvas, &uniform(SIDE)).unwrap();
        let mut random = Stream::new(seed, Purpose::Noise, 0);
        let z = Array2::from_shape_simple_fn((canvas.height, canvas.width), || Complex32::new(random.normal() as f32, 1.0));
        let seen = extract(z.view(), canvas.origin_yx, &positions, SIDE).unwrap();
        let wide = |z: &Complex32| Complex64::new(z.re.into(), z.im.into());
        let shares = result.object.iter().zip(&result.weights).map(|(o, w)| wide(o) * f64::from(*w));
        let (left, right) = (inner(shares, z.iter().map(wide)), inner(patches.iter().map(wide), seen.iter().map(wide)));
        let size = (patches.len() as f64 * z.len() as f64).sqrt();
        prop_assert!((left - right).norm() < 1e-5 * size, "{left} and {right}");
    }

    /// Stitching a·P + b·Q gives a·stitch(P) + b·stitch(Q), up to f32 rounding.
    #[test]
    fn stitching_is_linear(
        points in prop::collection::vec((-30.0..30.0f64, -9.0..9.0f64), 1..6), seed: u64, a in -2.0..2.0f32
    ) {
        let positions: Vec<_> = points.iter().map(|(x, y)| at(*x, *y)).collect();
        let canvas = Canvas::around(&positions, 20).unwrap();
        let run = |p: &Array3<Complex32>| stitch(p.view(), &positions, &canvas, &uneven(20)).unwrap().object;
        let (p, q) = (random_patches(positions.len(), seed), random_patches(positions.len(), !seed));
        let (factor, i) = (Complex32::new(a, 0.5), Complex32::i());
        let (mixed, separate) = (run(&(&p * factor + &q * i)), run(&p) * factor + run(&q) * i);
        prop_assert!(relative_l2(mixed.iter(), separate.iter()) < 1e-6);
    }

    /// No position that the canvas was made for can fall off it, and a constant stays a constant.
    #[test]
    fn every_canvas_holds_its_patches(
        points in prop::collection::vec((-300.0..300.0f64, -1e-12..40.0f64), 1..20), half in 1..16usize
    ) {
        let positions: Vec<_> = points.iter().map(|(x, y)| at(*x, *y)).collect();
        let canvas = Canvas::around(&positions, 2 * half).unwrap();
        let value = Complex32::new(0.75, -0.3);
        let patches = Array3::from_elem((positions.len(), SIDE, SIDE), value);
        let result = stitch(patches.view(), &positions, &canvas, &uniform(2 * half)).unwrap();
        for ((o, w), c) in result.object.iter().zip(&result.weights).zip(&result.consistency) {
            prop_assert!(*w > 0.0 || *o == Complex32::default());
            prop_assert!(*w == 0.0 || (o - value).norm() < 1e-6);
            prop_assert!(*c < 1e-6, "equal patches spread by {c}");
        }
        let total: f64 = result.weights.iter().map(|w| f64::from(*w)).sum();
        let expected = (positions.len() * 4 * half * half) as f64;
        prop_assert!((total / expected - 1.0).abs() < 1e-6, "the shares of a pixel add up to one");
    }
}
