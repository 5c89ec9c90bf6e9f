"""Findings in a network as Caffe builds it, layer by layer: types, counts, shapes, in-place use, shared weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

from surgery.formats.caffe import lint_wiring as wiring
from surgery.formats.caffe.finding import Finding, refusal
from surgery.formats.caffe.netstate import NetState
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.schema import kind_of
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.targets import Target
from surgery.formats.caffe.text import Document, Field, Message


@dataclass(frozen=True, eq=False)
class Net:
    """A network in V2's spelling: the layers that run in `state`, and what Caffe makes of each."""

    document: Document
    layers: Sequence[Layer]
    idle: Sequence[Layer]
    inferred: Sequence[LayerShapes]
    inputs: Mapping[str, Shape | None]
    state: NetState


# Layers whose result is wrong when the top overwrites the bottom, and when that is so.
_WRONG_IN_PLACE: dict[str, Callable[[Layer], bool]] = {
    "Eltwise": lambda layer: layer.message.message("eltwise_param").str("operation") != "PROD",
    "InnerProduct": lambda layer: True,
    "LRN": lambda layer: layer.message.message("lrn_param").str("norm_region") == "ACROSS_CHANNELS",
    "Pooling": lambda layer: True,
}
_REFUSED_IN_PLACE = ("AbsVal", "Flatten", "Reshape")
_DOUBTFUL_IN_PLACE = ("Convolution", "Deconvolution")

# Of which types a lone `_h` or `_w` means 0 for the other axis, and of which Caffe checks that there are both.
_SPATIAL = {"Convolution": "convolution_param", "Deconvolution": "convolution_param", "Im2col": "convolution_param"}

_FILLER_FIELDS = ("weight_filler", "bias_filler", "filler", "data_filler", "scale_filler")
_FILLERS = ("constant", "gaussian", "positive_unitball", "uniform", "xavier", "msra", "bilinear")

# Layer types that a build of Caffe may lack, and what brings them.
_OPTIONAL = {
    "Data": "USE_LMDB or USE_LEVELDB",
    "HDF5Data": "USE_HDF5",
    "HDF5Output": "USE_HDF5",
    "ImageData": "USE_OPENCV",
    "Python": "WITH_PYTHON_LAYER",
    "WindowData": "USE_OPENCV",
}


def net_findings(net: Net, judged: Sequence[Target]) -> list[Finding]:
    """Return what the runtimes `judged` make of the network, layer by layer."""
    found = [*_types(net, judged), *_engines(net, judged), *_ignored_rules(net, judged)]
    found += wiring.wiring_findings(net.layers, net.idle, net.inputs)
    found += wiring.alias_findings(net.layers, net.inferred, net.state)
    for check in (_names, _in_place, _lone_sizes, _counts, _fillers, _empty_blobs, _unshaped_inputs):
        found += check(net)
    found += [*_batch_norms(net, judged), *_shared(net)]
    told = {finding.where for finding in found if finding.severity == "error"}
    return found + [finding for finding in _refused(net) if finding.where not in told]


def _types(net: Net, judged: Sequence[Target]) -> Iterator[Finding]:
    counts = Counter(layer.type for layer in net.layers)  # In the order of first use.
    for kind in counts:
        layer = next(layer for layer in net.layers if layer.type == kind)
        unknown = [target for target in judged if kind not in target.types]
        if unknown:
            severity, words, targets = refusal(unknown, judged)
            also = f" ({counts[kind]} layers)" if counts[kind] > 1 else ""
            message = f"no layer type '{kind}'{also}: {words}; use a runtime that has it"
            yield Finding(severity, "unknown-layer-type", layer.name, message, targets)
        elif kind in _OPTIONAL:
            message = f"Caffe has the layer type '{kind}' only where it was built with {_OPTIONAL[kind]}"
            yield Finding("note", "optional-layer-type", layer.name, message)


def _engines(net: Net, judged: Sequence[Target]) -> Iterator[Finding]:
    refusing = [target for target in judged if "cudnn" in target.without]
    using = [layer for layer in net.layers if any(_is_cudnn(layer, field) for field in layer.message.fields)]
    if not using:
        return
    severity, words, targets = refusal(refusing, judged) if refusing else ("warning", "builds without a GPU stop", ())
    also = f" in {len(using)} layers" if len(using) > 1 else ""
    message = f"engine: CUDNN{also}: {words}; remove it, cuDNN is used anyway where it is built in"
    yield Finding(severity, "engine-cudnn", using[0].name, message, targets)


def _is_cudnn(layer: Layer, field: Field) -> bool:
    if not any(child.name == "engine" for child in field.children or ()):
        return False
    block = layer.message.message(field.name)
    return block.type is not None and kind_of(block.type, "engine") is not None and block.str("engine") == "CUDNN"


def _ignored_rules(net: Net, judged: Sequence[Target]) -> Iterator[Finding]:
    refusing = [target for target in judged if "rules" in target.without]
    ruled = [x for x in (*net.layers, *net.idle) if x.message.has("exclude") or _has_other_rules(x)]
    if refusing and ruled:
        severity, words, targets = refusal(refusing, judged)
        message = f"exclude, stage and level rules are not applied: {words} or builds layers that do not run; deploy it"
        yield Finding(severity, "rules-ignored", ruled[0].name, message, targets)


def _has_other_rules(layer: Layer) -> bool:
    return any(field.name != "phase" for rule in layer.message.messages("include") for field in rule.fields)


def _names(net: Net) -> Iterator[Finding]:
    counts = Counter(layer.name for layer in net.layers)
    for name, count in counts.items():
        if count > 1:
            same = [i for i, layer in enumerate(net.layers) if layer.name == name]
            has_weights = any(net.inferred[i].blobs for i in same[1:])
            does = "weights are loaded into the first only" if has_weights else "Caffe does not mind"
            message = f"{count} layers that run have this name; {does}: give each its own"
            yield Finding("warning" if has_weights else "note", "duplicate-layer-name", name, message)
    slashed = [name for name in counts if "/" in name]
    if slashed:
        message = f"{len(slashed)} layer names have a '/'; Caffe cannot save such a network's weights as HDF5"
        yield Finding("note", "name-with-slash", slashed[0], message)


def _in_place(net: Net) -> Iterator[Finding]:
    for layer, shapes in zip(net.layers, net.inferred, strict=True):
        if not wiring.is_in_place(layer):
            continue
        what, top, bottom = (
            f"{layer.type} writes over its own bottom '{layer.tops[0]}'",
            shapes.tops[0],
            shapes.bottoms[0],
        )
        if layer.type in _REFUSED_IN_PLACE:
            yield Finding("error", "in-place-refused", layer.name, f"{what}; Caffe stops: give the top its own name")
        elif layer.type in _WRONG_IN_PLACE and _WRONG_IN_PLACE[layer.type](layer):
            message = f"{what} while still reading it; the result is silently wrong: give the top its own name"
            yield Finding("error", "in-place-wrong", layer.name, message)
        elif top is not None and bottom is not None and top != bottom:
            message = f"{what} with another shape; the result is garbage: give the top its own name"
            yield Finding("error", "in-place-wrong", layer.name, message)
        elif layer.type in _DOUBTFUL_IN_PLACE:
            message = f"{what}; it computes right only by the way this Caffe copies: give the top its own name"
            yield Finding("warning", "in-place-doubtful", layer.name, message)


def _lone_sizes(net: Net) -> Iterator[Finding]:
    for layer in net.layers:
        if layer.type not in _SPATIAL:
            continue
        param = layer.message.message(_SPATIAL[layer.type])
        for field, does in (("kernel", "Caffe stops"), ("stride", "Caffe divides by it and crashes")):
            given = [f"{field}_{axis}" for axis in "hw" if param.has(f"{field}_{axis}")]
            if len(given) == 1:
                other = f"{field}_{'w' if given[0].endswith('h') else 'h'}"
                message = f"{given[0]} without {other}, which is then 0; {does}: give both"
                yield Finding("error", f"lone-{field}", layer.name, message)


def _counts(net: Net) -> Iterator[Finding]:
    for layer, shapes in zip(net.layers, net.inferred, strict=True):
        message, made = layer.message, max(len(layer.tops), 1 if layer.type.endswith("Loss") else 0)
        losses, flags, params = (len(message.named(n)) for n in ("loss_weight", "propagate_down", "param"))
        if losses not in (0, made):
            text = f"{losses} loss_weight for {made} tops; Caffe stops: give one each or none"
            yield Finding("error", "loss-weight-count", layer.name, text)
        if flags not in (0, len(layer.bottoms)):
            text = f"{flags} propagate_down for {len(layer.bottoms)} bottoms; Caffe stops: give one each or none"
            yield Finding("error", "propagate-down-count", layer.name, text)
        if shapes.blobs is not None and params > len(shapes.blobs):
            text = f"{params} param for {len(shapes.blobs)} blobs of weights; Caffe stops: remove the last ones"
            yield Finding("error", "param-count", layer.name, text)
        if layer.type == "SoftmaxWithLoss" and len(layer.tops) == 2:
            text = "a second top of SoftmaxWithLoss; Caffe stops at the loss weights: use a Softmax layer beside it"
            yield Finding("error", "two-top-loss", layer.name, text)


def _fillers(net: Net) -> Iterator[Finding]:
    for layer in net.layers:
        for block in (block for field in layer.message.fields for block in _blocks(layer.message, field)):
            for name in _FILLER_FIELDS:
                is_used = name != "bias_filler" or kind_of(block.type, "bias_term") is None or block.bool("bias_term")
                fillers = block.messages(name) if block.type and kind_of(block.type, name) else []
                for kind in (filler.str("type") for filler in fillers if is_used):
                    if kind not in _FILLERS:
                        message = f"{name} of type '{kind}', which Caffe does not have; Caffe stops: use "
                        yield Finding("error", "unknown-filler", layer.name, message + ", ".join(_FILLERS))


def _blocks(message: Message, field: Field) -> list[Message]:
    kind = kind_of(message.type, field.name)
    return message.messages(field.name) if kind and kind.is_message and field.children else []


def _empty_blobs(net: Net) -> Iterator[Finding]:
    for layer, shapes in zip(net.layers, net.inferred, strict=True):
        if any(0 in (top or ()) for top in shapes.tops) and not any(0 in (b or ()) for b in shapes.bottoms):
            message = "a top without any element; Caffe stops at the first layer that reads it: correct the shape"
            yield Finding("error", "empty-blob", layer.name, message)


def _unshaped_inputs(net: Net) -> Iterator[Finding]:
    for layer in net.layers:
        if layer.type == "Input" and not layer.message.message("input_param").has("shape"):
            message = "states no shape; Caffe stops at the layer that reads it: add input_param { shape { dim: ... } }"
            yield Finding("error", "input-without-shape", layer.name, message)


def _batch_norms(net: Net, judged: Sequence[Target]) -> Iterator[Finding]:
    """Yield BatchNorm layers whose statistics would be trained; three `param` are set right by Caffe's upgrade."""
    refusing = [target for target in judged if target.name == "caffe-master"]
    for layer in net.layers:
        params = layer.message.messages("param")
        if refusing and layer.type == "BatchNorm" and len(params) < 3 and any(_rate(p) != 0 for p in params):
            severity, words, targets = refusal(refusing, judged)
            message = (
                f"{len(params)} param with an lr_mult other than 0: {words}; give all three with lr_mult: 0, or none"
            )
            yield Finding(severity, "batch-norm-params", layer.name, message, targets)


def _rate(param: Message) -> float:
    return param.float("lr_mult") if param.has("lr_mult") else 1.0


@dataclass(frozen=True)
class _Owner:
    """The first blob of a shared name, and the multipliers stated so far."""

    layer: str
    shape: Shape | None
    multipliers: dict[str, float]


def _shared(net: Net) -> Iterator[Finding]:
    """Yield blobs that cannot be shared as the names say, in the order in which Caffe meets them."""
    owners: dict[str, _Owner] = {}
    for layer, shapes in zip(net.layers, net.inferred, strict=True):
        for param, shape in zip_longest(layer.message.messages("param"), shapes.blobs or ()):
            name = param.str("name") if param else ""
            if not param or not name:
                continue
            stated = {key: param.float(key) for key in ("lr_mult", "decay_mult") if param.has(key)}
            owner = owners.setdefault(name, _Owner(layer.name, shape, {}))
            yield from _misfits(layer, param, shape, owner)
            for key, value in stated.items():
                if owner.multipliers.setdefault(key, value) != value:
                    message = f"shares '{name}' with {key} {value:g}, '{owner.layer}' has {owner.multipliers[key]:g}"
                    yield Finding("error", "shared-multiplier", layer.name, f"{message}; Caffe stops: make them equal")


def _misfits(layer: Layer, param: Message, shape: Shape | None, owner: _Owner) -> Iterator[Finding]:
    if shape is None or owner.shape is None:
        return
    permissive = param.str("share_mode") == "PERMISSIVE"
    if (prod(shape) != prod(owner.shape)) if permissive else (shape != owner.shape):
        message = f"shares '{param.str('name')}' as {_shown(shape)}, in '{owner.layer}' it is {_shown(owner.shape)}"
        yield Finding("error", "shared-shape", layer.name, f"{message}; Caffe stops: make them equal or rename one")


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _refused(net: Net) -> Iterator[Finding]:
    """Yield layers that Caffe refuses to set up; a reader of an unknown blob is the wiring's matter."""
    for layer, shapes in zip(net.layers, net.inferred, strict=True):
        if shapes.is_invalid and shapes.reason and "unknown bottom blob" not in shapes.reason:
            reason = shapes.reason.removeprefix(f"'{layer.name}' ({layer.type}): ")
            yield Finding("error", "layer-refused", layer.name, f"{reason}; Caffe stops there")
