"""The probe that the process shares."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

_guess: Optional[NDArray[np.complex64]] = None


def set_probe_guess(X: Any = None, probe_guess: Any = None) -> NDArray[np.complex64]:  # noqa: N803
    """Keeps the probe for predictions.

    Args:
        X: not used; a probe is not guessed from patterns here.
        probe_guess: (N, N), (N, N, 1) or (P, N, N) complex.

    Returns:
        The probe as it is kept.

    Raises:
        ValueError: there is none, or it is not square.
    """
    global _guess
    if probe_guess is None:
        raise ValueError("set_probe_guess needs a probe: ptycho-gpu guesses none from the patterns")
    _guess = plain(probe_guess)
    return _guess


def get_probe_guess() -> NDArray[np.complex64]:
    """The probe that was set.

    Raises:
        ValueError: none was.
    """
    if _guess is None:
        raise ValueError("no probe is known: call ptycho.probe.set_probe_guess first")
    return _guess


def plain(probe: Any) -> NDArray[np.complex64]:
    """(N, N) or (P, N, N), without further axes of length 1.

    Raises:
        ValueError: it is not square.
    """
    array = np.asarray(probe, np.complex64)
    if array.ndim == 3 and array.shape[-1] == 1 and array.shape[0] == array.shape[1]:
        array = array[..., 0]
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3) or array.shape[-1] != array.shape[-2]:
        raise ValueError(f"the probe has shape {np.shape(probe)}, expected (N, N), (N, N, 1) or (P, N, N)")
    return array
