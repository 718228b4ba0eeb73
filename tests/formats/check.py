"""Looks at files of ours as other programs do: check.py FOLDER.

FOLDER has scan.npz in our own layout and the same scan as scan.h5, scan_para.hdf5 with scan_dp.hdf5,
scan.cxi, scan.ptyd, fold_para.hdf5 with fold_dp.hdf5, and the folder scan_parts.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

HC = 1.2398419843320026e-6  # eV m
folder = Path(sys.argv[1])
scan = np.load(folder / "scan.npz")
counts, probe, truth = scan["diffraction"], scan["probeGuess"], scan["objectGuess"]
x, y, mask = scan["xcoords"], scan["ycoords"], scan["mask"]
instrument = json.loads(str(scan["_metadata"]))["instrument"]
energy, distance = instrument["energy_ev"], instrument["distance_m"]
dy, dx = instrument["detector_pixel_m"]
side = counts.shape[-1]
pixel_y, pixel_x = (HC / energy * distance / (side * d) for d in (dy, dx))
origin_y, origin_x = instrument["origin_m"]
metres = origin_x + x * pixel_x, origin_y + y * pixel_y


def near(got, want, what):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, (what, got.shape, want.shape)
    assert np.allclose(got, want, rtol=1e-12, atol=0), (what, got, want)


def product(file):
    """The rules by which ptychodus reads a product."""
    for name in ("name", "comments"):
        assert isinstance(file.attrs[name], str), name
    near(file.attrs["probe_energy_eV"], energy, "energy")
    near(file.attrs["detector_object_distance_m"], distance, "distance")
    for name in ("exposure_time_s", "mass_attenuation_m2_kg", "tomography_angle_deg"):
        float(file.attrs[name])
    held = file["object"]
    assert held.dtype == np.complex64 and held.ndim == 3, held
    assert (held[0] == truth).all()
    assert file["probe"].shape == (1, *probe.shape) and (file["probe"][0] == probe).all()
    near(file["probe"].attrs["pixel_width_m"], pixel_x, "probe pixel")
    assert (file["probe_position_indexes"][()] == np.arange(len(x))).all()
    # From metres to pixels of the object's array, as that program does it.
    height, width = held.shape[-2:]
    got_x = ((file["probe_position_x_m"][()] - held.attrs["center_x_m"]) / held.attrs["pixel_width_m"]
             + width / 2)
    got_y = ((file["probe_position_y_m"][()] - held.attrs["center_y_m"]) / held.attrs["pixel_height_m"]
             + height / 2)
    assert np.abs(got_x - x).max() < 1e-9 and np.abs(got_y - y).max() < 1e-9
    near(file["probe_position_x_m"], metres[0], "metres")
    near(file["probe_position_y_m"], metres[1], "metres")
    assert json.loads(file["provenance"].asstr()[0]) == {"a": 1}


with h5py.File(folder / "scan.h5") as file:
    product(file)
    assert file["dp"].dtype.kind == "u" and (file["dp"][()] == counts).all()
with h5py.File(folder / "scan_para.hdf5") as file:
    product(file)
    assert "dp" not in file
with h5py.File(folder / "scan_dp.hdf5") as file:
    assert (file["dp"][()] == counts).all()

with h5py.File(folder / "scan.cxi") as file:
    assert int(file["cxi_version"][()]) >= 150
    # By the attributes, as viewers go.
    entry = file[file.attrs["default"]]
    assert entry.attrs["NX_class"] == "NXentry"
    data = entry[entry.attrs["default"]]
    assert data.attrs["NX_class"] == "NXdata"
    assert (data[data.attrs["signal"]][()] == counts).all()
    image = entry["image_1"]
    assert image.attrs["NX_class"] == "NXdata" and (image[image.attrs["signal"]][()] == truth).all()
    detector = file["entry_1/instrument_1/detector_1"]
    assert detector["data"].attrs["axes"] == "translation:y:x"
    near(detector["distance"][()], distance, "distance")
    near(detector["x_pixel_size"][()], dx, "pixel")
    near(detector["y_pixel_size"][()], dy, "pixel")
    near(detector["basis_vectors"][()], [[0, -dy, 0], [-dx, 0, 0]], "basis")
    near(file["entry_1/instrument_1/source_1/energy"][()], energy * 1.602176634e-19, "joules")
    assert (file["entry_1/instrument_1/source_1/illumination"][()] == probe).all()
    assert ((detector["mask"][()] == 0) == (mask > 0)).all()
    places = file["entry_1/data_1/translation"][()]
    near(places, np.stack([*metres, 0 * x], axis=1), "translation")
    # The rule of cdtools: the probe moves against the sample, by the detector's axes.
    moved = -places
    basis = detector["basis_vectors"][()]
    slow, fast = (v / np.linalg.norm(v) for v in basis)
    assert np.abs((moved @ fast - metres[0])).max() < 1e-18
    assert np.abs((moved @ slow - metres[1])).max() < 1e-18

with h5py.File(folder / "scan.ptyd") as file:
    near(file["meta/energy"][()], energy / 1e3, "keV")
    near(file["meta/distance"][()], distance, "distance")
    near(file["meta/psize"][()], [dy, dx], "psize")
    chunk = file["chunks/0"]
    assert (chunk["data"][()] == counts).all()
    near(chunk["positions"], np.stack(metres[::-1], axis=1), "positions")
    assert (file["meta/weight2d"][()] == mask).all()

with h5py.File(folder / "fold_para.hdf5") as file:
    # The rule of fold_slice: positions_real = [-ppY, -ppX], rows first.
    real = np.stack([-file["ppY"][()], -file["ppX"][()]], axis=1)
    near(real, np.stack(metres[::-1], axis=1), "positions")
    near(file["dx"][()], pixel_x, "pixel")
    near(file["lambda"][()], HC / energy, "wavelength")
    assert json.loads(file["provenance"].asstr()[0]) == {"a": 1}
with h5py.File(folder / "fold_dp.hdf5") as file:
    assert list(file) == ["dp"] and file["dp"].dtype.kind == "u"
    assert (file["dp"][()] == counts).all()

parts = [np.load(path) for path in sorted((folder / "scan_parts").iterdir())]
for name in ("diffraction", "xcoords", "ycoords", "xcoords_start", "Y"):
    assert (np.concatenate([part[name] for part in parts]) == scan[name]).all(), name
for part in parts:
    assert (part["probeGuess"] == probe).all() and (part["mask"] == mask).all()
assert (parts[0]["objectGuess"] == truth).all()
