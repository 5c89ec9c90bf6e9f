"""Write results whole or not at all: into a folder beside the destination, synced, then moved into place."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.errors import PlanError

REPORT = "report.json"
TOOL = "surgery"


def check_destination(folder: Path, inputs: Iterable[Path]) -> None:
    """Raise PlanError unless `folder` is absent, or holds only what this tool wrote there, and is no input's."""
    resolved = _real(folder)
    for path in inputs:
        if resolved in (_real(path).parent, _real(path)):
            raise PlanError(f"-o {folder}: holds the input {path.name}; choose another folder")
    _check_contents(folder)


def _check_contents(folder: Path) -> None:
    if not folder.exists():
        if not folder.absolute().parent.is_dir():
            raise PlanError(f"-o {folder}: its parent folder does not exist; make it first")
        return
    if not folder.is_dir():
        raise PlanError(f"-o {folder}: is a file; expected a folder")
    foreign = {path.name for path in folder.iterdir()} - _made_here(folder)
    if foreign:
        raise PlanError(f"-o {folder}: holds '{min(foreign)}', which this tool did not write; choose another folder")


def _made_here(folder: Path) -> set[str]:
    """Return the names of the files that the folder's own report lists."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return set(report["files"]) if report["tool"] == TOOL else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; when the block ends well it takes the place of `folder`, else it vanishes.

    Killed at any moment, `folder` is absent, or holds what it held, or the complete new files. Raises PlanError when
    something foreign came into `folder` in the meantime.
    """
    folder = _real(folder)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    try:
        yield staging
        for path in staging.iterdir():
            _sync(path)
        _sync(staging)
        staging.chmod(0o777 & ~_umask())
        _check_contents(folder)
        _swap(staging, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _real(path: Path) -> Path:
    """Return where a path leads, links followed; a loop of links leads to itself."""
    return Path(os.path.realpath(path))


def _swap(staging: Path, folder: Path) -> None:
    """Put `staging` in the place of `folder`, and what stood there in the place of `staging`."""
    if not folder.exists():
        staging.rename(folder)
        return
    if _exchanged(staging, folder):
        return
    old = staging.with_suffix(".old")
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    old.rename(staging)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot (Linux can, on most of its file systems)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <stdio.h>
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_file(path: Path, inputs: Iterable[Path]) -> None:
    """Raise PlanError where `path` is a folder or an input, or its folder does not exist."""
    if not path.absolute().parent.is_dir():
        raise PlanError(f"-o {path}: its folder does not exist; make it first")
    if path.is_dir():
        raise PlanError(f"-o {path}: is a folder; expected the name of a file")
    if _real(path) in {_real(file) for file in inputs}:
        raise PlanError(f"-o {path}: is an input; choose another name")


@contextmanager
def staged_file(path: Path, inputs: Iterable[Path]) -> Iterator[Path]:
    """Give a path of the same name in a folder beside; when the block ends well it takes its place.

    So do other files that the block wrote there. Raises PlanError as `check_file` does.
    """
    check_file(path, inputs)
    path = _real(path)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    try:
        yield staging / path.name
        # The file itself comes last: until then the old one stands, or none.
        for written in sorted(staging.iterdir(), key=lambda file: file.name == path.name):
            _sync(written)
            written.chmod(0o666 & ~_umask())
            written.rename(path.with_name(written.name))
        _sync(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises PlanError as `check_file` does."""
    check_file(path, ())
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        # A name that is not UTF-8 holds lone surrogates: \udcff, as this writes them, is JSON's spelling too.
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
