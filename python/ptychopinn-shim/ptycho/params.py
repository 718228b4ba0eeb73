"""The flat dictionary of settings that the process shares."""

from __future__ import annotations

from typing import Any, Dict

from ptycho.config.config import InferenceConfig, TrainingConfig, update_legacy_dict

cfg: Dict[str, Any] = {}
update_legacy_dict(cfg, InferenceConfig())
update_legacy_dict(cfg, TrainingConfig())
#: The program normalises patterns itself.
cfg["intensity_scale"] = 1.0


def get(key: str) -> Any:
    """The value of a setting.

    Raises:
        KeyError: there is no such setting.
    """
    if key not in cfg:
        raise KeyError(f"there is no setting {key!r}; there are {', '.join(sorted(cfg))}")
    return cfg[key]


def set(key: str, value: Any) -> None:  # noqa: A001 - the name that callers know
    """Changes a setting."""
    cfg[key] = value
