#!/usr/bin/env python3
"""The program's default network, physics, loss and optimiser once more, in PyTorch: a peer to be timed against.

  torch_cnn.py --check --binary FILE [--n 64] [--device cpu]     do both sides give the same losses?
  torch_cnn.py --time train|infer [--n 64] [--batch 16] [--threads T] [--device cpu] [--variant V] [--json]

V is `eager`, or some of these joined by `+`:
  channels_last   NHWC memory layout of the network
  compile         torch.compile of network and physics
  amp             the network in bfloat16 (autocast); the physics stays in single precision
  tf32            matrix products and convolutions of a GPU may round to TF32
  graphs          the whole step captured and replayed as one CUDA graph

Written from the formulas in src/ops and src/models. What the program does beside them, the gradient's norm and
the rings of losses, is left out here. Needs PyTorch and NumPy. With --serve the process stays: each line on stdin
is a number of repeats, each answer a line of JSON, so that imports and compilation are not timed again.
"""

import time

# Importing PyTorch is a part of what a start takes.
STARTED = time.monotonic()

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# The defaults of `ptycho-gpu train`.
SCALE = 2
EPSILON_PHOTONS = 1e-6
LEARNING_RATE = 1e-3
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}

# Channels of a decoder's last block, and those of them that path 2 sees.
LAST = 32 * SCALE
OUTER = LAST // 8

# softplus of it is 1.
SHIFT = math.log(math.e - 1)

FEATURES = ("channels_last", "compile", "amp", "tf32", "graphs")

# Of the check: a scan of one batch with structure in it, and relative bounds: on the first loss, on all losses, on
# the norm of the first gradient, and on Adam's moments after it (L2). 1 − k/Λ makes much of rounding in pixels that
# are predicted dark, so gradients agree less than losses do. Adam divides small gradients by themselves, so that
# their rounding grows from step to step, on either side as much as between the two; at a tenth of the usual
# learning rate ten steps keep within the bound.
CHECK_BATCH = 4
CHECK_STEPS = 10
CHECK_RATE = 1e-4
CHECK_SCAN = ["--patterns", CHECK_BATCH, "--object", "siemens", "--phase", 0.8, "--photons", 2e5, "--seed", 1]
FIRST_BOUND = 2e-6
BOUND = 1e-3
NORM_BOUND = 2e-4
MOMENT_BOUND = 5e-4

# As in src/measure/bench.rs: least seconds of one measurement, so that short ones are run in a row.
LEAST = 0.01
MOST_IN_A_ROW = 1000
# Seconds after which a measurement has repeats enough, be it one: bfloat16 is slow where a CPU has no
# instructions for it.
ENOUGH = 20
# Runs before a capture, as PyTorch advises.
BEFORE_CAPTURE = 3


class DoubleConv(nn.Module):
    """3×3 convolution and ReLU, twice."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x):
        return functional.relu(self.conv2(functional.relu(self.conv1(x))))


class Down(DoubleConv):
    def forward(self, x):
        return functional.max_pool2d(super().forward(x), 2)


class Up(DoubleConv):
    def forward(self, x):
        return functional.interpolate(super().forward(x), scale_factor=2, mode="nearest")


class Head(nn.Module):
    """The head `joint`: path 1 fills the centre, path 2 the whole patch, one activation for their sum."""

    def __init__(self, activation):
        super().__init__()
        self.conv1 = nn.Conv2d(LAST - OUTER, 1, 3, padding=1)
        self.conv_up_block = Up(OUTER, LAST)
        self.conv2 = nn.Conv2d(LAST, 1, 3, padding=1)
        self.activation = activation

    def forward(self, h):
        inner, outer = h[:, :-OUTER], h[:, -OUTER:]
        centre, patch = self.conv1(inner), self.conv2(self.conv_up_block(outer))
        return self.activation(functional.pad(centre, [patch.shape[-1] // 4] * 4) + patch)


class Decoder(nn.Module):
    def __init__(self, n, quantity, activation):
        super().__init__()
        sizes = [128 * SCALE] + [LAST << i for i in reversed(range(int(math.log2(n // 16))))]
        self.blocks = nn.ModuleList(Up(a, b) for a, b in zip(sizes, sizes[1:]))
        self.add_module(quantity, Head(activation))
        self.quantity = quantity

    def forward(self, h):
        for block in self.blocks:
            h = block(h)
        return self.get_submodule(self.quantity)(h)


class Network(nn.Module):
    """Normalised amplitudes [B,1,N,N] → amplitude and phase of the object patch, each [B,1,N,N]."""

    def __init__(self, n):
        super().__init__()
        sizes = [1] + [128 * SCALE >> i for i in reversed(range(int(math.log2(n // 8))))]
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList(Down(a, b) for a, b in zip(sizes, sizes[1:]))
        self.decoder_amp = Decoder(n, "amp", lambda x: functional.softplus(x + SHIFT))
        self.decoder_phase = Decoder(n, "phase", lambda x: math.pi * torch.tanh(x))

    def forward(self, x):
        for block in self.encoder.blocks:
            x = block(x)
        return self.decoder_amp(x), self.decoder_phase(x)


class Scan:
    """Patterns and probe on a device, with what is derived from them once."""

    def __init__(self, amplitude, probe, device):
        """[M,N,N] roots of the counts, and [P,N,N] modes in the file's gauge."""
        n = amplitude.shape[-1]
        counts = np.square(amplitude, dtype=np.float64)
        energy = counts.sum((1, 2)).mean()
        self.input_scale = n / 2 / math.sqrt(energy)
        self.typical = counts.mean()
        # An object of amplitude 1 explains the mean energy.
        gauge = math.sqrt(energy / np.square(np.abs(probe), dtype=np.float64).sum())
        # The sign puts zero frequency in the middle, where patterns have it.
        sign = 1 - 2 * (np.add.outer(np.arange(n), np.arange(n)) % 2)
        self.frames = torch.tensor(amplitude, dtype=torch.float32, device=device)
        self.probe = torch.tensor(probe * (gauge * sign), dtype=torch.complex64, device=device)


class Peer:
    """The network with a scan, and the two things that are timed."""

    def __init__(self, scan, index, features, device, rate=LEARNING_RATE):
        n = scan.frames.shape[-1]
        self.scan, self.index = scan, index
        self.amp, self.device = "amp" in features, device
        layout = torch.channels_last if "channels_last" in features else torch.contiguous_format
        self.network = Network(n).to(device=device, memory_format=layout)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=rate, fused=True,
                                          capturable="graphs" in features, **ADAM)
        self.forward, self.loss = self._patches, self._loss
        if "compile" in features:
            self.forward, self.loss = torch.compile(self._patches), torch.compile(self._loss)

    def _patches(self, amplitude):
        """[B,N,N] measured amplitudes → [B,1,N,N] complex object patches."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            modulus, phase = self.network((amplitude * self.scan.input_scale)[:, None])
        return torch.polar(modulus.float(), phase.float())

    def _loss(self, amplitude):
        """Poisson negative log-likelihood per pixel, in units of the mean count; 0 where model and counts agree."""
        field = torch.fft.fft2(self._patches(amplitude) * self.scan.probe, norm="ortho")
        expected = (field.real.square() + field.imag.square()).sum(1) + EPSILON_PHOTONS
        counts = amplitude.square()
        # A dark pixel has no logarithm, and its slope is not to become 0/0.
        ratio = torch.where(counts > 0, counts / expected, 1.0)
        return (expected - counts + counts * torch.log(ratio)).mean() / self.scan.typical

    def train(self):
        """One step of the optimiser; the loss before it."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.scan.frames[self.index])
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def infer(self):
        with torch.inference_mode():
            return self.forward(self.scan.frames[self.index])


def captured(work):
    """A replay of `work` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(BEFORE_CAPTURE):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def features_of(variant, device):
    """The parts of a variant's name."""
    parts = [] if variant == "eager" else variant.split("+")
    for part in parts:
        if part not in FEATURES:
            raise SystemExit(f"torch_cnn.py: no variant {part}; there are eager, {', '.join(FEATURES)}")
    if "graphs" in parts and device.type != "cuda":
        raise SystemExit("torch_cnn.py: graphs need --device cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in parts
    # The fastest algorithm for sizes that never change.
    torch.backends.cudnn.benchmark = True
    return parts


def synthetic(n, batch, device):
    """Four batches of random patterns: how long a step takes does not depend on what they show."""
    random = np.random.default_rng(0)
    amplitude = np.sqrt(random.poisson(20, (4 * batch, n, n)))
    probe = random.normal(size=(1, n, n)) + 1j * random.normal(size=(1, n, n))
    return Scan(amplitude, probe, device)


class Stopwatch:
    """Times `work`, several in a row where one is short."""

    def __init__(self, work, device):
        self.work, self.cuda = work, device.type == "cuda"
        self.in_a_row = 1
        self.once()
        # Seconds since the start at which the first run was done.
        self.startup = time.monotonic() - STARTED
        self.once()
        self.in_a_row = int(min(max(LEAST / self.once(), 1), MOST_IN_A_ROW))

    def once(self):
        """Seconds of one run."""
        self.wait()
        started = time.perf_counter()
        for _ in range(self.in_a_row):
            self.work()
        self.wait()
        return (time.perf_counter() - started) / self.in_a_row

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def measure(self, repeats):
        """Milliseconds: median, least, most."""
        started, times = time.monotonic(), []
        while not times or len(times) < repeats and time.monotonic() - started < ENOUGH:
            times.append(1e3 * self.once())
        times.sort()
        return {"ms": times[len(times) // 2], "min": times[0], "max": times[-1], "repeats": len(times)}


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def answer(given, about, watch, text):
    """Serves measurements, or prints one: `text` says of the figures what a person reads."""
    if given.serve:
        print(json.dumps({**about, "startup_s": watch.startup}), flush=True)
        for line in sys.stdin:
            print(json.dumps(watch.measure(int(line))), flush=True)
        return 0
    got = {**about, **watch.measure(given.repeats)}
    print(json.dumps(got) if given.json else text(got))
    return 0


def timing(given, device):
    torch.manual_seed(0)
    features = features_of(given.variant, device)
    index = torch.arange(given.batch, device=device)
    peer = Peer(synthetic(given.n, given.batch, device), index, features, device)
    work = {"train": peer.train, "infer": peer.infer}[given.time]
    watch = Stopwatch(captured(work) if "graphs" in features else work, device)
    about = {"what": given.time, "variant": given.variant, "N": given.n, "batch": given.batch,
             "device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return answer(given, about, watch, lambda got: (
        f"{given.time} N={given.n} batch={given.batch} {given.variant}, {got['device']}, {got['threads']} threads: "
        f"{got['ms']:.2f} ms ({got['min']:.2f} to {got['max']:.2f})"))


def read_safetensors(path):
    """The f32 arrays of a checkpoint by name: a length, a header in JSON, the numbers."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        first, end = (start + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[first:end], "<f4").reshape(entry["shape"])
    return arrays


def program(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], text=True, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"torch_cnn.py: {arguments[0]}: {done.stderr.strip()}")


def our_training(binary, n, device, folder):
    """Ten steps on one batch by the program: the scan, what is saved before them and after the first, the history.

    One epoch is one step, so that the history has every loss. The weights are those of a short training
    before: a checkpoint is written after an epoch, not before the first.
    """
    scan, start, once, run = (folder / name for name in ("scan.npz", "start", "once", "run"))
    program(binary, "simulate", scan, "--side", n, *CHECK_SCAN)
    common = ["train", "--train-data-file", scan, "--batch-size", CHECK_BATCH, "--learning-rate", CHECK_RATE,
              "--schedule", "constant", "--device", device, "--no-report", "--quiet"]
    program(binary, *common, "--max-epochs", 1, "--output-dir", start)
    for epochs, out in (1, once), (CHECK_STEPS, run):
        program(binary, *common, "--max-epochs", epochs, "--init-from", start, "--output-dir", out)
    with open(run / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    before, after = (read_safetensors(folder / "checkpoints/last.safetensors") for folder in (start, once))
    return np.load(scan), before, after, history


def moment_error(peer, saved):
    """Largest relative L2 difference of Adam's first moments, and of its second, over all parameters."""
    worst = 0.0
    for ours, theirs in ("moment1", "exp_avg"), ("moment2", "exp_avg_sq"):
        apart = whole = 0.0
        for name, parameter in peer.network.named_parameters():
            want = torch.from_numpy(saved[f"{ours} {name}"].copy()).double()
            got = peer.optimiser.state[parameter][theirs].double().cpu()
            apart, whole = apart + (got - want).square().sum().item(), whole + want.square().sum().item()
        worst = max(worst, math.sqrt(apart / whole))
    return worst


def steps(peer, history, say):
    """Relative differences of loss and gradient norm, step by step."""
    errors = []
    for row in history:
        loss = peer.train().item()
        norm = torch.cat([p.grad.flatten() for p in peer.network.parameters()]).norm().item()
        pairs = [(loss, float(row["train_loss"])), (norm, float(row["gradient_norm"]))]
        errors.append([abs(theirs - ours) / abs(ours) for theirs, ours in pairs])
        say(f"step {row['step']:>2}: loss ours {pairs[0][1]:.9g}, theirs {loss:.9g}, relative difference "
            f"{errors[-1][0]:.1e}; of the gradient's norm {errors[-1][1]:.1e}")
    return errors


def check(given, device):
    features = features_of(given.variant, device)
    with tempfile.TemporaryDirectory(prefix="peer.") as folder:
        file, weights, once, history = our_training(given.binary, given.n, given.device, Path(folder))
        probe = file["probeGuess"].reshape(-1, given.n, given.n)
        scan = Scan(np.sqrt(file["diffraction"].astype(np.float64)), probe, device)
    peer = Peer(scan, torch.arange(CHECK_BATCH, device=device), features, device, CHECK_RATE)
    own = {name: torch.from_numpy(weights[name].copy()) for name in peer.network.state_dict()}
    peer.network.load_state_dict(own)
    say = (lambda text: None) if given.json else print
    errors = steps(peer, history[:1], say)
    moments = moment_error(peer, once)
    errors += steps(peer, history[1:], say)
    (first, norm), largest = errors[0], max(loss for loss, _ in errors)
    bounds = {"first loss": (first, FIRST_BOUND), "largest of all losses": (largest, BOUND),
              "first gradient's norm": (norm, NORM_BOUND), "Adam's moments": (moments, MOMENT_BOUND)}
    agree = len(errors) == CHECK_STEPS and all(error <= bound for error, bound in bounds.values())
    if given.json:
        print(json.dumps({"agree": agree, "first": first, "largest": largest, "norm": norm, "moments": moments,
                          "steps": len(errors), "N": given.n, "variant": given.variant, "torch": torch.__version__}))
    else:
        figures = ", ".join(f"{what} {error:.1e} (bound {bound:.0e})" for what, (error, bound) in bounds.items())
        print(f"{'the same training' if agree else 'ANOTHER TRAINING'}: relative differences: {figures}")
    return 0 if agree else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument("--check", action="store_true")
    job.add_argument("--time", choices=["train", "infer"])
    parser.add_argument("--binary", type=Path, help="the program that --check compares with")
    parser.add_argument("--variant", default="eager")
    parser.add_argument("--n", type=int, choices=[64, 128, 256], default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    if given.check:
        if given.binary is None:
            parser.error("--check needs --binary")
        return check(given, device)
    return timing(given, device)


if __name__ == "__main__":
    sys.exit(main())
