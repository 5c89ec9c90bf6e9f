"""The way between the formats: a Caffe network for ONNX Runtime, an ONNX model for it or for one of the Caffes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from surgery.errors import ConversionError, ModelError
from surgery.formats import Source, load
from surgery.formats.caffe import network, text
from surgery.targets import for_caffe
from surgery.targets.problem import Problem
from surgery.targets.profiles import Profile
from surgery.targets.ready import Ready
from surgery.targets.tree import rendered

OLDEST_READ = 20  # the newest opset that ONNX Runtime 1.17 reads, the oldest version that counts here
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_REASON = re.compile(r"'(?P<name>.*?)' \((?P<type>[^()]*)\): (?P<what>.*)", re.S)
_KNOWN = "it has no equivalent in ONNX"


def converted(source: Source, path: Path, batch: int, scratch: Path) -> Ready:
    """Return a Caffe network, deployed, as an ONNX model of opset 13."""
    from surgery.convert.to_onnx import to_onnx
    from surgery.convert.to_onnx.lowerings import LOWERINGS

    made, stored = for_caffe.deployed_of(source, path, batch)
    definition = scratch / path.name
    definition.write_text(rendered(made.tree), encoding="utf-8", errors="surrogateescape", newline="")
    if made.problems:
        left = network.layers(text.read(definition)) if made.tree else ()
        lost = (layer for layer in left if layer.type not in {"Input", *LOWERINGS})
        kinds = (Problem(x.name, "unknown-layer-type", f"layer type '{x.type}'", _KNOWN) for x in lost)
        return Ready((*made.problems, *kinds))
    model = load((definition,) if stored is None else (definition, stored.path))
    if stored is None and any(facts.params for facts in model.format.facts(model).values()):
        # Without its fillers it would be converted with zeros for weights, and with them at random.
        return Ready(
            (Problem(str(path), "weights-missing", "no weights are given", "", "give its .caffemodel as well"),)
        )
    try:
        conversion = to_onnx(model)
    except ConversionError as error:
        return Ready(tuple(_reasons(error)))
    except ModelError as error:
        return Ready((Problem(str(path), "not-convertible", str(error).removeprefix(f"{definition}: ")),))
    changes = (*made.changes, f"converted to ONNX, opset {conversion.opset}")
    return Ready((), changes, write=lambda folder, stem: conversion.save(folder / f"{stem}.onnx"))


def as_it_is(source: Source, path: Path, batch: int, scratch: Path) -> Ready:
    """Return an ONNX model, which stays as it is byte for byte, its batch too."""
    from surgery.formats.onnx import onnx

    graph = source.load().native.graph
    foreign = [node for node in graph.nodes if node.domain not in _DOMAINS]
    found = tuple(
        Problem(
            node.name or next(iter(node.outputs), "?"),
            "unknown-layer-type",
            f"operator '{node.op_type}' of domain '{node.domain}'",
            "ONNX Runtime has no such operator",
            "register its library where it runs, or write it with standard operators",
        )
        for node in foreign
    )
    newer = f"its opset {graph.opset} is newer than {OLDEST_READ}, the newest that ONNX Runtime 1.17 reads"
    notes = (newer,) if graph.opset > OLDEST_READ else ()
    return Ready(found, notes=notes, write=lambda folder, stem: onnx.copy(path, folder, stem))


def into_caffe(
    source: Source, path: Path, profile: Profile, batch: int, allow: Collection[str], scratch: Path
) -> Ready:
    """Return an ONNX model, converted to Caffe, made ready for a target that reads Caffe's files."""
    from surgery.convert.to_caffe import to_caffe

    try:
        conversion = to_caffe(source.load())
    except ConversionError as error:
        return Ready(tuple(_reasons(error)))
    except ModelError as error:
        return Ready((Problem(str(path), "not-convertible", str(error).removeprefix(f"{path}: ")),))
    files = conversion.save(scratch, path.stem)
    made = for_caffe.ready(Source(files), path, profile, batch, allow)
    return replace(made, changes=("converted from ONNX", *conversion.notes, *made.changes))


def _reasons(error: ConversionError) -> Iterator[Problem]:
    """Yield a problem for each reason, which begins with the layer's name in quotes and its type in brackets."""
    for reason in error.reasons:
        match = _REASON.fullmatch(reason)
        where, found = (match["name"], f"{match['type']}: {match['what']}") if match else (str(error.path), reason)
        yield Problem(where, "not-convertible", found)
