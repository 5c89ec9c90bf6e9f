"""The main flow: load, survey, choose, rewrite, write beside, verify what was written, move into place."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from surgery.choose import Request, choose
from surgery.errors import ModelError, NothingToCutError, PlanError
from surgery.factor.statistics import Statistics
from surgery.factor.threads import blas_threads
from surgery.formats import Source, copy, digest, is_onnx, stem_of
from surgery.model import Model
from surgery.ops import Chain
from surgery.output import REPORT, check_destination, staged
from surgery.plans import Cut, Plan, to_json
from surgery.report import as_json, empty, facts, render_html, render_markdown
from surgery.rewriting import Rewritten, rewrite
from surgery.survey import Survey, survey
from surgery.ternary import TernaryLayer, ternary_layers, write
from surgery.verify import AUTO_ENGINES as AUTO_ENGINES
from surgery.verify import Verdict, verify_cut

Progress = Callable[[str, float], None]  # what is being done, and what share of the whole is behind
Judge = Callable[[Model], Mapping[str, Any]]  # what is measured of a cut network, as JSON values


class Calibration(Protocol):
    """Data that cuts are fitted to."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What a plan remembers of it, as JSON values."""
        ...

    @property
    def statistics_bytes(self) -> int:
        """What the statistics of one layer take at most; they are held one layer at a time."""
        ...

    def mismatch(self, record: Mapping[str, Any]) -> str | None:
        """Return in what the data differs from what a plan remembers, None where it is the same."""
        ...

    def statistics_for(self, keys: tuple[str, ...], done: Mapping[str, Chain]) -> Statistics:
        """See `surgery.rewriting.StatisticsFor`."""
        ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What `carry_out` did: the files, the report's facts, and the seconds that it took, those of each cut by layer."""

    folder: Path
    files: tuple[Path, ...]
    report: Mapping[str, object]
    verdict: Verdict | None
    timings: Mapping[str, Any]


def make_plan(model: Model, request: Request) -> tuple[Survey, Plan]:
    """Return the plan that a request makes for a model."""
    surveyed = survey(model)
    with blas_threads(request.threads):  # A rank by energy comes from a spectrum.
        return surveyed, choose(surveyed, request, model.format.digest(model))


def check_source(files: Sequence[Path], plan: Plan) -> None:
    """Raise PlanError unless the plan was made for these files."""
    found = digest(files)
    if found != plan.digest:
        told = f"digest {plan.digest[:12]}, these have {found[:12]}"
        raise PlanError(f"the plan is for other files ({told}); give those, or plan anew")


def check_calibration(plan: Plan, calibration: Calibration | None) -> None:
    """Raise PlanError unless the data that a plan is fitted to is there: else the result would be silently worse."""
    if plan.calibration is None:
        return
    if calibration is None:
        raise PlanError(
            "the plan is fitted to calibration data; give it with --calibrate or --statistics, or take --weights-only"
        )
    reason = calibration.mismatch(plan.calibration)
    if reason:
        raise PlanError(f"the plan is fitted to other calibration data: {reason}; give the same, or plan anew")


def carry_out(
    source: Source,
    model: Model,
    plan: Plan,
    folder: Path,
    engines: Sequence[str] | None,
    progress: Progress = lambda text, share: None,
    calibration: Calibration | None = None,
    notes: Sequence[str] = (),
    judge: Judge | None = None,
) -> Outcome:
    """Cut `model` by `plan` and put the files, the plan and the report into `folder`.

    `engines` are tried in order to verify the written files; None verifies nothing. A plan that is fitted to data needs
    the `calibration` (see `check_calibration`). `notes` go into the report, and so does what `judge` measures of the
    cut network. Raises NothingToCutError for a plan
    without cuts (see `copy_through`), VerificationError when the written files are wrong; then nothing is left behind.
    """
    check_destination(folder, source.files)
    if not plan.cuts:
        raise NothingToCutError(tuple(f"{left.key}: {left.reason}" for left in plan.left))
    timings: dict[str, Any] = {}
    with _timed(timings, "rewrite"):
        steps = len(plan.cuts) + 2
        clock = _Clock(calibration, lambda done, text: progress(text, done / steps))
        result = rewrite(model, plan, clock.cut, clock.statistics_for if calibration is not None else None)
        timings["layers"] = clock.finished()
    with staged(folder) as staging:
        progress("writing", (steps - 2) / steps)
        with _timed(timings, "write"):
            paths = model.format.save(result.model, staging, stem_of(source.files))
            beside = _write_ternary(paths[0], result)
        progress("verifying", (steps - 1) / steps)
        with _timed(timings, "verify"):
            cut = replace(source, files=paths).load()
            verdict = _verify(cut, result, paths, engines, plan.seed) if engines is not None else None
        told = [*notes, *([] if calibration is None else [_told(calibration)])]
        measured = judge(cut) if judge is not None else None
        known = empty(plan, _names([*paths, *beside], staging), source, engines)
        with _timed(timings, "report"):
            report = facts(known, survey(model), cut, result, plan, verdict, told, measured)
        _write_records(staging, plan, report, timings)
    progress("done", 1.0)
    written = tuple(folder / path.relative_to(staging) for path in (*paths, *beside))
    return Outcome(folder, written, report, verdict, timings)


class _Clock:
    """Measures what each cut of a plan takes, the gathering of its statistics and the solve apart."""

    def __init__(self, calibration: Calibration | None, progress: Callable[[int, str], None]) -> None:
        self.calibration = calibration
        self.progress = progress
        self.layers: dict[str, dict[str, float]] = {}
        self.start = self.gathering = 0.0
        self.key: str | None = None

    def cut(self, cut: Cut) -> None:
        """Begin the next cut."""
        self.progress(len(self.layers) + bool(self.key), f"{cut.method} {' + '.join(cut.keys)}")
        self.finished()
        self.key, self.start, self.gathering = " + ".join(cut.keys), time.perf_counter(), 0.0

    def statistics_for(self, keys: tuple[str, ...], done: Mapping[str, Chain]) -> Statistics:
        """Gather statistics, and measure that."""
        assert self.calibration is not None
        start = time.perf_counter()
        statistics = self.calibration.statistics_for(keys, done)
        self.gathering = time.perf_counter() - start
        return statistics

    def finished(self) -> Mapping[str, Mapping[str, float]]:
        """End the last cut and return the seconds of all."""
        if self.key is not None:
            solve = time.perf_counter() - self.start - self.gathering
            row = {"statistics": self.gathering} if self.calibration is not None else {}
            self.layers[self.key] = {name: round(value, 4) for name, value in (row | {"solve": solve}).items()}
            self.key = None
        return self.layers


def copy_through(source: Source, folder: Path) -> Outcome:
    """Read the files and write them again byte for byte, with an empty plan: the first test of every file."""
    check_destination(folder, source.files)
    plan = Plan(digest(source.files), ())
    with staged(folder) as staging:
        paths = copy(source.files, staging)
        report = empty(plan, _names(paths, staging), source)
        _write_records(staging, plan, report, {})
    return Outcome(folder, tuple(folder / path.relative_to(staging) for path in paths), report, None, {})


def _told(calibration: Calibration) -> str:
    """Return what a reader of the report must know of the data."""
    record, size = calibration.record, calibration.statistics_bytes
    fed = "the original network's inputs" if record["symmetric"] else "what the cuts before each layer leave"
    return f"fitted to {record['images']} samples and {fed}; statistics took up to {size / 1e6:.0f} MB at a time"


def _write_ternary(model: Path, result: Rewritten) -> Sequence[Path]:
    names = result.model.format.made(result.model)
    found = {
        name: layer
        for made in result.made
        if made.cut.method == "sdd"
        for key, chain in made.chains.items()
        for name, layer in ternary_layers(chain, names[key]).items()
    }
    return write_compact(model, found)


def write_compact(model: Path, found: Mapping[str, TernaryLayer]) -> Sequence[Path]:
    """Write layers whose weights are -1, 0 and 1 at 2 bits each, for who builds a runtime; nothing without such.

    Beside an ONNX file that has the operator for it, the same file with these weights as int8 is written too.
    """
    if not found:
        return []
    written = [model.with_suffix(".ternary")]
    write(written[0], found, {})
    if is_onnx(model):
        from surgery.formats.onnx.ternary import with_int8

        small = model.with_suffix(".int8.onnx")
        with suppress(ModelError):  # An opset that has no DequantizeLinear.
            with_int8(model, small)
        written += [path for path in (small, small.with_name(f"{small.name}.data")) if path.exists()]
    return written


def _names(paths: Sequence[Path], folder: Path) -> list[str]:
    """Return what lies in `folder` itself when all is written; data of an ONNX model may lie in folders there."""
    made = dict.fromkeys(path.relative_to(folder).parts[0] for path in paths)
    return [*made, "plan.json", REPORT, "report.html", "report.md", "timings.json"]


def _write_records(folder: Path, plan: Plan, report: Mapping[str, object], timings: Mapping[str, Any]) -> None:
    texts = {
        "plan.json": to_json(plan),
        REPORT: as_json(report),
        "report.html": render_html(report),
        "report.md": render_markdown(report),
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
def _timed(timings: dict[str, Any], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - start, 3)
