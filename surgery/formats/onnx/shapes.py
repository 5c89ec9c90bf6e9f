"""Shapes of all tensors, as ONNX's own inference tells them of a copy of the graph without its weights' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import ModelError
from surgery.formats.onnx import arithmetic, encode, write
from surgery.formats.onnx.graph import Graph, Tensor, ValueInfo
from surgery.formats.onnx.limit import memory_limit
from surgery.formats.onnx.source import shown
from surgery.formats.wire import Record, encode_bytes
from surgery.model import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.formats.onnx.write import Part

Sizes = tuple[int | str | None, ...]

INITIALIZER, INPUT, OUTPUT = 5, 11, 12
MAX_CALLS = 100_000  # nodes of functions, counted where they are called
MAX_ROUNDS = 8  # of inference, each with the shapes that the one before made computable
SMALL = 1024  # bytes: shapes, axes and the like are kept, for other shapes hang on them
MAX_BYTES = 256_000_000  # of a graph without weights
SPARE_BYTES = 48_000_000  # for inference: it notes every number of a vector, and a node may say it makes 2^40


def input_shapes(graph: Graph, given: Mapping[str, Shape]) -> dict[str, Sizes | None]:
    """Return the inputs' shapes: those given, else the file's, a first axis of unknown size taken as a batch of 1.

    Raises ModelError for a shape given to what is no input, or that contradicts the sizes the file states.
    """
    names = {info.name for info in graph.inputs}
    for name in given:
        if name not in names:
            known = ", ".join(f"'{shown(info.name)}'" for info in graph.inputs[:5])
            raise ModelError(
                f"{graph.path}: a shape is given for '{shown(name)}'; the network's inputs are {known or 'none'}"
            )
    return {info.name: given.get(info.name, _with_batch(info)) for info in graph.inputs}


def _with_batch(info: ValueInfo) -> Sizes | None:
    if not info.shape or isinstance(info.shape[0], int):
        return info.shape
    return (1, *info.shape[1:])


def infer(graph: Graph, given: Mapping[str, Shape]) -> tuple[dict[str, Shape | None], str | None]:
    """Return the shape of each tensor, None where it is not known, and what ONNX's inference could not take.

    Shapes that the graph computes itself are worked out, and inference begins again with them.
    """
    inputs = input_shapes(graph, given)
    values: dict[str, NDArray[Any]] = {}
    for _ in range(MAX_ROUNDS):
        shapes, problem = _round(graph, inputs, values)
        if problem or all(shapes.get(name) is not None for name in graph.makers):
            break
        found = arithmetic.results(graph, shapes)
        if found.keys() <= values.keys():
            break
        values |= found
    return shapes, problem


def _round(
    graph: Graph, inputs: Mapping[str, Sizes | None], values: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Shape | None], str | None]:
    found, problem = _inferred(graph, inputs, values)
    shapes: dict[str, Shape | None] = {name: tensor.shape for name, tensor in graph.initializers.items()}
    for name, sizes in (*inputs.items(), *found.items()):
        known = tuple(size for size in sizes or () if isinstance(size, int))
        shapes[name] = known if sizes is not None and len(known) == len(sizes) else None
    shapes.update({name: value.shape for name, value in values.items()})
    return shapes, problem


def _inferred(
    graph: Graph, inputs: Mapping[str, Sizes | None], values: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Sizes | None], str | None]:
    from google.protobuf.message import DecodeError
    from onnx import checker, shape_inference

    if reason := unbounded(graph):
        return {}, reason
    changes = _without_numbers(graph, inputs)
    for name, value in values.items():
        changes[graph.makers[name].record] = [encode_bytes(INITIALIZER, encode.tensor(name, value))]
    parts = write.replaced(graph.source, changes)
    if sum(map(write.size, parts)) > MAX_BYTES:
        return {}, f"the graph takes more than {MAX_BYTES} bytes without its weights"
    text = b"".join(write.pieces(graph.source, parts))
    try:
        with memory_limit(SPARE_BYTES + 16 * len(text)):
            result: Any = shape_inference.infer_shapes(text, data_prop=True)
    except MemoryError:
        return {}, "ONNX's shape inference takes more memory for the file than any network needs"
    except (
        *(shape_inference.InferenceError, checker.ValidationError, DecodeError),
        *(RuntimeError, ValueError, TypeError),
    ) as error:
        return {}, f"ONNX's shape inference does not take the file: {_first_line(error)}"
    infos = (*result.graph.value_info, *result.graph.output)
    return {info.name: _sizes(info.type.tensor_type) for info in infos}, None


def unbounded(graph: Graph) -> str | None:
    """Return why a runtime, which puts functions in place of their calls, would not come to an end soon, or None."""
    if _is_bounded(graph):
        return None
    return f"its functions call each other in a circle, or come to more than {MAX_CALLS} nodes"


def _is_bounded(graph: Graph) -> bool:
    """Return whether all calls of functions, each put in full in its place, are few enough to be followed."""
    sizes: dict[tuple[str, str], int] = {}
    open_ones: set[tuple[str, str]] = set()
    stack = [call for call in {(node.domain, node.op_type) for node in graph.nodes} if call in graph.functions]
    while stack:
        key = stack[-1]
        calls = [call for call in graph.functions[key].calls if call in graph.functions]
        waiting = [call for call in dict.fromkeys(calls) if call not in sizes]
        if not waiting:
            sizes[key] = len(graph.functions[key].calls) + sum(sizes[call] for call in calls)
            open_ones.discard(stack.pop())
            if sizes[key] > MAX_CALLS:
                return False
        else:
            open_ones.add(key)
            stack.append(waiting[0])
            if waiting[0] in open_ones:
                return False
    return sum(sizes.get((node.domain, node.op_type), 0) for node in graph.nodes) <= MAX_CALLS


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else type(error).__name__


def _sizes(kind: Any) -> Sizes | None:
    if not kind.HasField("shape"):
        return None
    dims = kind.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None for d in dims)


def _without_numbers(graph: Graph, inputs: Mapping[str, Sizes | None]) -> dict[Record, list[Part]]:
    """Return what makes the file small and as general as the inputs' shapes: no weights, no stated shapes."""
    changes: dict[Record, list[Part]] = {}
    for tensor in (*graph.initializers.values(), *graph.nested):
        if tensor.external is not None or (tensor.size_bytes or SMALL + 1) > SMALL:
            changes[tensor.record] = [write.Message(tensor.record.number, (_head(tensor),))]
    for info in graph.listed:
        if info.name in inputs and info.data_type is not None:
            stated = encode.value_info(info.name, info.data_type, inputs[info.name])
            changes[info.record] = [encode_bytes(INPUT, stated)]
    for info in graph.outputs:
        if info.data_type is not None:
            changes[info.record] = [encode_bytes(OUTPUT, encode.value_info(info.name, info.data_type, None))]
    for info in graph.value_info:
        maker = graph.makers.get(info.name)
        if maker is None or not maker.domain:  # Of a custom operator nothing else tells.
            changes[info.record] = []
    return changes


def _head(tensor: Tensor) -> bytes:
    return encode.tensor_head(tensor.name, tensor.shape, tensor.data_type)
