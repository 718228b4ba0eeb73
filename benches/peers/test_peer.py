"""The peer trains as the program does, and benches/compare makes its page of the figures alone.

The program is PTYCHO_GPU_BIN, else target/release/ptycho-gpu. A Python with PyTorch is PTYCHO_TORCH_PYTHON, else
the one that runs this; with PTYCHO_REQUIRE_TORCH set its absence is a failure.
"""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / "benches/peers/torch_cnn.py"
BINARY = os.environ.get("PTYCHO_GPU_BIN") or str(ROOT / "target/release/ptycho-gpu")


@pytest.fixture(scope="module")
def torch_python():
    python = os.environ.get("PTYCHO_TORCH_PYTHON") or sys.executable
    tried = subprocess.run([python, "-c", "import numpy, torch"], capture_output=True, text=True)
    if tried.returncode != 0:
        if os.environ.get("PTYCHO_REQUIRE_TORCH"):
            pytest.fail(f"{python} cannot import torch: {tried.stderr}")
        pytest.skip(f"{python} has no torch")
    return python


@pytest.fixture()
def compare():
    path = str(ROOT / "benches/compare")
    loader = importlib.machinery.SourceFileLoader("compare", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", loader))
    # No compiled copy beside the script.
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def test_the_peer_trains_as_the_program_does(torch_python):
    done = subprocess.run([torch_python, PEER, "--check", "--binary", BINARY, "--json"], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["agree"]


def test_the_peer_reconstructs_as_the_program_does(torch_python, compare):
    done = subprocess.run([torch_python, compare.DIRECT, "--check", "--binary", BINARY, "--json"], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["agree"]


def test_a_served_peer_measures_when_it_is_asked(torch_python, compare):
    peer = compare.Served(torch_python, PEER, ["--time", "infer", "--batch", 1, "--threads", 1])
    assert peer.about["what"] == "infer" and peer.about["startup_s"] > 0
    assert all(peer.measure(1) > 0 for _ in range(2))
    peer.close()
    assert peer.process.returncode == 0


def test_a_peer_that_cannot_start_says_why(torch_python, compare):
    with pytest.raises(compare.Failed, match="no variant"):
        compare.Served(torch_python, PEER, ["--time", "infer", "--variant", "sparse"])


def section(**more):
    return {"date": "2000-01-01", "machine": "a machine", "load": 0.0, "rounds": 7, "program": "ptycho-gpu 0",
            "commit": None, **more}


def test_the_page_pairs_the_rounds(compare):
    check = {"first": 1e-7, "largest": 1e-4, "steps": 10}
    # In each round ours takes half as long, while both drift.
    ours, theirs = [10.0, 20.0, 40.0], [20.0, 40.0, 80.0]
    peers = {"eager": {"ms": theirs, "startup_s": 3.0}}
    load = {"what": "train", "N": 64, "batch": 16, "threads": 2, "ptycho-gpu": ours, "peers": peers}
    cpu = section(torch="2", check=check, repeats=7, workloads=[load], failed={"compile": "no g++"})
    page = compare.render({"cpu": cpu})
    assert "| PyTorch, `eager` | 40.0 (20.0 to 80.0) | 400 | 0.500 (0.500 to 0.500) | 3.0 |" in page
    assert "Not measured: compile: `no g++`" in page and "no GPU was there" in page
    assert "shared with" not in page and "a trial" not in page


def test_the_page_tells_trials_and_busy_machines(compare):
    threads = section(workloads=[{"what": "train", "N": 64, "batch": 16, "ms": {"1": [4.0], "2": [2.0]}}])
    page = compare.render({"threads": {**threads, "rounds": 1, "load": 3.0}})
    assert "| `train`, batch 16 | 2 | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) |" in page
    assert "shared with other work (load 3.0)" in page and "a trial" in page


def test_participants_take_turns_and_the_first_round_is_thrown_away(compare):
    order = []

    def participant(name):
        return name, lambda: order.append(name) or {("train", 16): float(len(order))}

    times = compare.alternate([participant("a"), participant("b")], 2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times == {"b": {("train", 16): [3.0, 6.0]}, "a": {("train", 16): [4.0, 5.0]}}


PROGRAM = """#!/usr/bin/env python3
import json, sys
if sys.argv[1] == "--version":
    print("ptycho-gpu 0")
elif sys.argv[1] == "reconstruct":
    folder = sys.argv[sys.argv.index("--output-dir") + 1]
    with open(folder + "/history.csv", "w") as history:
        print("epoch,seconds", *(f"{epoch},{0.5 if epoch < 4 else 0.1}" for epoch in range(1, 13)), sep="\\n",
              file=history)
elif sys.argv[1] == "bench":
    for batch in sys.argv[sys.argv.index("--batch") + 1].split(","):
        for what, ms in ("train", 3.0), ("infer", 1.0):
            print(json.dumps({"what": what, "batch": int(batch), "ms": ms}))
"""

STAND_IN = """
import json, sys
if "--check" in sys.argv:
    print(json.dumps({"first": 1e-7, "largest": 1e-4, "steps": 10, "torch": "2"}))
elif "compile" in sys.argv:
    sys.exit("no g++")
else:
    print(json.dumps({"startup_s": 3.0, "device": "CPU", "N": 64, "patterns": 50, "threads": 2}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"ms": 6.0}), flush=True)
"""


@pytest.fixture()
def stand_ins(tmp_path, compare, monkeypatch):
    """Compare with a program and a peer that always take as long, and with a folder for what it writes."""
    program, peer = tmp_path / "program", tmp_path / "peer.py"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    peer.write_text(STAND_IN)
    monkeypatch.setattr(compare, "DIRECT_VARIANTS", ["eager"])
    for name, path in ("PEER", peer), ("DIRECT", peer), ("STORE", tmp_path / "store.json"), ("PAGE", tmp_path / "page.md"):
        monkeypatch.setattr(compare, name, path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare", "--binary", str(program), *arguments])
        return compare.main()

    return call


def test_sections_are_measured_stored_and_shown(stand_ins, compare):
    given = ["--torch-python", sys.executable, "--rounds", "2", "--threads", "1,2", "--variants", "eager,compile"]
    assert stand_ins(*given, "cpu", "cuda", "process", "threads", "reconstruct") == 0
    store = json.loads(compare.STORE.read_text())
    assert set(store) == set(compare.SECTIONS)
    assert [load["threads"] for load in store["cpu"]["workloads"]] == [1, 1, 2, 2]
    assert {load["batch"] for load in store["cuda"]["workloads"]} == {16, 256}
    page = compare.PAGE.read_text()
    assert "| PyTorch, `eager` | 6.00 (6.00 to 6.00) | 2667 | 0.500 (0.500 to 0.500) | 3.0 |" in page
    assert "Not measured: compile, train, batch 16, threads 2: `no g++`" in page
    assert "`train`, patterns of 64×64, batches of 256, threads of the CPU: 2" in page
    assert "| `infer`, batch 16 | 2 | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |" in page
    # An epoch is timed after the first few, and its rate is that of the whole scan.
    assert "`reconstruct` of `siemens64.npz` with its 50 patterns, patterns of 64×64, batches of 64" in page
    assert "| **`ptycho-gpu`** | 100 (100 to 100) | 500 |  |  |" in page
    # The page is made of the stored figures alone.
    compare.PAGE.unlink()
    assert stand_ins("--table") == 0 and compare.PAGE.read_text() == page
