"""Find the models below a folder: ONNX files, and files of Caffe weights with the prototxt that fits them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.errors import SurgeryError
from surgery.formats import Source, is_onnx, is_weights, named, weights_of

SHOWN = 3


@dataclass(frozen=True)
class Found:
    """A model: the path of its ONNX file or weights below the folder, all its files, and those it is loaded from."""

    model: str
    files: tuple[Path, ...]
    loaded: tuple[Path, ...]


@dataclass(frozen=True)
class Unpaired:
    """A file that holds a model's weights or should hold a model, and why it cannot be loaded."""

    model: str
    reason: str


def find(folder: Path, reading: Source) -> list[Found | Unpaired]:
    """Return the models below `folder`, sorted; hidden files and folders are left out.

    `reading` says how a prototxt is read. Raises OSError for a folder that cannot be read.
    """
    return sorted((_found(path, folder, reading) for path in _paths(folder)), key=lambda found: found.model)


def _paths(folder: Path) -> Iterator[Path]:
    """Yield ONNX files and caffemodels; other HDF5 files are data, or what a solver keeps."""
    for parent, folders, names in os.walk(folder, onerror=_raised):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent) / name for name in names if not name.startswith(".")):
            if path.is_file() and (is_onnx(path) or (is_weights(path) and ".caffemodel" in path.name.lower())):
                yield path


def _raised(error: OSError) -> None:
    raise error


def _found(path: Path, folder: Path, reading: Source) -> Found | Unpaired:
    name = path.relative_to(folder).as_posix()
    try:
        if is_onnx(path):
            return Found(name, tuple(named((path,)).values()), (path,))
        pair = _pair(path, reading)
    except SurgeryError as error:
        return Unpaired(name, _plain(error, path.parent))
    return Found(name, pair, pair) if isinstance(pair, tuple) else Unpaired(name, pair)


def _pair(stored: Path, reading: Source) -> tuple[Path, ...] | str:
    """Return prototxt and weights, or why no prototxt in the same folder is the one.

    Of those that fit, the one of the same name is meant; then one that reads no data, leaves the fewest weights over
    and is called deploy. Raises SurgeryError for weights that cannot be read.
    """
    names = {name for name, _, shapes in weights_of(stored) if shapes}
    fits: dict[Path, tuple[bool, int, bool, bool]] = {}
    reasons = []
    for path in sorted(stored.parent.glob("*.prototxt"), key=lambda path: (not _same_name(path, stored), path.name)):
        rank = _rank(path, stored, names, reading)
        if isinstance(rank, str):
            reasons.append(f"{path.name}: {rank}")
        elif _same_name(path, stored) and not rank[0]:
            return path, stored
        else:
            fits[path] = rank
    best = [path for path, rank in fits.items() if rank == min(fits.values())]
    if len(best) == 1:
        return best[0], stored
    if best:
        return (
            f"fits {_listed([path.name for path in best])} equally; give one of them the name {_stem(stored)}.prototxt"
        )
    return f"no prototxt beside it fits: {_listed(reasons)}" if reasons else "there is no prototxt beside it"


def _rank(path: Path, stored: Path, names: set[str], reading: Source) -> tuple[bool, int, bool, bool] | str:
    """Return how well a prototxt serves these weights, the lower the better, or why it does not."""
    try:
        model = replace(reading, files=(path, stored)).load()
        facts = model.format.facts(model)
    except SurgeryError as error:
        return _plain(error, path.parent)
    missing = [node.key for node in model.nodes if facts[node.key].params and node.key not in names]
    if missing:
        return f"the weights of '{missing[0]}' are missing"
    needs_data = model.format.runnable(model).unready is not None
    unused = len(names - {node.key for node in model.nodes})
    return needs_data, unused, not _same_name(path, stored), "deploy" not in path.name.lower()


def _same_name(path: Path, stored: Path) -> bool:
    return path.stem == _stem(stored)


def _stem(stored: Path) -> str:
    """Return a name without its ending, which may be .caffemodel.h5."""
    return stored.stem.removesuffix(".caffemodel")


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def _plain(error: SurgeryError, folder: Path) -> str:
    return str(error).split("\n", 1)[0].replace(f"{folder}{os.sep}", "")
