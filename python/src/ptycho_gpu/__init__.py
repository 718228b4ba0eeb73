"""Python side of ptycho-gpu, a program that reconstructs ptychography scans.

All work is done by the program, ``ptycho-gpu``, which is called through files; this package needs
NumPy alone::

    import ptycho_gpu

    training = ptycho_gpu.train("scan.npz", "run", max_epochs=30)
    result = ptycho_gpu.infer(training, "scan.npz")
    result.object, result.origin_yx

Positions are in object pixels, x the column and y the row of patch pixel (N/2, N/2);
:class:`Frame` converts metres. Messages of the program go to the logger ``ptycho_gpu``.
"""

from ._binary import VARIABLE, find_binary
from ._version import __version__
from .bundle import Bundle, open_bundle, save_bundle
from .errors import BinaryNotFound, CommandFailed, FileError, PtychoGpuError, VersionMismatch
from .jobs import infer, reconstruct, refine, train
from .result import Reconstruction, Training, load_reconstruction, place, stitch
from .scan import Frame, Scan

__all__ = [
    "VARIABLE",
    "BinaryNotFound",
    "Bundle",
    "CommandFailed",
    "FileError",
    "Frame",
    "PtychoGpuError",
    "Reconstruction",
    "Scan",
    "Training",
    "VersionMismatch",
    "__version__",
    "find_binary",
    "infer",
    "load_reconstruction",
    "open_bundle",
    "place",
    "reconstruct",
    "refine",
    "save_bundle",
    "stitch",
    "train",
]
