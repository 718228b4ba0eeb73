use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, arr0, arr2};
use num_complex::Complex32;
use proptest::prelude::*;
use ptycho_gpu::data::{Npz, NpzWriter};
use zip::write::SimpleFileOptions;

/// An archive of one member `a`, written byte by byte.
fn raw(folder: &Path, descr: &str, fortran: &str, shape: &str, data: &[u8]) -> PathBuf {
    let header =
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut member = b"\x93NUMPY\x01\x00".to_vec();
    member.extend((header.len() as u16).to_le_bytes());
    member.extend(header.as_bytes());
    member.extend(data);
    let path = folder.join("raw.npz");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    zip.start_file("a.npy", SimpleFileOptions::default()).unwrap();
    zip.write_all(&member).unwrap();
    zip.finish().unwrap();
    path
}

fn read(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Result<Vec<f64>, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut npz = Npz::open(raw(folder.path(), descr, fortran, shape, data)).unwrap();
    npz.f64("a").map(|array| array.into_iter().collect()).map_err(|error| error.to_string())
}

#[test]
fn every_numeric_type_and_byte_order_is_read() {
    let one = |descr: &str, data: &[u8]| read(descr, "False", "(1,)", data).unwrap()[0];
    assert_eq!(one("<f2", &[0x00, 0xc2]), -3.0);
    assert_eq!(one(">f2", &[0xc2, 0x00]), -3.0);
    assert_eq!(one("<f4", &1.5f32.to_le_bytes()), 1.5);
    assert_eq!(one(">f4", &1.5f32.to_be_bytes()), 1.5);
    assert_eq!(one("<f8", &0.1f64.to_le_bytes()), 0.1);
    assert_eq!(one(">f8", &0.1f64.to_be_bytes()), 0.1);
    assert_eq!(one("|u1", &[200]), 200.0);
    assert_eq!(one(">u2", &[1, 2]), 258.0);
    assert_eq!(one("<u4", &u32::MAX.to_le_bytes()), 4_294_967_295.0);
    assert_eq!(one("<u8", &(1u64 << 52).to_le_bytes()), (1u64 << 52) as f64);
    assert_eq!(one("|i1", &[0xff]), -1.0);
    assert_eq!(one("<i2", &(-300i16).to_le_bytes()), -300.0);
    assert_eq!(one(">i4", &(-70_000i32).to_be_bytes()), -70_000.0);
    assert_eq!(one("<i8", &(-5i64).to_le_bytes()), -5.0);
    assert_eq!(one("|b1", &[1]), 1.0);
}

#[test]
fn complex_numbers_of_both_widths_and_byte_orders_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = [1.0f64.to_be_bytes(), (-2.0f64).to_be_bytes()].concat();
    let mut npz = Npz::open(raw(folder.path(), ">c16", "False", "()", &bytes)).unwrap();
    assert_eq!(npz.c64("a").unwrap(), arr0(Complex32::new(1.0, -2.0)).into_dyn());
    let error = npz.f32("a").unwrap_err().to_string();
    assert!(error.contains("type >c16, expected real numbers"), "{error}");
}

#[test]
fn fortran_order_is_read_as_the_same_matrix() {
    // Columns of [[1, 2, 3], [4, 5, 6]].
    assert_eq!(
        read("|u1", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6]).unwrap(),
        [1., 2., 3., 4., 5., 6.]
    );
}

#[test]
fn a_member_shorter_or_longer_than_its_header_says_is_an_error() {
    let short = read("<f4", "False", "(2,)", &[0; 7]).unwrap_err();
    assert!(short.contains("`a` is truncated or damaged"), "{short}");
    let long = read("<f4", "False", "(2,)", &[0; 9]).unwrap_err();
    assert!(long.contains("more data than its header says"), "{long}");
    let absurd = read("<f8", "False", "(4294967295, 4294967295, 4294967295)", &[]).unwrap_err();
    assert!(absurd.contains("impossible shape"), "{absurd}");
}

#[test]
fn a_flipped_bit_is_found_by_the_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let path = raw(folder.path(), "<f8", "False", "(4,)", &[7; 32]);
    let mut bytes = fs::read(&path).unwrap();
    // Inside the data of the only member, before the directory.
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(Npz::open(&path).and_then(|mut npz| npz.f64("a")).is_err());
}

#[test]
fn files_that_are_no_archive_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let complain = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Npz::open(&path).unwrap_err().to_string()
    };
    assert!(complain(b"").contains("is empty"));
    assert!(complain(b"garbage, all of it").contains("is no NPZ file"));
    assert!(complain(b"\x93NUMPY\x01\x00v\x00").contains("is a single array"));
    assert!(complain(b"\x89HDF\r\n\x1a\n").contains("is an HDF5 file"));
    assert!(complain(b"PK\x03\x04 and nothing").contains("truncated"));
    assert!(Npz::open(folder.path()).unwrap_err().to_string().contains("is a folder"));
    assert!(Npz::open(folder.path().join("none")).unwrap_err().to_string().contains("cannot open"));
}

#[test]
fn a_missing_key_names_those_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut npz = Npz::open(raw(folder.path(), "<f4", "False", "()", &[0; 4])).unwrap();
    assert!(npz.f32("b").unwrap_err().to_string().contains("no key `b`; the file holds a"));
}

/// Written by NumPy 2: `pickle.dumps(np.array('{"a": 1}', dtype=object), protocol=…)`.
const PICKLE_3: &[u8] = b"\x80\x03cnumpy._core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02C\x01bq\x03\x87q\x04Rq\x05(K\x01)cnumpy\ndtype\nq\x06X\x02\x00\x00\x00O8q\x07\x89\x88\x87q\x08Rq\t(K\x03X\x01\x00\x00\x00|q\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq\x0bb\x89]q\x0cX\x08\x00\x00\x00{\"a\": 1}q\ratq\x0eb.";
const PICKLE_4: &[u8] = b"\x80\x04\x95\x91\x00\x00\x00\x00\x00\x00\x00\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01)h\x03\x8c\x05dtype\x94\x93\x94\x8c\x02O8\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?t\x94b\x89]\x94\x8c\x08{\"a\": 1}\x94at\x94b.";

#[test]
fn a_pickled_string_is_read_and_any_other_pickle_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let text = |data: &[u8]| {
        Npz::open(raw(folder.path(), "|O", "False", "()", data)).unwrap().text("a").unwrap()
    };
    assert_eq!(text(PICKLE_3).as_deref(), Some("{\"a\": 1}"));
    assert_eq!(text(PICKLE_4).as_deref(), Some("{\"a\": 1}"));
    // The same array around the number 1: no string that follows the list.
    let number = [&PICKLE_4[..PICKLE_4.len() - 16], b"K\x01at\x94b."].concat();
    assert_eq!(text(&number), None);
    // An instruction that is not known, and a string that claims to be longer than the file.
    assert_eq!(text(b"\x80\x04\xfe."), None);
    assert_eq!(text(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc."), None);
}

#[test]
fn unicode_text_round_trips_and_big_endian_text_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.npz");
    for text in ["", "σ = √I 🎉", "{}"] {
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.text("t", text).unwrap();
        writer.finish().unwrap();
        assert_eq!(Npz::open(&path).unwrap().text("t").unwrap().as_deref(), Some(text));
    }
    let mut npz = Npz::open(raw(folder.path(), ">U2", "False", "()", b"\0\0\0A\0\0\0\0")).unwrap();
    assert_eq!(npz.text("a").unwrap().as_deref(), Some("A"));
}

#[test]
fn the_same_arrays_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = folder.path().join(name);
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.u16("counts", &arr2(&[[1u16, 2], [3, 65_535]])).unwrap();
        writer.i64("index", &Array1::from(vec![-1i64, 1 << 40])).unwrap();
        writer.finish().unwrap();
        fs::read(path).unwrap()
    };
    assert_eq!(write("first.npz"), write("second.npz"));
    let mut npz = Npz::open(folder.path().join("first.npz")).unwrap();
    assert_eq!(npz.i64("index").unwrap().into_raw_vec_and_offset().0, [-1, 1 << 40]);
    assert_eq!(npz.find("counts").unwrap().dtype, "<u2");
}

#[test]
fn an_unfinished_archive_leaves_the_old_file_and_no_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.npz");
    fs::write(&path, b"old").unwrap();
    let mut writer = NpzWriter::create(&path).unwrap();
    writer.f32("a", &Array1::from(vec![1.0f32; 100])).unwrap();
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// NaN payloads and signed zeros included.
    #[test]
    fn any_bits_round_trip(bits in prop::collection::vec(any::<u32>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bits.npz");
        let values: Array1<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let complex = values.mapv(|v| Complex32::new(1.0, if v.is_nan() { 0.0 } else { v }));
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.c64("z", &complex).unwrap();
        writer.u32("bits", &Array1::from(bits.clone())).unwrap();
        writer.finish().unwrap();
        let mut npz = Npz::open(&path).unwrap();
        let read: Vec<u32> = npz.f64("bits").unwrap().iter().map(|&b| b as u32).collect();
        prop_assert_eq!(read, bits);
        let read: Vec<u32> = npz.c64("z").unwrap().iter().map(|z| z.im.to_bits()).collect();
        prop_assert_eq!(read, complex.iter().map(|z| z.im.to_bits()).collect::<Vec<_>>());
    }

    /// A transposed view is written by its logical order, not by its memory.
    #[test]
    fn views_are_written_in_logical_order(rows in 1usize..6, columns in 1usize..6) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("view.npz");
        let array = Array2::from_shape_fn((rows, columns), |(y, x)| (10 * y + x) as f64);
        let mut writer = NpzWriter::create(&path).unwrap();
        writer.f64("a", &array.t()).unwrap();
        writer.finish().unwrap();
        prop_assert_eq!(Npz::open(&path).unwrap().f64("a").unwrap(), array.t().into_dyn());
    }
}
