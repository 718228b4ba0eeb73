"""The trained network of the process."""

from __future__ import annotations

import logging
import os
from typing import Any, Dict, Optional

import numpy as np

import ptycho_gpu
from ptycho import probe as shared_probe
from ptycho.raw_data import _whole
from ptycho.tracked import Origin, Tracked, origin_of

log = logging.getLogger("ptycho_gpu")

#: Where the work is done: auto, cpu, or cuda:0.
DEVICE_VARIABLE = "PTYCHO_GPU_DEVICE"


def device() -> Optional[str]:
    """The device of the environment; None leaves it to the program."""
    return os.environ.get(DEVICE_VARIABLE) or None


def params() -> Dict[str, Any]:
    """Factors of a network that callers apply: none, as the program normalises patterns itself."""
    return {"intensity_scale": 1.0}


class Model:
    """A network that predicts patches."""

    def __init__(self, bundle: ptycho_gpu.Bundle) -> None:
        self.bundle = bundle
        self.domain = str(bundle.manifest.get("input_domain", "counts"))

    def predict(self, inputs: Any, batch_size: Optional[int] = None, **more: Any) -> Tracked:
        """The object patch of each pattern.

        Args:
            inputs: X, or [X, local_offsets]; X is (B, N, N, 1) or (B, N, N), patterns as they were
                measured, in the unit that the network was trained on.
            batch_size: patterns that are computed at once (16).

        Returns:
            (B, N, N, 1) complex64.

        Raises:
            ValueError: patterns that are not square, or no probe.
            ptycho_gpu.CommandFailed: the program could not; the message is its own.
        """
        X = inputs[0] if isinstance(inputs, (list, tuple)) else inputs  # noqa: N806
        patterns = np.asarray(X)
        if patterns.ndim == 4 and patterns.shape[-1] == 1:
            patterns = patterns[..., 0]
        if patterns.ndim != 3 or patterns.shape[1] != patterns.shape[2]:
            raise ValueError(
                f"the patterns have shape {patterns.shape}, expected (B, N, N, 1): square patterns"
            )
        if _whole(patterns) != (self.domain == "counts"):
            log.warning("the network was trained on %s; are these patterns of that kind?", self.domain)
        origin = self._origin(X, patterns)
        scan = ptycho_gpu.Scan(
            patterns,
            origin.positions[:, 0],
            origin.positions[:, 1],
            shared_probe.get_probe_guess() if origin.probe is None else origin.probe,
            domain=self.domain,
        )
        result = ptycho_gpu.infer(
            self.bundle, scan, patches=True, device=device(), batch_size=batch_size
        )
        assert result.patches is not None
        return Tracked(result.patches[..., None], origin_of(X))

    __call__ = predict

    def _origin(self, X: Any, patterns: Any) -> Origin:  # noqa: N803
        """Where the patterns are; of single patterns it does not matter to the patches."""
        known = origin_of(X)
        if known is not None:
            return known
        model = self.bundle.model
        if model.get("gridsize", 1) > 1 and model.get("group_input") != "apart":
            raise ValueError(
                "this network sees groups of neighbours, and the positions of these patterns are not "
                "known: give X of ptycho.loader.load as it is"
            )
        count, side = patterns.shape[:2]
        row, column = np.divmod(np.arange(count), int(np.ceil(np.sqrt(count))))
        return Origin(np.stack([column, row], axis=1) * (side / 8) + side, None, None)
