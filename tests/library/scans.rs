//! Scans that no loader would give out, and ways of reading that make no sense.

use ndarray::{Array2, Array3};
use proptest::prelude::*;
use ptycho_gpu::backend::Chosen;
use ptycho_gpu::data::frames::{Center, Flip, Turn};
use ptycho_gpu::data::grouping::{self, Groups};
use ptycho_gpu::data::{
    FrameOrder, InputDomain, LoadOptions, Position, Reading, Room, Scan, load, save_scan,
};
use ptycho_gpu::metrics::data_space;
use ptycho_gpu::reconstruct::{self, Start};
use ptycho_gpu::stitch::extract;

use crate::{TRAINED, complex, infer, modes, mostly, number, size, usual, wish};

/// What is wrong with a scan: each part is mostly sound.
#[derive(Clone, Debug)]
struct Spoiled {
    patterns: Option<(usize, usize, usize)>,
    fill: Option<f64>,
    positions: Option<usize>,
    place: Option<f64>,
    probe: Option<(usize, usize, usize)>,
    light: Option<f64>,
    mask: Option<(usize, usize, f64)>,
    object: Option<(usize, usize)>,
    labels: Option<(usize, usize, usize)>,
    nominal: Option<usize>,
    kappa: f64,
}

fn spoiled() -> impl Strategy<Value = Spoiled> {
    let some =
        |strategy: BoxedStrategy<(usize, usize, usize)>| mostly(None, strategy.prop_map(Some));
    let three = || (size(), size(), size()).boxed();
    let count = || mostly(None, size().prop_map(Some));
    let one = || mostly(None, number().prop_map(Some));
    let mask = mostly(None, (size(), size(), number()).prop_map(Some));
    let object = mostly(None, (size(), size()).prop_map(Some));
    (
        (some(three()), one(), count(), one(), some(three()), one()),
        (mask, object, some(three()), count(), mostly(1.0, number())),
    )
        .prop_map(|((patterns, fill, positions, place, probe, light), rest)| {
            let (mask, object, labels, nominal, kappa) = rest;
            Spoiled {
                patterns,
                fill,
                positions,
                place,
                probe,
                light,
                mask,
                object,
                labels,
                nominal,
                kappa,
            }
        })
}

impl Spoiled {
    fn scan(&self) -> Scan {
        let mut scan = TRAINED.scan.clone();
        if let Some(shape) = self.patterns {
            scan.amplitude = Array3::from_elem(shape, 0.1f32).into();
        }
        if let Some(value) = self.fill {
            scan.amplitude = Array3::from_elem(scan.amplitude.dim(), value as f32).into();
        }
        if let Some(count) = self.positions {
            scan.positions = vec![Position { x: 40.0, y: 41.0 }; count];
        }
        if let (Some(value), Some(last)) = (self.place, scan.positions.last_mut()) {
            *last = Position { x: value, y: -value };
        }
        if let Some(shape) = self.probe {
            scan.probe = modes(shape, 1.0);
        }
        if let Some(value) = self.light {
            scan.probe = modes(scan.probe.dim(), value);
        }
        scan.mask =
            self.mask.map(|(height, width, w)| Array2::from_elem((height, width), w as f32));
        scan.object = self.object.map(|shape| complex(shape, 1.0));
        scan.labels = self.labels.map(|shape| modes(shape, 1.0));
        scan.nominal = self.nominal.map(|count| vec![Position { x: 0.0, y: 0.0 }; count]);
        scan.dose.kappa = self.kappa;
        scan
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_scan_that_is_none_is_refused_by_everything_that_takes_one(
        spoiled in spoiled(), indices in prop::collection::vec(wish(), 0..3)
    ) {
        let scan = spoiled.scan();
        drop(scan.subset(&indices));
        drop(indices.first().map(|&index| scan.amplitude.pattern(index).map(|_| ())));
        let _ = (scan.input_scale(), scan.probe_gauge(), scan.mean_count_per_pixel(), scan.pixels());
        drop(save_scan(TRAINED.folder.path().join("spoiled.npz"), &scan));
        infer(&TRAINED.checkpoint, 2, &scan, &usual());
        let few = reconstruct::Options { epochs: 1, ..reconstruct::Options::default() };
        if let Ok(solved) = reconstruct::reconstruct(&scan, &Start::of(&scan), &few, &Chosen::Cpu, None) {
            drop(data_space(&solved.reconstruction.explained(&scan)));
        }
    }

    #[test]
    fn any_positions_are_grouped_or_refused(
        places in prop::collection::vec((number(), number()), 0..12),
        (gridsize, neighbours, groups) in (wish(), wish(), prop::option::of(0usize..40)),
        epoch in 0u32..3,
    ) {
        let positions: Vec<Position> = places.into_iter().map(|(x, y)| Position { x, y }).collect();
        let (p, seed) = (positions.as_slice(), 1);
        drop(Groups::build(p, gridsize, neighbours, groups, seed, epoch));
        drop(Groups::sharing(p, gridsize, neighbours, groups, seed, epoch));
        drop(grouping::reach(p, gridsize, neighbours));
        if let Ok(groups) = Groups::covering(p, gridsize, neighbours) {
            let _ = (groups.len(), groups.largest_offset(p));
        }
        let _ = Groups { members: vec![0], size: 0 }.len();
        drop(Groups::build(p, 2, neighbours, Some(usize::MAX), seed, epoch));
    }

    #[test]
    fn any_patch_is_cut_out_or_refused(
        (height, width, n) in (size(), size(), size()), (x, y) in (number(), number()),
        origin in (any::<i64>(), any::<i64>()),
    ) {
        let object = complex((height, width), 1.0);
        drop(extract(object.view(), [origin.0, origin.1], &[Position { x, y }], n));
    }

    #[test]
    fn any_way_of_reading_gives_a_scan_or_says_what_is_wrong(
        (crop, bin) in (prop::option::of(wish()), prop::option::of(wish())),
        center in prop::option::of((wish(), wish())),
        (energy, pixel, photons) in (mostly(1e4, number()), number(), mostly(1e6, number())),
        (flags, turn, bytes) in (any::<[bool; 4]>(), 0usize..3, prop::option::of(wish())),
    ) {
        let [transpose, flip, without_probe, counts] = flags;
        let options = LoadOptions {
            input_domain: if counts { InputDomain::Counts } else { InputDomain::Auto },
            nphotons: Some(photons),
            order: [FrameOrder::Auto, FrameOrder::First, FrameOrder::Last][turn],
            reading: Reading {
                energy: Some(energy),
                object_pixel: flip.then_some(pixel),
                center: center.map(|(row, column)| Center::At { row, column }),
                transpose: Some(transpose),
                flip: flip.then_some(Flip::Ud),
                rotate: Some([Turn::None, Turn::Quarter, Turn::Half][turn]),
                crop,
                bin,
                ..Reading::default()
            },
            room: bytes.map(|bytes| {
                Room { bytes: bytes as u64, scratch: TRAINED.folder.path().to_path_buf() }
            }),
            without_probe,
        };
        if let Ok(scan) = load(&TRAINED.folder.path().join("scan.npz"), &options) {
            // Patterns that are in a file are refused where they have to be in memory.
            let few = reconstruct::Options { epochs: 1, ..reconstruct::Options::default() };
            drop(reconstruct::reconstruct(&scan, &Start::of(&scan), &few, &Chosen::Cpu, None));
            drop(save_scan(TRAINED.folder.path().join("again.npz"), &scan));
            drop(scan.subset(&[0, scan.len()]));
        }
    }
}

#[test]
fn files_that_are_not_there_or_no_scans_are_named() {
    let folder = TRAINED.folder.path();
    std::fs::write(folder.join("text.npz"), "no scan").unwrap();
    for name in ["gone.npz", "text.npz", "", "run"] {
        let error = load(&folder.join(name), &LoadOptions::default()).unwrap_err();
        assert!(error.to_string().contains(folder.to_str().unwrap()), "{error}");
    }
}
