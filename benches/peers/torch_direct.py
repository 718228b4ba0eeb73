#!/usr/bin/env python3
"""The reconstruction without a network once more, in PyTorch: a peer that `ptycho-gpu reconstruct` is timed against.

  torch_direct.py --check --binary FILE [--device cpu]     do both sides give the same losses?
  torch_direct.py --time --scan FILE.npz [--batch 16] [--threads T] [--device cpu] [--variant eager|compile] [--json]

Object and probe are the parameters; a batch of patterns sees patches of the object, cut out bilinearly, and each
step is one of Adam on the squared error of the amplitudes. Written from the formulas in src/models/object.rs and
src/reconstruct/run.rs. What is timed is an epoch: every pattern of the scan once. Needs PyTorch and NumPy. With
--serve the process stays: each line on stdin is a number of repeats, each answer a line of JSON.
"""

import argparse
import csv
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from torch_cnn import Scan, Stopwatch, answer, device_name, program

# The defaults of `ptycho-gpu reconstruct`.
RATE = 0.04
ADAM = {"betas": (0.9, 0.99), "eps": 1e-12}
WARM_UP = 20
LAST_RATE = 0.02
POWER_SLACK = 1e-3
# Least intensity under a root.
DARKEST = 1e-30

VARIANTS = ("eager", "compile")

# Of the check: one batch is the whole scan, so that the order of the patterns does not count.
CHECK_PATTERNS = 9
CHECK_EPOCHS = 12
CHECK_SCAN = ["--patterns", CHECK_PATTERNS, "--side", 64, "--object", "siemens", "--phase", 0.8, "--photons", 2e5,
              "--seed", 1]
# Relative bounds on the first loss and on all. Adam's first steps are full ones, whatever the gradient, and so make
# much of rounding in pixels that hardly any light reaches: both sides agree to 1e-4 after twelve epochs, and other
# moments, ε or balance between object and probe differ by 2.7e-4 and more.
FIRST_BOUND = 2e-6
BOUND = 2e-4


class Direct:
    """An object and a probe that are solved for."""

    def __init__(self, scan, columns, rows, batch, epochs, variant):
        """`columns` and `rows` [M] are the positions of the patches' centres, pixels."""
        self.scan, self.batch, self.epochs = scan, batch, epochs
        device, (count, n) = scan.frames.device, scan.frames.shape[:2]
        corners = np.stack([rows, columns], 1) - n // 2
        whole = np.floor(corners).astype(np.int64)
        whole -= whole.min(0)
        height, width = whole.max(0) + n + 1
        self.corner = torch.tensor(whole[:, 0] * width + whole[:, 1], device=device)
        part = torch.tensor(corners - np.floor(corners), dtype=torch.float32, device=device)
        # [2, M, 1, 1]: how far a patch lies between two rows, and between two columns.
        self.part = part.T[:, :, None, None].contiguous()
        ahead = torch.arange(n + 1, device=device)
        self.grid = ahead[:, None] * int(width) + ahead
        ones = torch.zeros(int(height * width), 2, device=device)
        ones[:, 0] = 1
        self.object = torch.nn.Parameter(ones)
        self.probe = torch.nn.Parameter(torch.view_as_real(scan.probe).clone())
        self.power = scan.probe.abs().square().sum().item()
        # What a rate of 1 is: the object's modulus, and the probe's root mean square.
        self.sizes = 1, math.sqrt(self.power / (n * n))
        self.optimiser = torch.optim.Adam([{"params": [p]} for p in (self.object, self.probe)], fused=True, **ADAM)
        self.taken = self.passed = 0
        self.random = np.random.default_rng(0)
        self.loss = torch.compile(self._loss) if variant == "compile" else self._loss

    def _loss(self, members, weight):
        """Σ weight · mean over the pixels of (√I − a)², in units of the mean count."""
        pixels = self.object[self.corner[members][:, None, None] + self.grid]
        # The rule of a patch between pixels, along rows and then along columns.
        y, x = self.part[:, members, :, :, None]
        rows = pixels[:, :-1] + y * (pixels[:, 1:] - pixels[:, :-1])
        patches = rows[:, :, :-1] + x * (rows[:, :, 1:] - rows[:, :, :-1])
        exit_waves = torch.view_as_complex(patches)[:, None] * torch.view_as_complex(self.probe)
        field = torch.fft.fft2(exit_waves, norm="ortho")
        intensity = (field.real.square() + field.imag.square()).sum(1)
        apart = intensity.clamp_min(DARKEST).sqrt() - self.scan.frames[members]
        return (weight * apart.square().mean((1, 2))).sum() / self.scan.typical

    def step(self, members, real, within):
        """One step of Adam on the `real` first of `members`; the loss before it."""
        self.taken += 1
        cosine = 0.5 * (1 + math.cos(math.pi * (self.passed + within) / self.epochs))
        factor = min(self.taken / WARM_UP, 1) * (LAST_RATE + (1 - LAST_RATE) * cosine)
        for group, size in zip(self.optimiser.param_groups, self.sizes):
            group["lr"] = RATE * size * factor
        weight = torch.zeros(len(members), device=self.object.device)
        weight[:real] = 1 / real
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(members, weight)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def epoch(self):
        """Every pattern once; the mean loss."""
        count = len(self.scan.frames)
        order = self.random.permutation(count)
        # Steps are all of one size, as the program's are: the last is padded.
        order = np.append(order, np.full(-count % self.batch, order[0]))
        batches = torch.tensor(order, device=self.object.device).split(self.batch)
        total = torch.zeros((), device=self.object.device)
        for at, members in enumerate(batches):
            real = min(self.batch, count - at * self.batch)
            total += real * self.step(members, real, at / len(batches))
        self.passed += 1
        self.balance()
        return total.item() / count

    def balance(self):
        """A factor between object and probe is settled by the power that was measured."""
        with torch.no_grad():
            factor = math.sqrt(self.power / self.probe.square().sum().item())
            if abs(factor - 1) > POWER_SLACK:
                self.probe *= factor
                self.object /= factor


def read(path, device):
    """The scan of an .npz, and the columns and rows of its positions."""
    with np.load(path) as file:
        frames, probe = file["diffraction"].astype(np.float64), file["probeGuess"]
        columns, rows = file["xcoords"], file["ycoords"]
    # Counts are whole; amplitudes are already roots of them.
    amplitude = np.sqrt(frames) if np.all(frames == np.round(frames)) else frames
    return Scan(amplitude, probe.reshape(-1, *probe.shape[-2:]), device), columns, rows


def timing(given, device):
    torch.manual_seed(0)
    scan, columns, rows = read(given.scan, device)
    # So many epochs that the rates hardly fall: how long one takes does not depend on them.
    direct = Direct(scan, columns, rows, given.batch, 10**6, given.variant)
    watch = Stopwatch(direct.epoch, device)
    about = {"what": "reconstruct", "variant": given.variant, "N": scan.frames.shape[-1], "batch": given.batch,
             "patterns": len(scan.frames), "device": device_name(device), "threads": torch.get_num_threads(),
             "torch": torch.__version__}
    return answer(given, about, watch, lambda got: (
        f"{got['patterns']} patterns, N={got['N']} batch={given.batch} {given.variant}, {got['device']}, "
        f"{got['threads']} threads: {got['ms']:.1f} ms an epoch ({got['min']:.1f} to {got['max']:.1f})"))


def check(given, device):
    with tempfile.TemporaryDirectory(prefix="peer.") as folder:
        file, out = Path(folder, "scan.npz"), Path(folder, "out")
        program(given.binary, "simulate", file, *CHECK_SCAN)
        program(given.binary, "reconstruct", file, "--output-dir", out, "--epochs", CHECK_EPOCHS, "--batch-size",
                CHECK_PATTERNS, "--device", given.device, "--no-report", "--quiet")
        with open(out / "history.csv", newline="") as history:
            ours = [float(row["loss"]) for row in csv.DictReader(history)]
        direct = Direct(*read(file, device), CHECK_PATTERNS, CHECK_EPOCHS, given.variant)
    errors = []
    for epoch, want in enumerate(ours, 1):
        got = direct.epoch()
        errors.append(abs(got - want) / want)
        if not given.json:
            print(f"epoch {epoch:>2}: loss ours {want:.9g}, theirs {got:.9g}, relative difference {errors[-1]:.1e}")
    first, largest = errors[0], max(errors)
    # A solver that stands still would agree with one that does too.
    falls = ours[-1] < 0.8 * ours[0]
    agree = len(errors) == CHECK_EPOCHS and first <= FIRST_BOUND and largest <= BOUND and falls
    if given.json:
        print(json.dumps({"agree": agree, "first": first, "largest": largest, "steps": len(errors),
                          "variant": given.variant, "torch": torch.__version__}))
    else:
        print(f"{'the same' if agree else 'ANOTHER'} reconstruction: relative differences: first loss {first:.1e} "
              f"(bound {FIRST_BOUND:.0e}), largest of all losses {largest:.1e} (bound {BOUND:.0e}); the loss "
              f"{'fell' if falls else 'DID NOT FALL'}")
    return 0 if agree else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument("--check", action="store_true")
    job.add_argument("--time", action="store_true")
    parser.add_argument("--binary", type=Path, help="the program that --check compares with")
    parser.add_argument("--scan", type=Path, help="the scan that --time solves")
    parser.add_argument("--variant", choices=VARIANTS, default="eager")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    needed = "binary" if given.check else "scan"
    if getattr(given, needed) is None:
        parser.error(f"--{'check' if given.check else 'time'} needs --{needed}")
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    return check(given, device) if given.check else timing(given, device)


if __name__ == "__main__":
    sys.exit(main())
