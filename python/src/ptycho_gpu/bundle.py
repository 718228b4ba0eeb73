"""A trained network in one zip file, for programs that keep one file per network.

The archive holds ``manifest.json`` and ``checkpoint.safetensors``, both plain: nothing in it is
executed when it is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List

from ._binary import PathLike
from ._version import __version__
from .errors import FileError

#: Name that is looked for in a folder.
NAME = "wts.h5.zip"
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.safetensors"
FORMAT = "ptycho-gpu bundle"
VERSION = 1
#: A checkpoint's header is at most as long; see the program.
_MAX_HEADER = 16 << 20


@dataclass
class Bundle:
    """A bundle that was opened.

    Attributes:
        path: the archive, or the folder that it was unpacked to.
        manifest: what it says of itself; ``configuration`` is what its maker put there.
        model: what the network was trained as: ``n``, ``gridsize``, ``group_input`` and more.
        digest: SHA-256 of the checkpoint.
    """

    path: Path
    manifest: Dict[str, Any]
    model: Dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    def extract(self, path: PathLike) -> Path:
        """Writes the checkpoint to `path`, whole and as it was saved.

        Raises:
            FileError: it is damaged.
        """
        target = Path(os.fspath(path))
        hasher = hashlib.sha256()
        try:
            with _member(self.path, CHECKPOINT) as source, open(target, "wb") as file:
                for block in iter(lambda: source.read(1 << 20), b""):
                    hasher.update(block)
                    file.write(block)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise FileError(f"{self.path}: its {CHECKPOINT} cannot be read: {error}") from error
        if hasher.hexdigest() != self.digest:
            raise FileError(f"{self.path}: its {CHECKPOINT} is not the one that was saved: it is damaged")
        return target


def find_checkpoint(model: PathLike) -> Path:
    """The checkpoint of a run folder, of the lowest loss if it has it; a file is itself.

    Raises:
        FileError: there is none.
    """
    path = Path(os.fspath(model))
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        for name in ("best.safetensors", "last.safetensors"):
            if (folder / name).is_file():
                return folder / name
    raise FileError(f"{path}: there is no checkpoint: give a file of weights, or the folder of a training")


def save_bundle(model: PathLike, path: PathLike, **more: Any) -> Path:
    """Packs the network of a training: whole, or not at all.

    Args:
        model: run folder or checkpoint file.
        path: the archive, or a folder, for ``wts.h5.zip`` in it.
        more: entries for the manifest, as JSON takes them.

    Returns:
        The path of the archive.
    """
    checkpoint = find_checkpoint(model)
    checkpoint_model(checkpoint)  # refuses what is no checkpoint
    target = Path(os.fspath(path))
    if target.is_dir() or target.suffix != ".zip":
        target.mkdir(parents=True, exist_ok=True)
        target = target / NAME
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "backend": "ptycho-gpu",
        "program": f"ptycho-gpu {__version__}",
        "models": ["autoencoder", "diffraction_to_obj"],
        "sha256": _digest(checkpoint),
        **more,
    }
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        # Weights do not compress, and entries without a time make equal networks equal archives.
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, indent=1))
            info = zipfile.ZipInfo(CHECKPOINT)
            info.file_size = checkpoint.stat().st_size
            with open(checkpoint, "rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, 1 << 20)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target


def open_bundle(path: PathLike) -> Bundle:
    """Opens a bundle: an archive, a folder with ``wts.h5.zip`` in it, or a folder it was unpacked to.

    Raises:
        FileError: there is none, it is another program's, of a later version, or damaged.
    """
    place = Path(os.fspath(path))
    if place.is_dir() and (place / NAME).is_file():
        place = place / NAME
    names = _members(place)
    if MANIFEST not in names or CHECKPOINT not in names:
        raise FileError(
            f"{place}: is not a bundle of ptycho-gpu: it holds {', '.join(sorted(names)[:5]) or 'nothing'}"
            f", expected {MANIFEST} and {CHECKPOINT}. A network of another program is converted by "
            "`ptycho-gpu import`, which does not run what is stored in it"
        )
    try:
        with _member(place, MANIFEST) as file:
            manifest = json.loads(file.read())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{place}: its {MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileError(f"{place}: is not a bundle of ptycho-gpu: its {MANIFEST} is another program's")
    if manifest.get("version") != VERSION:
        found = manifest.get("version")
        raise FileError(
            f"{place}: is a bundle of version {found}, and this package reads version {VERSION}: "
            "use the version of ptycho-gpu that wrote it"
        )
    bundle = Bundle(place, manifest, digest=str(manifest.get("sha256")))
    with _member(place, CHECKPOINT) as file:
        bundle.model = _model(file, place)
    return bundle


def checkpoint_model(path: PathLike) -> Dict[str, Any]:
    """What the network of a checkpoint file was trained as.

    Raises:
        FileError: it is no checkpoint of ptycho-gpu.
    """
    place = Path(os.fspath(path))
    try:
        with open(place, "rb") as file:
            return _model(file, place)
    except OSError as error:
        raise FileError(f"{place}: cannot be read: {error}") from error


def _model(file: Any, place: Path) -> Dict[str, Any]:
    """The model's entry in the header of an open safetensors file."""
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER:
            raise ValueError("its header is too long")
        entries = json.loads(file.read(length))["__metadata__"]
        if entries["format"] != "ptycho-gpu":
            raise ValueError(f"it was written by {entries['format']}")
        model = json.loads(entries["metadata"])["learned"]["model"]
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{place}: holds no checkpoint of ptycho-gpu: {error}") from error
    return dict(model)


def _members(place: Path) -> List[str]:
    if place.is_dir():
        return [entry.name for entry in place.iterdir()]
    try:
        with zipfile.ZipFile(place) as archive:
            return archive.namelist()
    except FileNotFoundError as error:
        raise FileError(f"{place}: there is no such file, so no trained network") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{place}: is not a bundle of ptycho-gpu: {error}") from error


def _member(place: Path, name: str) -> Any:
    if place.is_dir():
        return open(place / name, "rb")
    # The member keeps the archive's file open until it is closed itself.
    with zipfile.ZipFile(place) as archive:
        return archive.open(name)


def _digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            hasher.update(block)
    return hasher.hexdigest()
