//! Every kernel stays within its budget of registers and shared memory, and spills nothing; those for
//! tensor cores use them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Most registers of a thread and most static shared memory of a block, over all architectures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Use {
    registers: u32,
    shared: u32,
}

#[test]
fn kernels_stay_within_their_budgets() {
    let report = fs::read_to_string(env!("PTYCHO_PTXAS_REPORT")).unwrap();
    if report.is_empty() {
        return eprintln!("built without nvcc: no kernel to look at");
    }
    let (budgets, used) = (budgets(), used(&report));
    // All of them, not the first alone: a build takes minutes.
    let mut problems = Vec::new();
    for (kernel, used) in &used {
        match budgets.get(kernel) {
            None => problems.push(format!("{kernel} uses {used:?}, but has no line")),
            Some(budget) if used.registers > budget.registers || used.shared > budget.shared => {
                problems.push(format!("{kernel} uses {used:?}, its budget is {budget:?}"));
            }
            Some(_) => {}
        }
    }
    let gone = budgets.keys().filter(|kernel| !used.contains_key(*kernel));
    problems.extend(gone.map(|kernel| format!("there is no kernel {kernel}")));
    assert!(problems.is_empty(), "kernels/budgets.txt: {}", problems.join("; "));
}

#[test]
fn no_kernel_spills_registers() {
    let report = fs::read_to_string(env!("PTYCHO_PTXAS_REPORT")).unwrap();
    let mut kernel = "";
    for line in report.lines() {
        kernel = entry(line).unwrap_or(kernel);
        if line.contains("spill stores") {
            assert!(
                line.contains(" 0 bytes spill stores, 0 bytes spill loads"),
                "{kernel}: {line}"
            );
        }
    }
}

/// What an instruction of a GPU since Volta does, by its lowest 12 bits; 16 bytes each.
const MATRIX_PRODUCT: u64 = 0x23C; // HMMA
const COPY_TO_SHARED: u64 = 0xFAE; // LDGSTS
const LOCAL_LOAD: u64 = 0x983; // LDL
const LOCAL_STORE: u64 = 0x387; // STL

#[test]
fn tensor_kernels_use_tensor_cores_and_copy_sixteen_bytes_at_once() {
    let text = budgets_file();
    let wanted: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(" tensor")).collect();
    let wanted: Vec<&str> = wanted.iter().filter_map(|l| l.split_whitespace().next()).collect();
    assert!(!wanted.is_empty(), "kernels/budgets.txt names no kernel for tensor cores");
    let files = fs::read_dir(env!("PTYCHO_MACHINE_CODE")).unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        let code = fs::read(&file).unwrap();
        for kernel in &wanted {
            let count = |operation: u64, size: Option<u64>| {
                let all = instructions(&code, kernel).into_iter();
                let sized = all.filter(|[_, high]| size.is_none_or(|s| high >> 9 & 7 == s));
                sized.filter(|[low, _]| low & 0xFFF == operation).count()
            };
            // Bits 73 to 75 say how much a copy moves.
            let sixteen = if file.to_string_lossy().contains("compute_100") { 4 } else { 6 };
            let what = format!("{kernel} in {}", file.display());
            assert!(count(MATRIX_PRODUCT, None) >= 16, "{what}: no products of matrices");
            assert!(count(COPY_TO_SHARED, Some(sixteen)) > 0, "{what}: small copies");
            assert_eq!(
                count(LOCAL_LOAD, None) + count(LOCAL_STORE, None),
                0,
                "{what}: local memory"
            );
        }
    }
}

/// The machine code of one kernel, out of an ELF file.
fn instructions(file: &[u8], kernel: &str) -> Vec<[u64; 2]> {
    let number = |at: usize, bytes: usize| {
        file[at..at + bytes].iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte)) as usize
    };
    let (headers, count) = (number(0x28, 8), number(0x3C, 2));
    let header = |i: usize| headers + i * number(0x3A, 2);
    let names = number(header(number(0x3E, 2)) + 0x18, 8);
    let name = |i: usize| {
        let from = &file[names + number(header(i), 4)..];
        from.split(|&byte| byte == 0).next().unwrap()
    };
    let wanted = format!(".text.{kernel}");
    let at = (0..count).find(|&i| name(i) == wanted.as_bytes());
    let at = header(at.unwrap_or_else(|| panic!("no {wanted} among the sections")));
    let (offset, size) = (number(at + 0x18, 8), number(at + 0x20, 8));
    let places = (offset..offset + size).step_by(16);
    places.map(|at| [number(at, 8) as u64, number(at + 8, 8) as u64]).collect()
}

fn budgets_file() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/budgets.txt");
    fs::read_to_string(path).unwrap()
}

/// Lines of `kernel registers bytes`, and `tensor` if it is for tensor cores; # begins a comment.
fn budgets() -> BTreeMap<String, Use> {
    let text = budgets_file();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (&[kernel, registers, shared] | &[kernel, registers, shared, "tensor"]) =
                words.as_slice()
            else {
                panic!("three words, and perhaps `tensor`, not `{line}`")
            };
            let number = |word: &str| word.parse().unwrap();
            (kernel.into(), Use { registers: number(registers), shared: number(shared) })
        })
        .collect()
}

/// What ptxas says of each kernel, the most over all architectures.
fn used(report: &str) -> BTreeMap<String, Use> {
    let mut all: BTreeMap<String, Use> = BTreeMap::new();
    let mut kernel = "";
    for line in report.lines() {
        kernel = entry(line).unwrap_or(kernel);
        if !line.contains(" registers") {
            continue;
        }
        let before = |word: &str| {
            let at = line.find(word).unwrap_or(0);
            line[..at].split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        let used = all.entry(kernel.into()).or_default();
        used.registers = used.registers.max(before(" registers"));
        used.shared = used.shared.max(before(" bytes smem"));
    }
    all
}

/// The kernel that ptxas begins to report on.
fn entry(line: &str) -> Option<&str> {
    line.split_once("Compiling entry function '")?.1.split('\'').next()
}
