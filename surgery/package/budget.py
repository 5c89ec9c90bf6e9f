"""What each layer takes, as a table for a spreadsheet: parameters, multiply-accumulates, and bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from math import prod

from surgery.model import Facts, Node
from surgery.survey import Survey

HEADING = ("layer", "type", "output_shapes", "params", "macs", "weight_bytes", "output_bytes", "column_bytes")
FLOAT_BYTES = 4


def table(surveyed: Survey) -> str:
    """Return the table as CSV, a row for each layer in running order; what is not known is an empty field.

    Counts are of one forward pass of the network's own batch. `column_bytes` is the buffer in which Caffe unrolls a
    convolution's input. Weights that layers share count with each.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADING)
    writer.writerows(_rows(surveyed))
    return file.getvalue()


def _rows(surveyed: Survey) -> Iterator[tuple[object, ...]]:
    for node in surveyed.model.nodes:
        facts = surveyed.facts[node.key]
        shapes = ["?" if shape is None else "x".join(map(str, shape)) for shape in facts.shapes]
        counts = (facts.params, facts.macs, facts.weight_bytes, _output_bytes(node, facts), facts.column_bytes)
        yield (node.key, node.type, " ".join(shapes), *counts)


def _output_bytes(node: Node, facts: Facts) -> int | None:
    """Return the bytes that the outputs take, None where a shape is not known; what works in place takes no more."""
    new = [shape for name, shape in zip(node.outputs, facts.shapes, strict=False) if name not in node.inputs]
    return None if None in new else sum(FLOAT_BYTES * prod(shape) for shape in new if shape is not None)
