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
from surgery.formats import Source
from surgery.model import Model
from surgery.output import REPORT, check_destination, staged
from surgery.plan import Plan, to_json
from surgery.report import facts
from surgery.rewrite import Rewritten, rewrite
from surgery.survey import Survey, survey
from surgery.verify import Verdict, verify_cut

AUTO_ENGINES = ("caffe", "opencv")

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
    return surveyed, choose(surveyed, request, model.format.digest(model))


def check_source(model: Model, plan: Plan) -> None:
    """Raise PlanError unless the plan was made for these files."""
    digest = model.format.digest(model)
    if digest != plan.digest:
        raise PlanError(f"the plan is for other files (digest {plan.digest[:12]}, these have {digest[:12]}); plan anew")


def carry_out(
    source: Source,
    model: Model,
    plan: Plan,
    folder: Path,
    engines: Sequence[str] | None,
    progress: Progress = lambda text, share: None,
) -> Outcome:
    """Cut `model` by `plan` and put the files, the plan and the report into `folder`.

    `engines` are tried in order to verify the written files; None verifies nothing. Raises NothingToCutError when the
    plan cuts nothing though it was asked to, VerificationError when the written files are wrong; then nothing is left.
    """
    check_destination(folder, source.files)
    if plan.left and not plan.cuts:
        raise NothingToCutError(tuple(f"{left.key}: {left.reason}" for left in plan.left))
    timings: dict[str, float] = {}
    with _timed(timings, "rewrite"):
        steps = len(plan.cuts) + 2
        done = iter(range(steps))
        result = rewrite(model, plan, lambda cut: progress(f"{cut.method} {cut.key}", next(done) / steps))
    with staged(folder) as staging:
        progress("writing", (steps - 2) / steps)
        with _timed(timings, "write"):
            paths = model.format.save(result.model, staging, source.files[0].stem)
        progress("verifying", (steps - 1) / steps)
        with _timed(timings, "verify"):
            cut = replace(source, files=paths).load(as_is=not plan.cuts)
            verdict = _verify(cut, result, paths, engines, plan.seed) if plan.cuts and engines is not None else None
        names = [path.name for path in paths] + ["plan.json", REPORT, "timings.json"]
        report = facts(survey(model), cut, result, plan, verdict, names, [f.name for f in source.files])
        (staging / "plan.json").write_text(to_json(plan), encoding="utf-8")
        (staging / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staging / "timings.json").write_text(json.dumps(timings, indent=2) + "\n", encoding="utf-8")
    progress("done", 1.0)
    return Outcome(folder, tuple(folder / path.name for path in paths), report, verdict)


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
