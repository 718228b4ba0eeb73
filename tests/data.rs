//! What comes in: NPZ files, the validating loader, groups of neighbours, and `inspect`.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Array3, ArrayD};
use num_complex::Complex32;
use ptycho_gpu::data::{LoadOptions, NpzWriter, Position, Problem, Survey, survey};

#[path = "data/frames.rs"]
mod frames;
#[path = "data/grouping.rs"]
mod grouping;
#[path = "data/inspect.rs"]
mod inspect;
#[path = "data/loading.rs"]
mod loading;
#[path = "data/npz.rs"]
mod npz;

/// A scan file to be spoiled: every field can be changed before it is written.
pub struct Draft {
    pub key: &'static str,
    pub patterns: Option<ArrayD<f32>>,
    pub probe: Option<ArrayD<Complex32>>,
    pub x: Option<Vec<f64>>,
    pub y: Option<Vec<f64>>,
    pub object: Option<Array2<Complex32>>,
    pub mask: Option<Array2<f32>>,
    pub metadata: Option<String>,
    /// More real arrays by name.
    pub more: Vec<(&'static str, ArrayD<f32>)>,
}

impl Draft {
    /// A sound scan: `m` patterns of `n` × `n` normalised amplitudes on a grid of five columns.
    pub fn sound(m: usize, n: usize) -> Draft {
        let bell = |i: usize, width: f32| {
            let d = (i as f32 - (n / 2) as f32) / (width * n as f32);
            (-d * d).exp()
        };
        let patterns = Array3::from_shape_fn((m, n, n), |(i, y, x)| {
            (0.7 + 0.01 * i as f32) * bell(y, 0.1) * bell(x, 0.1)
        });
        let probe =
            Array2::from_shape_fn((n, n), |(y, x)| Complex32::from(bell(y, 0.25) * bell(x, 0.25)));
        let (half, step) = (n as f64 / 2.0, n as f64 / 16.0);
        Draft {
            key: "diffraction",
            patterns: Some(patterns.into_dyn()),
            probe: Some(probe.into_dyn()),
            x: Some((0..m).map(|i| half + 1.25 * step * (i % 5) as f64).collect()),
            y: Some((0..m).map(|i| half + 1.5 * step * (i / 5) as f64).collect()),
            object: None,
            mask: None,
            metadata: None,
            more: vec![],
        }
    }

    /// The patterns, to be changed in place.
    pub fn pixels(&mut self) -> &mut ArrayD<f32> {
        self.patterns.as_mut().unwrap()
    }

    /// Every value through `change`.
    pub fn map(mut self, change: impl Fn(f32) -> f32) -> Draft {
        self.pixels().mapv_inplace(change);
        self
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("scan.npz");
        let mut writer = NpzWriter::create(&path).unwrap();
        if let Some(patterns) = &self.patterns {
            writer.f32(self.key, patterns).unwrap();
        }
        if let Some(probe) = &self.probe {
            writer.c64("probeGuess", probe).unwrap();
        }
        for (key, values) in [("xcoords", &self.x), ("ycoords", &self.y)] {
            if let Some(values) = values {
                writer.f64(key, &Array1::from(values.clone())).unwrap();
            }
        }
        if let Some(object) = &self.object {
            writer.c64("objectGuess", object).unwrap();
        }
        if let Some(mask) = &self.mask {
            writer.f32("mask", mask).unwrap();
        }
        if let Some(metadata) = &self.metadata {
            writer.text("_metadata", metadata).unwrap();
        }
        for (key, values) in &self.more {
            writer.f32(key, values).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    /// Written, then surveyed.
    pub fn survey(&self, options: &LoadOptions) -> Survey {
        let folder = tempfile::tempdir().unwrap();
        survey(&self.write(folder.path()), options).unwrap()
    }

    /// What the survey complains about.
    pub fn problems(&self) -> Vec<Problem> {
        self.survey(&LoadOptions::default()).problems
    }
}

/// The machine names of problems.
pub fn names(problems: &[Problem]) -> Vec<String> {
    let name =
        |problem| serde_json::to_value(problem).unwrap()["name"].as_str().unwrap().to_owned();
    problems.iter().map(name).collect()
}

/// A folder of outside test data, or `None` (and a line that says so) where there is none.
pub fn outside(variable: &str, folder: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(folder));
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: no folder {}, set {variable}", path.display());
    None
}

/// `n` positions that look random.
pub fn scattered(n: usize, seed: u64) -> Vec<Position> {
    use ptycho_gpu::random::{Purpose, Stream};
    let mut stream = Stream::new(seed, Purpose::Positions, 0);
    (0..n).map(|_| Position { x: 50.0 * stream.uniform(), y: 30.0 * stream.uniform() }).collect()
}
