"""What a changed ONNX model's file holds: the fields to replace, and what stands in their place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.formats.onnx import encode, spelling
from surgery.formats.onnx.constants import Constant
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.meaning import Lifted, reweighed
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.spelling import Weight
from surgery.formats.onnx.store import Store
from surgery.formats.onnx.write import Message, tensor_parts
from surgery.formats.wire import Record, encode_bytes

if TYPE_CHECKING:
    from surgery.formats.cuts import Cut
    from surgery.formats.onnx.write import Part
    from surgery.ops import Op

NODE, INITIALIZER, INPUT = 1, 5, 11


@dataclass(eq=False)
class Changes:
    """Gathers the replacements while edits are spelled out.

    `store` takes the tensors that go into the data file, None where there is none; with `all_outside` new ones do,
    whatever they replace.
    """

    graph: Graph
    store: Store | None
    all_outside: bool = False
    fields: dict[Record, list[Part]] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _removed: list[OnnxNode] = field(default_factory=list)

    def put_nodes(self, node: OnnxNode, nodes: Iterable[Message]) -> None:
        """Put nodes in the place of one."""
        self.fields[node.record] = list(nodes)

    def replace_weight(self, old: Constant, new: Sequence[Weight]) -> None:
        """Put tensors in the place of one that only the changed node reads, in the form that the old one has.

        An initializer becomes initializers, inputs too where the old one is an input below IR 4; a Constant or a
        ConstantOfShape becomes Constants. So do views of a tensor that others read: it stays.
        """
        names = {old.name}
        last = old.views[-1].node if old.views else old.node
        if last is not None:
            self._removed.append(last)
            self.fields[last.record] = []
        if old.node is None and self._is_own(old):
            assert old.tensor is not None
            outside = self.store is not None and (old.tensor.external is not None or self.all_outside)
            self.fields[old.tensor.record] = [self._initializer(w, old.data_type, outside=outside) for w in new]
            self._replace_input(old, new)
            names.add(old.root)
        else:
            place = old.node if old.node is not None and self._is_own(old) else last
            assert place is not None
            self.fields[place.record] = [self._constant_node(weight, old.data_type) for weight in new]
        self._gone |= names - {weight.name for weight in new}

    def finish(self) -> dict[Record, list[Part]]:
        """Return all replacements: also what only removed nodes needed goes, and what is said of tensors that are gone.

        Data in other files comes along into the data file.
        """
        self._drop_unread()
        for info in self.graph.value_info:
            if info.name in self._gone:
                self.fields.setdefault(info.record, [])
        if self.store is not None:
            self._move(self.store)
        return self.fields

    def _is_own(self, old: Constant) -> bool:
        """Return whether nothing but its views reads what a tensor is a view of."""
        outputs = {info.name for info in self.graph.outputs}
        return all(
            len(self.graph.users[view.node.inputs[0]]) == 1 and view.node.inputs[0] not in outputs for view in old.views
        )

    def _initializer(self, weight: Weight, data_type: int, *, outside: bool) -> Message:
        if outside and self.store is not None:
            return Message(INITIALIZER, self.store.added(weight.name, weight.array, data_type))
        return Message(INITIALIZER, tensor_parts(weight.name, weight.array, data_type))

    def _constant_node(self, weight: Weight, data_type: int) -> Message:
        value = Message(5, tensor_parts("", weight.array, data_type))
        attribute = Message(5, (encode.text(1, "value"), value, encode.varint(20, 4)))
        return Message(NODE, (encode.text(2, weight.name), encode.text(4, "Constant"), attribute))

    def _replace_input(self, old: Constant, new: Sequence[Weight]) -> None:
        needed = [weight for weight in new if self.graph.ir_version < 4 or weight.name == old.root]
        wanted: list[Part] = [
            encode_bytes(INPUT, encode.value_info(w.name, old.data_type, w.array.shape)) for w in needed
        ]
        listed = next((info.record for info in self.graph.listed if info.name == old.root), None)
        if listed is not None:
            self.fields[listed] = wanted
        elif self.graph.ir_version < 4:  # A file that breaks the rule for its own weights: the new ones keep it.
            assert old.tensor is not None
            self.fields[old.tensor.record] += wanted

    def _drop_unread(self) -> None:
        """Drop what only nodes that are gone read: shapes of ConstantOfShape nodes, what a view was of."""
        graph = self.graph
        outputs = {info.name for info in graph.outputs}
        removed = {node.index for node in self._removed}
        queue = list(self._removed)
        while queue:
            for name in filter(None, queue.pop().inputs):
                if name in outputs or any(user.index not in removed for user in graph.users[name]):
                    continue
                maker = graph.makers.get(name)
                if maker is not None and maker.index not in removed:
                    removed.add(maker.index)
                    queue.append(maker)
                record = maker.record if maker is not None else graph.initializers[name].record
                self.fields.setdefault(record, [])
                for info in graph.listed:
                    if info.name == name:
                        self.fields.setdefault(info.record, [])
                self._gone.add(name)

    def _move(self, store: Store) -> None:
        replaced = sorted((record.start, record.end) for record in self.fields)
        for tensor in (*self.graph.initializers.values(), *self.graph.nested):
            place = tensor.record
            before = bisect_right(replaced, (place.start, place.end)) - 1
            is_gone = before >= 0 and place.start < replaced[before][1]
            if tensor.external is not None and not is_gone:
                self.fields[place] = [store.moved(tensor)]


def made(net: OnnxNet, store: Store | None, *, all_outside: bool) -> Changes:
    """Return the changes that the model's edits make."""
    changes = Changes(net.graph, store, all_outside)
    for key, cut in net.cuts.items():
        _cut(changes, net, key, cut)
    for key, op in net.reweighed.items():
        _reweigh(changes, key, net.original(key), op)
    return changes


def _cut(changes: Changes, net: OnnxNet, key: str, cut: Cut) -> None:
    node, old, links = net.file.keys[key], net.original(key), net.links(key, cut)
    changes.replace_weight(old.weight, spelling.weights(old, cut.chain, links))
    changes.put_nodes(node, spelling.nodes(net.graph, node, old, cut.chain, links))


def _reweigh(changes: Changes, key: str, old: Lifted, op: Op) -> None:
    array = reweighed(old, op).astype(old.weight.array().dtype, copy=False)
    changes.replace_weight(old.weight, [Weight(old.weight.name, array)])
    if not spelling.same(op.bias, old.op.bias):
        raise ModelError(f"{key}: its bias is to change, which is not written yet; only its weights can")
