"""Weights compared by content, in blocks: of files that are mapped only a few megabytes are in memory at a time."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.diff.difference import Reweighed
from surgery.diff.network import Blob

BLOCK = 1 << 20  # numbers

Array = NDArray[Any]


def reweighed(first: Sequence[Blob] | None, second: Sequence[Blob] | None) -> tuple[Reweighed, ...]:
    """Return the blobs that are not the same numbers in the same shape.

    Where no file of a side holds numbers the shapes count, and where these are not known, nothing.
    """
    if first is None or second is None:
        return ()
    found = []
    for a, b in zip_longest(first, second):
        if a is None or b is None or a.bare != b.bare:
            before, after = (None if blob is None else blob.shape for blob in (a, b))
            found.append(Reweighed((a or b).name, before, after, None))
        elif a.read and b.read:
            one, other = a.read().reshape(a.bare), b.read().reshape(b.bare)
            if not equal(one, other):
                found.append(Reweighed(a.name, a.shape, b.shape, relative_error(one, other)))
    return tuple(found)


def equal(a: Array, b: Array) -> bool:
    """Return whether two arrays of one shape hold the same numbers, in whatever type; NaN equals NaN."""
    is_real = a.dtype.kind in "fc" and b.dtype.kind in "fc"
    with np.errstate(invalid="ignore"):  # A signalling NaN.
        pairs = zip(blocks(a), blocks(b), strict=True)
        return all(_same_bytes(x, y) or np.array_equal(x, y, equal_nan=is_real) for x, y in pairs)


def relative_error(a: Array, b: Array) -> float | None:
    """Return ||b - a|| / ||a|| in float64, None where a is zero or a number of either is not finite."""
    gap = norm = 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # Such a sum is not finite, which is told.
        for x, y in zip(blocks(a), blocks(b), strict=True):
            wide = x.astype(np.float64)
            norm += _square(wide)
            gap += _square(y - wide)
    error = math.sqrt(gap) / math.sqrt(norm) if norm else math.inf
    return error if math.isfinite(error) else None


def digest(blobs: Sequence[Blob] | None) -> bytes | None:
    """Return what tells these numbers from others, in whatever type they are stored; None where no file holds any."""
    found = hashlib.blake2b(digest_size=16)
    for blob in blobs or ():
        if blob.read is None:
            return None
        found.update(repr(blob.bare).encode())
        with np.errstate(invalid="ignore"):
            for block in blocks(blob.read().reshape(blob.bare)):
                found.update(np.ascontiguousarray(block, "<f8" if block.dtype.kind == "f" else None).data)
    return found.digest() if blobs else None


def blocks(array: Array) -> Iterator[Array]:
    """Yield an array's numbers in order, at most about BLOCK at a time; alike for arrays of one shape."""
    if array.ndim == 0:
        yield array
        return
    row = math.prod(array.shape[1:])
    if row > BLOCK:
        for part in array:
            yield from blocks(part)
        return
    rows = BLOCK // max(1, row)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
        release(array)


def release(array: Array) -> None:
    """Give back the memory that a mapped file behind an array has taken; what is read again comes from the file."""
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise"):
        owner.madvise(mmap.MADV_DONTNEED)


def _same_bytes(x: Array, y: Array) -> bool:
    if x.dtype != y.dtype or not (x.flags.c_contiguous and y.flags.c_contiguous):
        return False
    return np.array_equal(x.reshape(-1).view(np.uint8), y.reshape(-1).view(np.uint8))


def _square(values: Array) -> float:
    flat = values.reshape(-1)
    return float(flat @ flat)
