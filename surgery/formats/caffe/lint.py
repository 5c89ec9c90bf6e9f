"""Say at once what Caffe would do with a model's files, silently or not, without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from surgery.errors import ModelError
from surgery.formats.caffe import lint_net, lint_text, lint_weights, network, shapes, text
from surgery.formats.caffe.finding import SEVERITIES, Finding, Severity
from surgery.formats.caffe.netstate import NetState, is_active
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.targets import CAFFES, TARGETS, Target
from surgery.formats.caffe.text import Document
from surgery.formats.caffe.upgrade import upgrade
from surgery.formats.caffe.weights import Weights
from surgery.formats.caffe.weights import read as read_weights

__all__ = ["Finding", "Severity", "built", "lint", "weight_findings"]


def lint(
    prototxt: Path | None,
    weights: Path | None,
    *,
    state: NetState,
    input_shapes: Mapping[str, Shape] | None = None,
    target: str | None = None,
) -> list[Finding]:
    """Return what is to be said of a network, of a file of weights, or of both together; the worst first.

    Args:
        prototxt: The network, None to look at weights alone.
        weights: The weights, a caffemodel or HDF5, or None.
        state: What the network is set up for; layers that do not run in it are read as text only.
        input_shapes: Shapes of blobs that the network does not state.
        target: A name of `targets.TARGETS`. With it an error is what this runtime refuses; without, what all Caffes of
            the table refuse, and what only some refuse is a warning that names them.

    Raises:
        ParseError: A file cannot be read.
        ModelError: The prototxt is no network, or there is no such target.
    """
    if target is not None and target not in TARGETS:
        raise ModelError(f"{target}: is no runtime known here; choose one of {', '.join(TARGETS)}")
    judged = CAFFES if target is None else (TARGETS[target],)
    document = text.read(prototxt) if prototxt else None
    stored = read_weights(weights) if weights else None
    found: list[Finding] = []
    net = None
    if document is not None:
        found, net = _network(document, stored, state, input_shapes or {}, judged)
    if stored is not None:
        found += weight_findings(stored, net, judged)
    if not any(finding.severity == "error" for finding in found):
        found += _nobody(found, judged, str(prototxt or weights))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _network(
    document: Document,
    stored: Weights | None,
    state: NetState,
    input_shapes: Mapping[str, Shape],
    judged: Sequence[Target],
) -> tuple[list[Finding], lint_net.Net | None]:
    """Return the findings in a network, and the network as Caffe builds it unless the text prevents that."""
    found = lint_text.schema_findings(document, judged)
    if any(finding.code == "wrong-type" for finding in found):
        return found, None
    network.layers(document)  # Refuses a text that is no network.
    found += lint_text.upgrade_findings(document, judged)
    try:
        upgraded = upgrade(document)
    except ModelError as error:
        if not any(finding.severity == "error" for finding in found):
            message = error.message.removeprefix(f"{document.path}: ")
            found.append(Finding("error", "upgrade-refused", str(document.path), message))
        return found, None
    net = built(upgraded, stored, state, input_shapes)
    return found + lint_net.net_findings(net, judged), net


def built(
    document: Document, stored: Weights | None, state: NetState, input_shapes: Mapping[str, Shape]
) -> lint_net.Net:
    """Return the network as Caffe builds it in `state`, from a text in V2's spelling whose values have the right types.

    Raises ModelError where its `input` fields do not fit their shapes.
    """
    running, idle = list[Layer](), list[Layer]()
    for layer in network.layers(document):
        (running if _runs(layer, state) else idle).append(layer)
    # Caffe drops an `input` without a shape; that a layer makes the blob is then no clash.
    made = {top for layer in running for top in layer.tops}
    declared = network.inputs(document) if network.input_names(document) else {}
    inputs = {name: shape for name, shape in declared.items() if name not in made}
    known = {entry.name: entry.shapes for entry in stored.layers} if stored else {}
    inferred = shapes.infer(running, {**inputs, **input_shapes}, known)
    return lint_net.Net(document, running, idle, inferred, inputs, state)


def _runs(layer: Layer, state: NetState) -> bool:
    try:
        return is_active(layer, state)
    except ModelError:
        return True  # Both kinds of rules: told already, and Caffe gets no further.


def weight_findings(stored: Weights, net: lint_net.Net | None, judged: Sequence[Target]) -> list[Finding]:
    """Return what is to be said of weights, beside the network that they are for where there is one."""
    if net is None:
        return lint_weights.file_findings(stored, judged, {})
    types = {layer.name: layer.type for layer in reversed(net.layers)}
    expected = {id(layer): result.blobs for layer, result in zip(net.layers, net.inferred, strict=True)}
    found = lint_weights.file_findings(stored, judged, types)
    return found + lint_weights.pair_findings(stored, net.layers, expected)


def _nobody(found: Sequence[Finding], judged: Sequence[Target], where: str) -> list[Finding]:
    """Return an error where each runtime refuses the files over something, though nothing is refused by all."""
    over = {name: finding for finding in found for name in finding.targets}
    if len(judged) < 2 or any(target.name not in over for target in judged):
        return []
    reasons = "; ".join(dict.fromkeys(f"{name}: {over[name].code} at {over[name].where}" for name in over))
    return [Finding("error", "no-common-runtime", where, f"none of the runtimes takes the files ({reasons})")]
