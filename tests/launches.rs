//! Every launch passes the arguments that its kernel declares, in kind and number.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ptycho_gpu::launch::{Arg, Launch};
use ptycho_gpu::measure::cases::{Size, all};

#[test]
fn every_launch_passes_what_its_kernel_declares() {
    let kernels = kernels();
    for launch in launches() {
        let declared = kernels.get(launch.kernel);
        let passed: String = launch.args.iter().map(kind).collect();
        assert_eq!(declared, Some(&passed), "{} (b buffer, i int, f float)", launch.kernel);
    }
}

#[test]
fn every_kernel_is_launched() {
    let launches = launches();
    for kernel in kernels().keys() {
        assert!(launches.iter().any(|l| l.kernel == kernel), "nothing launches {kernel}");
    }
}

fn kind(arg: &Arg) -> char {
    match arg {
        Arg::Buffer(_) => 'b',
        Arg::Int(_) => 'i',
        Arg::Float(_) => 'f',
    }
}

/// The launches of every op, small and large, forward and backward.
fn launches() -> Vec<Launch> {
    let sizes = [Size::SMALL, Size::PRODUCTION];
    let plans = all().into_iter().flat_map(|case| sizes.map(|size| case.plan(&size).plan));
    plans.flat_map(|plan| plan.steps).flat_map(|step| step.op.launches()).collect()
}

/// The entry points of `kernels/*.cu`, each with the kinds of its arguments.
fn kernels() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let sources = files.filter(|f| f.extension().is_some_and(|e| e == "cu"));
    let text: String = sources.map(|f| fs::read_to_string(f).unwrap()).collect();
    text.split("extern \"C\"").skip(1).map(entry_point).collect()
}

/// Name and argument kinds of the declaration that `text` starts with.
fn entry_point(text: &str) -> (String, String) {
    let (head, _) = text.split_once('{').unwrap();
    let code: Vec<&str> = head.lines().map(|l| l.split("//").next().unwrap()).collect();
    // What bounds the registers is no argument.
    let code = match code.join(" ").split_once("__launch_bounds__(") {
        Some((_, rest)) => rest.split_once(')').unwrap().1.to_owned(),
        None => code.join(" "),
    };
    let (before, args) = code.split_once('(').unwrap();
    let args = args.rsplit_once(')').unwrap().0;
    let name = before.split_whitespace().last().unwrap().to_owned();
    (name, args.split(',').map(declared).collect())
}

fn declared(argument: &str) -> char {
    match argument.trim() {
        a if a.contains('*') => 'b',
        a if a.starts_with("int ") => 'i',
        a if a.starts_with("float ") => 'f',
        a => panic!("a kernel takes buffers, ints and floats, not `{a}`"),
    }
}

#[test]
fn every_op_has_kernels() {
    for case in all() {
        for step in case.plan(&Size::SMALL).plan.steps {
            assert!(!step.op.launches().is_empty(), "{} of {}", step.op.name(), case.name);
        }
    }
}

#[test]
fn every_launch_is_possible_on_every_gpu() {
    for launch in launches() {
        let threads = launch.grid.iter().all(|&n| n > 0) && (1..=1024).contains(&launch.block);
        assert!(threads, "{}: {:?} blocks of {}", launch.kernel, launch.grid, launch.block);
        // What the smallest of the GPUs has for a block.
        assert!(launch.shared <= 99 << 10, "{}: {} bytes", launch.kernel, launch.shared);
    }
}
