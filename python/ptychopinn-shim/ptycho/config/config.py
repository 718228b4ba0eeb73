"""Configurations, as ptychodus fills them in.

Fields that mean nothing to ptycho-gpu are kept, so that they can be set and read back; which of
them a training follows is in :mod:`ptycho.workflows.components`. Nothing heavy is imported here:
ptychodus reads this module in a process that must stay light.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Any, Dict, Optional, Type, TypeVar

log = logging.getLogger("ptycho_gpu")

C = TypeVar("C")


def _open_to_more(cls: Type[C]) -> Type[C]:
    """Lets a configuration take fields that it does not know: they are kept, and said to be unknown.

    A newer ptychodus may set fields that older versions had not.
    """
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    plain = cls.__init__

    @wraps(plain)
    def init(self: Any, *args: Any, **values: Any) -> None:
        more = {name: values.pop(name) for name in list(values) if name not in known}
        plain(self, *args, **values)
        for name, value in more.items():
            log.warning("%s has no field %s here: %r has no effect", cls.__name__, name, value)
            setattr(self, name, value)

    cls.__init__ = init  # type: ignore[method-assign]
    return cls


@_open_to_more
@dataclass
class ModelConfig:
    """The network."""

    N: int = 64
    gridsize: int = 1
    n_filters_scale: int = 2
    model_type: str = "pinn"
    architecture: str = "cnn"
    fno_modes: int = 12
    fno_width: int = 32
    fno_blocks: int = 4
    fno_cnn_blocks: int = 2
    learned_input_channels: int = 1
    max_hidden_channels: Optional[int] = None
    resnet_width: Optional[int] = None
    fno_input_transform: str = "none"
    generator_output_mode: str = "real_imag"
    amp_activation: str = "sigmoid"
    object_big: bool = True
    probe_big: bool = True
    probe_mask: bool = False
    probe_mask_sigma: float = 1.0
    probe_mask_diameter: Optional[float] = None
    pad_object: bool = True
    probe_scale: float = 4.0
    gaussian_smoothing_sigma: float = 0.0


@_open_to_more
@dataclass
class TrainingConfig:
    """A training. None where the program's own default holds."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train_data_file: Optional[Path] = None
    test_data_file: Optional[Path] = None
    batch_size: int = 16
    nepochs: int = 50
    mae_weight: float = 0.0
    nll_weight: float = 1.0
    realspace_mae_weight: float = 0.0
    realspace_weight: float = 0.0
    nphotons: float = 1e9
    n_groups: Optional[int] = None
    n_images: Optional[int] = None
    n_subsample: Optional[int] = None
    subsample_seed: Optional[int] = None
    neighbor_count: int = 4
    enable_oversampling: bool = False
    neighbor_pool_size: Optional[int] = None
    positions_provided: bool = True
    probe_trainable: bool = False
    intensity_scale_trainable: bool = True
    output_dir: Optional[Path] = None
    sequential_sampling: bool = False
    backend: str = "ptycho-gpu"
    torch_loss_mode: str = "poisson"


@_open_to_more
@dataclass
class InferenceConfig:
    """A reconstruction."""

    model: ModelConfig = field(default_factory=ModelConfig)
    model_path: Optional[Path] = None
    test_data_file: Optional[Path] = None
    n_groups: Optional[int] = None
    n_images: Optional[int] = None
    n_subsample: Optional[int] = None
    subsample_seed: Optional[int] = None
    neighbor_count: int = 4
    enable_oversampling: bool = False
    neighbor_pool_size: Optional[int] = None
    debug: bool = False
    output_dir: Optional[Path] = None
    backend: str = "ptycho-gpu"


#: Names of the flat dictionary, where they differ.
_LEGACY = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
    "positions_provided": "positions.provided",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "output_dir": "output_prefix",
}


def update_legacy_dict(cfg: Dict[str, Any], config: Any) -> None:
    """Writes a configuration, and that of its network, into the flat dictionary `cfg`.

    Fields that are None leave what is there.
    """
    for name, value in vars(config).items():
        if isinstance(value, ModelConfig):
            update_legacy_dict(cfg, value)
        elif value is not None:
            cfg[_LEGACY.get(name, name)] = str(value) if isinstance(value, Path) else value
