"""Arrays that remember which patterns they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Origin:
    """Where the patterns of an array come from.

    Attributes:
        positions: (B, 2), (x, y) in object pixels.
        object_shape: (H, W) of the object array whose pixels these are, if it is known.
        probe: (N, N) or (P, N, N), if it is known.
    """

    positions: NDArray[np.float64]
    object_shape: Optional[Tuple[int, int]]
    probe: Optional[NDArray[np.complex64]]


class Tracked(np.ndarray):
    """An array with an :class:`Origin`, which arithmetic keeps.

    ptychodus multiplies and passes on what it gets, and says nothing of positions when it asks for
    a prediction, and nothing of the object when it asks for the whole image.
    """

    origin: Optional[Origin]

    def __new__(cls, values: Any, origin: Optional[Origin]) -> "Tracked":
        array = np.asarray(values).view(cls)
        array.origin = origin
        return array

    def __array_finalize__(self, other: Any) -> None:
        self.origin = getattr(other, "origin", None)

    def numpy(self) -> NDArray[Any]:
        """A plain array."""
        return np.asarray(self)


def origin_of(array: Any) -> Optional[Origin]:
    """Where the patterns of an array come from, if that is known of each."""
    origin = getattr(array, "origin", None)
    return origin if isinstance(origin, Origin) and len(origin.positions) == len(array) else None
