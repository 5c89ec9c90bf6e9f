"""`surgery inspect`: every layer, what it costs, and whether it can be cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables

SHOWN = 3  # methods by name, of those that can cut a layer

if TYPE_CHECKING:
    from surgery.model import Memory, Refusal
    from surgery.survey import Site, Survey


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def inspect(
    files: tuple[Path, ...],
    shapes: tuple[str, ...],
    phase: str,
    level: int | None,
    stages: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """List every layer: output shape, parameters, MACs, bytes, and how it can be cut or why not.

    The ranks behind a method's name are break-even: the largest with fewer weights than the layer has; --json has all
    methods. Layers that read the same blob and can share a first layer are listed below.

    \b
    Examples:
      surgery inspect deploy.prototxt net.caffemodel
      surgery inspect train_val.prototxt --phase TRAIN --shape data=64,3,224,224 --json
      surgery inspect model.onnx
    """
    if len(files) == 1 and files[0].suffix == ".caffemodel":
        _inspect_weights(files[0], as_json=as_json)
        return
    from surgery.survey import survey

    model = options.source(files, shapes, phase, level, stages).load()
    surveyed = survey(model)
    memory = model.format.memory(model)
    if as_json:
        click.echo(tables.as_json(_facts(surveyed, memory)))
    else:
        click.echo(_text(surveyed, memory))


def _facts(surveyed: Survey, memory: Memory | None) -> dict[str, Any]:
    layers = []
    for node, entry in zip(surveyed.model.nodes, surveyed.entries, strict=True):
        facts = surveyed.facts[node.key]
        layers.append(
            {
                "name": node.key,
                "type": node.type,
                "bottoms": list(node.inputs),
                "tops": list(node.outputs),
                "shapes": [list(s) if s is not None else None for s in facts.shapes],
                "params": facts.params,
                "macs": facts.macs,
                "weight_bytes": facts.weight_bytes,
                "column_bytes": facts.column_bytes,
                "cuttable": {name: list(rank) for name, rank in getattr(entry, "break_even", {}).items()},
                "refused": dict(getattr(entry, "refusals", {})),
                "reason": getattr(entry, "reason", None),
                "shape_reason": facts.reason,
            }
        )
    totals = {
        "params": surveyed.params,
        "macs": surveyed.macs,
        "weight_bytes": None if surveyed.params is None else 4 * surveyed.params,
        "memory": memory
        and {
            "weights": memory.weights,
            "activations": memory.activations,
            "columns": memory.columns,
            "scratch": memory.scratch,
            "total": memory.total,
        },
    }
    notes = list(surveyed.model.format.notes(surveyed.model))
    return {"format": 1, "layers": layers, "totals": totals, "shareable": _shareable(surveyed), "notes": notes}


def _shareable(surveyed: Survey) -> list[list[str]]:
    """Return the layers that read the same blob and can be cut as one."""
    from surgery.choose.sharing import together

    groups = together(surveyed.model, surveyed.sites)
    return [[site.key for site in group] for group in groups if len(group) > 1]


def _text(surveyed: Survey, memory: Memory | None) -> str:
    rows = [("layer", "type", "output", "params", "MACs", "bytes", "cuttable (break-even rank), or why not")]
    for node, entry in zip(surveyed.model.nodes, surveyed.entries, strict=True):
        facts = surveyed.facts[node.key]
        rows.append(
            (
                tables.printable(node.key, 60),
                tables.printable(node.type, 60),
                tables.shape(facts.shapes[0]) if facts.shapes else "-",
                tables.count(facts.params) if facts.params != 0 else "",
                tables.count(facts.macs) if facts.macs != 0 else "",
                tables.size(facts.weight_bytes) if facts.weight_bytes != 0 else "",
                tables.printable(_verdict(entry)) if facts.params != 0 else "",
            )
        )
    lines = [tables.table(rows, frozenset({3, 4, 5})), ""]
    lines += [f"{tables.count(surveyed.params)} parameters, {tables.count(surveyed.macs)} MACs a forward pass"]
    if memory is None:
        lines.append(f"memory: not known; {tables.printable(surveyed.missing_shape() or 'a shape is missing')}")
    else:
        lines.append(_memory(memory, surveyed.model.format.name))
    lines += [f"can share a first layer (--share): {tables.printable(', '.join(g))}" for g in _shareable(surveyed)]
    return "\n".join([*lines, *(f"note: {note}" for note in surveyed.model.format.notes(surveyed.model))])


def _memory(memory: Memory, format_name: str) -> str:
    shown = f"(weights {tables.size(memory.weights)}, activations {tables.size(memory.activations)}"
    if format_name == "caffe":
        buffers = f", im2col {tables.size(memory.columns)}, other buffers {tables.size(memory.scratch)})"
        return f"memory in Caffe: {tables.size(memory.total)} {shown}{buffers}"
    # What a runtime that plans its memory takes depends on the runtime.
    return f"memory with every tensor kept: {tables.size(memory.total)} {shown})"


def _verdict(entry: Site | Refusal) -> str:
    if not hasattr(entry, "reason"):
        gains = entry.break_even
        first = [f"{name} ({'x'.join(map(str, rank))})" for name, rank in list(gains.items())[:SHOWN]]
        return ", ".join(first) + (f", {len(gains) - SHOWN} more" if len(gains) > SHOWN else "")
    return f"no: {entry.reason}"


def _inspect_weights(path: Path, *, as_json: bool) -> None:
    """List the layers of a lone caffemodel."""
    from surgery.formats import weights_of

    layers = weights_of(path)
    if as_json:
        rows = [{"name": name, "type": kind, "blobs": [list(s) for s in blobs]} for name, kind, blobs in layers]
        click.echo(tables.as_json({"format": 1, "layers": rows}))
        return
    heading = ("layer", "type", "blobs")
    lines = [
        (tables.printable(n, 60), tables.printable(t, 60), " ".join(tables.shape(s) for s in blobs))
        for n, t, blobs in layers
    ]
    click.echo(tables.table([heading, *lines]))
