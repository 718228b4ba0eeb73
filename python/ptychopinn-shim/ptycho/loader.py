"""From a scan to what a network is given."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

import numpy as np

from ptycho.probe import plain
from ptycho.tracked import Origin, Tracked


class PtychoDataContainer:
    """What a prediction needs.

    Attributes:
        X: (B, N, N, 1), the patterns as they were measured; the program normalises them.
        local_offsets: (B, 1, 2, 1), of a pattern from its group's middle: 0.
        global_offsets: (B, 1, 2, 1) float64, (x, y) of a pattern from the mean of all.
        coords_nominal: as local_offsets.
        nn_indices: (B, 1), which patterns of the scan these are.
        probe: (N, N) or (P, N, N) complex64.
    """

    def __init__(self, grouped: Dict[str, Any], probe: Any) -> None:
        known: Origin = grouped["origin"]
        self.probe = plain(known.probe if probe is None else probe)
        origin = Origin(known.positions, known.object_shape, self.probe)
        places = np.asarray(grouped["coords_offsets"], np.float64)
        self.X = Tracked(grouped["X_full"], origin)
        self.Y = grouped["Y"]
        self.local_offsets = Tracked(grouped["coords_relative"], origin)
        self.global_offsets = Tracked(places - places.mean(axis=0), origin)
        self.coords_nominal = self.coords_true = self.local_offsets
        self.nn_indices = grouped["nn_indices"]

    def __len__(self) -> int:
        return len(self.X)


def load(
    cb: Callable[[], Dict[str, Any]],
    probe: Any = None,
    which: Optional[str] = None,
    create_split: bool = False,
    **more: Any,
) -> PtychoDataContainer:
    """What :meth:`ptycho.raw_data.RawData.generate_grouped_data` made, for a network.

    Args:
        cb: is called for it.
        probe: (N, N) or (P, N, N); none for the scan's own.
        which: not used, as nothing is split.
        create_split: must be false.
    """
    if create_split:
        raise ValueError("create_split is not there in ptycho-gpu: give two scans")
    return PtychoDataContainer(cb(), probe)
