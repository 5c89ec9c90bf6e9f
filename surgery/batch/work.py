"""What a batch does with one model: all that `surgery compress` does, on files given by name."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.choose import Request
from surgery.formats import Source
from surgery.pipeline import Outcome, carry_out, copy_through
from surgery.planning import make_plan
from surgery.planning.means import NONE, Means

RESULT = "result"


def compress(
    files: Mapping[str, Path],
    folder: Path,
    *,
    names: Sequence[str],
    reading: Source,
    request: Request | None,
    engines: Sequence[str] | None,
    means: Means = NONE,
) -> dict[str, Any]:
    """Compress the model that `names` among `files` load, into `folder`; see `surgery.running.task.Function`.

    Without a request the files are copied. Raises SurgeryError as `surgery compress` does.
    """
    start = time.perf_counter()
    source = replace(reading, files=tuple(files[name] for name in names))
    report: Any = _carried_out(source, folder / RESULT, request, engines, means).report
    totals = report["totals"] or {"before": {}, "after": {}}
    share = {name: [totals[when].get(name) for when in ("before", "after")] for name in ("params", "macs")}
    return {**share, "verified": report["verified"], "seconds": round(time.perf_counter() - start, 3)}


def _carried_out(
    source: Source, folder: Path, request: Request | None, engines: Sequence[str] | None, means: Means
) -> Outcome:
    if request is None:
        return copy_through(source, folder)
    model = source.load()
    return carry_out(source, model, make_plan(source, model, request, means), folder, engines)
