"""Finding and calling the ``ptycho-gpu`` program."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from ._version import __version__
from .errors import BinaryNotFound, CommandFailed, VersionMismatch

PathLike = Union[str, "os.PathLike[str]"]

#: Names the program, where it is not beside the package or on the PATH.
VARIABLE = "PTYCHO_GPU_BIN"

#: Lines of the program's messages that are kept for an error.
KEPT_LINES = 200

log = logging.getLogger("ptycho_gpu")

_NAME = "ptycho-gpu.exe" if os.name == "nt" else "ptycho-gpu"
#: Versions of programs that were asked, by path and time of change.
_versions: Dict[Any, str] = {}


def find_binary(binary: Optional[PathLike] = None) -> Path:
    """The program, of a version that fits this package.

    Looked for in this order, and the first that is named or there is taken: ``binary``, the
    environment variable ``PTYCHO_GPU_BIN``, the one installed with this package, the ``PATH``.

    Args:
        binary: path of the program.

    Raises:
        BinaryNotFound: no program in any of these places, or what was named cannot be run.
        VersionMismatch: it is of another version.
    """
    if binary is not None:
        found, origin = Path(os.fspath(binary)), "the argument `binary`"
    elif os.environ.get(VARIABLE):
        found, origin = Path(os.environ[VARIABLE]), f"the environment variable {VARIABLE}"
    else:
        installed = _installed()
        on_path = shutil.which("ptycho-gpu")
        if installed is not None:
            found, origin = installed, "the installed package"
        elif on_path is not None:
            found, origin = Path(on_path), "the PATH"
        else:
            raise BinaryNotFound(
                "there is no ptycho-gpu program: none came with this package, and none is on the PATH; "
                f"install a wheel that carries it, or set {VARIABLE} to its path"
            )
    if not found.is_file():
        raise BinaryNotFound(f"{found}: no such file; {origin} should name the ptycho-gpu program")
    found = found.resolve()
    _check_version(found, origin)
    return found


def _installed() -> Optional[Path]:
    """The program of the wheel that this package came in, if it carries one."""
    try:
        files = importlib.metadata.distribution("ptycho-gpu").files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == _NAME:
            path = Path(os.fspath(file.locate()))
            if path.is_file():
                return path
    return None


def _check_version(binary: Path, origin: str) -> None:
    stamp = (binary, binary.stat().st_mtime_ns)
    if stamp not in _versions:
        _versions[stamp] = _ask_version(binary, origin)
    found = _versions[stamp]
    if found.split(".")[:2] != __version__.split(".")[:2]:
        raise VersionMismatch(
            f"{binary} (from {origin}) is ptycho-gpu {found}, but this package is {__version__}: "
            "install both in one version"
        )


def _ask_version(binary: Path, origin: str) -> str:
    try:
        answer = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinaryNotFound(f"{binary} (from {origin}) cannot be run: {error}") from error
    match = re.fullmatch(r"ptycho-gpu (\d+\.\d+\.\d+\S*)", answer.stdout.strip())
    if match is None:
        said = (answer.stdout + answer.stderr).strip()[:200]
        raise BinaryNotFound(
            f"{binary} (from {origin}) is not the ptycho-gpu program: asked for its version, it said "
            f"{said!r}"
        )
    return str(match.group(1))


def flags(options: Dict[str, Any], *, explicit_false: bool) -> List[str]:
    """Options as the program reads them: ``max_epochs=3`` becomes ``--max-epochs=3``.

    None leaves an option out. True gives the bare flag. False is written out as ``=false`` where
    ``explicit_false``, and left out else. A list repeats the flag.
    """
    arguments: List[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            if value:
                arguments.append(flag)
            elif explicit_false:
                arguments.append(flag + "=false")
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            arguments.append(f"{flag}={_text(name, one)}")
    return arguments


def _text(name: str, value: Any) -> str:
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"option {name}: {value!r} is no number, text or path")


def run(
    arguments: Sequence[Union[str, PathLike]],
    *,
    binary: Optional[PathLike] = None,
    on_line: Optional[Callable[[str], None]] = None,
) -> Dict[str, Any]:
    """Calls the program and waits for its end.

    What it says on the way goes to the logger ``ptycho_gpu`` line by line, and to ``on_line``. If
    this process ends or is interrupted, the program ends too.

    Args:
        arguments: command and options.
        binary: the program; see :func:`find_binary`.
        on_line: is given every line of the program's messages.

    Returns:
        The object that the program printed last, empty if it printed none.

    Raises:
        CommandFailed: the program ended with an error, which is the message.
    """
    command = [str(find_binary(binary))] + [os.fspath(a) for a in arguments]
    log.debug("%s", " ".join(command))
    last: "deque[str]" = deque(maxlen=KEPT_LINES)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stdout:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                line = line.rstrip("\n")
                last.append(line)
                _say(line)
                if on_line is not None:
                    on_line(line)
            process.wait()
        finally:
            _end(process)
        if process.returncode != 0:
            raise _failure(command, process.returncode, list(last))
        stdout.seek(0)
        return _last_object(stdout.read())


def _end(process: "subprocess.Popen[str]") -> None:
    """Ends a program that nobody waits for any more."""
    if process.stderr is not None:
        process.stderr.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Loaded here: nothing may be allocated between fork and exec.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """A training must not go on, and hold the GPU, after the process that asked for it was killed."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say(line: str) -> None:
    """Passes a line of the program on, at its own level."""
    lower = line.lower()
    if lower.startswith("warning"):
        log.warning("%s", line.split(":", 1)[-1].strip())
    elif not lower.startswith("error"):
        log.info("%s", line)


def _failure(command: List[str], returncode: int, lines: List[str]) -> CommandFailed:
    text = "\n".join(lines)
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        message = "\n".join(lines[starts[-1] :])[len("error: ") :].strip()
    elif returncode < 0:
        message = f"ptycho-gpu was ended by signal {-returncode}"
    else:
        message = f"ptycho-gpu ended with status {returncode}: {text[-500:].strip() or 'it said nothing'}"
    return CommandFailed(message, command, returncode, text)


def _last_object(text: str) -> Dict[str, Any]:
    lines = text.strip().splitlines()
    if not lines:
        return {}
    try:
        value = json.loads(lines[-1])
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
