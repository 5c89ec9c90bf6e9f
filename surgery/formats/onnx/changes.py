"""What a changed ONNX model's file holds: the fields to replace, and what stands in their place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgery.formats.onnx import encode, spelling
from surgery.formats.onnx.constants import Constant
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.meaning import Lifted, reweighed
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.rework import Sweep
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
    _lost: dict[OnnxNode, set[str]] = field(default_factory=dict)
    _kept: set[str] = field(default_factory=set)

    def put_nodes(self, node: OnnxNode, nodes: Iterable[Message], addends: Collection[str]) -> None:
        """Put nodes in the place of one; they add the tensors `addends`."""
        self.fields[node.record] = list(nodes)
        self._lost.setdefault(node, set()).update({*node.inputs[2:]} - {"", *addends})

    def replace_weight(self, node: OnnxNode, old: Constant, new: Sequence[Weight]) -> None:
        """Put tensors in the place of one that only `node` reads, in the form that the old one has.

        An initializer becomes initializers, inputs too where the old one is an input below IR 4; a Constant or a
        ConstantOfShape becomes Constants. So do views of a tensor that others read: it stays.
        """
        last = old.views[-1].node if old.views else old.node
        if old.node is None and self._is_own(old):
            assert old.tensor is not None
            outside = self.store is not None and (old.tensor.external is not None or self.all_outside)
            self.fields[old.tensor.record] = [self._initializer(w, old.data_type, outside=outside) for w in new]
            self._replace_input(old, new)
        else:
            place = old.node if old.node is not None and self._is_own(old) else last
            assert place is not None
            self.fields[place.record] = [self._constant_node(weight, old.data_type) for weight in new]
        self._lost.setdefault(node, set()).add(old.name)
        self._kept |= {weight.name for weight in new}

    def finish(self) -> dict[Record, list[Part]]:
        """Return all replacements: also what is no longer read goes, and what is said of tensors that are gone.

        Data in other files comes along into the data file.
        """
        outputs = {info.name for info in self.graph.outputs}
        for record, nothing in Sweep(self.graph, outputs, self._lost, set()).fields(self._kept).items():
            self.fields.setdefault(record, nothing)
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
        _reweigh(changes, net.file.keys[key], net.original(key), op)
    return changes


def _cut(changes: Changes, net: OnnxNet, key: str, cut: Cut) -> None:
    node, old, links = net.file.keys[key], net.original(key), net.links(key, cut)
    changes.replace_weight(node, old.weight, spelling.weights(old, links[cut.shared :]))
    changes.put_nodes(node, spelling.nodes(net.graph, node, old, cut), {link.addend for link in links})


def _reweigh(changes: Changes, node: OnnxNode, old: Lifted, op: Op) -> None:
    array = reweighed(old, op).astype(old.weight.array().dtype, copy=False)
    changes.replace_weight(node, old.weight, [Weight(old.weight.name, array)])
