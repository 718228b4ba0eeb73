"""Writes one scan in the layouts of other programs, with the library that they use.

write.py SCAN.npz FOLDER: SCAN holds counts with the keys of our own layout.
"""

import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

HC = 1.2398419843320026e-6  # eV m
ELECTRON_VOLT = 1.602176634e-19
ENERGY, DISTANCE, PIXEL = 8000.0, 2.0, 75e-6

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
scan = np.load(source)
counts, probe, truth = scan["diffraction"], scan["probeGuess"], scan["objectGuess"]
x, y, mask = scan["xcoords"], scan["ycoords"], scan["mask"]
side = counts.shape[-1]
metre = HC / ENERGY * DISTANCE / (side * PIXEL)
centre = (3e-6, -2e-6)
height, width = truth.shape
metres = [(p - size / 2) * metre + c for p, size, c in zip((x, y), (width, height), centre)]


def product(file, indexes=None):
    """All but the patterns of a ptychodus product."""
    file.attrs["name"], file.attrs["comments"] = "a product", ""
    file.attrs["detector_object_distance_m"], file.attrs["probe_energy_eV"] = DISTANCE, ENERGY
    file.attrs["exposure_time_s"] = 1.0
    held = file.create_dataset("object", data=truth[None])
    held.attrs["center_x_m"], held.attrs["center_y_m"] = centre
    held.attrs["pixel_width_m"] = held.attrs["pixel_height_m"] = metre
    file.create_dataset("probe", data=probe[None, None])
    order = np.arange(len(x)) if indexes is None else indexes
    file["probe_position_indexes"] = order
    file["probe_position_x_m"], file["probe_position_y_m"] = (m[order] for m in metres)


# Positions in another order than the patterns; patterns packed as detectors do.
with h5py.File(folder / "product.h5", "w") as file:
    product(file, np.random.default_rng(1).permutation(len(x)))
    file.create_dataset("dp", data=counts.astype("u4"), chunks=(1, side, side),
                        **hdf5plugin.Bitshuffle(cname="lz4"))

# Fewer positions than patterns.
with h5py.File(folder / "fewer.h5", "w") as file:
    product(file, np.array([5, 2, 9, 7]))
    file.create_dataset("dp", data=counts.astype("u2"), chunks=(4, side, side), compression="gzip",
                        shuffle=True)

# The pair, with the newest layout of the format, and intensities that are not whole.
with h5py.File(folder / "pair_para.hdf5", "w", libver="latest") as file:
    product(file, np.zeros(len(x), int))
    del file["probe_position_x_m"], file["probe_position_y_m"]
    file["probe_position_x_m"], file["probe_position_y_m"] = metres
with h5py.File(folder / "pair_dp.hdf5", "w", libver="latest") as file:
    file.create_dataset("dp", data=counts.astype("f4") * 0.5, chunks=(3, side, side), compression="gzip")

# Positions from the corner of the object, as other programs than ptychodus write them.
with h5py.File(folder / "corner.h5", "w") as file:
    product(file)
    for name, pixels, middle in [("x", x, centre[0]), ("y", y, centre[1])]:
        file[f"probe_position_{name}_m"][...] = pixels * metre + middle
    file["dp"] = counts

# Normalised amplitudes with positions in pixels; the metres beside them are in another frame.
with h5py.File(folder / "raw.h5", "w") as file:
    product(file)
    file["probe_position_x_m"][...] += 1.0
    file["raw_data/diffraction"] = np.sqrt(counts.astype("f4")) / 50
    file["raw_data/xcoords"], file["raw_data/ycoords"] = x, y
    file["raw_data/_metadata"] = '{"physics_parameters": {"nphotons": 12345.0}}'

# CXI: joules, a mask of bits, the numbers of the detector behind a soft link.
with h5py.File(folder / "scan.cxi", "w") as file:
    file["cxi_version"] = 160
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector["data"] = counts.astype(">u2")
    detector["distance"], detector["x_pixel_size"] = DISTANCE, PIXEL
    bits = np.where(mask > 0, 0, 0x8).astype("u4")
    bits[0, 0] |= 0x1000
    detector["mask"] = bits
    file["entry_1/instrument_1/source_1/energy"] = ENERGY * ELECTRON_VOLT
    file["entry_1/instrument_1/source_1/illumination"] = probe
    places = np.stack([x * metre, y * metre, 0 * x], axis=1)
    file["entry_1/sample_1/geometry_1/translation"] = places
    file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    file["entry_1/data_1/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")

# NeXus: a raster of patterns in two files behind an external link and a virtual data set, with units.
rows = 2
raster = counts.reshape(rows, -1, side, side)
for row in range(rows):
    with h5py.File(folder / f"part_{row}.h5", "w") as file:
        file.create_dataset("frames", data=raster[row].astype("u2"), chunks=(1, side, side),
                            compression="gzip", shuffle=True)
with h5py.File(folder / "virtual.h5", "w", libver="latest") as file:
    layout = h5py.VirtualLayout(shape=raster.shape, dtype="u2")
    for row in range(rows):
        layout[row] = h5py.VirtualSource(f"part_{row}.h5", "frames", shape=raster.shape[1:])
    file.create_virtual_dataset("frames", layout)
with h5py.File(folder / "scan.nxs", "w") as file:
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector["data"] = h5py.ExternalLink("virtual.h5", "/frames")
    for name, value, unit in [("distance", DISTANCE * 1e3, "mm"), ("x_pixel_size", PIXEL * 1e6, "um")]:
        detector[name] = value
        detector[name].attrs["units"] = unit
    file["entry_1/instrument_1/beam_1/incident_beam_energy"] = ENERGY / 1e3
    file["entry_1/instrument_1/beam_1/incident_beam_energy"].attrs["units"] = "keV"
    file["entry_1/instrument_1/source_1/illumination"] = probe
    file["entry_1/instrument_1/source_1/energy"] = 3e9  # of the ring
    file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    places = file.create_dataset("entry_1/data_1/translation", data=np.stack([x, y], axis=1) * metre * 1e6)
    places.attrs["units"] = "um"

# The same as the CXI file, with its columns along +x and its rows along +y.
with h5py.File(folder / "turned.cxi", "w") as file:
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector["data"], detector["distance"] = counts, DISTANCE
    detector["x_pixel_size"], detector["y_pixel_size"] = PIXEL, PIXEL
    detector["basis_vectors"] = np.array([[0, PIXEL, 0], [PIXEL, 0, 0]])
    file["entry_1/instrument_1/source_1/energy"] = ENERGY * ELECTRON_VOLT
    file["entry_1/instrument_1/source_1/illumination"] = probe
    file["entry_1/data_1/translation"] = -np.stack([x * metre, y * metre, 0 * x], axis=1)

# ptypy: two chunks, each of which masks something.
with h5py.File(folder / "scan.ptyd", "w") as file:
    file["meta/energy"], file["meta/distance"], file["meta/psize"] = ENERGY / 1e3, DISTANCE, PIXEL
    file["meta/shape"] = np.array([side, side])
    for number, part in enumerate([slice(0, 5), slice(5, None)]):
        file[f"chunks/{number}/data"] = counts[part].astype("f4")
        file[f"chunks/{number}/positions"] = np.stack([y[part], x[part]], axis=1) * metre
        file[f"chunks/{number}/indices"] = np.arange(len(x))[part]
        weights = np.repeat(mask[None], len(counts[part]), axis=0)
        other = np.argwhere(mask == 0)[number]
        weights[:, other[0], other[1]] = 1
        file[f"chunks/{number}/weights"] = 2 * weights

# The master file of an Eiger: frames behind external links, in numbered files packed by bitshuffle and
# LZ4, pixels that mark themselves as dead, wavelength in angstrom, and no positions.
eiger = folder / "eiger"
eiger.mkdir()
frames = np.zeros((len(x), side + 4, side + 10), "u4")
frames[:, 1:side + 1, 6:side + 6] = counts
frames[:, 0, 0] = 2**32 - 1
for number, part in enumerate([slice(0, 5), slice(5, None)], 1):
    with h5py.File(eiger / f"scan_data_{number:06}.h5", "w", libver="latest") as file:
        file.create_dataset("entry/data/data", data=frames[part], chunks=(1, *frames.shape[1:]),
                            **hdf5plugin.Bitshuffle(cname="lz4"))
with h5py.File(eiger / "scan_master.h5", "w", libver="latest") as file:
    for number in (1, 2):
        file[f"entry/data/data_{number:06}"] = h5py.ExternalLink(f"scan_data_{number:06}.h5", "/entry/data/data")
    detector = file.create_group("entry/instrument/detector")
    for name, value, unit in [("detector_distance", DISTANCE, "m"), ("x_pixel_size", PIXEL, "m"),
                              ("y_pixel_size", PIXEL, "m")]:
        detector[name] = value
        detector[name].attrs["units"] = unit
    bits = np.zeros(frames.shape[1:], "u4")
    bits[0, 0] = 1
    bits[1:side + 1, 6:side + 6] = np.where(mask > 0, 0, 2)
    detector["detectorSpecific/pixel_mask"] = bits
    file["entry/instrument/beam/incident_wavelength"] = HC / ENERGY * 1e10
    file["entry/instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
np.savetxt(eiger / "positions.txt", np.stack([x, y], axis=1) * metre * 1e6, header="x y (um)")

# fold_slice: rows and columns are minus the positions.
with h5py.File(folder / "fold_dp.hdf5", "w") as file:
    file.create_dataset("dp", data=counts, chunks=(1, side, side), compression="gzip")
with h5py.File(folder / "fold_para.hdf5", "w") as file:
    file["ppX"], file["ppY"] = -x * metre, -y * metre

# The parts of one scan in a folder, one of which is packed.
parts = folder / "parts"
parts.mkdir()
for number, part in enumerate([slice(0, 3), slice(3, 9), slice(9, None)]):
    some = {"diffraction": counts[part], "xcoords": x[part], "ycoords": y[part], "probeGuess": probe}
    if number == 0:
        some |= {"objectGuess": truth, "mask": mask}
    (np.savez_compressed if number == 1 else np.savez)(parts / f"part_{number}.npz", **some)
others = folder / "others"
others.mkdir()
for number in range(2):
    np.savez(others / f"scan_{number}.npz", diffraction=counts, xcoords=x, ycoords=y, probeGuess=probe * (1 + number))

# What must be refused.
bad = folder / "bad"
bad.mkdir()
good = (folder / "product.h5").read_bytes()
(bad / "truncated.h5").write_bytes(good[: len(good) // 2])
(bad / "head.h5").write_bytes(good[:8])
with h5py.File(bad / "outside.cxi", "w") as file:
    file["entry_1/data_1/data"] = h5py.ExternalLink("../virtual.h5", "/frames")
with h5py.File(bad / "absolute.cxi", "w") as file:
    file["entry_1"] = h5py.ExternalLink("/etc/hostname", "/entry_1")
with h5py.File(bad / "alias.cxi", "w") as file:
    file["other/data_1/data"] = h5py.ExternalLink("../virtual.h5", "/frames")
    file["entry_1"] = file["other"]
for name, parts, kind in [("missing", ["part_0.h5", "part_9.h5"], "u2"), ("kinds", ["part_0.h5"] * 2, "f4")]:
    with h5py.File(bad / f"{name}.h5", "w", libver="latest") as file:
        product(file)
        layout = h5py.VirtualLayout(shape=counts.shape, dtype=kind)
        for row, part in enumerate(parts):
            half = slice(row * len(x) // 2, (row + 1) * len(x) // 2)
            layout[half] = h5py.VirtualSource(part, "frames", shape=raster.shape[1:])
        file.create_virtual_dataset("dp", layout)
(bad / "part_0.h5").write_bytes((folder / "part_0.h5").read_bytes())
with h5py.File(bad / "ring.nxs", "w") as file:
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector["data"], detector["x_pixel_size"], detector["distance"] = counts, PIXEL, DISTANCE
    file["entry_1/instrument_1/source_1/energy"] = 3e9
with h5py.File(bad / "twice.h5", "w") as file:
    product(file)
    file["probe_position_indexes"][0] = 1
    file["dp"] = counts
with h5py.File(bad / "dangling.cxi", "w") as file:
    file["entry_1/data_1/data"] = h5py.ExternalLink("nowhere.h5", "/frames")
with h5py.File(bad / "circle.cxi", "w") as file:
    file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/data_1/more")
    file["entry_1/data_1/more"] = h5py.SoftLink("/entry_1/data_1/data")
with h5py.File(bad / "alone_dp.hdf5", "w") as file:
    file["dp"] = counts
with h5py.File(bad / "nothing.h5", "w") as file:
    file["something"] = 1
for name, value in [("text", "pixels"), ("records", np.zeros(3, [("a", "i4"), ("b", "f4"), ("c", "f8")]))]:
    with h5py.File(bad / f"{name}.h5", "w") as file:
        product(file)
        file["dp"] = value
with h5py.File(bad / "bomb.h5", "w") as file:
    product(file)
    file.create_dataset("dp", shape=(len(x), 1 << 20, 1 << 20), dtype="u2", chunks=(1, 1024, 1024),
                        compression="gzip")
with h5py.File(bad / "index.h5", "w") as file:
    product(file)
    file["probe_position_indexes"][0] = 1000
    file["dp"] = counts
with h5py.File(bad / "unit.cxi", "w") as file:
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector["data"], detector["x_pixel_size"] = counts, PIXEL
    detector["distance"] = DISTANCE
    detector["distance"].attrs["units"] = "parsec"
