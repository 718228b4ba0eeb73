"""The jobs of the program: train, infer, reconstruct, refine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, Union

from . import _binary
from ._binary import PathLike
from ._npz import read_npz, write_npz
from .bundle import Bundle, find_checkpoint, open_bundle
from .errors import CommandFailed, FileError
from .result import Reconstruction, Training, load_reconstruction, read_history
from .scan import Scan

#: A scan in memory, or the path of a file in any format that the program reads.
ScanLike = Union[Scan, PathLike]
Scans = Union[ScanLike, Sequence[ScanLike]]
OnLine = Optional[Callable[[str], None]]


def train(
    scan: Scans,
    output_dir: PathLike,
    *,
    test_scan: Optional[ScanLike] = None,
    max_epochs: Optional[int] = None,
    n_images: Optional[int] = None,
    batch_size: Optional[int] = None,
    device: Optional[str] = None,
    seed: Optional[int] = None,
    binary: Optional[PathLike] = None,
    on_line: OnLine = None,
    **options: Any,
) -> Training:
    """Learns a network from one or more scans.

    Args:
        scan: what to learn from.
        output_dir: folder of the run; an earlier run in it is moved aside.
        test_scan: watched, but not learned from.
        max_epochs: passes over the scan (50).
        n_images: groups of patterns in an epoch (all).
        batch_size: groups in a step (16).
        device: "auto", "cpu", or "cuda:0" ("auto").
        seed: governs everything random (0).
        binary: the program; see :func:`~ptycho_gpu.find_binary`.
        on_line: is given every line that the program says.
        options: any other flag of ``ptycho-gpu train``, with underscores: ``n_filters_scale=1``.

    Raises:
        CommandFailed: the program could not; the message is its own.
        BinaryNotFound, VersionMismatch: there is no program that fits.
        ValueError: arrays of a scan do not belong together.
    """
    given_scans: Any = scan if isinstance(scan, (list, tuple)) else [scan]
    scans: List[ScanLike] = list(given_scans)
    every = scans + ([test_scan] if test_scan is not None else [])
    binary = _binary.find_binary(binary)  # before anything is written for it
    options.setdefault("input_domain", _domain(every))
    given = {
        "max_epochs": max_epochs,
        "n_images": n_images,
        "batch_size": batch_size,
        "device": device,
        "seed": seed,
    }
    with _folder() as scratch:
        paths = [_file(s, scratch / f"train-{i}.npz") for i, s in enumerate(scans)]
        test = None if test_scan is None else _file(test_scan, scratch / "test.npz")
        fixed = {"train_data_file": paths, "test_data_file": test, "output_dir": Path(output_dir)}
        flags = _binary.flags({**fixed, **given, **options, "json": True}, explicit_false=True)
        figures = _binary.run(["train", *flags], binary=binary, on_line=on_line)
    folder = Path(output_dir)
    history = read_history(folder / "history.csv")
    return Training(folder, find_checkpoint(folder), figures, history)


def infer(
    model: Union[PathLike, Training, Bundle],
    scan: ScanLike,
    output_dir: Optional[PathLike] = None,
    *,
    patches: bool = False,
    n_images: Optional[int] = None,
    refine: Optional[int] = None,
    device: Optional[str] = None,
    binary: Optional[PathLike] = None,
    on_line: OnLine = None,
    **options: Any,
) -> Reconstruction:
    """Reconstructs a scan with a trained network.

    Args:
        model: a training, its folder, a checkpoint file, or a bundle (``.zip``).
        scan: what to reconstruct.
        output_dir: folder for arrays, pictures and record; none keeps the arrays alone.
        patches: give the network's own patch of each pattern too, before stitching.
        n_images: patterns used, from the first (all).
        refine: epochs of refinement by the data after the stitching (none).
        device, binary, on_line: as for :func:`train`.
        options: any other flag of ``ptycho-gpu infer``.

    Raises: as :func:`train`, and
        FileError: there is no such network.
    """
    binary = _binary.find_binary(binary)  # before anything is written for it
    options.setdefault("input_domain", _domain([scan]))
    given = {"patches": patches, "n_images": n_images, "refine": refine, "device": device}
    with _folder() as scratch:
        fixed = {"model_path": _weights(model, scratch), "test_data": _file(scan, scratch / "scan.npz")}
        flags = _binary.flags({**fixed, **given, **options}, explicit_false=False)
        return _job(["infer", *flags], scratch, output_dir, binary, on_line)


def reconstruct(
    scan: ScanLike,
    output_dir: Optional[PathLike] = None,
    *,
    epochs: Optional[int] = None,
    modes: Optional[int] = None,
    refine_positions: bool = False,
    device: Optional[str] = None,
    binary: Optional[PathLike] = None,
    on_line: OnLine = None,
    **options: Any,
) -> Reconstruction:
    """Solves for the object directly, without a network. Patterns may have any even side.

    Args:
        scan: what to reconstruct; it needs no probe.
        output_dir: folder for arrays, pictures and record; none keeps the arrays alone.
        epochs: most passes over the patterns (100).
        modes: incoherent modes of the probe (as given).
        refine_positions: solve for the positions too.
        device, binary, on_line: as for :func:`train`.
        options: any other flag of ``ptycho-gpu reconstruct``.

    Raises: as :func:`train`.
    """
    binary = _binary.find_binary(binary)  # before anything is written for it
    options.setdefault("input_domain", _domain([scan]))
    given = {"epochs": epochs, "modes": modes, "refine_positions": refine_positions, "device": device}
    with _folder() as scratch:
        flags = _binary.flags({**given, **options}, explicit_false=False)
        path = _file(scan, scratch / "scan.npz")
        return _job(["reconstruct", path, *flags], scratch, output_dir, binary, on_line)


def refine(
    reconstruction: Union[PathLike, Reconstruction],
    scan: ScanLike,
    output_dir: Optional[PathLike] = None,
    *,
    epochs: Optional[int] = None,
    device: Optional[str] = None,
    binary: Optional[PathLike] = None,
    on_line: OnLine = None,
    **options: Any,
) -> Reconstruction:
    """Brings a reconstruction of a scan closer to its data.

    Args:
        reconstruction: file or folder of one, or one in memory.
        scan: what was reconstructed.
        output_dir: folder for arrays, pictures, record and report; none keeps the arrays alone.
        epochs: most passes over the patterns (20).
        device, binary, on_line: as for :func:`train`.
        options: any other flag of ``ptycho-gpu refine``.

    Raises: as :func:`train`.
    """
    binary = _binary.find_binary(binary)  # before anything is written for it
    options.setdefault("input_domain", _domain([scan]))
    with _folder() as scratch:
        if isinstance(reconstruction, Reconstruction):
            before = write_npz(scratch / "before.npz", reconstruction.arrays)
        else:
            before = Path(os.fspath(reconstruction))
        flags = _binary.flags({"epochs": epochs, "device": device, **options}, explicit_false=False)
        path = _file(scan, scratch / "scan.npz")
        return _job(["refine", before, path, *flags], scratch, output_dir, binary, on_line)


def _job(
    arguments: Sequence[Union[str, PathLike]],
    scratch: Path,
    output_dir: Optional[PathLike],
    binary: Optional[PathLike],
    on_line: OnLine,
) -> Reconstruction:
    """Runs a command that leaves a reconstruction, and reads it."""
    folder = scratch / "out" if output_dir is None else Path(os.fspath(output_dir))
    asked = [*arguments, f"--output-dir={folder}", "--json"]
    figures = _binary.run(asked, binary=binary, on_line=on_line)
    result = load_reconstruction(folder)
    result.figures = figures
    result.folder = None if output_dir is None else folder
    if "--patches" in arguments:
        result.patches = read_npz(folder / "patches.npz", ("patches",))["patches"]
    return result


def _weights(model: Union[PathLike, Training, Bundle], scratch: Path) -> Path:
    """The checkpoint file of a network."""
    if isinstance(model, Training):
        return model.checkpoint
    if isinstance(model, Bundle):
        return model.extract(scratch / "checkpoint.safetensors")
    path = Path(os.fspath(model))
    if not path.exists():
        raise FileError(f"{path}: there is no such file or folder, so no trained network")
    if path.suffix == ".zip":
        return open_bundle(path).extract(scratch / "checkpoint.safetensors")
    return path


def _file(scan: ScanLike, place: Path) -> Path:
    """The file of a scan: its own, or `place`, where one in memory is written."""
    return scan.save(place) if isinstance(scan, Scan) else Path(os.fspath(scan))


def _domain(scans: Sequence[ScanLike]) -> Optional[str]:
    """What the scans in memory say they hold; None if they leave it open."""
    said = {scan.domain for scan in scans if isinstance(scan, Scan)} - {"auto"}
    if len(said) > 1:
        raise ValueError("some of the scans hold counts and others amplitudes: train on one kind")
    return said.pop() if said else None


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the files of one call; errors do not name it, as it is gone by then."""
    with tempfile.TemporaryDirectory(prefix="ptycho-gpu-") as folder:
        try:
            yield Path(folder)
        except CommandFailed as error:
            message = str(error).replace(f"{folder}{os.sep}", "(in memory) ")
            raise CommandFailed(message, error.command, error.returncode, error.stderr) from None
