//! Patches, canvases and images that do not belong together.

use ndarray::{Array2, Array3};
use num_complex::Complex64;
use proptest::prelude::*;
use ptycho_gpu::data::{Position, Stack};
use ptycho_gpu::metrics::data_space::typical_frames;
use ptycho_gpu::metrics::frc::Frc;
use ptycho_gpu::metrics::gauge::{Gauge, registration, shift};
use ptycho_gpu::metrics::image::{self, PhaseAlign};
use ptycho_gpu::metrics::verdict::shot_noise;
use ptycho_gpu::metrics::{
    Evidence, Explained, Reconstruction, Verdict, against_truth, data_space, filter, is_guess,
};
use ptycho_gpu::simulate::fourier::Fft2;
use ptycho_gpu::stitch::{BandStitcher, Canvas, Options, Stitcher, Weights, places, stitch};

use crate::{TRAINED, complex, modes, mostly, number, size, wish};

fn images(of: (usize, usize), other: (usize, usize), value: f64) -> [Array2<Complex64>; 2] {
    let image = |shape: (usize, usize)| {
        let mut image = Array2::from_shape_fn(shape, |(y, x)| {
            Complex64::from_polar(1.0 + 0.1 * (y % 3) as f64, 0.2 * (x % 5) as f64)
        });
        image.iter_mut().take(1).for_each(|z| *z = Complex64::new(value, 0.0));
        image
    };
    [image(of), image(other)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn patches_are_stitched_or_it_is_said_why_not(
        (height, width, origin) in (mostly(80, wish()), mostly(80, wish()), mostly(0, any::<i64>())),
        (crop, map) in (mostly(8, wish()), prop::option::of((size(), size(), mostly(1.0, number())))),
        (count, side, other) in (size(), mostly(16, size()), mostly(16, size())),
        (x, y, value) in (mostly(40.0, number()), mostly(40.0, number()), mostly(1.0, number())),
        (patches, bytes) in (wish(), any::<u64>()),
    ) {
        let canvas = Canvas { height, width, origin_yx: [origin, 0] };
        let weights = match map {
            Some((h, w, value)) => Weights::Map(Array2::from_elem((h, w), value as f32)),
            None => Weights::Uniform,
        };
        let options = Options { crop, weights };
        let count = count.min(8);
        let given = modes((count, side, other), value);
        let positions = vec![Position { x, y }; count];
        drop(stitch(given.view(), &positions, &canvas, &options));
        drop(stitch(given.view(), &positions[..count / 2], &canvas, &options));
        drop(places(&canvas, crop, &positions));
        if let Ok(around) = Canvas::around(&positions, crop) {
            drop(stitch(given.view(), &positions, &around, &options));
        }
        drop(Canvas::of_any_size(&positions, crop).map(|canvas| canvas.pixels()));
        let folder = TRAINED.folder.path();
        if let Ok(mut bands) = BandStitcher::new(&canvas, &options, patches, bytes, folder) {
            drop(bands.add(given.view(), &positions));
            if let Ok(banded) = bands.finish() {
                drop(banded.window([-3, i64::MAX], (2, 2)));
            }
        }
        if let Ok(stitcher) = Stitcher::new(&canvas, &options) {
            prop_assert!(stitcher.finish().is_err());
        }
    }

    #[test]
    fn a_reconstruction_is_held_against_the_data_or_refused(
        patterns in mostly((16, 64, 64), (size(), size(), size())),
        probe in mostly((1, 64, 64), (size(), size(), size())),
        (object, origin) in ((size(), size()), mostly(0.0, number())),
        (count, used, index) in (mostly(2usize, size()), mostly(2usize, size()), mostly(1, wish())),
        (x, kappa, gain) in (mostly(40.0, number()), mostly(1.0, number()), prop::option::of(number())),
        (mask, background) in (prop::option::of((size(), size())), prop::option::of((size(), size()))),
    ) {
        let amplitude: Stack = Array3::from_elem(patterns, 1f32).into();
        let (probe, object) = (modes(probe, 1.0), complex(object, 1.0));
        let positions = vec![Position { x, y: 40.0 }; count];
        let indices = vec![index; used];
        let gains = gain.map(|gain| vec![gain; used]);
        let [mask, background] = [mask, background].map(|shape| shape.map(|s| Array2::from_elem(s, 1f32)));
        let scene = Explained {
            amplitude: &amplitude,
            kappa,
            mask: mask.as_ref().map(|m| m.view()),
            probe: probe.view(),
            object: object.view().into(),
            origin_yx: [origin, 0.0],
            positions: &positions,
            indices: &indices,
            gains: gains.as_deref(),
            background: background.as_ref().map(|b| b.view()),
        };
        if let Ok(figures) = data_space(&scene) {
            drop(Verdict::of(&figures.evidence()));
            drop(typical_frames(&scene, &figures));
            drop(typical_frames(&Explained { indices: &[], positions: &[], ..scene }, &figures));
        }
    }

    #[test]
    fn a_reconstruction_is_held_against_the_truth_or_refused(
        (object, weights, truth) in ((size(), size()), (size(), size()), (size(), size())),
        (value, y, x) in (mostly(1.0, number()), mostly(0.0, number()), mostly(0.0, number())),
        places in prop::collection::vec((mostly(3.0, number()), mostly(60.0, number())), 0..4),
    ) {
        let (object, truth) = (complex(object, value), complex(truth, 1.0));
        let weights = Array2::from_elem(weights, 1f32);
        let positions: Vec<Position> = places.into_iter().map(|(x, y)| Position { x, y }).collect();
        let reconstruction = Reconstruction {
            object: object.view(),
            weights: weights.view(),
            origin_yx: [y, x],
            positions: &positions,
        };
        drop(against_truth(&reconstruction, truth.view()));
        let _ = is_guess(object.view());
    }

    #[test]
    fn images_that_do_not_belong_together_are_not_compared(
        (a, b, c) in ((size(), size()), (size(), size()), (size(), size())), alike in any::<bool>(),
        (value, range) in (mostly(1.0, number()), number()),
    ) {
        let b = if alike { a } else { b };
        let [first, second] = images(a, b, value);
        let weight = Array2::from_elem(if alike { a } else { c }, 1.0);
        let [one, other] = [&first, &second].map(|image| image.mapv(|z| z.re));
        drop(image::compare(first.view(), second.view(), PhaseAlign::Plane));
        let _ = (image::ssim(&one, &other, range), image::ms_ssim(&one, &other));
        drop((image::aligned(&one, PhaseAlign::Plane), image::psnr(value, range)));
        let _ = image::pearson(&[(value, range), (range, value)]);
        drop(Frc::new(one.view(), other.view()));
        drop(Gauge::fit(first.view(), second.view(), weight.view()));
        drop(registration(first.view(), second.view()));
        drop(shift(&Fft2::new(a.0, a.1), first.view(), [value, range]));
        drop(filter::blur(&one, range.clamp(-5.0, 5.0)));
        let _ = shot_noise(value);
        drop(Verdict::of(&Evidence { residual: value, floor: range, spread: Some(value), collapse: None }));
    }
}
