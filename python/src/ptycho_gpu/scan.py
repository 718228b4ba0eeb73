"""Scans in memory, and where their pixels lie in the laboratory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._binary import PathLike
from ._npz import read_npz, write_npz

#: What the numbers of a pattern can be.
DOMAINS = ("auto", "counts", "amplitude")


@dataclass(frozen=True)
class Frame:
    """Where an object array lies in the laboratory.

    The centre of the array, which is pixel coordinate (width/2, height/2), lies at (``centre_x_m``,
    ``centre_y_m``). Pixel coordinates count from pixel (0, 0): x is the column, y the row.

    Attributes:
        height, width: of the array, in pixels.
        pixel_height_m, pixel_width_m: size of a pixel in metres.
        centre_y_m, centre_x_m: place of the centre in metres.
    """

    height: int
    width: int
    pixel_height_m: float
    pixel_width_m: float
    centre_y_m: float = 0.0
    centre_x_m: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pixel_height_m", "pixel_width_m"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0")

    def to_pixels(
        self, x_m: ArrayLike, y_m: ArrayLike
    ) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Metres to pixels: (column, row), each in the shape given."""
        x, y = np.asarray(x_m, float), np.asarray(y_m, float)
        return (
            (x - self.centre_x_m) / self.pixel_width_m + self.width / 2,
            (y - self.centre_y_m) / self.pixel_height_m + self.height / 2,
        )

    def to_metres(
        self, x_px: ArrayLike, y_px: ArrayLike
    ) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels (column, row) to metres."""
        x, y = np.asarray(x_px, float), np.asarray(y_px, float)
        return (
            (x - self.width / 2) * self.pixel_width_m + self.centre_x_m,
            (y - self.height / 2) * self.pixel_height_m + self.centre_y_m,
        )


@dataclass
class Scan:
    """Patterns, and where and by what they were made.

    Attributes:
        diffraction: (M, N, N), counts or amplitudes, zero frequency at (N/2, N/2).
        xcoords, ycoords: (M,), column and row of each patch's pixel (N/2, N/2) in the object.
        probe: (N, N) or (P, N, N) complex, modes that are summed incoherently. Only
            :func:`~ptycho_gpu.reconstruct` does without.
        object: (H, W) complex: a guess, or the truth.
        mask: (N, N), weight of each detector pixel, 0 for a dead one.
        domain: what ``diffraction`` holds: "counts", "amplitude", or "auto": the program decides,
            and says how (whole numbers are counts).
        photons: mean photons of a pattern, where it holds normalised amplitudes.
        extra: further arrays for the file, such as ``xcoords_start``.
    """

    diffraction: NDArray[Any]
    xcoords: NDArray[Any]
    ycoords: NDArray[Any]
    probe: Optional[NDArray[Any]] = None
    object: Optional[NDArray[Any]] = None
    mask: Optional[NDArray[Any]] = None
    domain: str = "auto"
    photons: Optional[float] = None
    extra: Dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.diffraction)

    def check(self) -> None:
        """Whether the arrays belong together; what they hold is checked by the program.

        Raises:
            ValueError: patterns that are not square, other shapes that do not fit, no such domain.
        """
        patterns = np.shape(self.diffraction)
        if len(patterns) != 3 or patterns[1] != patterns[2]:
            raise ValueError(f"diffraction has shape {patterns}, expected (M, N, N): square patterns")
        count, side = patterns[0], patterns[1]
        for name in ("xcoords", "ycoords"):
            shape = np.shape(getattr(self, name))
            if shape != (count,):
                raise ValueError(f"{name} has shape {shape}, expected ({count},): one for each pattern")
        if self.probe is not None and np.shape(self.probe)[-2:] != (side, side):
            shape = np.shape(self.probe)
            raise ValueError(f"probe has shape {shape}, expected ({side}, {side}) as the patterns")
        if self.mask is not None and np.shape(self.mask) != (side, side):
            raise ValueError(f"mask has shape {np.shape(self.mask)}, expected ({side}, {side})")
        if self.domain not in DOMAINS:
            raise ValueError(f"domain is {self.domain!r}, expected one of {', '.join(DOMAINS)}")

    def save(self, path: PathLike) -> Path:
        """Writes a scan file of the program's own layout: whole, or not at all."""
        self.check()
        arrays: Dict[str, Any] = {
            "diffraction": self.diffraction,
            "xcoords": np.asarray(self.xcoords, np.float64),
            "ycoords": np.asarray(self.ycoords, np.float64),
        }
        if self.probe is not None:
            arrays["probeGuess"] = np.asarray(self.probe, np.complex64)
        if self.object is not None:
            arrays["objectGuess"] = np.asarray(self.object, np.complex64)
        if self.mask is not None:
            arrays["mask"] = np.asarray(self.mask, np.float32)
        if self.photons is not None:
            physics = {"physics_parameters": {"nphotons": float(self.photons)}}
            arrays["_metadata"] = np.array(json.dumps(physics))
        return write_npz(path, {**arrays, **self.extra})

    @classmethod
    def load(cls, path: PathLike) -> "Scan":
        """Reads a file of the program's own layout (.npz, keys as in its README).

        Files in other formats need not be read here: the jobs take their paths.
        """
        arrays = read_npz(Path(os.fspath(path)), ("xcoords", "ycoords"), ("diffraction", "diff3d"))
        patterns = arrays.pop("diffraction", None)
        other = arrays.pop("diff3d", None)
        known = {"probe": "probeGuess", "object": "objectGuess", "mask": "mask"}
        scan = cls(
            diffraction=other if patterns is None else patterns,
            xcoords=arrays.pop("xcoords"),
            ycoords=arrays.pop("ycoords"),
            **{name: arrays.pop(key, None) for name, key in known.items()},
        )
        scan.extra = arrays
        return scan
