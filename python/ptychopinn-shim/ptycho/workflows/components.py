"""Training, and opening what was trained."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

import ptycho_gpu
from ptycho import model_manager, params
from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho.model import Model, device
from ptycho.raw_data import RawData

log = logging.getLogger("ptycho_gpu")

#: A TOML file of further options of the program's training; what ptychodus says wins.
OPTIONS_VARIABLE = "PTYCHO_GPU_TRAIN_CONFIG"

#: Folders of trainings that were given none; they last as long as the process.
_folders: List["tempfile.TemporaryDirectory[str]"] = []

#: Architectures by the names of this interface.
_ARCHITECTURES = {"cnn": "cnn", "ffno": "ffno", "fno": "fno", "fno_vanilla": "fno_vanilla"}


def load_inference_bundle(
    model_dir: "Union[str, os.PathLike[str]]", **more: Any
) -> Tuple[Model, Dict[str, Any]]:
    """Opens the network in a folder, and restores the settings that it was trained with.

    Args:
        model_dir: folder with ``wts.h5.zip``, or the archive itself, or what it was unpacked to.

    Returns:
        The network, and its settings.

    Raises:
        ptycho_gpu.FileError: there is none, or it is another program's.
    """
    bundle = ptycho_gpu.open_bundle(model_dir)
    configuration = dict(bundle.manifest.get("configuration") or {})
    params.cfg.update(configuration)
    params.cfg["N"] = bundle.model.get("n", params.cfg["N"])
    params.cfg["intensity_scale"] = 1.0
    return Model(bundle), configuration


def run_cdi_example(
    train_data: RawData,
    test_data: Optional[RawData],
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,  # noqa: N803
    do_stitching: bool = False,
    **more: Any,
) -> Tuple[Any, Any, Dict[str, Any]]:
    """Trains a network, and reconstructs the test data with it where `do_stitching`.

    Args:
        train_data: is learned from.
        test_data: is watched; None for nothing.
        config: how; see :func:`options`.
        flip_x, flip_y, transpose: orientation of the scan, for the stitching.
        M: side of the square of each patch that is stitched, even.

    Returns:
        Amplitude and phase (H, W), both None without stitching, and a dictionary: ``history`` with
        ``train_loss`` and ``val_loss`` of each epoch, ``training``, ``reconstruction``.
    """
    domain = train_data.domain()
    if test_data is not None and test_data.domain() != domain:
        raise ValueError(f"the training data are {domain}, the test data are {test_data.domain()}")
    flags = options(config)
    if domain == "counts":
        del flags["nphotons"]  # counts say themselves how many there are
    test: Any = None if test_data is None else test_data.source(domain)
    with tempfile.TemporaryDirectory(prefix="ptycho-gpu-") as scratch:
        if config.model.model_type == "supervised":
            flags["teacher"] = _teacher(train_data, Path(scratch) / "teacher.npz")
            if test is not None:
                log.info("supervised: the test data have no true patches, and are not watched")
                test = None
        training = ptycho_gpu.train(
            train_data.source(domain),
            _folder(config),
            test_scan=test,
            device=device(),
            input_domain=domain,
            **flags,
        )
    model_manager.remember(training, domain)
    results: Dict[str, Any] = {
        "history": History(training),
        "training": training,
        "intensity_scale": 1.0,
        "backend": "ptycho-gpu",
    }
    if not do_stitching:
        return None, None, results
    result = ptycho_gpu.infer(
        training,
        (train_data if test_data is None else test_data).source(domain),
        training.folder / "reconstruction",
        device=device(),
        input_domain=domain,
        stitch_crop_size=M,
        flip_x=flip_x,
        flip_y=flip_y,
        transpose_patches=transpose,
    )
    results["reconstruction"] = result
    return result.amplitude, result.phase, results


class History(Dict[str, List[float]]):
    """Losses of each epoch, under the names that are looked for."""

    def __init__(self, training: ptycho_gpu.Training) -> None:
        train = training.history["train_loss"]
        super().__init__(train_loss=train, loss=train)
        if any(np.isfinite(training.history["val_loss"])):
            self["val_loss"] = training.history["val_loss"]

    @property
    def history(self) -> "History":
        """Itself, as some callers look one level deeper."""
        return self


def options(config: TrainingConfig) -> Dict[str, Any]:
    """The program's options for a configuration of ptychodus; what has no counterpart is said."""
    model = config.model
    supervised = model.model_type == "supervised"
    mae = supervised or (config.mae_weight > 0 and config.nll_weight == 0)
    flags: Dict[str, Any] = {
        "max_epochs": config.nepochs,
        "batch_size": config.batch_size,
        "n_images": config.n_groups if config.n_groups is not None else config.n_images,
        # The default must not overrule what a file says.
        "nphotons": config.nphotons if config.nphotons != TrainingConfig.nphotons else None,
        "probe_trainable": True if config.probe_trainable else None,
        "mode": "supervised" if supervised else None,
        "loss": "mae" if mae else None,
        "config": os.environ.get(OPTIONS_VARIABLE) or None,
        **_network(model),
    }
    if config.mae_weight > 0 and config.nll_weight > 0:
        log.warning(
            "mae_weight %g has no effect beside nll_weight: the loss is one of both", config.mae_weight
        )
    for name in ("realspace_mae_weight", "realspace_weight"):
        if getattr(config, name):
            log.warning("%s %g has no effect", name, getattr(config, name))
    return flags


def _network(model: ModelConfig) -> Dict[str, Any]:
    """Options of the network."""
    if model.model_type not in ("pinn", "supervised"):
        raise ValueError(f"model_type is {model.model_type!r}, expected pinn or supervised")
    if model.architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ValueError(f"architecture is {model.architecture!r}, which is not there; there are {known}")
    flags: Dict[str, Any] = {"architecture": _ARCHITECTURES[model.architecture]}
    if model.architecture == "cnn":
        flags["n_filters_scale"] = model.n_filters_scale
    else:
        flags.update(width=model.fno_width, fourier_modes=model.fno_modes, blocks=model.fno_blocks)
    if model.gridsize > 1:
        # Such a network needs no groups when it is applied: ptychodus hands over single patterns.
        flags.update(gridsize=model.gridsize, group_input="apart")
    activations = {"sigmoid": None, "softplus": None, "swish": "silu", "silu": "silu"}
    if model.amp_activation not in activations:
        raise ValueError(
            f"amp_activation is {model.amp_activation!r}, expected one of {', '.join(activations)}"
        )
    if model.amp_activation == "sigmoid":
        log.info(
            "amplitudes are about 1 here, which a sigmoid does not reach: softplus takes its place"
        )
    flags["amp_activation"] = activations[model.amp_activation]
    if model.gaussian_smoothing_sigma or model.probe_mask:
        log.warning("gaussian_smoothing_sigma and probe_mask have no effect")
    return flags


def _folder(config: TrainingConfig) -> Path:
    """Where the run is kept."""
    if config.output_dir is not None:
        return Path(config.output_dir)
    _folders.append(tempfile.TemporaryDirectory(prefix="ptycho-gpu-run-"))
    return Path(_folders[-1].name)


def _teacher(data: RawData, path: Path) -> Path:
    """The scan's own object as what a network is taught."""
    if data.objectGuess is None or data.probeGuess is None:
        raise ValueError("a supervised training needs an object and a probe in the training data")
    probe = data.probeGuess if data.probeGuess.ndim == 3 else data.probeGuess[None]
    np.savez(
        path,
        object=data.objectGuess.astype(np.complex64),
        weights=np.ones(data.objectGuess.shape, np.float32),
        origin_yx=np.zeros(2),
        probe=probe,
        positions=np.stack([data.xcoords, data.ycoords], axis=1),
        indices=np.arange(len(data)),
    )
    return path


def save_outputs(
    amplitude: Any, phase: Any, results: Dict[str, Any], output_prefix: "Union[str, os.PathLike[str]]"
) -> None:
    """Leaves what a training gave in a folder.

    ``history.csv`` always; with a reconstruction ``reconstruction.npz`` and its pictures too, else
    amplitude and phase, where they are given, in ``outputs.npz``.
    """
    folder = Path(os.fspath(output_prefix))
    folder.mkdir(parents=True, exist_ok=True)
    training = results.get("training")
    if isinstance(training, ptycho_gpu.Training):
        for name in ("history.csv", "loss.png", "run.json"):
            _copy(training.folder / name, folder / name)
    elif "history" in results:
        _write_history(results["history"], folder / "history.csv")
    reconstruction = results.get("reconstruction")
    if isinstance(reconstruction, ptycho_gpu.Reconstruction) and reconstruction.folder is not None:
        for name in ("reconstruction.npz", "amplitude.png", "phase.png"):
            _copy(reconstruction.folder / name, folder / name)
    elif amplitude is not None and phase is not None:
        np.savez(folder / "outputs.npz", amplitude=np.asarray(amplitude), phase=np.asarray(phase))


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)


def _write_history(history: Dict[str, List[float]], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        writer.writerows([i + 1, *row] for i, row in enumerate(zip(*history.values())))
