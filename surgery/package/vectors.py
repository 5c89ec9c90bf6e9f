"""Golden vectors as files: raw float32 behind a header of the shape, and the list that says which file is what.

A raw file is little-endian throughout: the number of axes as uint32, the axes as uint32 each, then the numbers as
float32, the last axis running fastest. The list has a line for each file: `input` or `output`, the number of the
sample, the file, the tolerance, and the blob's name, which is the rest of the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from surgery.errors import DataError, ModelError
from surgery.runtime.engine import MAX_AXES

INDEX = "golden/index.txt"
_NPY = b"\x93NUMPY\x01\x00"  # the format's mark and version; the header's length follows, and a multiple of 64 with it
_LINE = re.compile(r"(input|output) (\d{1,4}) (\S+) (0|0\.\d{1,9}|\de-\d{1,2}) (.+)", re.ASCII)

Kind = Literal["input", "output"]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vector:
    """One golden vector's place: `tolerance` is the largest relative L2 at which an output still agrees."""

    kind: Kind
    sample: int
    file: str
    tolerance: float
    blob: str


def raw(array: npt.NDArray[Any]) -> bytes:
    """Return the raw file of an array."""
    shape = np.array([array.ndim, *array.shape], "<u4")
    return shape.tobytes() + np.asarray(array, "<f4").tobytes()


def parsed(data: bytes, name: str) -> Array:
    """Return the array of a raw file; raises DataError, with the file's `name`."""
    axes = int.from_bytes(data[:4], "little")
    start = 4 * (1 + axes)
    if len(data) < 4 or axes > MAX_AXES or len(data) < start:
        raise DataError(name, "holds no shape; expected the number of axes, the axes, and float32 numbers")
    shape = tuple(int(side) for side in np.frombuffer(data, "<u4", axes, 4))
    if 4 * math.prod(shape) != len(data) - start:
        raise DataError(name, f"states the shape {shape} and holds {len(data) - start} bytes of numbers")
    return np.frombuffer(data, "<f4", offset=start).reshape(shape).astype(np.float32, copy=False)


def npy(array: npt.NDArray[Any]) -> bytes:
    """Return the .npy file of an array, as float32; one array has one spelling, whatever NumPy's version writes."""
    shape = "".join(f"{side}, " for side in array.shape)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape})}}".encode()
    header += b" " * (-(len(_NPY) + 3 + len(header)) % 64) + b"\n"
    return _NPY + len(header).to_bytes(2, "little") + header + np.asarray(array, "<f4").tobytes()


def listed(vectors: Iterable[Vector]) -> str:
    """Return the list of vectors; raises ModelError for a blob's name that is no line."""
    lines = []
    for v in vectors:
        if not v.blob.isprintable():
            raise ModelError(f"blob {v.blob[:60]!r}: a parcel names blobs in a text, line by line; rename it first")
        lines.append(f"{v.kind} {v.sample} {v.file} {v.tolerance:g} {v.blob}\n")
    return "".join(lines)


def read_list(text: str, name: str) -> Iterator[Vector]:
    """Yield the vectors of a list; raises DataError, with the list's `name`."""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if not (found := _LINE.fullmatch(line)):
            expected = "expected: input or output, sample, file, tolerance below 1, blob"
            raise DataError(f"{name}:{number}", f"is {line[:60]!r}; {expected}")
        kind, sample, file, tolerance, blob = found.groups()
        yield Vector(cast("Kind", kind), int(sample), file, float(tolerance), blob)
