"""The part of a graph that leads to chosen tensors, from its own inputs or from tensors in its middle."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgery.errors import ModelError, PlanError
from surgery.formats.onnx import encode, write
from surgery.formats.onnx.graph import Graph, OnnxNode, Tensor
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.rework import Sweep, reworked
from surgery.formats.wire import Record, encode_bytes
from surgery.model import Extract

if TYPE_CHECKING:
    from surgery.formats.onnx.write import Part

INPUT, OUTPUT = 11, 12
SMALL = 1024  # bytes of a tensor that inference may want to see: a shape, axes


def extracted(net: OnnxNet, change: Extract) -> OnnxNet:
    """Return the network that `change` asks for; every node and tensor that stays keeps its bytes.

    Raises PlanError for tensors that are not there, that are on no way to the outputs, or that do not suffice.
    """
    part = _Part(net, change)
    part.check()
    return reworked(net, part.fields())


@dataclass(frozen=True, eq=False)
class _Part:
    """A network and what is asked of it."""

    net: OnnxNet
    change: Extract

    @property
    def graph(self) -> Graph:
        return self.net.graph

    @cached_property
    def fed(self) -> set[str]:
        """The graph's own inputs."""
        return {info.name for info in self.graph.inputs}

    @cached_property
    def cut(self) -> list[str]:
        """The tensors at which the network is to begin anew."""
        return [name for name in self.change.inputs if name not in self.fed]

    @cached_property
    def live(self) -> set[OnnxNode]:
        """The nodes that the outputs need."""
        pending, found = list(self.change.outputs), set[OnnxNode]()
        while pending:
            name = pending.pop()
            maker = None if name in self.cut else self.graph.makers.get(name)
            if maker is not None and maker not in found:
                found.add(maker)
                pending += maker.reads
        return found

    def check(self) -> None:
        """Raise PlanError where the request does not make a network."""
        if not self.change.outputs:
            raise PlanError("no output is named; give at least one tensor")
        for name in (*self.change.outputs, *self.cut):
            if name in self.fed or (name in self.change.inputs and name in self.change.outputs):
                raise PlanError(f"'{name}' is asked for as an output, but it is an input")
            if name not in self.graph.makers:
                raise PlanError(self._unknown(name))
        if self.change.inputs:
            self._check_inputs()

    def _check_inputs(self) -> None:
        outputs = ", ".join(self.change.outputs)
        reads = {name for node in self.live for name in node.reads}
        for name in self.change.inputs:
            if name not in reads:
                raise PlanError(f"input '{name}' does not lead to {outputs}")
        for name in sorted((reads & self.fed) - set(self.change.inputs)):
            raise PlanError(
                f"{outputs} also need '{name}', which these inputs do not replace; "
                "name it as an input as well, or begin elsewhere"
            )
        for name in self.cut:
            if self.graph.makers[name] in self.live:
                label = self.graph.makers[name].label
                raise PlanError(f"'{name}' cannot be an input: {label}, which makes it, is needed besides")

    def _unknown(self, name: str) -> str:
        if name in self.graph.initializers:
            return f"'{name}' is a weight, not what a node makes"
        for node in self.graph.nodes:
            if node.name == name and node.outputs:
                return f"no tensor is named '{name}'; the node of that name makes '{node.outputs[0]}'"
        near = difflib.get_close_matches(name, self.graph.makers, 3)
        hint = f"near: {', '.join(near)}" if near else f"there are {', '.join(list(self.graph.makers)[:5])}, ..."
        return f"no tensor is named '{name}'; {hint}"

    def fields(self) -> dict[Record, list[Part]]:
        """Return what is replaced in the file; nothing where all of it is asked for."""
        graph, outputs = self.graph, self.change.outputs
        present = {info.name for info in graph.outputs}
        sweep = Sweep(graph, outputs, {}, set(graph.nodes) - self.live)
        fields = sweep.fields()
        new = [name for name in outputs if name not in present]
        infos = _infos(graph) if new or self.cut else {}
        if set(outputs) != present:
            fields |= {info.record: [] for info in graph.outputs if info.name not in outputs}
            self._behind(fields, (graph.outputs or graph.nodes)[-1].record, OUTPUT, new, infos)
        self._behind(fields, (graph.listed or graph.nodes)[-1].record, INPUT, self.cut, infos)
        stated = {*new, *self.cut}  # An output or input says what value_info would say again.
        return fields | {info.record: [] for info in graph.value_info if info.name in stated}

    def _behind(
        self, fields: dict[Record, list[Part]], record: Record, number: int, names: list[str], infos: Mapping[str, Any]
    ) -> None:
        """Put inputs or outputs behind a field."""
        if names:
            made = [encode_bytes(number, self._info(name, infos.get(name))) for name in names]
            fields[record] = [*fields.get(record, [write.kept(record)]), *made]

    def _info(self, name: str, known: Any) -> bytes:
        """Return the ValueInfoProto of a tensor, its sizes as symbols where the network's inputs have such."""
        kind = known.type.tensor_type if known is not None else None
        if kind is None or not kind.elem_type:
            raise ModelError(f"{self.graph.path}: ONNX's shape inference does not tell the type of '{name}'")
        if kind.HasField("shape"):
            return bytes(known.SerializeToString())
        shape = self.net.file.inferred[0].get(name)
        if shape is None and name in self.cut:
            raise PlanError(f"input '{name}' has no known shape; give the network's inputs with --shape")
        return encode.value_info(name, kind.elem_type, shape)


def _infos(graph: Graph) -> dict[str, Any]:
    """Return the ValueInfoProto of each tensor of which the file or ONNX's inference tells something."""
    import onnx
    from google.protobuf.message import DecodeError

    heads: dict[Record, list[Part]] = {
        tensor.record: [write.Message(tensor.record.number, (_head(tensor),))]
        for tensor in (*graph.initializers.values(), *graph.nested)
        if tensor.external is not None or (tensor.size_bytes or SMALL + 1) > SMALL
    }
    text = b"".join(write.pieces(graph.source, write.replaced(graph.source, heads)))
    try:
        result: Any = onnx.shape_inference.infer_shapes(text)
    except (onnx.shape_inference.InferenceError, DecodeError, RuntimeError, ValueError, TypeError):
        result = onnx.ModelProto()
        with suppress(DecodeError):  # What cannot be read says nothing.
            result.ParseFromString(text)
    return {info.name: info for info in (*result.graph.value_info, *result.graph.output)}


def _head(tensor: Tensor) -> bytes:
    return encode.tensor_head(tensor.name, tensor.shape, tensor.data_type)
