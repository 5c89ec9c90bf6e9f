"""How many samples lie in an LMDB, told by its first pages: nothing but Caffe reads the samples themselves."""

from __future__ import annotations

import struct
from pathlib import Path

from surgery.errors import DataError

_MAGIC = 0xBEEFC0DE
_HEADER = 16  # bytes of a page before what it holds
# Magic number, version, address, size of the map, two databases (48 bytes each: of free pages, and of what is stored),
# last page, transaction. Of a database: page size, flags, depth, three counts of pages, entries, root.
_META = struct.Struct("<IIQQ" + 2 * "IHHQQQQQ" + "QQ")
_PAGE_SIZE, _ENTRIES, _TRANSACTION = 4, 18, 21  # places among the fields


def entries(folder: Path) -> int:
    """Return how many samples the LMDB in a folder holds; raises DataError for a damaged one."""
    with (folder / "data.mdb").open("rb") as file:
        first = _meta(file.read(_HEADER + _META.size), folder)
        # Of the first two pages, which take turns, the one of the later transaction holds.
        file.seek(first[_PAGE_SIZE])
        second = _meta(file.read(_HEADER + _META.size), folder)
    found: int = max(first, second, key=lambda meta: meta[_TRANSACTION])[_ENTRIES]
    return found


def _meta(page: bytes, folder: Path) -> tuple[int, ...]:
    if len(page) < _HEADER + _META.size:
        raise DataError(folder / "data.mdb", "ends within its first two pages; expected an LMDB")
    meta = _META.unpack_from(page, _HEADER)
    if meta[0] != _MAGIC:
        raise DataError(folder / "data.mdb", "is no LMDB, or one of a machine of another kind")
    return meta
