"""The facts of a cut, as one value that every report is made from: before and after, layer by layer."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surgery.factor.threads import blas_threads
from surgery.formats import Source
from surgery.model import Model
from surgery.ops import collapse
from surgery.ops.arithmetic import multiplications
from surgery.output import TOOL
from surgery.plans import Cut, Plan
from surgery.report.spectra import spectra
from surgery.rewriting import Made, Rewritten
from surgery.survey import Survey, survey, total
from surgery.verify import AUTO_ENGINES, Verdict
from surgery.version import __version__

FORMAT = 2
_NUMBERS = re.compile(r"\[\n([-+.eE\d,\s]+)\]")  # No text holds it: a line break in one is spelled \\n.


def empty(
    plan: Plan, files: Sequence[str], source: Source, engines: Sequence[str] | None = AUTO_ENGINES
) -> dict[str, Any]:
    """Return the report of files that were copied as they are, or before anything is known of a cut.

    `files` are the names of what is written, `engines` as `surgery.pipeline.carry_out` takes them. Plain JSON values,
    no times and no dates, so that equal inputs give equal reports; docs/report.md says what each field is.
    """
    return {
        "tool": TOOL,
        "format": FORMAT,
        "versions": _versions(),
        "source": {"files": [file.name for file in source.files], "digest": plan.digest},
        "files": list(files),
        "command": command_for(source, plan, engines),
        "seed": plan.seed,
        "threads": plan.threads,
        "asked": plan.asked,
        "calibration": plan.calibration,
        "refit": plan.refit,
        "totals": None,
        "predicted": plan.predicted,
        "measured": None,
        "layers": [],
        "left": [{"layer": left.key, "reason": left.reason} for left in plan.left],
        "notes": [],
        "verified": None,
    }


def facts(
    known: Mapping[str, Any],
    before: Survey,
    cut: Model,
    result: Rewritten,
    plan: Plan,
    verdict: Verdict | None,
    notes: Sequence[str] = (),
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of a cut: what `empty` says of its plan, and what became of the network.

    `cut` is the cut model as read back from its files; sizes count one forward pass of the files' own batch size.
    """
    after = survey(cut, ())
    with blas_threads(plan.threads):
        layers = [_layer(before, after, result, made, plan) for made in result.made]
    return {
        **known,
        "totals": {"before": _totals(before), "after": _totals(after)},
        "measured": measured,
        "layers": layers,
        "notes": [*result.original.format.notes(result.original), *notes],
        "verified": _verified(verdict),
    }


def described(surveyed: Survey, plan: Plan | None, files: Sequence[str], source: Source) -> dict[str, Any]:
    """Return the report of a network as it is found, and of the plan that it is said to come from.

    What only the cut itself could tell (errors, spectra, the layers that came of each) is None or empty.
    """
    model = surveyed.model
    chosen = plan or Plan(model.format.digest(model), ())
    predicted = chosen.predicted or {}
    before = {name: (predicted.get(name) or [None])[0] for name in ("params", "macs")}
    return empty(chosen, files, source) | {
        "command": None,
        "source": {"files": [file.name for file in source.files], "digest": model.format.digest(model)},
        "totals": {"before": {**before, "weight_bytes": _weight_bytes(before["params"])}, "after": _totals(surveyed)},
        "layers": [_planned(cut) for cut in chosen.cuts],
    }


def as_json(report: Mapping[str, Any]) -> str:
    """Return a report as JSON text, lists of numbers in one line each."""
    text = json.dumps(report, indent=2, ensure_ascii=False)
    return _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n"


def command_for(source: Source, plan: Plan, engines: Sequence[str] | None) -> str:
    """Return the command that makes the same files again where the plan was written; names of files, no folders."""
    names = [file.name if not file.name.startswith("-") else f"./{file.name}" for file in source.files]
    options: list[str] = [] if source.phase == "TEST" else ["--phase", source.phase]
    options += [] if source.level is None else ["--level", str(source.level)]
    for stage in source.stages:
        options += ["--stage", stage]
    for name, shape in source.shapes:
        options += ["--shape", f"{name}={','.join(map(str, shape))}"]
    if plan.calibration is not None:
        options += ["--calibrate", str(plan.calibration.get("data"))]
    if engines is None or tuple(engines) != AUTO_ENGINES:
        options += ["--verify", "none" if engines is None else next(iter(engines), "layers")]
    return shlex.join([TOOL, "apply", *names, "plan.json", "-o", "DIR", *options])


def _versions() -> dict[str, str]:
    import scipy  # Loading SciPy takes longer than inspecting a network.

    return {TOOL: __version__, "numpy": np.__version__, "scipy": scipy.__version__}


def _totals(surveyed: Survey) -> dict[str, int | None]:
    return {"params": surveyed.params, "macs": surveyed.macs, "weight_bytes": _weight_bytes(surveyed.params)}


def _weight_bytes(params: int | None) -> int | None:
    return None if params is None else 4 * params


def _layer(before: Survey, after: Survey, result: Rewritten, made: Made, plan: Plan) -> dict[str, Any]:
    cut, fitted = made.cut, made.fitted
    became = result.model.format.made(result.model)
    names = list(dict.fromkeys(name for key in cut.keys for name in became[key]))
    old, new = [before.facts[key] for key in cut.keys], [after.facts[name] for name in names]
    return _cut(cut) | {
        "became": names,
        "params": [total([facts.params for facts in old]), total([facts.params for facts in new])],
        "macs": [total([facts.macs for facts in old]), total([facts.macs for facts in new])],
        "multiplications": _multiplications(before, made),
        "weight_error": fitted.fit.relative_error,
        "response_error": fitted.response_error,
        "refitted": fitted.refitted,
        "solver": fitted.fit.solver,
        **spectra(result.original, made, has_data=plan.calibration is not None),
    }


def _planned(cut: Cut) -> dict[str, Any]:
    """Return the row of a cut of which no more is known than its plan."""
    price = cut.price_by_measure
    return _cut(cut) | {
        "became": [],
        "params": list(price.get("params", (None, None))),
        "macs": list(price.get("macs", (None, None))),
        "multiplications": None,
        "weight_error": None,
        "response_error": None,
        "refitted": None,
        "solver": None,
        "spectra": [],
        "spectra_reason": "the network was not cut here",
    }


def _cut(cut: Cut) -> dict[str, Any]:
    return {
        "layer": " + ".join(cut.keys),
        "method": cut.method,
        "options": dict(cut.options),
        "rank": list(cut.rank),
    }


def _multiplications(before: Survey, made: Made) -> int | None:
    """Return the multiplications of a forward pass that weights of -1, 0 and 1 leave; None without such weights."""
    if made.cut.method != "sdd":
        return None
    chain, facts = made.fitted.fit.chain, before.facts[made.cut.key]
    size, op = facts.input_size or (1, 1), collapse(chain)
    own = op.macs(size) // len(made.chains) if len(made.chains) > 1 else op.macs(size)
    return multiplications(chain, size) * ((facts.macs or 0) // own) if own else None


def _verified(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    worst = verdict.worst
    return {
        "runtime": verdict.runtime,
        "reason": verdict.reason,
        "blobs": len(verdict.comparisons),
        "worst_blob": worst.blob,
        "worst_rel_l2": worst.rel_l2,
    }
