"""Compress every model below a folder, as independent tasks; what one run finished the next does not do again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from surgery.batch.book import Book, Row, results
from surgery.batch.finding import Found, find
from surgery.batch.work import RESULT, compress
from surgery.choose import Request
from surgery.errors import PlanError
from surgery.formats import Source
from surgery.planning.means import NONE, Means
from surgery.running import Failure, File, Outcome, Runner, Task

Progress = Callable[[str, float], None]


def batch(
    folder: Path,
    output: Path,
    reading: Source,
    request: Request | None,
    engines: Sequence[str] | None,
    runner: Runner,
    progress: Progress = lambda text, share: None,
    means: Means = NONE,
) -> tuple[list[Row], dict[str, float]]:
    """Compress the models below `folder` into folders of the same paths below `output`, and write its book.

    Returns a row for each model, sorted, and the seconds of those that were done now. `reading` (its files are not
    looked at), `request`, `engines` and `means` (a table, a runtime) are for all of them; see `surgery.pipeline`
    and `surgery.planning`. Raises PlanError where there is no model, or `output` holds what this tool did not write.
    """
    _check_apart(folder, output)
    found = find(folder, reading)
    if not found:
        raise PlanError(
            f"{folder}: no model is below it; expected .onnx files, or prototxt and caffemodel in one folder"
        )
    models = [model.model for model in found]
    book = Book(output)
    book.check(models)
    tasks = {one.model: _task(one, reading, request, engines, means) for one in found if isinstance(one, Found)}
    book.begin(models)
    for one in found:
        if not isinstance(one, Found):
            book.enter(Row(one.model, "skipped", one.reason), None)
    todo = [model for model, task in tasks.items() if not book.kept(model, task.key)]
    seconds = {}
    # The largest first, so that none of them is left over at the end for one worker.
    todo.sort(key=lambda model: -sum(file.path.stat().st_size for file in tasks[model].files.values()))
    with book.scratch() as scratch, closing(runner.map([tasks[model] for model in todo], scratch)) as outcomes:
        for done, (i, outcome) in enumerate(outcomes, start=1):
            book.enter(_row(todo[i], tasks[todo[i]].key, outcome), _result(outcome))
            if not isinstance(outcome, Failure):
                seconds[todo[i]] = float(outcome.value["seconds"])
            progress(todo[i], done / len(todo))
    book.end(models)
    return [book.rows[model] for model in models], seconds


def _check_apart(folder: Path, output: Path) -> None:
    if not folder.is_dir():
        raise PlanError(f"{folder}: " + ("is a file; expected a folder" if folder.exists() else "no such folder"))
    one, other = (Path(os.path.realpath(path)) for path in (folder, output))
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise PlanError(f"-o {output}: it and {folder} must not lie in each other; choose another folder")


def _task(one: Found, reading: Source, request: Request | None, engines: Sequence[str] | None, means: Means) -> Task:
    root = one.loaded[0].parent
    names: Mapping[Path, str] = {path: os.path.relpath(path, root).replace(os.sep, "/") for path in one.files}
    arguments = {
        "names": tuple(names[path] for path in one.loaded),
        "reading": reading,
        "request": request,
        "engines": None if engines is None else tuple(engines),
        "means": means,
    }
    return Task(compress, arguments, {name: File.of(path) for path, name in names.items()})


def _row(model: str, key: str, outcome: Outcome) -> Row:
    if isinstance(outcome, Failure):
        return Row(model, "failed", outcome.reason, key=key)
    value = outcome.value
    made = results(outcome.folder / RESULT)
    return Row(model, "done", None, value["params"], value["macs"], value["verified"], key, made)


def _result(outcome: Outcome) -> Path | None:
    return None if isinstance(outcome, Failure) else outcome.folder / RESULT
