"""What a target refuses in a network that is ready for it otherwise: types, fields, values, wiring, shapes, limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from surgery.formats.caffe import lint_net
from surgery.formats.caffe.finding import Finding
from surgery.formats.caffe.lint_wiring import alias_findings
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import kind_of
from surgery.formats.caffe.schema_table import ENUMS
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.targets import REQUIRED, Target
from surgery.formats.caffe.text import Message, read_scalar
from surgery.targets.problem import Problem
from surgery.targets.profiles import Profile

ELSEWHERE = "run the network elsewhere"
# What lint says of a network as it stands and this module says layer by layer, or what a prepared one cannot have.
_SAID_HERE = {"unknown-layer-type", "engine-cudnn", "rules-ignored"}


def net_problems(net: lint_net.Net, profile: Profile) -> Iterator[Problem]:
    """Yield fields of the network itself that the target does not know."""
    for field in net.document.fields:
        if not profile.caffe.knows_field("NetParameter", field.name):
            yield _unknown_field(str(net.document.path), "NetParameter", field.name, profile.caffe)


def layer_problems(layer: Layer, shapes: LayerShapes, profile: Profile) -> list[Problem]:
    """Return what the target does not know of a layer, or does otherwise than Caffe."""
    reader = profile.caffe
    if layer.type not in reader.types:
        kind = f"layer type '{layer.type}'"
        return [Problem(layer.name, "unknown-layer-type", kind, f"{reader.name} has no such type", ELSEWHERE)]
    found = list(_block_problems(layer.name, layer.message, reader))
    if found:
        return found
    return [
        Problem(layer.name, "target-limit", what, limit.does, limit.advice)
        for what, limit in profile.limits(layer, shapes)
    ]


def _block_problems(where: str, message: Message, reader: Target) -> Iterator[Problem]:
    """Yield what is wrong in a block of the text and in those inside."""
    owner, seen = message.type or "", set()
    for field in message.fields:
        kind = kind_of(owner, field.name)
        if not reader.knows_field(owner, field.name):
            yield _unknown_field(where, owner, field.name, reader)
            continue
        if kind is None:
            continue  # A field of its own, of which nothing more is known here.
        if field.name in seen and not kind.repeated:
            found = f"'{field.name}' is given twice in one {owner}"
            yield Problem(where, "given-twice", found, f"{reader.name} refuses the file", "keep one")
        seen.add(field.name)
        if kind.is_enum:
            value = str(read_scalar(message.document, field, kind))
            if value not in ENUMS[kind.type] or not reader.knows_value(kind.type, value):
                found = f"'{field.name}' is {value}"
                yield Problem(where, "unknown-value", found, f"{reader.name} has no such value", ELSEWHERE)
    for name in dict.fromkeys(field.name for field in message.fields if field.children is not None):
        kind = kind_of(owner, name)
        if kind is not None and reader.knows_field(owner, name):
            for inner in message.messages(name):
                yield from _block_problems(where, inner, reader)
    for name in REQUIRED.get(owner, ()):
        if name not in seen:
            found = f"no '{name}' in {owner}"
            yield Problem(where, "missing-field", found, f"{reader.name} refuses the file", "set it")


def _unknown_field(where: str, owner: str, name: str, reader: Target) -> Problem:
    found = f"'{name}' in {owner}"
    return Problem(where, "unknown-field", found, f"{reader.name} has no such field", f"remove it, or {ELSEWHERE}")


def built_problems(net: lint_net.Net, profile: Profile) -> list[Problem]:
    """Return why the target would not build the network out of layers that it knows."""
    reader = profile.caffe
    found = [f for f in lint_net.net_findings(net, (reader,)) if f.severity == "error" and f.code not in _SAID_HERE]
    if reader.name == "opencv":  # It has no shared memory, so it computes what the text seems to say.
        found += alias_findings(net.layers, net.inferred, net.state)
    return as_problems(found)


def as_problems(findings: Sequence[Finding]) -> list[Problem]:
    """Return findings of lint as problems: "what was found; what Caffe does: what to do"."""
    result = []
    for finding in findings:
        found, _, rest = finding.message.partition("; ")
        known, _, advice = rest.partition(": ")
        result.append(Problem(finding.where, finding.code, found, known, advice))
    return result
