//! Every kernel stays within its budget of registers and shared memory, and spills nothing.

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

/// Lines of `kernel registers bytes`; # begins a comment.
fn budgets() -> BTreeMap<String, Use> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/budgets.txt");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[kernel, registers, shared] = words.as_slice() else {
                panic!("three words, not `{line}`")
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
