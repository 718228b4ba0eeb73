//! A Python with h5py: `PTYCHO_PYTHON`, else `python3`. With `PTYCHO_REQUIRE_H5PY=1` its absence is a
//! failure.

use std::process::Command;

pub fn with_h5py() -> Option<String> {
    let python = std::env::var("PTYCHO_PYTHON").unwrap_or_else(|_| "python3".into());
    let tried = Command::new(&python).args(["-c", "import h5py, hdf5plugin"]).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(std::env::var_os("PTYCHO_REQUIRE_H5PY").is_none(), "{python} has no h5py");
    eprintln!("not looked at by h5py: {python} has none");
    None
}
