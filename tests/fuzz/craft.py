"""Writes files that no library writes, whose virtual data sets have no end: craft.py FOLDER.

repeated.h5   a source of fixed size for every piece of a virtual data set without end
absolute.h5   the same, its number in a folder of an absolute name, which readers look for without it
outer.h5      without end over repeated.h5
circle_a.h5, circle_b.h5, circle_c.h5   sources of one another
growing.h5    a sound one, over growing_part.h5 that grows
numbered.h5   a sound one, each piece with a number
"""

import sys
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

MASK = 0xFFFFFFFF
SIDE = 4
folder = Path(sys.argv[1])


def lookup3(data):
    """The checksum of HDF5: Jenkins' lookup3 from 0."""
    def turn(value, by):
        return (value << by | value >> (32 - by)) & MASK

    a = b = c = (0xDEADBEEF + len(data)) & MASK
    while len(data) > 12:
        a, b, c = ((v + int.from_bytes(data[i:i + 4], "little")) & MASK
                   for v, i in ((a, 0), (b, 4), (c, 8)))
        for by in (4, 6, 8, 16, 19, 4):
            # Each step has the names of the one before, one further.
            a = (a - c) & MASK ^ turn(c, by)
            c = (c + b) & MASK
            a, b, c = b, c, a
        data = data[12:]
    data = data.ljust(12, b"\0")
    a, b, c = ((v + int.from_bytes(data[i:i + 4], "little")) & MASK
               for v, i in ((a, 0), (b, 4), (c, 8)))
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - turn(b, by)) & MASK
        a, b, c = b, c, a
    return b


def rows(open_end):
    """One frame after the other, without end or one in all."""
    shape = (1, SIDE, SIDE)
    if not open_end:
        return h5s.create_simple(shape)
    space = h5s.create_simple(shape, (h5s.UNLIMITED, SIDE, SIDE))
    space.select_hyperslab((0, 0, 0), (h5s.UNLIMITED, 1, 1), stride=(1, 1, 1), block=shape)
    return space


def write(name, sources, open_source, frames=1):
    """`name` with frames in /src, and /dp, /dp1, ... without end over the sources (file, path)."""
    with h5py.File(folder / name, "w", libver="latest") as file:
        values = np.arange(frames * SIDE * SIDE, dtype="f4").reshape(frames, SIDE, SIDE)
        file.create_dataset("src", data=values, chunks=(1, SIDE, SIDE), maxshape=(None, SIDE, SIDE))
        for number, (source, path) in enumerate(sources):
            made = h5p.create(h5p.DATASET_CREATE)
            made.set_obj_track_times(False)
            made.set_virtual(rows(True), source, path, rows(open_source))
            at = f"dp{number or ''}".encode()
            h5d.create(file.id, at, h5t.IEEE_F32LE, rows(True), made)


def replace(name, old, new):
    """Other bytes in the lists of sources, with their checksums."""
    data = bytearray((folder / name).read_bytes())
    at = data.index(b"GCOL") + 16
    while int.from_bytes(data[at:at + 2], "little"):
        length = int.from_bytes(data[at + 8:at + 16], "little")
        held = bytes(data[at + 16:at + 16 + length])
        assert lookup3(held[:-4]) == int.from_bytes(held[-4:], "little") and old in held
        held = held[:-4].replace(old, new)
        data[at + 16:at + 16 + length] = held + lookup3(held).to_bytes(4, "little")
        at += 16 + (length + 7) // 8 * 8
    (folder / name).write_bytes(data)


write("repeated.h5", [(b".", b"/%b")], False)
replace("repeated.h5", b"/%b\0", b"src\0")
write("absolute.h5", [(b"/%b/absolute.h5", b"/src")], False)
write("outer.h5", [(b"repeated.h5", b"/src")], True)
circle = [f"circle_{letter}.h5" for letter in "abc"]
for name in circle:
    write(name, [(other.encode(), b"/dp") for other in circle], True)
write("growing_part.h5", [], True, frames=3)
write("growing.h5", [(b"growing_part.h5", b"/src")], True)
write("numbered.h5", [(b".", b"/src%b")], False)
