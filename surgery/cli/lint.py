"""`surgery lint`: what Caffe would do with these files, silently or not, and whether a target can run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.targets.profiles import PROFILES
from surgery.targets.rewrites import REWRITES

if TYPE_CHECKING:
    from surgery.formats.caffe.finding import Finding
    from surgery.targets import Answer

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@click.option(
    "--target",
    type=click.Choice(tuple(PROFILES)),
    help="Judge by this runtime alone, and say whether it can run the network; default: all Caffes.",
)
@click.option(
    "--rewrite",
    "rewrites",
    multiple=True,
    type=click.Choice(tuple(REWRITES)),
    help="With --target: a portable rewrite that may be done; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def lint(
    files: tuple[Path, ...], target: str | None, rewrites: tuple[str, ...], *, as_json: bool, **network: Any
) -> None:
    """Tell what Caffe would refuse, drop or do in silence: a prototxt, weights, or both.

    Exit code 1 when there is an error: something that Caffe aborts on or computes wrongly. With --target it answers
    whether that runtime can run the network as `surgery package` makes it ready: what that mends is a warning, and
    every reason against it is told.

    \b
    Examples:
      surgery lint deploy.prototxt net.caffemodel
      surgery lint deploy.prototxt --target caffe-android-lib
      surgery lint mobilenet.prototxt --target caffe-1.0 --rewrite relu6 --rewrite depthwise
    """
    from surgery.errors import PlanError
    from surgery.formats import split

    if rewrites and target is None:
        raise PlanError("--rewrite: is for a target; name it with --target")
    definition, stored = split(files, needs_definition=False)
    found = _findings(definition, stored, target, network)
    judged = _answer(files, target, rewrites, network) if target is not None and definition is not None else None
    if judged is not None and not judged.problems:
        found = [_mended(finding) if finding.severity == "error" else finding for finding in found]
    click.echo(_json(found, target, judged) if as_json else "\n".join(_text(found, target, judged)))
    if any(finding.severity == "error" for finding in found) or (judged is not None and judged.problems):
        raise SystemExit(1)


def _findings(
    definition: Path | None, stored: Path | None, target: str | None, network: dict[str, Any]
) -> list[Finding]:
    """Return what is to be said of Caffe's files as they stand; nothing where the target reads no such files."""
    from surgery.errors import ModelError
    from surgery.formats import is_onnx
    from surgery.formats.caffe import lint as lints
    from surgery.formats.caffe import text
    from surgery.formats.caffe.netstate import NetState, state_of

    if definition is not None and is_onnx(definition):
        if target is None:
            raise ModelError(
                f"{definition}: is an ONNX model; lint tells what Caffe does with a prototxt and its weights, or with "
                "--target whether a runtime can run the model"
            )
        return []
    if target is not None and PROFILES[target].reader is None:
        return []
    phase, level, stages = network["phase"], network["level"], network["stages"]
    state = NetState(phase, level or 0, stages)
    if definition is not None:
        state = state_of(text.read(definition), phase=phase, level=level, stages=stages)
    stated = dict(options.parse_shape(shape) for shape in network["shapes"])
    return lints.lint(definition, stored, state=state, input_shapes=stated, target=target)


def _answer(files: tuple[Path, ...], target: str, rewrites: Sequence[str], network: dict[str, Any]) -> Answer:
    """Return whether the target can run the network; files that make none are a reason against it."""
    from surgery.errors import ModelError, ParseError
    from surgery.targets import Answer, Problem, answer

    source = options.source(files, network["shapes"], network["phase"], network["level"], network["stages"])
    try:
        return answer(source, target, allow=rewrites)
    except (ModelError, ParseError) as error:
        where, _, reason = str(error).partition("\n")[0].partition(": ")
        return Answer((Problem(where, "no-network", reason or where),), (), (), ())


def _mended(finding: Finding) -> Finding:
    return replace(finding, severity="warning", message=f"{finding.message}; `surgery package` mends it")


def _json(found: Sequence[Finding], target: str | None, judged: Answer | None) -> str:
    facts: dict[str, Any] = {"format": 1, "findings": [asdict(finding) for finding in found]}
    if target is not None and judged is not None:
        facts["target"] = {"name": target, "summary": PROFILES[target].summary, "can_run": not judged.problems}
        facts["target"] |= asdict(judged)
    return tables.as_json(facts)


def _text(found: Sequence[Finding], target: str | None, judged: Answer | None) -> list[str]:
    from surgery.targets import grouped

    lines = []
    for finding in found:
        severity = tables.styled(f"{finding.severity}:", fg=COLOURS[finding.severity])
        lines.append(f"{severity} {tables.printable(finding.where)}: {tables.printable(finding.message)}")
    if judged is None:
        return [*lines, _summary([finding.severity for finding in found])]
    lines += [_summary([finding.severity for finding in found])] if found else []
    if judged.problems:
        reasons = grouped(judged.problems)
        count = f"{len(judged.problems)} reason{'s' if len(judged.problems) > 1 else ''}"
        return [*lines, f"{target} cannot run it, for {count}:", *(f"  {_printable(reason)}" for reason in reasons)]
    done = [*judged.changes, *(f"note: {note}" for note in judged.notes)]
    return [*lines, f"{target} can run it, made ready by `surgery package`:", *(f"  {_printable(x)}" for x in done)]


def _printable(text: str) -> str:
    return tables.printable(text, 1000)


def _summary(severities: list[str]) -> str:
    if not severities:
        return "nothing to say: Caffe does what the files say"
    counts = [(severities.count(name), name) for name in COLOURS if name in severities]
    return ", ".join(f"{n} {name}" if n == 1 else f"{n} {name}s" for n, name in counts)
