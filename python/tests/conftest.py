"""What the tests share: the program, a small scan, and a network that saw it for a moment.

The packages must be installed (`pip install ./python ./python/ptychopinn-shim`), as ptychodus
looks for a distribution. The program is PTYCHO_GPU_BIN, or the newest in target/.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

import ptycho_gpu

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "fixtures" / "siemens64.npz"

#: Options of a training of seconds.
SMALL = {"max_epochs": 1, "n_images": 8, "batch_size": 4, "n_filters_scale": 1, "device": "cpu"}


def pytest_configure() -> None:
    # Child processes and all calls take it from here.
    if not os.environ.get(ptycho_gpu.VARIABLE):
        built = [ROOT / "target" / profile / "ptycho-gpu" for profile in ("release", "debug")]
        built = sorted((p for p in built if p.is_file()), key=lambda p: p.stat().st_mtime)
        if built:
            os.environ[ptycho_gpu.VARIABLE] = str(built[-1])
    os.environ["PTYCHO_GPU_DEVICE"] = "cpu"


@pytest.fixture()
def scan() -> ptycho_gpu.Scan:
    """36 patterns of the Siemens star, with a piece of scan between them: rows 2 to 7 of 10."""
    whole = ptycho_gpu.Scan.load(FIXTURE)
    row, column = np.divmod(np.arange(100), 10)
    chosen = (row >= 2) & (row < 8) & (column >= 1) & (column < 7)
    return ptycho_gpu.Scan(
        whole.diffraction[chosen], whole.xcoords[chosen], whole.ycoords[chosen], whole.probe, whole.object
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ptycho_gpu.Training:
    return ptycho_gpu.train(FIXTURE, tmp_path_factory.mktemp("run"), **SMALL)


@pytest.fixture()
def program(tmp_path: Path) -> Callable[..., Path]:
    """Makes a program of a shell script, which says its version as ours does."""

    def make(script: str, version: str = f"ptycho-gpu {ptycho_gpu.__version__}") -> Path:
        path = tmp_path / "program"
        path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make
