"""The main flow: load, survey, choose, rewrite, write beside, verify what was written, move into place."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.choose import Request, choose
from surgery.errors import NothingToCutError, PlanError
from surgery.factor.threads import blas_threads
from surgery.formats import Source, copy, digest, stem_of
from surgery.model import Model
from surgery.output import REPORT, check_destination, staged
from surgery.plans import Plan, to_json
from surgery.report import empty, facts
from surgery.rewriting import Rewritten, rewrite
from surgery.survey import Survey, survey
from surgery.verify import AUTO_ENGINES as AUTO_ENGINES
from surgery.verify import Verdict, verify_cut

Progress = Callable[[str, float], None]  # what is being done, and what share of the whole is behind


@dataclass(frozen=True, eq=False)
class Outcome:
    """What `carry_out` did: the files, and the report's facts."""

    folder: Path
    files: tuple[Path, ...]
    report: Mapping[str, object]
    verdict: Verdict | None


def make_plan(model: Model, request: Request) -> tuple[Survey, Plan]:
    """Return the plan that a request makes for a model."""
    surveyed = survey(model)
    with blas_threads(request.threads):  # A rank by energy comes from a spectrum.
        return surveyed, choose(surveyed, request, model.format.digest(model))


def check_source(files: Sequence[Path], plan: Plan) -> None:
    """Raise PlanError unless the plan was made for these files."""
    found = digest(files)
    if found != plan.digest:
        raise PlanError(f"the plan is for other files (digest {plan.digest[:12]}, these have {found[:12]}); plan anew")


def carry_out(
    source: Source,
    model: Model,
    plan: Plan,
    folder: Path,
    engines: Sequence[str] | None,
    progress: Progress = lambda text, share: None,
) -> Outcome:
    """Cut `model` by `plan` and put the files, the plan and the report into `folder`.

    `engines` are tried in order to verify the written files; None verifies nothing. Raises NothingToCutError for a plan
    without cuts (see `copy_through`), VerificationError when the written files are wrong; then nothing is left behind.
    """
    check_destination(folder, source.files)
    if not plan.cuts:
        raise NothingToCutError(tuple(f"{left.key}: {left.reason}" for left in plan.left))
    timings: dict[str, float] = {}
    with _timed(timings, "rewrite"):
        steps = len(plan.cuts) + 2
        done = iter(range(steps))
        result = rewrite(model, plan, lambda cut: progress(f"{cut.method} {cut.key}", next(done) / steps))
    with staged(folder) as staging:
        progress("writing", (steps - 2) / steps)
        with _timed(timings, "write"):
            paths = model.format.save(result.model, staging, stem_of(source.files))
        progress("verifying", (steps - 1) / steps)
        with _timed(timings, "verify"):
            cut = replace(source, files=paths).load()
            verdict = _verify(cut, result, paths, engines, plan.seed) if engines is not None else None
        names = _names(paths, staging)
        report = facts(survey(model), cut, result, plan, verdict, names, [f.name for f in source.files])
        _write_records(staging, plan, report, timings)
    progress("done", 1.0)
    return Outcome(folder, tuple(folder / path.relative_to(staging) for path in paths), report, verdict)


def copy_through(source: Source, folder: Path) -> Outcome:
    """Read the files and write them again byte for byte, with an empty plan: the first test of every file."""
    check_destination(folder, source.files)
    plan = Plan(digest(source.files), ())
    with staged(folder) as staging:
        paths = copy(source.files, staging)
        report = empty(plan, _names(paths, staging), [file.name for file in source.files])
        _write_records(staging, plan, report, {})
    return Outcome(folder, tuple(folder / path.relative_to(staging) for path in paths), report, None)


def _names(paths: Sequence[Path], folder: Path) -> list[str]:
    """Return what lies in `folder` itself when all is written; data of an ONNX model may lie in folders there."""
    made = dict.fromkeys(path.relative_to(folder).parts[0] for path in paths)
    return [*made, "plan.json", REPORT, "timings.json"]


def _write_records(folder: Path, plan: Plan, report: Mapping[str, object], timings: Mapping[str, float]) -> None:
    texts = {
        "plan.json": to_json(plan),
        REPORT: json.dumps(report, indent=2, ensure_ascii=False) + "\n",
        "timings.json": json.dumps(timings, indent=2) + "\n",
    }
    for name, text in texts.items():
        # A name that is not UTF-8 holds lone surrogates: \udcff, as this writes them, is JSON's spelling too.
        (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def _verify(cut: Model, result: Rewritten, paths: Sequence[Path], engines: Sequence[str], seed: int) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        reference = result.reference()
        reference_paths = reference.format.save(reference, Path(scratch), "reference")
        made = result.model.format.made(result.model)
        return verify_cut(cut, reference, made, (paths, reference_paths), engines, seed=seed)


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - start, 3)
