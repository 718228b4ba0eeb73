//! Compiles `kernels/` into one fatbin, which the program embeds.
//!
//! nvcc is looked for in NVCC, CUDA_HOME, CUDA_PATH, PATH and `.cuda/` (filled by
//! scripts/get-nvcc). Without one, or where NVCC is empty, the crate builds all the same, computes on
//! the CPU alone, and says so; with `PTYCHO_REQUIRE_NVCC=1` that is an error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Machine code for these, and PTX of the first for all that are not among them. Both kinds of architecture are there:
/// for one with an `a`, ptxas takes more static shared memory than a kernel may have.
const ARCHITECTURES: [&str; 3] = ["80", "90a", "100"];

/// Where scripts/get-nvcc puts it.
const OWN: &str = ".cuda/nvidia/cu13/bin/nvcc";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    for name in ["PTYCHO_REQUIRE_NVCC", "NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // A path that is not there would make every build a new one; scripts/get-nvcc touches this file.
    if Path::new(OWN).is_file() {
        println!("cargo::rerun-if-changed={OWN}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (fatbin, report) = (out.join("kernels.fatbin"), out.join("ptxas.txt"));
    println!("cargo::rustc-env=PTYCHO_PTXAS_REPORT={}", report.display());
    let machine_code = out.join("machine-code");
    println!("cargo::rustc-env=PTYCHO_MACHINE_CODE={}", machine_code.display());
    // Nothing of an earlier compiler may stay.
    let _ = fs::remove_dir_all(&machine_code);
    fs::create_dir_all(&machine_code).expect("OUT_DIR is writable");
    if let Some(nvcc) = nvcc() {
        return compile(&nvcc, &out, &fatbin, &report);
    }
    let missing = if unwanted() {
        "NVCC is empty"
    } else {
        "no nvcc in NVCC, CUDA_HOME, CUDA_PATH, PATH or .cuda/ (scripts/get-nvcc puts one there)"
    };
    assert!(env::var("PTYCHO_REQUIRE_NVCC").as_deref() != Ok("1"), "{missing}");
    println!("cargo::warning=built without CUDA kernels: {missing}");
    fs::write(&fatbin, []).expect("OUT_DIR is writable");
    fs::write(&report, []).expect("OUT_DIR is writable");
}

/// Whether the kernels are to be left out.
fn unwanted() -> bool {
    env::var_os("NVCC").is_some_and(|named| named.is_empty())
}

/// The first compiler that is there; one that is named but missing is not replaced by another.
fn nvcc() -> Option<PathBuf> {
    if unwanted() {
        return None;
    }
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = homes.map(|home| PathBuf::from(home).join("bin/nvcc"));
    if let Some(given) = named.into_iter().chain(homes).next() {
        assert!(given.is_file(), "{} is no nvcc: see NVCC, CUDA_HOME, CUDA_PATH", given.display());
        return Some(given);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let mut candidates = candidates.chain([PathBuf::from(OWN)]).filter(|file| file.is_file());
    let found = candidates.find(|file| is_new_enough(file));
    // Only where it decided: environments of Python change it, and each change would make a build a new one.
    if found.as_deref() != Some(Path::new(OWN)) {
        println!("cargo::rerun-if-env-changed=PATH");
    }
    found
}

/// Whether it is of CUDA 13.0 or later, which knows all architectures.
fn is_new_enough(nvcc: &Path) -> bool {
    let output = Command::new(nvcc).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let release = text.split("release ").nth(1).and_then(|rest| rest.split('.').next());
    let enough = release.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 13);
    if !enough {
        println!("cargo::warning={} is not used: it is older than CUDA 13.0", nvcc.display());
    }
    enough
}

/// Compiles all kernels in one call, warnings being errors, and keeps what ptxas reports of their
/// registers and shared memory, and the machine code of each architecture, for tests/budgets.rs.
fn compile(nvcc: &Path, out: &Path, fatbin: &Path, report: &Path) {
    let source = out.join("kernels.cu");
    fs::write(&source, together()).expect("OUT_DIR is writable");
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Werror", "all-warnings", "-Xptxas", "-v"]);
    let kept = out.join("machine-code");
    command.arg("-keep").arg("-keep-dir").arg(&kept);
    command.arg("-I").arg(Path::new("kernels").canonicalize().expect("kernels/ is there"));
    for architecture in ARCHITECTURES {
        command.arg("-gencode").arg(format!("arch=compute_{architecture},code=sm_{architecture}"));
    }
    let first = ARCHITECTURES[0];
    command.arg("-gencode").arg(format!("arch=compute_{first},code=compute_{first}"));
    command.arg("-o").arg(fatbin).arg(&source);
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {}: {e}", nvcc.display()));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the kernels do not compile:\n{text}");
    fs::write(report, text.as_bytes()).expect("OUT_DIR is writable");
    for file in fs::read_dir(&kept).expect("nvcc keeps its files there") {
        let path = file.expect("OUT_DIR is readable").path();
        if path.extension() != Some(OsStr::new("cubin")) {
            fs::remove_file(path).expect("OUT_DIR is writable");
        }
    }
}

/// One source that includes all: headers first, then each file in a namespace of its own, because
/// two of them may have helpers of the same name. Kernels are `extern "C"` and keep theirs.
fn together() -> String {
    let with = |extension: &str| {
        let files = fs::read_dir("kernels").expect("kernels/ is part of the sources");
        let files = files.map(|file| file.expect("kernels/ is readable").path());
        let mut files: Vec<PathBuf> =
            files.filter(|file| file.extension() == Some(OsStr::new(extension))).collect();
        files.sort();
        let stem = |file: &PathBuf| file.file_stem().and_then(OsStr::to_str).map(str::to_owned);
        files.iter().map(stem).map(|s| s.expect("kernels have plain names")).collect::<Vec<_>>()
    };
    let mut text = String::from("#include \"common.cuh\"\n");
    text.extend(with("cuh").iter().map(|name| format!("#include \"{name}.cuh\"\n")));
    text.extend(
        with("cu").iter().map(|name| format!("namespace {name} {{\n#include \"{name}.cu\"\n}}\n")),
    );
    text
}
