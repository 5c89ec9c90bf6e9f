"""What goes into a parcel, and what is read of it before anything is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.calibrate import Preprocess, read_preprocess
from surgery.calibrate.transform_param import stated
from surgery.errors import DataError
from surgery.formats import Source
from surgery.model import Model
from surgery.output import TOOL
from surgery.package import preprocessing
from surgery.package.golden import LEAST_SAMPLES
from surgery.plans import Plan, from_json
from surgery.report import FORMAT as REPORT_FORMAT
from surgery.report import read_timings, render_html, render_markdown
from surgery.survey import survey

TEXT_BYTES = 1 << 24  # of a text that goes along as it is


@dataclass(frozen=True)
class Asked:
    """What goes into a parcel.

    Attributes:
        source: the network.
        target: a key of `surgery.targets.PROFILES`.
        batch: of the network in the parcel.
        allow: names of portable rewrites that may be done.
        has_twin: whether the network goes along as ONNX too.
        preprocess: how pictures become inputs, as JSON; None for what the network's transform_param says.
        mean: a mean's file, where the preprocessing has none.
        inputs: data for the golden vectors; None for random inputs.
        samples: how many golden vectors are made.
        seed: of the random inputs.
        labels: names of the classes, one a line.
        plan: the cuts that the network comes from.
        report: the report.json of the command that cut it.
        timings: measured times.
        licence: of the original network.
        note: where the original comes from.
    """

    source: Source
    target: str
    batch: int = 1
    allow: tuple[str, ...] = ()
    has_twin: bool = False
    preprocess: Path | None = None
    mean: Path | None = None
    inputs: Path | None = None
    samples: int = LEAST_SAMPLES
    seed: int = 0
    labels: Path | None = None
    plan: Path | None = None
    report: Path | None = None
    timings: Path | None = None
    licence: Path | None = None
    note: str | None = None

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        texts = (self.labels, self.plan, self.report, self.timings, self.licence)
        beside = (self.preprocess, self.mean, self.inputs, *texts)
        return [*self.source.files, *(path for path in beside if path is not None)]


@dataclass(frozen=True, eq=False)
class Beside:
    """What is given beside the network: texts that go along by their names in a parcel, and what some of them say."""

    texts: Mapping[str, bytes]
    plan: Plan | None
    report: Mapping[str, Any] | None
    timings: Mapping[str, Any] | None
    how: Preprocess | None


def read(asked: Asked, original: Model) -> Beside:
    """Read what is given beside the network `original`; raises DataError and PlanError."""
    given = {
        "labels.txt": asked.labels,
        "plan.json": asked.plan,
        "timings.json": asked.timings,
        "LICENSE.txt": asked.licence,
    }
    texts = {name: _text(path, name) for name, path in given.items() if path is not None}
    texts |= {} if asked.note is None else {"SOURCE.txt": (asked.note + "\n").encode("utf-8", "replace")}
    stated_how = read_preprocess(asked.preprocess) if asked.preprocess else stated(original)
    return Beside(
        texts,
        from_json(texts["plan.json"].decode("utf-8", "replace"), asked.plan) if asked.plan else None,
        _report(asked.report, original) if asked.report else None,
        read_timings(texts["timings.json"].decode("utf-8", "replace"), asked.timings) if asked.timings else None,
        preprocessing.with_mean(stated_how, asked.mean),
    )


def _report(path: Path, model: Model) -> Mapping[str, Any]:
    """Return the facts of a report; raises DataError where it is none, or not this network's."""
    try:
        report = json.loads(_text(path, "report.json"))
        told = report["tool"], report["format"], report["totals"]["after"]["params"]
        render_markdown(report)
        render_html(report)
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            path, "is no report of a cut; expected the report.json that `surgery compress` wrote"
        ) from error
    if told != (TOOL, REPORT_FORMAT, params := survey(model, ()).params):
        found = f"is of {told[0]!s:.40}, format {told[1]!s:.40}, and of a network of {told[2]!s:.40} parameters"
        raise DataError(path, f"{found}; expected {TOOL}, format {REPORT_FORMAT}, and {params} parameters")
    return dict(report)


def _text(path: Path, name: str) -> bytes:
    if not path.is_file() or path.stat().st_size > TEXT_BYTES:
        raise DataError(path, f"is no file of at most {TEXT_BYTES} bytes, as {name} of a parcel must be")
    return path.read_bytes()
