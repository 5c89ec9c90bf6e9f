"""HDF5 as Caffe's HDF5Data reads it: a text that names files, and in each one dataset for a blob, sample by sample."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from surgery.calibrate.array_file import Array
from surgery.calibrate.data import Blobs, Data, lines
from surgery.errors import DataError, PlanError
from surgery.measure.outputs import Labels
from surgery.model import Shape

LABEL = "label"  # the dataset of classes, as Caffe's examples call it
SUFFIXES = frozenset((".h5", ".hdf5"))
FILE_BYTES = 1 << 28  # Caffe holds one file in memory at a time.


def h5py() -> Any:
    """Return the module h5py; raises PlanError where it is not installed."""
    try:
        import h5py as module
    except ImportError:
        raise PlanError("training samples for Caffe are HDF5, which takes h5py: pip install 'surgery[hdf5]'") from None
    return module


class Writer:
    """Writes samples into files of at most FILE_BYTES, named in `<stem>.txt`."""

    def __init__(self, folder: Path, stem: str, rows: int) -> None:
        """Begin; `rows` samples will come."""
        self._folder, self._stem, self._rows = folder, stem, rows
        self._files: list[str] = []
        self._file: Any = None
        self._left = 0  # rows of the open file that are to come

    def add(self, blobs: Mapping[str, Array]) -> None:
        """Write the next samples, an array with as many rows for each dataset."""
        count, done = len(next(iter(blobs.values()))), 0
        while done < count:
            if not self._left:
                self._open(blobs)
            taken = min(self._left, count - done)
            for name, array in blobs.items():
                dataset = self._file[name]
                start = len(dataset) - self._left
                dataset[start : start + taken] = array[done : done + taken]
            self._left -= taken
            done += taken

    def close(self) -> Path:
        """Finish and return the text."""
        if self._file is not None:
            self._file.close()
        path = self._folder / f"{self._stem}.txt"
        write_names(path, [Path(name) for name in self._files])
        return path

    def _open(self, blobs: Mapping[str, Array]) -> None:
        if self._file is not None:
            self._file.close()
        row = 4 * sum(array[0].size for array in blobs.values())
        rows = min(max(1, FILE_BYTES // row), self._rows)
        self._rows -= rows
        self._files.append(f"{self._stem}{len(self._files)}.h5")
        self._file, self._left = h5py().File(self._folder / self._files[-1], "w"), rows
        for name, array in blobs.items():
            self._file.create_dataset(name, (rows, *array.shape[1:]), np.float32)


def write_names(path: Path, files: Sequence[Path]) -> None:
    """Write the text that names files; raises DataError for a name with white space, where Caffe would end it."""
    for file in files:
        if any(letter.isspace() for letter in str(file)):
            raise DataError(file, "Caffe reads no HDF5 file with white space in its path; rename it")
    path.write_text("".join(f"{file}\n" for file in files), encoding="utf-8")


def files_of(path: Path) -> list[Path]:
    """Return the .h5 files that a text names, or the one that `path` is; raises DataError.

    Caffe takes names as seen from where it runs, and so does this where there is such a file; else as seen from the
    text.
    """
    if path.suffix.lower() in SUFFIXES:
        return [path.absolute()]
    names = [line.strip() for _, line in lines(path, "expected names of .h5 files") if line.strip()]
    files = [(Path(name) if Path(name).is_file() else path.parent / name).absolute() for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None or not files:
        raise DataError(path, f"no such file: {missing}" if missing else "names no .h5 file")
    return files


def rows_of(path: Path) -> int:
    """Return how many samples the files hold; raises DataError."""
    return sum(_count(file, LABEL) for file in files_of(path))


def data_of(path: Path, inputs: Mapping[str, Shape]) -> tuple[Data, Labels | None]:
    """Return the samples, whose datasets are called like the network's inputs, and their classes where there are any.

    Raises DataError.
    """
    files = files_of(path)
    for name, shape in inputs.items():
        for file in files:
            with opened(file) as held:
                if name not in held or held[name].shape[1:] != shape[1:]:
                    found = f"is {held[name].shape}" if name in held else "is not in it"
                    raise DataError(file, f"'{name}' {found}; expected {(len(_any(held)), *shape[1:])}")
    ends = list(accumulate(_count(file, next(iter(inputs))) for file in files))

    def read(i: int) -> Blobs:
        which = bisect_right(ends, i)
        with opened(files[which]) as held:
            return {name: np.asarray(held[name][i - ends[which]], np.float32) for name in inputs}

    digest = hashlib.sha256(b"".join(_digest(file) for file in files)).hexdigest()
    return Data(path, ends[-1], digest, None, read), _labels(files)


def _labels(files: Sequence[Path]) -> Labels | None:
    found = []
    for file in files:
        with opened(file) as held:
            if LABEL not in held:
                return None
            found.append(np.asarray(held[LABEL]).reshape(-1).astype(np.int64))
    return np.concatenate(found)


def _count(file: Path, name: str) -> int:
    with opened(file) as held:
        if name not in held:
            raise DataError(file, f"has no dataset '{name}'; it holds {', '.join(held)}")
        return len(held[name])


def _any(held: Any) -> Any:
    return held[next(iter(held))]


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").digest()


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """Open a file to read; raises DataError for one that is damaged."""
    try:
        held = h5py().File(file, "r")
    except OSError as error:
        raise DataError(file, f"is no HDF5: {error}") from error
    with held:
        yield held
