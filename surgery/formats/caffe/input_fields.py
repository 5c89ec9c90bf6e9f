"""The `input` fields of a network: give them shapes, or other ones."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.errors import PlanError
from surgery.formats.caffe.edit import newline, removals
from surgery.formats.caffe.network import Shape, inputs
from surgery.formats.caffe.text import Document, Splice


def with_shapes(document: Document, shapes: Mapping[str, Shape]) -> Document:
    """Return the document with the shapes of those `input` fields that `shapes` names; unchanged where they say so.

    All shapes are stated anew, as `input_dim` where the file has those and all have four axes, else as `input_shape`.
    Raises PlanError when an input would be left without a shape beside others that have one.
    """
    stated = inputs(document)
    wanted = {name: shapes.get(name, shape) for name, shape in stated.items()}
    if wanted == stated:
        return document
    missing = next((name for name, shape in wanted.items() if shape is None), None)
    if missing is not None:
        raise PlanError(f"{document.path}: input '{missing}' has no shape; give --shape {missing}=N,C,H,W as well")
    net = document.message("NetParameter")
    old = net.named("input_dim") + net.named("input_shape")
    known = [shape for shape in wanted.values() if shape is not None]
    if net.has("input_dim") and all(len(shape) == 4 for shape in known):
        lines = [f"input_dim: {n}" for shape in known for n in shape]
    else:
        lines = ["input_shape { " + " ".join(f"dim: {n}" for n in shape) + " }" for shape in known]
    end = net.named("input")[-1].end
    text = "".join(newline(document) + line for line in lines)
    return document.edited([*removals(document, old), Splice(end, end, text)])
