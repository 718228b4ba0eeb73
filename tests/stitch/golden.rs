//! Arrays of the reference cases.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use ndarray::{Array, ArrayD, Dimension, ShapeBuilder};
use num_complex::Complex32;

/// One .npz file of the folder that `PTYCHO_GOLDEN` names.
pub struct Golden(PathBuf);

impl Golden {
    /// None, said on stderr, where the cases are not at hand; a folder that was named must hold them.
    pub fn open(file: &str) -> Option<Golden> {
        let named = std::env::var_os("PTYCHO_GOLDEN").map(PathBuf::from);
        let must_exist = named.is_some();
        let folder = named
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"));
        let path = folder.join(file);
        if !path.is_file() {
            assert!(!must_exist, "{} is missing", path.display());
            eprintln!("skipped: there is no {}", path.display());
            return None;
        }
        Some(Golden(path))
    }

    /// All values in row-major order.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.read(name).iter().copied().collect()
    }

    /// All values in row-major order.
    pub fn f64s(&self, name: &str) -> Vec<f64> {
        self.read(name).iter().copied().collect()
    }

    pub fn complex<D: Dimension>(&self, name: &str) -> Array<Complex32, D> {
        self.read(name).into_dimensionality().unwrap()
    }

    fn read<T: npyz::Deserialize>(&self, name: &str) -> ArrayD<T> {
        let mut archive =
            zip::ZipArchive::new(BufReader::new(File::open(&self.0).unwrap())).unwrap();
        let mut bytes = Vec::new();
        archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
        let array = npyz::NpyFile::new(&bytes[..]).unwrap();
        let shape: Vec<usize> = array.shape().iter().map(|size| *size as usize).collect();
        let column_major = array.order() == npyz::Order::Fortran;
        ArrayD::from_shape_vec(shape.set_f(column_major), array.into_vec().unwrap()).unwrap()
    }
}
