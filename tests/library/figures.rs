//! Pictures of whatever there is.

use ndarray::Array2;
use num_complex::Complex32;
use proptest::prelude::*;
use ptycho_gpu::report::{
    Colormap, ComplexPicture, Curve, Picture, Places, Range, Series, draw_complex, draw_curve,
    draw_image, draw_positions, write_image,
};

use crate::{TRAINED, mostly, number, size};

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn anything_can_be_drawn(
        (shape, mask) in ((size(), size()), prop::option::of((size(), size()))),
        values in prop::collection::vec(number(), 1..9),
        (low, high, robust) in (number(), number(), any::<bool>()),
        pixel in mostly(1e-8, number()),
        places in prop::collection::vec((number(), number()), 0..5),
        (map, text) in (0usize..4, ".{0,40}"),
    ) {
        let value = |i: usize| values[i % values.len()] as f32;
        let image = Array2::from_shape_fn(shape, |(y, x)| value(7 * y + x));
        let mask = mask.map(|shape| Array2::from_elem(shape, true));
        let colormap = [Colormap::Gray, Colormap::Cyclic, Colormap::default(), Colormap::Cyclic][map];
        let range = if robust { Range::Robust(low, high) } else { Range::Fixed(low, high) };
        let picture = Picture {
            title: &text,
            colormap,
            range,
            mask: mask.as_ref(),
            trusted: mask.as_ref(),
            unit: &text,
            pixel_m: Some([pixel, pixel]),
        };
        let drawn = draw_image(&image, &picture);
        prop_assert!(drawn.width > 0 && drawn.height > 0);
        drop(write_image(TRAINED.folder.path().join("picture.png"), &image, &picture));
        let commanded: Vec<(f64, f64)> = places.iter().rev().copied().collect();
        let used = Places { used: &places, commanded: &commanded[..places.len() / 2] };
        drop(draw_positions(&image, &used, &picture));
        let complex = image.mapv(|v| Complex32::new(v, -v));
        let picture = ComplexPicture { title: &text, brightest: Some(high), ..ComplexPicture::default() };
        drop(draw_complex(&complex, &picture));
        let series = Series { label: text.clone(), points: places };
        let curve = Curve { title: &text, x_label: "x", y_label: "y", log_y: robust };
        drop(draw_curve(&[series], &curve));
    }
}
