"""What can go wrong, all of it under :class:`PtychoGpuError`."""

from __future__ import annotations

from typing import Sequence


class PtychoGpuError(RuntimeError):
    """Base of all errors of this package."""


class BinaryNotFound(PtychoGpuError):
    """There is no ``ptycho-gpu`` to call, or what was named is none."""


class VersionMismatch(PtychoGpuError):
    """The program is of another version than this package."""


class FileError(PtychoGpuError):
    """A file does not hold what it should; the message names it."""


class CommandFailed(PtychoGpuError):
    """The program ended with an error; the message is its own.

    Attributes:
        command: the command line.
        returncode: 1 for input that cannot be used, 2 for options that there are not, negative for
            the signal that ended the program.
        stderr: the last lines that the program wrote.
    """

    def __init__(self, message: str, command: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(message)
        self.command = list(command)
        self.returncode = returncode
        self.stderr = stderr

    def __reduce__(self) -> "tuple[type, tuple[str, list[str], int, str]]":
        # Errors cross the border of a process: the default would call the class with the message alone.
        return type(self), (str(self), self.command, self.returncode, self.stderr)
