"""What the program gives back: reconstructions and trainings."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from ._binary import PathLike
from ._npz import read_npz
from .errors import FileError

Pair = Tuple[float, float]


@dataclass
class Reconstruction:
    """An object and all that is needed to judge it: the arrays of ``reconstruction.npz``.

    Attributes:
        object: (H, W) complex64, the stitched object; 0 where nothing reaches.
        weights: (H, W) float32, sum of the weights; 0 where nothing reaches.
        consistency: (H, W) float32, how much the patches that cover a pixel disagree.
        origin_yx: object coordinates (row, column) of pixel (0, 0), which may be negative.
        probe: (P, N, N) complex64.
        positions: (M, 2) float64, (x, y) of each pattern used, in object pixels.
        indices: (M,) which patterns of the scan these are.
        patches: (M, N, N) complex64, each pattern's own, where they were asked for.
        metadata: the record of the run.
        figures: what the job printed at its end: residual, R factor, verdict.
        folder: where pictures and record are; None if it was temporary.
        arrays: all arrays of the file, by their names.
    """

    object: NDArray[np.complex64]
    weights: NDArray[np.float32]
    consistency: NDArray[np.float32]
    origin_yx: Pair
    probe: NDArray[np.complex64]
    positions: NDArray[np.float64]
    indices: NDArray[np.int64]
    metadata: Dict[str, Any] = field(default_factory=dict)
    patches: Optional[NDArray[np.complex64]] = None
    figures: Dict[str, Any] = field(default_factory=dict)
    folder: Optional[Path] = None
    arrays: Dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    @property
    def amplitude(self) -> NDArray[np.float32]:
        """(H, W), the modulus."""
        return np.abs(self.object)

    @property
    def phase(self) -> NDArray[np.float32]:
        """(H, W), the argument in rad."""
        return np.angle(self.object)

    def on_object(self, shape: Tuple[int, int]) -> Tuple[NDArray[np.complex64], Tuple[int, int]]:
        """The object on an array that has the centre of an object array of `shape`.

        See :func:`place`: pixel coordinates of the scan move by the margin that is returned, and
        places in metres do not move at all if the array's centre is kept.
        """
        return place(self.object, self.origin_yx, shape)


@dataclass
class Training:
    """A trained network.

    Attributes:
        folder: of the run: checkpoints, history.csv, run.json, log.txt, loss.png.
        checkpoint: the weights of the lowest loss.
        figures: what the job printed at its end: losses, verdict, speed.
        history: columns of history.csv by name, one number for each epoch, NaN where there is none.
    """

    folder: Path
    checkpoint: Path
    figures: Dict[str, Any]
    history: Dict[str, List[float]]


def load_reconstruction(path: PathLike) -> Reconstruction:
    """Reads a ``reconstruction.npz``, or that of a result folder.

    Raises:
        FileError: it cannot be read, or lacks an array.
    """
    file = Path(os.fspath(path))
    if file.is_dir():
        file = file / "reconstruction.npz"
    wanted = ("object", "weights", "consistency", "origin_yx", "probe", "positions", "indices")
    arrays = read_npz(file, wanted)
    if arrays["object"].ndim != 2 or arrays["origin_yx"].shape != (2,):
        shapes = f"object {arrays['object'].shape}, origin_yx {arrays['origin_yx'].shape}"
        raise FileError(f"{file}: {shapes}, expected (H, W) and (2,)")
    y, x = (float(v) for v in arrays["origin_yx"])
    text = str(arrays["metadata"]) if "metadata" in arrays else "{}"
    return Reconstruction(
        **{key: arrays[key] for key in wanted if key != "origin_yx"},
        origin_yx=(y, x),
        metadata=json.loads(text),
        folder=file.parent,
        arrays=arrays,
    )


def read_history(path: PathLike) -> Dict[str, List[float]]:
    """Columns of a ``history.csv``, one number for each epoch."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [float(row[name]) if row[name] else math.nan for row in rows]
        for name in (rows[0] if rows else {})
    }


def place(
    image: NDArray[Any], origin_yx: Pair, shape: Tuple[int, int]
) -> Tuple[NDArray[Any], Tuple[int, int]]:
    """Puts an image that was cut out of an object array back where it belongs.

    The array that it is put on is that of the object, `shape`, with a margin on both sides of each
    axis where the image reaches beyond. So its centre is that of the object array, and whoever
    knows where that centre is in metres finds every pixel at its place.

    Args:
        image: (h, w).
        origin_yx: whole object coordinates (row, column) of its pixel (0, 0).
        shape: (H, W) of the object array.

    Returns:
        The array (H + 2 my, W + 2 mx), 0 where the image is not, and the margins (my, mx): object
        pixel (row, column) is at (row + my, column + mx).
    """
    first = [int(round(o)) for o in origin_yx]
    if any(abs(f - o) > 1e-6 for f, o in zip(first, origin_yx)):
        raise ValueError(f"origin_yx is {origin_yx}, but must be whole pixels")
    margins = [
        max(0, -at, at + size - whole) for at, size, whole in zip(first, image.shape, shape)
    ]
    array = np.zeros([whole + 2 * m for whole, m in zip(shape, margins)], image.dtype)
    top, left = (at + m for at, m in zip(first, margins))
    array[top : top + image.shape[0], left : left + image.shape[1]] = image
    return array, (margins[0], margins[1])


def stitch(
    patches: NDArray[Any], positions: NDArray[Any], crop: int
) -> Tuple[NDArray[np.complex64], NDArray[np.float32], Pair]:
    """The plain mean of the middles of patches, each where it belongs.

    A pixel of a patch at a place between pixels is shared bilinearly. This is for patches that
    have no reconstruction yet; the program's own stitching weights the patches.

    Args:
        patches: (M, N, N) complex.
        positions: (M, 2), (x, y) of pixel (N/2, N/2) of each patch, in object pixels.
        crop: side of the central square that is used, even, at most N.

    Returns:
        Object (h, w), its weights (h, w), and the object coordinates (row, column) of its pixel (0, 0).
    """
    patches, positions = np.asarray(patches), np.asarray(positions, np.float64)
    side = patches.shape[-1]
    if patches.ndim != 3 or patches.shape[1] != side or positions.shape != (len(patches), 2):
        raise ValueError(
            f"patches have shape {patches.shape} and positions {positions.shape}, expected (M, N, N) and "
            "(M, 2)"
        )
    if crop % 2 or not 2 <= crop <= side:
        raise ValueError(f"crop is {crop}, but must be even and from 2 to {side}, the side of a patch")
    if not len(patches) or not np.isfinite(positions).all():
        raise ValueError("there are no patches, or positions that are not finite")
    first = side // 2 - crop // 2
    middles = patches[:, first : first + crop, first : first + crop]
    corners = positions[:, ::-1] - crop // 2
    whole = np.floor(corners).astype(np.int64)
    origin = whole.min(axis=0)
    height, width = whole.max(axis=0) - origin + crop + 1
    total, weights = np.zeros((height, width), np.complex128), np.zeros((height, width))
    for middle, (row, column), (down, right) in zip(middles, whole - origin, corners - whole):
        for r, share_r in ((0, 1 - down), (1, down)):
            for c, share_c in ((0, 1 - right), (1, right)):
                there = np.s_[row + r : row + r + crop, column + c : column + c + crop]
                total[there] += share_r * share_c * middle
                weights[there] += share_r * share_c
    # Less is the rounding of a coordinate rather than coverage.
    covered = weights > 1e-6
    stitched = np.where(covered, total / np.where(covered, weights, 1), 0)
    weights = np.where(covered, weights, 0)
    return (
        stitched.astype(np.complex64),
        weights.astype(np.float32),
        (float(origin[0]), float(origin[1])),
    )
