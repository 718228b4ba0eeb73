//! Merging and extraction of a group against arrays of the published implementation.
//!
//! The arrays are found through PTYCHO_GOLDEN or, failing that, beside the checkout in
//! `shared/golden`; without them there is nothing to compare and the test says so.

#[allow(dead_code, reason = "one helper of the op harness is used here")]
mod support;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use npyz::{Deserialize, NpyFile};
use num_complex::Complex;
use ptycho_gpu::backend::{Backend, cpu::Cpu};
use ptycho_gpu::graph::{Graph, Stage};
use ptycho_gpu::ops::{
    extract::extract,
    merge::{MergeRule, merge},
};
use ptycho_gpu::plan::Plan;
use support::relative;

/// Groups, patches of each, their side, and the side of the canvas.
const GROUPS: usize = 3;
const PATCHES: usize = 4;
const SIDE: usize = 64;
const CANVAS: usize = 68;

/// The arrays are single precision, computed through a grid of single precision coordinates.
const TOLERANCE: f64 = 1e-5;

#[test]
fn a_merged_group_and_its_patches_are_those_of_the_published_implementation() {
    let Some(file) = golden("stitching/stitching.npz") else { return };
    let mut g = Graph::default();
    let patches = g.input("patches", &[GROUPS, PATCHES, SIDE, SIDE, 2]);
    let offsets = g.input("offsets", &[GROUPS, PATCHES, 2]);
    let weight = g.input("weight", &[SIDE, SIDE]);
    let rule = MergeRule { threshold: 1e-6, floor: 1e-3 };
    let canvas = merge(&mut g, patches, offsets, weight, CANVAS, rule);
    let extracted = extract(&mut g, canvas, offsets, SIDE);
    g.keep(canvas);
    g.keep(extracted);
    let mut cpu = Cpu::<f64>::new(Plan::new(g));
    cpu.set(patches, &complex(&file, "group.patches"));
    // The file counts offsets from the member to the middle of its group.
    let offset: Vec<f64> =
        array(&file, "group.rel_nc12").iter().map(|&x: &f32| -f64::from(x)).collect();
    cpu.set(offsets, &offset);
    cpu.set(weight, &central_box());
    cpu.run(Stage::Forward).unwrap();
    for (value, name) in [(canvas, "group.merged_central"), (extracted, "group.extracted")] {
        let error = relative(cpu.get(value), &complex(&file, name));
        assert!(error < TOLERANCE, "{name}: relative L2 error {error:.1e} ≥ {TOLERANCE:.1e}");
    }
}

/// 1 on the middle half of the rows and columns.
fn central_box() -> Vec<f64> {
    let middle = |i: usize| (SIDE / 4..SIDE / 4 + SIDE / 2).contains(&i);
    (0..SIDE * SIDE).map(|i| f64::from(u8::from(middle(i / SIDE) && middle(i % SIDE)))).collect()
}

fn golden(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    let file = std::env::var_os("PTYCHO_GOLDEN").map_or(beside, PathBuf::from).join(name);
    if !file.exists() {
        eprintln!("skipped: no golden arrays at {}", file.display());
        return None;
    }
    Some(file)
}

fn complex(file: &Path, name: &str) -> Vec<f64> {
    let numbers: Vec<Complex<f32>> = array(file, name);
    numbers.iter().flat_map(|z| [z.re.into(), z.im.into()]).collect()
}

fn array<T: Deserialize>(file: &Path, name: &str) -> Vec<T> {
    let mut archive = zip::ZipArchive::new(File::open(file).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
}
