//! A reconstruction in the files of other programs (`--save`).

use std::io::Cursor;
use std::path::Path;

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tiff::encoder::{Rational, TiffEncoder, colortype::Gray32Float};
use tiff::tags::{ResolutionUnit, Tag};

use crate::data::Scan;
use crate::data::hdf5::Hdf5Writer;
use crate::data::writers::product::Content;
use crate::reconstruction::Reconstruction;
use crate::report::atomic_write;
use crate::{Error, Result};

/// Why there is no product.
const NO_METRES: &str = "--save h5 writes positions in metres, and the scan does not say how large a pixel of \
                         its object is: give --object-pixel, or --energy, --distance and --detector-pixel";

/// What a result is written as. reconstruction.npz and the pictures are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Save {
    /// reconstruction.npz
    Npz,
    /// reconstruction.h5, a product of ptychodus
    H5,
    /// reconstruction.cxi
    Cxi,
    /// amplitude.tiff and phase.tiff, 32-bit
    Tiff,
    /// The pictures
    Png,
}

/// The flag, of every command that makes a reconstruction.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SaveArgs {
    /// Formats that the result is written in beside reconstruction.npz and the pictures, separated by
    /// commas
    #[arg(long, value_enum, ignore_case = true, value_delimiter = ',')]
    pub save: Vec<Save>,
}

impl SaveArgs {
    /// Whether the formats that are asked for can be written, before anything is computed.
    ///
    /// Error: a product without a pixel in metres.
    pub fn check(&self, scan: &Scan) -> Result<()> {
        if self.save.contains(&Save::H5) && scan.instrument.pixel_m(scan.side()).is_none() {
            return Err(Error::Config(NO_METRES.to_owned()));
        }
        Ok(())
    }

    /// Writes what is asked for into `folder`; `metadata` is the record of the run, `losses` those of
    /// its epochs.
    pub fn write(
        &self,
        folder: &Path,
        result: &Reconstruction,
        scan: &Scan,
        metadata: &Value,
        losses: &[f64],
    ) -> Result<()> {
        let asked = |what| self.save.contains(&what);
        if asked(Save::H5) {
            product(&folder.join("reconstruction.h5"), result, scan, metadata, losses)?;
        }
        if asked(Save::Cxi) {
            cxi(&folder.join("reconstruction.cxi"), result, scan, metadata)?;
        }
        if asked(Save::Tiff) {
            let object = &result.stitched.object;
            let covered = result.covered();
            let parts = [
                ("amplitude.tiff", object.mapv(|z| z.norm())),
                ("phase.tiff", object.mapv(|z| z.arg())),
            ];
            for (name, values) in parts {
                tiff(&folder.join(name), &values, &covered, scan, metadata)?;
            }
        }
        Ok(())
    }
}

/// Where the patches were put, (y, x) in metres.
fn places(result: &Reconstruction, scan: &Scan) -> Option<Vec<[f64; 2]>> {
    let metres = |p: &_| scan.instrument.metres(scan.side(), *p);
    result.positions.iter().map(metres).collect()
}

fn product(
    path: &Path,
    result: &Reconstruction,
    scan: &Scan,
    metadata: &Value,
    losses: &[f64],
) -> Result<()> {
    let known = scan.instrument.pixel_m(scan.side()).zip(places(result, scan));
    let (pixel, positions) = known.ok_or_else(|| Error::Config(NO_METRES.to_owned()))?;
    let mut file = Hdf5Writer::create(path)?;
    let name = scan.source.path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let content = Content {
        object: result.stitched.object.view(),
        origin_yx: result.canvas.origin_yx.map(|o| o as f64),
        probe: result.probe.view(),
        positions: &positions,
        indices: &result.indices,
        pixel,
        instrument: scan.instrument,
        kappa: scan.dose.kappa,
        name: name.as_deref().unwrap_or("reconstruction"),
        comments: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")),
    };
    content.write(&mut file, false)?;
    if !losses.is_empty() {
        let epochs: Vec<i64> = (0..losses.len() as i64).collect();
        file.array("loss_values", &[losses.len()], losses)?;
        file.array("loss_epochs", &[losses.len()], &epochs)?;
    }
    file.text("provenance", &metadata.to_string())?;
    file.finish()
}

/// `image_1` with the object as a viewer's first sight, its axes in metres where they are known, else in
/// pixels of the object.
fn cxi(path: &Path, result: &Reconstruction, scan: &Scan, metadata: &Value) -> Result<()> {
    let mut file = Hdf5Writer::create(path)?;
    let object = &result.stitched.object;
    let (rows, columns) = object.dim();
    file.array("cxi_version", &[], &[160i64])?;
    for (at, name, text) in [
        ("", "default", "entry_1"),
        ("entry_1", "NX_class", "NXentry"),
        ("entry_1", "default", "image_1"),
        ("entry_1/image_1", "NX_class", "NXdata"),
        ("entry_1/image_1", "signal", "data"),
        ("entry_1/image_1", "interpretation", "image"),
        ("entry_1/image_1/process_1", "NX_class", "NXprocess"),
        ("entry_1/instrument_1", "NX_class", "NXinstrument"),
        ("entry_1/instrument_1/source_1", "NX_class", "NXsource"),
    ] {
        file.group_text(at, name, text)?;
    }
    file.group_texts("entry_1/image_1", "axes", &["y", "x"])?;
    file.complex("entry_1/image_1/data", &[rows, columns], object)?;
    file.text("entry_1/image_1/data_type", "electron density")?;
    file.text("entry_1/image_1/data_space", "real")?;
    file.array("entry_1/image_1/is_fft_shifted", &[], &[0i64])?;
    let weights: Vec<f32> = result.stitched.weights.iter().copied().collect();
    file.array("entry_1/image_1/weights", &[rows, columns], &weights)?;
    let pixel = scan.instrument.pixel_m(scan.side());
    let [y, x] = scan.instrument.origin_m.unwrap_or_default();
    let [top, left] = result.canvas.origin_yx.map(|o| o as f64);
    let ([height, width], unit) = (pixel.unwrap_or([1.0; 2]), pixel.map_or("pixel", |_| "m"));
    let axis = |origin: f64, first: f64, count: usize, pixel: f64| -> Vec<f64> {
        (0..count).map(|i| origin + (first + i as f64) * pixel).collect()
    };
    for (name, values) in [("y", axis(y, top, rows, height)), ("x", axis(x, left, columns, width))]
    {
        let at = format!("entry_1/image_1/{name}");
        file.array(&at, &[values.len()], &values)?.with_text("units", unit)?;
    }
    file.text("entry_1/image_1/process_1/program", env!("CARGO_PKG_NAME"))?;
    file.text("entry_1/image_1/process_1/version", env!("CARGO_PKG_VERSION"))?;
    file.text("entry_1/image_1/process_1/note", &metadata.to_string())?;
    file.complex(
        "entry_1/instrument_1/source_1/illumination",
        result.probe.shape(),
        &result.probe,
    )?;
    if let Some(places) = places(result, scan) {
        let flat: Vec<f64> = places.iter().flat_map(|[y, x]| [*x, *y, 0.0]).collect();
        file.array("entry_1/sample_1/geometry_1/translation", &[places.len(), 3], &flat)?
            .with_text("units", "m")?;
    }
    file.finish()
}

/// A picture of 32-bit numbers, NaN where nothing was measured, with its resolution where it is known.
fn tiff(
    path: &Path,
    values: &Array2<f32>,
    covered: &Array2<bool>,
    scan: &Scan,
    metadata: &Value,
) -> Result<()> {
    let (height, width) = values.dim();
    let shown = |(value, covered): (&f32, &bool)| if *covered { *value } else { f32::NAN };
    let pixels: Vec<f32> = values.iter().zip(covered).map(shown).collect();
    let encode = || -> tiff::TiffResult<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut bytes)?;
        let mut image = encoder.new_image::<Gray32Float>(width as u32, height as u32)?;
        let software = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        image.encoder().write_tag(Tag::Software, software)?;
        // Its text is ASCII; JSON can say everything in that.
        image.encoder().write_tag(Tag::ImageDescription, ascii(metadata).as_str())?;
        if let Some([tall, wide]) = scan.instrument.pixel_m(scan.side()) {
            image.resolution_unit(ResolutionUnit::Centimeter);
            image.x_resolution(per_centimetre(wide));
            image.y_resolution(per_centimetre(tall));
        }
        image.write_data(&pixels)?;
        Ok(bytes.into_inner())
    };
    let bytes = encode().map_err(|error| Error::Run(format!("{}: {error}", path.display())))?;
    atomic_write(path, &bytes)
}

/// Pixels in a centimetre: as a fraction with whole numbers of 32 bits.
fn per_centimetre(pixel: f64) -> Rational {
    let density = 0.01 / pixel;
    let d = (f64::from(u32::MAX) / density.max(1.0)).min(1000.0).floor().max(1.0);
    Rational { n: (density * d).round().min(f64::from(u32::MAX)) as u32, d: d as u32 }
}

/// JSON in ASCII: other characters are escaped as JSON escapes them.
fn ascii(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        if character.is_ascii() {
            text.push(character);
            continue;
        }
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    }
    text
}
