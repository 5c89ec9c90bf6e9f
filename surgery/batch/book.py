"""The book of a batch, OUT/batch.json: what became of each model and what it was made from, so that a run goes on."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.errors import PlanError
from surgery.output import TOOL, check_destination, staged, write_file
from surgery.running import File

BOOK = "batch.json"
FORMAT = 1
UNEQUAL = "timings.json"  # It says how long things took, and so is never the same twice.


@dataclass(frozen=True)
class Row:
    """What became of a model: `done`, `failed`, `skipped` (no pair of files) or `waiting`, and why it is not done.

    `params` and `macs` are those before and after, `verified` is what the report says. `key` names what the result was
    made from, `results` holds the SHA-256 of each of its files that are the same in every run.
    """

    model: str
    status: str
    reason: str | None = None
    params: Sequence[int | None] = (None, None)
    macs: Sequence[int | None] = (None, None)
    verified: Mapping[str, Any] | None = None
    key: str | None = None
    results: Mapping[str, str] = field(default_factory=dict)


class Book:
    """The rows of a batch and the folders of their results, which only change together."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.rows = _read(output / BOOK)

    def check(self, models: Sequence[str]) -> None:
        """Raise PlanError unless the folder holds only what this tool wrote there, where the results will lie too."""
        if not self.output.exists() or not self.output.is_dir():
            check_destination(self.output, ())
            return
        known = {BOOK, *(PurePosixPath(model).parts[0] for model in self.rows)}
        # What a killed run left unfinished is hidden.
        names = {path.name for path in self.output.iterdir() if not path.name.startswith(".")}
        if names - known:
            found = min(names - known)
            raise PlanError(f"-o {self.output}: holds '{found}', which this tool did not write; choose another folder")
        for model in {*models, *self.rows}:
            if (self.output / model).exists():
                check_destination(self.output / model, ())

    def kept(self, model: str, key: str) -> bool:
        """Return whether the result made from what `key` names lies there, whole."""
        row = self.rows.get(model)
        if row is None or row.status != "done" or row.key != key:
            return False
        paths = {name: self.output / model / name for name in row.results}
        return all(path.is_file() and File.of(path).sha256 == row.results[name] for name, path in paths.items())

    def begin(self, models: Sequence[str]) -> None:
        """Enter the models that have no row yet: then it is known whose folders these are, should the run be killed."""
        self.output.mkdir(exist_ok=True)
        self.rows = {model: Row(model, "waiting") for model in models} | self.rows
        self._write()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a hidden folder on the same disk."""
        with tempfile.TemporaryDirectory(prefix=".batch.", dir=self.output) as folder:
            yield Path(folder)

    def enter(self, row: Row, result: Path | None) -> None:
        """Put a result in its place, or take an old one away, and write that down."""
        place = self.output / row.model
        if result is None:
            self._remove(row.model)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            with staged(place) as staging:
                for path in result.iterdir():
                    path.rename(staging / path.name)
        self.rows[row.model] = row
        self._write()

    def end(self, models: Sequence[str]) -> None:
        """Take away the results of models that are no more."""
        for model in self.rows.keys() - set(models):
            self._remove(model)
            del self.rows[model]
        self._write()

    def _remove(self, model: str) -> None:
        place = self.output / model
        if place.exists():
            check_destination(place, ())
            shutil.rmtree(place)
            with suppress(OSError):  # The first that is not empty.
                for parent in list(place.relative_to(self.output).parents)[:-1]:
                    (self.output / parent).rmdir()

    def _write(self) -> None:
        rows = [asdict(self.rows[model]) for model in sorted(self.rows)]
        text = json.dumps({"format": FORMAT, "tool": TOOL, "models": rows}, indent=1, ensure_ascii=False)
        write_file(self.output / BOOK, text + "\n")


def results(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a result that is the same in every run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != UNEQUAL)
    return {path.relative_to(folder).as_posix(): File.of(path).sha256 for path in paths}


def _read(path: Path) -> dict[str, Row]:
    """Return the rows of a book by model; none where it is missing or not of this tool's making."""
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in book["models"]] if (book["tool"], book["format"]) == (TOOL, FORMAT) else []
        return {row.model: row for row in rows if _is_below(row.model)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _is_below(model: str) -> bool:
    path = PurePosixPath(model)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
