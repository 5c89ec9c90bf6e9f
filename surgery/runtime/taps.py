"""Make inner tensors of an ONNX file outputs, in a copy of it, so that a runtime can be asked for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from surgery.errors import ModelError, SurgeryError
from surgery.runtime.engine import Array, Job, refused

# Writes a copy of a file with these tensors, or with all, as outputs, and returns the names of all outputs.
Tap = Callable[[Path, Sequence[str] | None, Path], tuple[str, ...]]


def with_taps(engine: str, job: Job, folder: Path, tap: Tap) -> Job:
    """Return the job of an ONNX file on a copy, in the new folder `folder`, whose outputs are what the job asks for.

    A job that asks for the graph's own outputs stays as it is. Raises EngineError for an unknown tensor and for a file
    that cannot be read.
    """
    if job.outputs is None and not job.all_blobs:
        return job
    folder.mkdir()
    target = folder / job.files[0].name
    try:
        tap(job.files[0], job.outputs, target)
    except SurgeryError as error:
        raise refused(engine, error) from error
    return replace(job, files=(target,), all_blobs=False)


def in_running_order(job: Job, results: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Return the blobs of a job on an ONNX file in the order of the nodes where all were asked for, else as they are.

    A file lists its own outputs before those that were added.
    """
    if not job.all_blobs:
        return [dict(blobs) for blobs in results]
    from surgery.formats.onnx.graph import read

    order = {name: i for i, name in enumerate(read(job.files[0]).makers)}
    return [dict(sorted(blobs.items(), key=lambda item: order.get(item[0], -1))) for blobs in results]


def by_name(source: Path, names: Sequence[str] | None, target: Path) -> tuple[str, ...]:
    """Tap a file for a runtime that infers an output's type."""
    from surgery.formats.onnx.outputs import with_outputs

    return with_outputs(source, names, target)


def with_types(source: Path, names: Sequence[str] | None, target: Path) -> tuple[str, ...]:
    """Tap a file for OpenCV, which takes no output without a type and a shape, and believes neither."""
    from surgery.formats.onnx import encode
    from surgery.formats.onnx.graph import read
    from surgery.formats.onnx.outputs import with_outputs
    from surgery.formats.wire import encode_bytes

    present = with_outputs(source, (), target)
    graph = read(source)
    if names is None:  # A mask or indices that nothing reads are not made, and asking for them ends the process.
        made = [
            (i, name) for node in graph.nodes for i, name in enumerate(node.outputs) if name and name not in present
        ]
        new = [name for i, name in made if i == 0 or name in graph.users]
    else:
        new = [name for name in dict.fromkeys(names) if name not in present]
    for name in new:
        if name not in graph.makers:
            raise ModelError(f"{source}: no node makes a tensor '{name}'")
    outputs = b"".join(encode_bytes(_GRAPH_OUTPUT, encode.value_info(name, encode.FLOAT, ())) for name in new)
    with target.open("ab") as file:  # A second graph field is read as more of the first.
        file.write(encode_bytes(_MODEL_GRAPH, outputs))
    return (*present, *new)


_MODEL_GRAPH, _GRAPH_OUTPUT = 7, 12
