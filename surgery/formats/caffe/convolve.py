"""InnerProduct layers written as convolutions over all they read, so that a network also takes larger images.

The weights stay the same numbers in the same order. What such a layer gave as (N, outputs) becomes (N, outputs, 1, 1),
and so does everything computed from it, as far as that goes: a layer to which the two mean different things keeps the
InnerProduct layers before it from being rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.formats.caffe import meaning, network, sharing
from surgery.formats.caffe.changed import Entry, changed, new_layer
from surgery.formats.caffe.edit import appended, removals, without_lists
from surgery.formats.caffe.layers.base import params
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.text import Document, Splice, replacement
from surgery.formats.cuts import Made
from surgery.formats.wiring import Value, Wiring
from surgery.model import Node, Refusal

# What works number by number, or channel by channel along axis 1, and so alike on (N, C) and on (N, C, 1, 1).
_ALIKE = {
    "AbsVal",
    "BNLL",
    "BatchNorm",
    "Clip",
    "Dropout",
    "ELU",
    "Exp",
    "Log",
    "PReLU",
    "Power",
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Silence",
    "Split",
    "Swish",
    "TanH",
    "Threshold",
}
# What takes both, compares or counts, and gives something else.
_ENDS = {"Accuracy", "EuclideanLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"}
_JOINS = {"Eltwise"}
# Type -> its parameters and the field in them that names the axis; of those that go along axis 1.
_ALONG = {
    "Accuracy": ("accuracy_param", "axis"),
    "Bias": ("bias_param", "axis"),
    "Concat": ("concat_param", "axis"),
    "Scale": ("scale_param", "axis"),
    "Slice": ("slice_param", "axis"),
    "Softmax": ("softmax_param", "axis"),
    "SoftmaxWithLoss": ("softmax_param", "axis"),
}
_KNOWN_FIELDS = {"num_output", "bias_term", "weight_filler", "bias_filler", "axis", "transpose"}


def convolvable(
    net: CaffeNet, nodes: Sequence[Node], keys: Collection[str]
) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
    """Return which InnerProduct layers of those `keys` can become convolutions, and why the others cannot.

    A layer that only a refused one keeps from it is refused as well, so that what is returned can be done together.
    """
    wanted = {i: node for i, node in enumerate(nodes) if node.key in keys and node.type == "InnerProduct"}
    reasons = {i: reason for i, node in wanted.items() if (reason := _refusal(net, node))}
    wiring = Wiring(nodes)
    chosen = set(wanted) - set(reasons)
    while more := _Spread(net, wiring, chosen).reasons():
        reasons.update(more)
        chosen -= set(more)
    left = tuple(Refusal(wanted[i].key, wanted[i].type, reasons[i]) for i in sorted(reasons))
    return tuple(nodes[i].key for i in sorted(chosen)), left


def _refusal(net: CaffeNet, node: Node) -> str | None:
    """Return why a layer cannot become a convolution whatever stands around it, or None."""
    if isinstance(node.native, Made):
        return "was made by a cut; save the model and load that"
    layer: Layer = node.native.layer
    if len(layer.bottoms) != 1 or len(layer.tops) != 1 or layer.message.has("blobs"):
        return meaning.refusal(layer) or f"has {len(layer.bottoms)} bottoms"
    reason = meaning.refusal(layer) or sharing.refusal(net, layer)
    if reason:
        return reason
    if len(net.by_name[layer.name]) > 1:
        return "another layer has its name"
    if net.weights is None or node.native.index is None:
        return "no file holds weights for it"
    found = net.inferred[id(layer)]
    if found.bottoms[0] is None or found.is_invalid:
        return f"its shape is not known: {found.reason}"
    if _axis(layer, found.bottoms[0]) != 1:
        return "does not read all of its input but the batch (axis is not 1)"
    strange = {field.name for param in layer.message.messages("inner_product_param") for field in param.fields}
    if strange - _KNOWN_FIELDS:
        return f"what a fork's field {min(strange - _KNOWN_FIELDS)} does is not known"
    return net.weights.refusal(node.native.index)


def _axis(layer: Layer, shape: Shape) -> int:
    axis = params(layer, "inner_product_param").int("axis")
    return axis if axis >= 0 else axis + len(shape)


@dataclass(frozen=True, eq=False)
class _Spread:
    """Which values get two more axes when the nodes `chosen` become convolutions, and whom that disturbs."""

    net: CaffeNet
    wiring: Wiring
    chosen: set[int]

    def reasons(self) -> dict[int, str]:
        """Return the chosen nodes that must be left, with the reasons."""
        origins: dict[Value, set[int]] = {}  # The chosen nodes behind each value with two more axes.
        found: dict[int, str] = {}
        for i, node in enumerate(self.wiring.nodes):
            sources = self.wiring.sources[i]
            behind = set().union(*(origins.get(value, set()) for value in sources if value is not None))
            if i in self.chosen:
                reason = self._unfit(i, is_lifted=bool(behind))
                found.update({i: reason} if reason else {})
                origins[Value(i, 0)] = {i}
            elif behind and node.type != "InnerProduct":
                all_lifted = all(value in origins for value in sources)
                reason = self._disturbed(i, all_lifted=all_lifted)
                found.update(dict.fromkeys(behind, f"'{node.key}' ({node.type}) behind it {reason}") if reason else {})
                if node.type not in _ENDS and node.type not in ("Flatten", "Reshape"):
                    origins.update({Value(i, slot): behind for slot in range(len(node.outputs))})
        for j, name in self._read_elsewhere(origins):
            found.setdefault(j, f"'{name}', which runs in another phase, level or stage, reads what comes of it")
        return found

    def _unfit(self, i: int, *, is_lifted: bool) -> str | None:
        """Return why the input of a chosen node has no height and width."""
        layer: Layer = self.wiring.nodes[i].native.layer
        shape = self.net.inferred[id(layer)].bottoms[0]
        if shape is not None and (len(shape) == 4 or (is_lifted and len(shape) == 2)):
            return None
        value = self.wiring.sources[i][0]
        maker = f" from '{self.wiring.nodes[value.node].key}'" if value is not None else ""
        return f"its input{maker} has {len(shape or ())} axes, none of them height and width"

    def _disturbed(self, i: int, *, all_lifted: bool) -> str | None:
        """Return why a node that reads a value with two more axes would compute something else."""
        node = self.wiring.nodes[i]
        if isinstance(node.native, Made):
            return "was made by a cut"
        layer: Layer = node.native.layer
        if node.type in ("Flatten", "Reshape"):
            return self._reshaped(layer)
        if node.type in _ALONG:
            block, field = _ALONG[node.type]
            if params(layer, block).int(field) != 1 or (block == "concat_param" and _is_old_concat(layer)):
                return "does not say that it works along axis 1"
        elif node.type not in _ALIKE | _ENDS | _JOINS:
            return "is not known to take two more axes of size 1"
        if node.type in ("Bias", "Scale") and len(node.inputs) == 1 and _num_axes(layer) not in (0, 1):
            return "has numbers for more axes than the channels"
        needs_all = node.type in ("Bias", "Concat", "Scale", *_JOINS)
        return "also reads blobs without these axes" if needs_all and not all_lifted else None

    def _reshaped(self, layer: Layer) -> str | None:
        """Return why a Flatten or Reshape would not give the shape that it gave."""
        before = self.net.inferred[id(layer)]
        if None in (*before.bottoms, *before.tops) or len(before.bottoms) != 1 or len(before.tops) != 1:
            return "gives a shape that is not known"
        bottom, top = before.bottoms[0], before.tops[0]
        from surgery.formats.caffe.shapes import infer

        after = infer([layer], {layer.bottoms[0]: (*(bottom or ()), 1, 1)})[0]
        return None if after.tops[0] == top else "would give another shape"

    def _read_elsewhere(self, origins: Mapping[Value, set[int]]) -> Iterator[tuple[int, str]]:
        """Yield each chosen node with a layer that does not run and reads, by name, what comes of it."""
        running = set(map(id, self.net.active))
        idle = [layer for layer in self.net.layers if id(layer) not in running]
        for value, behind in origins.items():
            name = self.wiring.nodes[value.node].outputs[value.slot]
            for layer in idle:
                if name in layer.bottoms and layer.type not in _ALIKE | _ENDS:
                    yield from ((j, layer.name) for j in behind)


def _is_old_concat(layer: Layer) -> bool:
    return params(layer, "concat_param").has("concat_dim")


def _num_axes(layer: Layer) -> int:
    return params(layer, f"{layer.type.lower()}_param").int("num_axes")


def convolved(net: CaffeNet, nodes: Sequence[Node], keys: Sequence[str]) -> CaffeNet:
    """Return the network with InnerProduct layers, which `convolvable` must have let pass, as convolutions."""
    assert net.weights is not None
    chosen = {node.native.layer.name: node.native.layer for node in nodes if node.key in keys}
    if not chosen:
        return net
    changes: dict[int, Entry | None] = {}
    kernels = {}
    for name, layer in chosen.items():
        shape = net.inferred[id(layer)].bottoms[0]
        assert shape is not None
        kernels[name] = shape[1:] if len(shape) == 4 else (shape[1], 1, 1)
        *stale, index = net.entries(name)
        changes.update(dict.fromkeys(stale))
        changes[index] = _entry(net, layer, index, kernels[name])
    document = without_lists(net.document, {"layer", "layers"})
    found = [layer for layer in network.layers(document) if layer.name in chosen]
    document = document.edited([splice for x in found for splice in _rewritten(document, x, kernels[x.name])])
    return replace(net, document=document, layers=network.layers(document), weights=changed(net.weights, changes))


def _entry(net: CaffeNet, layer: Layer, index: int, window: Shape) -> Entry:
    """Return the weights' entry as a convolution's over (channels, height, width)."""
    assert net.weights is not None
    weight, *biases = net.weights.arrays(index)
    matrix = weight.reshape(weight.shape[-2:])
    if params(layer, "inner_product_param").bool("transpose"):
        matrix = matrix.T
    blobs = [matrix.reshape((-1, *window)), *biases]
    return new_layer(net.weights, index, "Convolution", (layer.bottoms, layer.tops), blobs)


def _rewritten(document: Document, layer: Layer, window: Shape) -> Iterator[Splice]:
    """Yield what makes of an InnerProduct's text a Convolution's."""
    spelling = quote("Convolution") if layer.generation == 2 else "CONVOLUTION"
    yield from (replacement(field, spelling) for field in layer.message.named("type"))
    blocks = layer.message.named("inner_product_param")
    for field, param in zip(blocks, layer.message.messages("inner_product_param"), strict=True):
        yield Splice(field.start, field.start + len(field.name), "convolution_param")
        yield from removals(document, [*param.named("axis"), *param.named("transpose")])
    height, width = window[1:]
    lines = [f"kernel_size: {height}"] if height == width else [f"kernel_h: {height}", f"kernel_w: {width}"]
    for line in lines:
        yield appended(document, blocks[-1], line)
