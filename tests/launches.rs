//! Every launch passes the arguments that its kernel declares, in kind and number.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ptycho_gpu::graph::{Graph, Value};
use ptycho_gpu::launch::{Arg, Launch};
use ptycho_gpu::ops::misfit::{Measured, Normalise};
use ptycho_gpu::ops::{
    fft2::fft2, gather::gather, illuminate::illuminate, intensity::intensity, mae::mae,
    poisson::poisson, polar::polar, scale::scale, weighted_sum::weighted_sum,
};
use ptycho_gpu::plan::Plan;

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

/// The launches of a training step that holds every op with a kernel.
fn launches() -> Vec<Launch> {
    let mut g = Graph::default();
    let loss = step(&mut g);
    let seed = g.input("seed", &[1]);
    g.differentiate(loss, seed);
    Plan::new(g).steps.iter().flat_map(|step| step.op.launches()).collect()
}

fn step(g: &mut Graph) -> Value {
    let (data, index) = (g.input("data", &[7, 4, 4]), g.input("index", &[2, 3]));
    let (scan, gain) = (g.input("scan", &[2]), g.input("gain", &[2]));
    let (dose, mask) = (g.input("dose", &[2]), g.input("mask", &[1, 4, 4]));
    let amplitude = gather(g, data, index);
    let (a, phase) = (g.param("a", &[2, 3, 4, 4]), g.param("phase", &[2, 3, 4, 4]));
    let a = scale(g, a, gain);
    let object = polar(g, a, phase);
    let probe = g.param("probe", &[1, 2, 4, 4, 2]);
    let exit = illuminate(g, object, probe, scan);
    let far = fft2(g, exit);
    let i = intensity(g, far);
    let seen = Measured { amplitude, dose, mask, scan };
    let nll = poisson(g, i, seen, 0.1, Normalise::ValidPixels);
    let error = mae(g, i, seen, Normalise::Sum);
    let weight = g.input("weight", &[2]);
    weighted_sum(g, vec![(nll, 1.0), (error, 0.5)], weight)
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
    let code = code.join(" ");
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
