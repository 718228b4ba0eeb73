"""Looks at a result as other programs do: check_result.py FOLDER X Y, the metres of its bright pixel."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

folder, bright = Path(sys.argv[1]), np.array([float(text) for text in sys.argv[2:]])

with h5py.File(folder / "reconstruction.h5") as file:
    held = file["object"]
    row, column = np.unravel_index(np.abs(held[0]).argmax(), held.shape[1:])
    height, width = held.shape[1:]
    # ptychodus: pixels count from the middle of the array, which is at the centre.
    x = held.attrs["center_x_m"] + (column - width / 2) * held.attrs["pixel_width_m"]
    y = held.attrs["center_y_m"] + (row - height / 2) * held.attrs["pixel_height_m"]
    assert np.allclose([x, y], bright, rtol=0, atol=1e-14), ((x, y), bright)
    assert list(file["probe_position_indexes"]) == [4, 0, 9]
    # A position (49.5, 33.25) lies in the array at (4.5, 3.25).
    px = (file["probe_position_x_m"][0] - held.attrs["center_x_m"]) / held.attrs["pixel_width_m"] + width / 2
    py = (file["probe_position_y_m"][0] - held.attrs["center_y_m"]) / held.attrs["pixel_height_m"] + height / 2
    assert np.allclose([px, py], [4.5, 3.25], rtol=0, atol=1e-9), (px, py)
    assert file["probe"].shape == (1, 2, 8, 8) and file["probe"].dtype == np.complex64
    assert list(file["loss_values"]) == [0.5, 0.25] and list(file["loss_epochs"]) == [0, 1]
    for name in ("name", "comments"):
        assert isinstance(file.attrs[name], str)
    assert json.loads(file["provenance"].asstr()[0])["name"] == "Süd α"

with h5py.File(folder / "reconstruction.cxi") as file:
    entry = file[file.attrs["default"]]
    image = entry[entry.attrs["default"]]
    data = image[image.attrs["signal"]]
    row, column = np.unravel_index(np.abs(data[()]).argmax(), data.shape)
    axes = [image[name] for name in image.attrs["axes"]]
    assert [len(axis) for axis in axes] == list(data.shape)
    assert all(axis.attrs["units"] == "m" for axis in axes)
    assert np.allclose([axes[1][column], axes[0][row]], bright, rtol=0, atol=1e-14)
    assert file["entry_1/sample_1/geometry_1/translation"].shape == (3, 3)
