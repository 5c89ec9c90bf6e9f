"""A difference as JSON; docs/diff.md says what is what."""

from __future__ import annotations

import math
from typing import Any

from surgery.diff.difference import Change, Difference, Entry, Layer, Numeric, Part, Reweighed, Shape, Side

FORMAT = 1

Facts = dict[str, Any]


def facts(difference: Difference) -> Facts:
    """Return what differs, in the order in which the networks run."""
    return _facts(difference, difference.differing)


def all_facts(difference: Difference) -> Facts:
    """Return what differs and what does not, with every layer of both networks."""
    found = _facts(difference, difference.entries)
    for name, side in (("a", difference.a), ("b", difference.b)):
        found[name]["layers"] = [_layer(layer) for layer in side.layers]
    return found


def _facts(difference: Difference, entries: tuple[Entry, ...]) -> Facts:
    return {
        "format": FORMAT,
        "same": difference.is_same,
        "identical": difference.is_identical,
        "a": _side(difference.a),
        "b": _side(difference.b),
        "network": [_change(change) for change in difference.network],
        "entries": [_entry(entry) for entry in entries],
        "numeric": difference.numeric and _numeric(difference.numeric),
        "notes": list(difference.notes),
    }


def _side(side: Side) -> Facts:
    return {
        "files": list(side.files),
        "format": side.format,
        "count": len(side.layers),
        "params": side.params,
        "macs": side.macs,
        "inputs": [{"name": name, "shape": sizes and list(sizes)} for name, sizes in side.inputs],
        "outputs": list(side.outputs),
        "notes": list(side.notes),
    }


def _layer(layer: Layer) -> Facts:
    return {
        "name": layer.key,
        "type": layer.type,
        "bottoms": list(layer.bottoms),
        "tops": list(layer.tops),
        "sources": list(layer.sources),
        "shapes": [_shape(shape) for shape in layer.shapes],
        "params": layer.params,
        "macs": layer.macs,
        "fields": dict(layer.fields),
    }


def _entry(entry: Entry) -> Facts:
    return {
        "kind": entry.kind,
        "a": list(entry.a),
        "b": list(entry.b),
        "renamed": entry.is_renamed,
        "moved": entry.is_moved,
        "changes": [_change(change) for change in entry.changes],
        "weights": [_reweighed(blob) for blob in entry.weights],
        "training": [_change(change) for change in entry.training],
        "chains": [_part(part) for part in entry.parts],
    }


def _change(change: Change) -> Facts:
    return {"field": change.field, "from": change.before, "to": change.after}


def _reweighed(blob: Reweighed) -> Facts:
    shapes = {"from": _shape(blob.before), "to": _shape(blob.after)}
    return {"blob": blob.blob, **shapes, "relative_error": blob.relative_error}


def _part(part: Part) -> Facts:
    found = part.factored
    return {
        "whole": part.whole,
        "chain": list(part.chain),
        "shape": found.shape,
        "ranks": list(found.ranks),
        "relative_error": found.relative_error,
        "reason": found.reason,
        "ternary": list(found.ternary),
        "shared": list(found.shared),
    }


def _numeric(numeric: Numeric) -> Facts:
    rows = [
        {
            "blob": blob.blob,
            "layer": blob.layer,
            "relative_error": _finite(blob.relative_error),
            "max_abs": _finite(blob.max_abs),
        }
        for blob in numeric.blobs
    ]
    parting = numeric.parting
    return {
        "runtime": numeric.runtime,
        "samples": numeric.samples,
        "tolerance": numeric.tolerance,
        "blobs": rows,
        "parting": parting and parting.blob,
        "notes": list(numeric.notes),
    }


def _shape(shape: Shape | None) -> list[int] | None:
    return None if shape is None else list(shape)


def _finite(number: float) -> float | None:
    """Return the number, None where it is infinite or not a number: JSON has neither."""
    return number if math.isfinite(number) else None
