"""The true classes of data: from a text that states them in order or by name, or from a Caffe list itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from surgery.calibrate.data import ARRAYS, Data, in_folder, in_list, lines
from surgery.errors import DataError
from surgery.measure.outputs import Labels

LARGEST = 1 << 31
_EXPECTED = "expected a whole number from 0 in each line, or a picture's name and such a number in each"

Row = tuple[str, int]  # a picture's name, "" where none is stated, and its label


def labels_of(data: Data, path: Path | None) -> Labels | None:
    """Return the class of each of the images (images,), None where nothing tells; see `labels_for`.

    Raises DataError for fewer labels than the data have images.
    """
    found = labels_for(data.path, path)
    return None if found is None else chosen(found, data, path)


def chosen(labels: Labels, data: Data, path: Path | None = None) -> Labels:
    """Return those of the labels of all images at the data's path that are of these images; raises DataError."""
    numbers = range(data.count) if data.numbers is None else data.numbers
    if len(labels) <= max(numbers):
        found = f"states {len(labels)} labels for {max(numbers) + 1} samples or more"
        raise DataError(path or data.path, f"{found}; expected one for each")
    result: Labels = labels[np.asarray(numbers)]
    return result


def labels_for(data: Path, path: Path | None) -> Labels | None:
    """Return the class of each of the data's images (images,), in their order, counted from 0.

    `path` is a text with one number for each image, or with lines "name number", a name being a picture's path as seen
    from the folder or the list, or the last part of that. Without it a list of pictures gives its own labels; None for
    lists that have none, and for other data.

    Raises DataError for a text that is neither, and for pictures without a label.
    """
    is_list = data.is_file() and data.suffix.lower() not in ARRAYS
    if path is None:
        return _own(data, in_list(data)) if is_list else None
    if not path.is_file():
        raise DataError(path, "no such file; the labels are to be in a text")
    rows = _rows(path)
    if not rows[0][0]:
        return np.array([label for _, label in rows], np.int64)
    if is_list:
        return _by_name(path, rows, [name for name, _ in in_list(data)])
    if not data.is_dir():
        raise DataError(path, f"states labels by name, which the images of {data} do not have; give numbers alone")
    return _by_name(path, rows, [picture.relative_to(data).as_posix() for picture in in_folder(data)])


def _own(data: Path, rows: Sequence[tuple[str, str]]) -> Labels | None:
    """Return the labels that a list states, None where it states none."""
    if not any(label for _, label in rows):
        return None
    numbers = [_number(label) for _, label in rows]
    wrong = next((name for (name, _), number in zip(rows, numbers, strict=True) if number is None), None)
    if wrong is not None:
        raise DataError(data, f"'{wrong}' has no label from 0, and others have one; label all of them, or none")
    return np.array(numbers, np.int64)


def _rows(path: Path) -> list[Row]:
    """Return the rows of a text, which all have a name or all have none."""
    found: list[Row] = []
    for place, line in lines(path, _EXPECTED):
        if not line.strip():
            continue
        *name, label = line.rsplit(maxsplit=1)
        number = _number(label)
        if number is None or (found and bool(found[0][0]) != bool(name)):
            raise DataError(f"{path}:{place}", f"is '{line.strip()[:60]}'; {_EXPECTED}")
        found.append(("".join(name).strip(), number))
    if not found:
        raise DataError(path, f"holds no labels; {_EXPECTED}")
    return found


def _number(text: str) -> int | None:
    # Longer digits than Python reads are no class either.
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST))
    return int(text) if is_number and int(text) < LARGEST else None


def _by_name(path: Path, rows: Sequence[Row], names: Sequence[str]) -> Labels:
    stated: Mapping[str, int] = dict(rows)
    found = [stated.get(name, stated.get(name.rpartition("/")[2])) for name in names]
    missing = next((name for name, label in zip(names, found, strict=True) if label is None), None)
    if missing is not None:
        raise DataError(path, f"has no label for '{missing}'")
    return np.array(found, np.int64)
