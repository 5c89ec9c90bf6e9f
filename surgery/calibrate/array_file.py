"""Arrays of numbers in .npy and .npz files, read in bounded memory whatever a file says of itself."""

from __future__ import annotations

import mmap
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from surgery.errors import DataError

UNPACKED_BYTES = 1 << 30  # of one array in an .npz, which is held in memory; .npy files are mapped.
_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # all that NumPy writes
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What NumPy's and Python's own readers raise for damaged files, besides what they say they do.
_FAILURES = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError),
    *(SyntaxError, tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError),
)

Array = npt.NDArray[Any]
Header = tuple[tuple[int, ...], bool, "np.dtype[Any]", int]  # shape, whether in Fortran's order, kind, bytes


def read_npy(path: Path) -> Array:
    """Return the array in an .npy file, mapped; raises DataError for anything but whole, plain numbers."""
    with _told(path), path.open("rb") as file:
        shape, is_fortran, dtype, size = _header(file)
        held = os.fstat(file.fileno()).st_size - file.tell()
        if held != size:
            raise ValueError(f"it states {size} bytes of numbers and holds {held}")
        if not size:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def image(array: Array, number: int) -> Array:
    """Return image `number` of an array (images, ...); what was read of a mapped file does not stay in memory.

    All pages that were ever read would count as this process's, in the end the whole file.
    """
    mapped, view = array.base, array[number : number + 1]
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        copied: Array = np.array(view)
        mapped.madvise(mmap.MADV_DONTNEED, *_pages(mapped, view))
        return copied[0, ...]
    return view[0, ...]


def _pages(mapped: mmap.mmap, view: Array) -> tuple[int, int]:
    """Return where in a mapped file the chunks begin that a part of its array lies in, and their length in bytes.

    They are more than its own pages: the kernel maps neighbouring ones too, where one is read.
    """
    if not view.flags.c_contiguous:
        return 0, len(mapped)
    first = view.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    start = first // _CHUNK_BYTES * _CHUNK_BYTES
    return start, min(len(mapped), -(-(first + view.nbytes) // _CHUNK_BYTES) * _CHUNK_BYTES) - start


@contextmanager
def opened_npz(path: Path) -> Iterator[Mapping[str, Array]]:
    """Give the arrays of an .npz file by name, each read when it is asked for; all raises DataError, as `read_npy`."""
    with _told(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield _Arrays(path, archive)


class _Arrays(Mapping[str, Array]):
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> Array:
        info = self.infos[name]
        with _told(self.path):
            if info.compress_type not in _METHODS or info.flag_bits & 1:
                raise ValueError(f"'{name[:60]}' is encrypted, or packed in another way than NumPy does")
            if info.file_size > UNPACKED_BYTES:
                size = f"{info.file_size / 1e9:.1f} GB in memory, of at most {UNPACKED_BYTES / 1e9:.1f}"
                raise ValueError(f"'{name[:60]}' takes {size}; save it as .npy, which takes none")
            with self.archive.open(info) as file:
                return _read(file, info.file_size)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def _read(file: IO[bytes], length: int) -> Array:
    """Return the array in a stream of `length` bytes."""
    shape, is_fortran, dtype, size = _header(file)
    if length - file.tell() != size:
        raise ValueError(f"it states {size} bytes of numbers and holds {length - file.tell()}")
    # Piece by piece: asked for all at once, a stream unpacks to whatever length it likes.
    raw = bytearray()
    while len(raw) < size and (chunk := file.read(min(_CHUNK_BYTES, size - len(raw)))):
        raw += chunk
    if len(raw) != size:
        raise EOFError(f"it ends after {len(raw)} of {size} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if is_fortran else "C")


def _header(file: IO[bytes]) -> Header:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd spellings in a header
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"its format is {version}; expected plain numbers, which are of format (1, 0) or (2, 0)")
        shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds objects, as arrays of ragged images do; expected numbers of one shape")
    if dtype.kind not in "fiub":
        raise ValueError(f"it holds {str(dtype)[:60]}; expected numbers")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"its shape is {str(shape)[:60]}")
    return shape, is_fortran, dtype, prod(shape) * dtype.itemsize


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(path, f"cannot be read: {reason[:200]}") from error
