"""What a tuning leaves besides the model: facts, a report with its curve, the plan, the file of ternary layers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.editing import as_facts
from surgery.errors import VerificationError
from surgery.formats import digest
from surgery.model import Model, PerChannel, Refusal
from surgery.ops import Chain, Stage
from surgery.output import REPORT, TOOL
from surgery.pipeline import write_compact
from surgery.plans import Plan, to_json
from surgery.survey import survey
from surgery.ternary import ternary_layers
from surgery.tune.asked import Asked, settings
from surgery.tune.page import curve, render_html, render_markdown
from surgery.tune.parts import TERNARY, Part, Placed
from surgery.verify import Verdict

if TYPE_CHECKING:  # What other engines leave needs no PyTorch.
    from surgery.tune.targets import Score
    from surgery.tune.training import Trained

FORMAT = 1
FACTS, PLAN, CURVE = "tune.json", "plan.json", "curve.svg"

Scores = Mapping[str, "Score"]  # of "original", "cut" and "tuned"


@dataclass(frozen=True, eq=False)
class Outcome:
    """The files of the tuned network, or those to train it with, and all that is known of it."""

    files: tuple[Path, ...]
    facts: Mapping[str, Any]


def facts(
    asked: Asked,
    versions: Mapping[str, str],
    models: tuple[Model, Model],
    goal: Mapping[str, Any],
    scores: Mapping[str, Scores],
    steps: Sequence[tuple[str, Trained]],
    data: Mapping[str, Any],
    verdict: Verdict | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return all that is known of a tuning, as JSON values, without times and dates.

    `models` are the original and the tuned one; `scores` those of "held back" and, where there is any, "test" data.
    """
    sizes = [survey(model, ()) for model in models]
    return {
        "tool": TOOL,
        "format": FORMAT,
        "verb": "tune",
        "versions": dict(versions),
        "source": named(asked.cut.files),
        "teacher": named(asked.teacher.files),
        "params": [each.params for each in sizes],
        "macs": [each.macs for each in sizes],
        "data": dict(data),
        "settings": settings(asked) | {"engine": "torch"},
        "goal": dict(goal),
        "scores": {of: {name: asdict(score) for name, score in rows.items()} for of, rows in scores.items()},
        "steps": [{"cut": name, **asdict(trained)} for name, trained in steps],
        "notes": list(notes),
        "verified": as_facts(verdict),
    }


def write_texts(folder: Path, names: Iterable[str], known: Mapping[str, Any], plan: Plan | None) -> dict[str, Any]:
    """Write plan, facts, report and curve beside files of those names, and return the facts with the names of all."""
    texts = {} if plan is None else {PLAN: to_json(plan)}
    files = [*dict.fromkeys(names), *texts, FACTS, CURVE, "report.html", "report.md", REPORT]
    whole = {**known, "files": files}
    brief = {name: whole[name] for name in ("tool", "format", "verb", "source", "files", "notes", "verified")}
    texts |= {
        FACTS: as_json(whole),
        CURVE: curve(whole),
        "report.html": render_html(whole),
        "report.md": render_markdown(whole),
        REPORT: as_json(brief),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    return whole


def write_ternary(model: Model, placements: Sequence[Placed], path: Path) -> Sequence[Path]:
    """Write the layers of -1, 0 and 1 at 2 bits each, as a cut does; nothing where there are none."""
    found = {
        name: layer
        for placement in placements
        for chain in placement.chains.values()
        if any(TERNARY in part.kinds for part in chain)
        for name, layer in ternary_layers(_chain(model, chain), [part.key for part in chain]).items()
    }
    return write_compact(path, found)


def _chain(model: Model, parts: Sequence[Part]) -> Chain:
    return Chain(tuple(_stage(model, part) for part in parts))


def _stage(model: Model, part: Part) -> Stage:
    op = model.format.lift(model, model.node(part.key))
    if not isinstance(op, Refusal):
        return op
    scale = model.format.scale(model, model.node(part.key))
    if isinstance(scale, PerChannel):
        return scale.scale
    raise VerificationError(f"{part.key}: cannot be read back from the written files: {op.reason}")


def named(files: Sequence[Path]) -> dict[str, Any]:
    """Return what tells a model from others."""
    return {"files": [path.name for path in files], "digest": digest(files)}


def as_json(value: Mapping[str, Any]) -> str:
    """Return facts as the text of a file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
