//! Building needs no CUDA compiler. With `PTYCHO_CHECK_KERNELS=1` and an nvcc at hand, every file
//! of `kernels/` is compiled, and one that does not compile fails the build. Nothing of it is
//! embedded: this version computes on the CPU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest and the newest architecture that the kernels are written for.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PTYCHO_CHECK_KERNELS");
    if env::var("PTYCHO_CHECK_KERNELS").as_deref() != Ok("1") {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    match nvcc() {
        Some(nvcc) => check(&nvcc),
        None => println!(
            "cargo::warning=kernels are not checked: no nvcc in NVCC, CUDA_HOME, CUDA_PATH, PATH \
             or .cuda/ (scripts/get-nvcc puts one there)"
        ),
    }
}

/// The first compiler that is there; one that is named but missing is not replaced by another.
fn nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.map(|home| PathBuf::from(home).join("bin/nvcc"));
    if let Some(given) = named.into_iter().chain(homes).next() {
        assert!(given.is_file(), "{} is no nvcc: see NVCC, CUDA_HOME, CUDA_PATH", given.display());
        return Some(given);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let own = Path::new(".cuda/nvidia/cu13/bin/nvcc").to_path_buf();
    let candidates = env::split_paths(&path).map(|folder| folder.join("nvcc")).chain([own]);
    candidates.into_iter().find(|file| file.is_file())
}

/// Compiles every kernel for every architecture, warnings being errors.
fn check(nvcc: &Path) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let files = fs::read_dir("kernels").expect("kernels/ is part of the sources");
    let mut kernels: Vec<PathBuf> =
        files.map(|f| f.expect("kernels/ is readable").path()).collect();
    kernels.retain(|file| file.extension().is_some_and(|extension| extension == "cu"));
    kernels.sort();
    for (kernel, architecture) in
        kernels.iter().flat_map(|kernel| ARCHITECTURES.map(|architecture| (kernel, architecture)))
    {
        let status = Command::new(nvcc)
            .args(["-std=c++17", "-O3", "-cubin", "-Werror", "all-warnings"])
            .arg(format!("-arch={architecture}"))
            .arg("-o")
            .arg(out.join("check.cubin"))
            .arg(kernel)
            .status();
        let status = status.unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
        assert!(status.success(), "{} does not compile for {architecture}", kernel.display());
    }
}
