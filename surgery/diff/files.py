"""Whether two models are the same files, told without reading them as models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.formats import is_onnx, named

BLOCK = 1 << 22  # bytes


def are_identical(first: Sequence[Path], second: Sequence[Path]) -> bool:
    """Return whether the files hold the same bytes, in the order in which they are given, data files included.

    Raises OSError for files that cannot be read.
    """
    if not _all_equal(first, second):
        return False
    if not any(is_onnx(path) for path in first):
        return True
    # Only of ONNX files that are alike one must look inside: which data files they name.
    return _all_equal(*(list(named(files).values()) for files in (first, second)))


def _all_equal(first: Sequence[Path], second: Sequence[Path]) -> bool:
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(first: Path, second: Path) -> bool:
    if first.samefile(second):
        return True
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as a, second.open("rb") as b:
        while block := a.read(BLOCK):
            if block != b.read(BLOCK):
                return False
    return True
