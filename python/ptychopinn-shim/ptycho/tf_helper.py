"""From patches to the whole object."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

import ptycho_gpu
from ptycho.tracked import Tracked, origin_of

log = logging.getLogger("ptycho_gpu")


def reassemble_position(
    obj_tensor: Any, global_offsets: Any, M: int = 10, **more: Any  # noqa: N803
) -> Tracked:
    """Puts the middles of patches where they belong.

    The array has the centre of the scan's object array, and its size or more: whoever gives it the
    pixels and the centre of that object, as ptychodus does, has every pixel at its place. Without
    an object its centre is the mean of the positions.

    Args:
        obj_tensor: (B, N, N, 1) complex, patches; the mean over a last axis that is longer.
        global_offsets: (B, 1, 2, 1), (x, y) of each patch from the mean of all.
        M: side of the square of each patch that is used, even.

    Returns:
        (H, W, 1) complex64, 0 where no patch reaches.
    """
    patches = np.asarray(obj_tensor)
    if patches.ndim == 4:
        patches = patches.mean(axis=-1) if patches.shape[-1] != 1 else patches[..., 0]
    offsets = np.asarray(global_offsets, np.float64).reshape(len(patches), -1)
    if offsets.shape[1] != 2:
        raise ValueError(
            f"global_offsets has shape {np.shape(global_offsets)}, expected (B, 1, 2, 1): (x, y) of "
            f"{len(patches)} patches"
        )
    origin = origin_of(global_offsets)
    if origin is None or origin.object_shape is None:
        log.warning("the object array of the scan is not known: the image is centred on the positions")
        # The centre of an array of even sides, wide enough for the farthest patch.
        half = int(np.ceil(np.abs(offsets).max())) + M // 2 + 1
        shape, centre = (2 * half, 2 * half), np.array([half, half], float)
    else:
        shape, centre = origin.object_shape, origin.positions.mean(axis=0)
    stitched, _, origin_yx = ptycho_gpu.stitch(patches, offsets + centre, M)
    image, _ = ptycho_gpu.place(stitched, origin_yx, shape)
    return Tracked(image[..., None], None)
