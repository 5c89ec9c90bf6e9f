"""A file's bytes with numbers in it overwritten, for whatever keeps its length and its shapes."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Patch:
    """A vector of numbers to be written, in its own type, from byte `offset` on, `stride` bytes apart."""

    offset: int
    stride: int
    numbers: NDArray[Any]


def patched(buffer: mmap.mmap | bytes, patches: Iterable[Patch]) -> mmap.mmap | bytes:
    """Return a copy of the bytes with the numbers in their places, held in a file without a name."""
    import numpy as np

    if not len(buffer):
        return buffer  # Nothing cannot be mapped, and holds no numbers.
    with tempfile.TemporaryFile() as file:
        for start in range(0, len(buffer), BLOCK):
            file.write(buffer[start : start + BLOCK])
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE) as copy:
            for patch in patches:
                kind, count = patch.numbers.dtype, patch.numbers.size
                view: NDArray[Any] = np.ndarray((count,), kind, copy, patch.offset, (patch.stride,))
                view[...] = patch.numbers
                del view  # The map cannot be closed while something looks into it.
            copy.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
