"""Scans as ptychodus has them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
from numpy.typing import NDArray

import ptycho_gpu
from ptycho.probe import plain
from ptycho.tracked import Origin

log = logging.getLogger("ptycho_gpu")

#: Overrules what the patterns are taken for: counts or amplitude.
DOMAIN_VARIABLE = "PTYCHO_GPU_INPUT_DOMAIN"


class RawData:
    """Patterns with their positions.

    Attributes:
        diff3d: (M, N, N) patterns as they were measured: ptychodus has counts, not amplitudes.
        xcoords, ycoords: (M,), column and row of each patch's centre in object pixels.
        xcoords_start, ycoords_start: (M,), as commanded.
        probeGuess: (N, N) or (P, N, N) complex.
        scan_index: (M,).
        objectGuess: (H, W) complex; says where the scan lies in the object's array.
        path: the file that all this was read from, if it was.
    """

    def __init__(
        self,
        xcoords: Any,
        ycoords: Any,
        xcoords_start: Any,
        ycoords_start: Any,
        diff3d: Any,
        probeGuess: Any,  # noqa: N803
        scan_index: Any = None,
        objectGuess: Any = None,  # noqa: N803
        Y: Any = None,  # noqa: N803
        norm_Y_I: Any = None,  # noqa: N803
        *,
        path: Optional[Path] = None,
    ) -> None:
        self.diff3d: NDArray[Any] = np.asarray(diff3d)
        shape = self.diff3d.shape
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"the patterns have shape {shape}, expected (M, N, N): square patterns")
        self.xcoords = _coordinates("xcoords", xcoords, shape[0])
        self.ycoords = _coordinates("ycoords", ycoords, shape[0])
        self.xcoords_start = _coordinates("xcoords_start", xcoords_start, shape[0])
        self.ycoords_start = _coordinates("ycoords_start", ycoords_start, shape[0])
        self.probeGuess = None if probeGuess is None else plain(probeGuess)
        self.scan_index = np.zeros(shape[0], np.int64) if scan_index is None else np.asarray(scan_index)
        self.objectGuess = None if objectGuess is None else _layer(objectGuess)
        self.Y = Y
        self.path = path

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: Any,
        ycoords: Any,
        diff3d: Any,
        probeGuess: Any,  # noqa: N803
        scan_index: Any = None,
        objectGuess: Any = None,  # noqa: N803
    ) -> "RawData":
        """A scan whose commanded positions are its positions."""
        return cls(
            xcoords, ycoords, xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess=objectGuess
        )

    @classmethod
    def from_file(cls, train_data_file_path: "Union[str, os.PathLike[str]]") -> "RawData":
        """Reads an .npz file with `diff3d` or `diffraction`.

        Raises:
            ptycho_gpu.FileError: it cannot be read, or lacks an array.
        """
        path = Path(os.fspath(train_data_file_path))
        scan = ptycho_gpu.Scan.load(path)
        patterns = scan.diffraction
        if patterns.ndim == 3 and len(patterns) != len(scan.xcoords) == patterns.shape[-1]:
            patterns = np.moveaxis(patterns, -1, 0)  # frames last, as older files have it
        xs, ys = (scan.extra.get(f"{axis}coords_start") for axis in "xy")
        raw = cls(
            scan.xcoords,
            scan.ycoords,
            scan.xcoords if xs is None else xs,
            scan.ycoords if ys is None else ys,
            patterns,
            scan.probe,
            scan.extra.get("scan_index"),
            scan.object,
            path=path,
        )
        # So that the file stays what was read from it; a changed copy can be put in its place.
        for array in (raw.diff3d, raw.xcoords, raw.ycoords, raw.probeGuess, raw.objectGuess):
            if array is not None:
                array.flags.writeable = False
        raw._read = raw._arrays()
        return raw

    _read: Optional[Tuple[Any, ...]] = None

    def _arrays(self) -> Tuple[Any, ...]:
        return (self.diff3d, self.xcoords, self.ycoords, self.probeGuess, self.objectGuess)

    def __len__(self) -> int:
        return len(self.diff3d)

    def domain(self) -> str:
        """Whether the patterns are "counts" or "amplitude".

        In order: the environment variable PTYCHO_GPU_INPUT_DOMAIN; what did not come from a file is
        what ptychodus has in memory, counts; in a file whole numbers are counts, all else amplitudes.
        """
        given = os.environ.get(DOMAIN_VARIABLE, "auto")
        if given in ("counts", "amplitude"):
            return given
        if given != "auto":
            raise ValueError(f"{DOMAIN_VARIABLE} is {given!r}, expected counts, amplitude or auto")
        if self.path is None or _whole(self.diff3d):
            return "counts"
        log.info(
            "%s: patterns with fractions are taken for amplitudes; if they are intensities, set %s=counts",
            self.path,
            DOMAIN_VARIABLE,
        )
        return "amplitude"

    def source(self, domain: str) -> "Union[Path, ptycho_gpu.Scan]":
        """What the program is given: the file itself, if nothing was changed since it was read."""
        now = self._arrays()
        if self._read is not None and self.path is not None:
            if all(a is b for a, b in zip(now, self._read)):
                return self.path
        return ptycho_gpu.Scan(
            self.diff3d, self.xcoords, self.ycoords, self.probeGuess, self.objectGuess, domain=domain
        )

    def generate_grouped_data(
        self,
        N: int,  # noqa: N803
        K: int = 7,  # noqa: N803
        nsamples: int = 1,
        dataset_path: Any = None,
        seed: Optional[int] = None,
        sequential_sampling: bool = False,
        gridsize: Optional[int] = None,
        **more: Any,
    ) -> Dict[str, Any]:
        """The patterns that are to be reconstructed, each a group of its own.

        The program makes the groups that a network needs by itself, so that `K` and `gridsize` have
        no effect.

        Args:
            N: side of the patterns.
            nsamples: patterns; 1, which is ptychodus' default, stands for all.
            seed: of the choice of less than all.
            sequential_sampling: take the first ones.

        Returns:
            ``diffraction`` and ``X_full`` (B, N, N, 1), ``coords_offsets`` (B, 1, 2, 1) with the place
            of each pattern as (x, y), ``coords_relative`` (B, 1, 2, 1) zeros, ``nn_indices`` (B, 1),
            ``objectGuess``, and ``origin`` for :func:`ptycho.loader.load`.
        """
        count, side = self.diff3d.shape[:2]
        if N != side:
            raise ValueError(f"N is {N}, but the patterns are {side}x{side} pixels")
        if nsamples < 1:
            raise ValueError(f"nsamples is {nsamples}, but must be at least 1")
        if more:
            log.info("without effect on single patterns: %s", ", ".join(sorted(more)))
        chosen = np.arange(count)
        if 1 < nsamples < count and sequential_sampling:
            chosen = chosen[:nsamples]
        elif 1 < nsamples < count:
            random = np.random.default_rng(0 if seed is None else seed)
            chosen = np.sort(random.choice(count, nsamples, replace=False))
        log.info("%d of %d patterns are reconstructed", len(chosen), count)
        positions = np.stack([self.xcoords[chosen], self.ycoords[chosen]], axis=1)
        places = positions[:, None, :, None]
        patterns = self.diff3d[chosen][..., None]
        shape = None if self.objectGuess is None else self.objectGuess.shape
        return {
            "diffraction": patterns,
            "X_full": patterns,
            "Y": None,
            "coords_nn": places,
            "coords_offsets": places,
            "coords_relative": np.zeros_like(places),
            "nn_indices": chosen[:, None].astype(np.int32),
            "objectGuess": self.objectGuess,
            "origin": Origin(positions, shape, self.probeGuess),
        }


def _coordinates(name: str, values: Any, count: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({count},): one for each pattern")
    return array


def _layer(values: Any) -> NDArray[Any]:
    """(H, W): the first layer of an object."""
    array = np.asarray(values)
    while array.ndim > 2:
        array = array[0]
    if array.ndim != 2:
        raise ValueError(f"the object has shape {np.shape(values)}, expected (H, W)")
    return array


def _whole(values: NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.integer) or np.all(values == np.floor(values)))
