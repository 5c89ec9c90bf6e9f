"""Two models as they were read, of one format or of two, as networks that can be compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgery.diff import caffe_layers, onnx_layers
from surgery.diff.comparing import changes, compare
from surgery.diff.difference import Change, Difference, Entry
from surgery.diff.network import Network
from surgery.diff.splits import with_spectra
from surgery.errors import ConversionError, ModelError
from surgery.formats import load
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.onnx.net import OnnxNet
from surgery.model import Model

_READERS = {"caffe": caffe_layers.read, "onnx": onnx_layers.read}

Names = Sequence[str]


@dataclass(frozen=True, eq=False)
class Compared:
    """What differs, and the networks that it was found in."""

    difference: Difference
    a: Network
    b: Network

    def with_spectra(self) -> Difference:
        """Return the difference with singular values of the layers that are cut; this computes them."""
        return with_spectra(self.difference, self.a, self.b)


def compare_models(a: Model, b: Model, files: tuple[Names, Names]) -> Compared:
    """Compare two models, read from files of these names.

    Of two formats one is converted, and the comparison is of two models of the other. Raises ConversionError or
    ModelError where neither can be expressed in the other's format.
    """
    if a.format.name != b.format.name:
        return _across(a, b, files)
    found = _of_one_format(a, b, files)
    network, notes = _BESIDE[a.format.name](a.native, b.native)
    whole = replace(
        found.difference,
        network=(*found.difference.network, *network),
        notes=(*found.difference.notes, *notes),
    )
    return replace(found, difference=whole)


def compare_weights(a: Path, b: Path) -> Compared:
    """Compare two files of weights without the definitions: names, types and blobs."""
    first, second = caffe_layers.read_weights(a), caffe_layers.read_weights(b)
    return Compared(compare(first, second), first, second)


def _of_one_format(a: Model, b: Model, files: tuple[Names, Names]) -> Compared:
    first, second = _READERS[a.format.name](a, files[0]), _READERS[b.format.name](b, files[1])
    found = compare(first, second)
    bare = [name for name, network in (("a", first), ("b", second)) if _is_without_weights(network)]
    note = f"{' and '.join(bare)} without weights: only the shapes of weights are compared"
    return Compared(replace(found, notes=(*found.notes, note)) if bare else found, first, second)


def _across(a: Model, b: Model, files: tuple[Names, Names]) -> Compared:
    """Compare two models of two formats in the one in which less differs: each converter writes as it must."""
    found: list[Compared] = []
    refusals: list[ConversionError | ModelError] = []
    for target in ("onnx", "caffe"):
        try:
            with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
                models = [_as(target, model, other, Path(scratch)) for model, other in ((a, b), (b, a))]
        except (ConversionError, ModelError) as error:
            refusals.append(error)
            continue
        found.append(_told(_of_one_format(models[0], models[1], files), (a, b), target))
        if found[-1].difference.is_same:
            break
    if not found:
        raise refusals[0]
    return min(found, key=lambda each: len(each.difference.differing) + len(each.difference.network))


def _as(target: str, model: Model, other: Model, scratch: Path) -> Model:
    """Return a model in a format, that of `other` where it is not its own; what was mapped outlives `scratch`."""
    if model.format.name == target:
        return model
    if target == "caffe":
        from surgery.convert.to_caffe import to_caffe

        return load(to_caffe(model).save(scratch, "twin"))
    from surgery.convert.to_onnx import to_onnx
    from surgery.convert.to_onnx.graph import NEWEST_OPSET, OLDEST_OPSET

    net: OnnxNet = other.native
    is_dynamic = any(info.shape and not isinstance(info.shape[0], int) for info in net.graph.inputs)
    opset = min(max(net.graph.opset, OLDEST_OPSET), NEWEST_OPSET)
    path = scratch / "twin.onnx"
    to_onnx(model, opset=opset, batch="dynamic" if is_dynamic else "fixed").save(path)
    return load([path])


def _told(found: Compared, models: tuple[Model, Model], target: str) -> Compared:
    """Return the comparison under the formats that the files have, with a note of what was converted.

    What is called otherwise is the same, but for outputs: a converter must invent names.
    """
    old = found.difference
    name = "a" if models[0].format.name != target else "b"
    note = f"{name} is compared as the {'ONNX' if target == 'onnx' else 'Caffe'} network that it converts to"
    new = replace(
        old,
        a=replace(old.a, format=models[0].format.name),
        b=replace(old.b, format=models[1].format.name),
        entries=tuple(replace(entry, kind="same") if _is_only_called(entry, old) else entry for entry in old.entries),
        notes=(*old.notes, note),
    )
    return replace(found, difference=new)


def _is_only_called(entry: Entry, difference: Difference) -> bool:
    """Return whether an entry is "renamed" and its layers make the same outputs of the network."""
    if entry.kind != "renamed":
        return False
    sides = ((difference.a, entry.a), (difference.b, entry.b))
    first, second = ([top for top in side.by_key[key].tops if top in side.outputs] for side, (key,) in sides)
    return first == second


def _of_caffe(a: CaffeNet, b: CaffeNet) -> tuple[list[Change], list[str]]:
    """Return what differs besides the layers that run, as notes: these do not heed it."""
    told = changes(caffe_layers.beside(a), caffe_layers.beside(b))
    notes = [f"{change.field}: {change.before or 'not there'} -> {change.after or 'not there'}" for change in told]
    first, second = caffe_layers.idle(a), caffe_layers.idle(b)
    others = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if others:
        notes.append(f"layers that do not run in phase {a.state.phase} differ: {', '.join(others)}")
    return [], notes


def _of_onnx(a: OnnxNet, b: OnnxNet) -> tuple[list[Change], list[str]]:
    """Return what differs besides the nodes: all of it may change what they compute."""
    return list(changes(onnx_layers.beside(a), onnx_layers.beside(b))), []


def _is_without_weights(network: Network) -> bool:
    """Return whether layers have weights, and no file was given that holds any."""
    blobs = [blob for part in network.parts for blob in part.blobs or ()]
    return bool(blobs) and not any(blob.read for blob in blobs) and not any(part.unreadable for part in network.parts)


# What two models of one format differ in beside their layers: what counts, and what is only told.
_BESIDE: dict[str, Callable[[Any, Any], tuple[list[Change], list[str]]]] = {"caffe": _of_caffe, "onnx": _of_onnx}
