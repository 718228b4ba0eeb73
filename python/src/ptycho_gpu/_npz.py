"""Archives of arrays: read without unpickling, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from ._binary import PathLike
from .errors import FileError


def read_npz(file: Path, wanted: Tuple[str, ...], one_of: Tuple[str, ...] = ()) -> Dict[str, Any]:
    """All arrays of an archive that can be read without unpickling.

    Raises:
        FileError: no such file, no archive, or one without an array of `wanted`, or any of `one_of`.
    """
    arrays: Dict[str, Any] = {}
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in names:
                try:
                    arrays[name] = archive[name]
                except ValueError:
                    # Python objects, such as metadata of other programs.
                    if name in wanted + one_of:
                        raise
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{file}: cannot be read as an .npz archive: {error}") from error
    missing = [key for key in wanted if key not in arrays]
    if one_of and not set(one_of) & set(arrays):
        missing.append(" or ".join(one_of))
    if missing:
        raise FileError(f"{file}: holds no `{missing[0]}`; it holds {', '.join(names)}")
    return arrays


def write_npz(path: PathLike, arrays: Dict[str, Any]) -> Path:
    """Writes arrays under a temporary name, then renames: `path` is whole, or what it was."""
    target = Path(os.fspath(path))
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target
