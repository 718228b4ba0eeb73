"""Keeping the network that was trained last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Optional, Union

import ptycho_gpu
from ptycho import params

#: The last training of this process, and what it was trained on.
_training: Optional[ptycho_gpu.Training] = None
_domain = "counts"


def remember(training: ptycho_gpu.Training, domain: str) -> None:
    """Makes a training the one that :func:`save` keeps."""
    global _training, _domain
    _training, _domain = training, domain


def save(out_prefix: "Union[str, os.PathLike[str]]") -> Path:
    """Writes ``wts.h5.zip`` of the last training into a folder.

    Raises:
        ValueError: nothing was trained in this process.
    """
    if _training is None:
        raise ValueError("nothing was trained in this process, so there is no network to save")
    return ptycho_gpu.save_bundle(
        _training.folder, out_prefix, input_domain=_domain, configuration=_plain(params.cfg)
    )


def _plain(cfg: Dict[str, Any]) -> Dict[str, Any]:
    """What JSON can hold of the settings."""
    simple = (str, int, float, bool, type(None))
    return {key: value for key, value in cfg.items() if isinstance(value, simple)}
