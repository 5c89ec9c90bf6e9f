"""The network to train: the one that runs, as it is written, with data in front of it and losses behind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import ModelError, PlanError
from surgery.formats.caffe.edit import appended, newline, removals, without_lists
from surgery.formats.caffe.network import Layer, layers
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.text import Document, Splice, parse, replacement
from surgery.formats.caffe.upgrade import upgrade
from surgery.model import Model
from surgery.tune.caffe import blocks
from surgery.tune.caffe.blocks import Lines, Names
from surgery.tune.caffe.places import Ends, Replaced
from surgery.tune.caffe.settings import Goal

PREFIX = "tune_"
_LISTS = {"layer", "layers", "bottom", "top", "param", "propagate_down"}
_OLD_INPUTS = ("input", "input_shape", "input_dim")
# lr_mult and decay_mult of each blob where the file states none. Caffe's examples let biases learn twice as fast, from
# zero; here they are near their ends. BatchNorm's statistics are no weights, which old Caffes must be told.
_MULTIPLIERS = {
    "Convolution": ((1, 1), (1, 0)),
    "Deconvolution": ((1, 1), (1, 0)),
    "InnerProduct": ((1, 1), (1, 0)),
    "Scale": ((1, 0), (1, 0)),
    "Bias": ((1, 0),),
    "PReLU": ((1, 0),),
    "BatchNorm": ((0, 0), (0, 0), (0, 0)),
}


@dataclass(frozen=True)
class Request:
    """What the network to train is made of.

    Attributes:
        goal: what it is to match.
        ends: where it ends, None where no target needs that.
        names: of the blobs that are added.
        data: the data layers.
        scales: by cut layer, what makes half its mean squared error a share of the teacher's squares.
        replaced: by cut layer, what is in its place.
        frozen: layers that keep their weights, and their statistics.
        memory: batches over which the statistics of BatchNorms that follow the data are taken.
        is_labelled: whether the tests have labels.
    """

    goal: Goal
    ends: Ends | None
    names: Names
    data: Sequence[Lines]
    scales: Mapping[str, float]
    replaced: Mapping[str, Replaced]
    frozen: Collection[str]
    memory: int
    is_labelled: bool


def names_for(model: Model, goal: Goal, label: str | None) -> Names:
    """Return names that the network does not use; `label` is one that the data prescribe.

    Raises ModelError where the network has a blob of that name.
    """
    taken = model.native.taken
    if label in taken:
        raise ModelError(f"the data have labels called '{label}', and so is a blob of the network; rename one")
    prefix = PREFIX
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    targets = {key: f"{prefix}{key}_target" for key in goal.layers if goal.responses}
    return Names(label or f"{prefix}label", f"{prefix}teacher", targets, prefix)


def train_val(model: Model, request: Request) -> str:
    """Return the prototxt that trains a model without edits; V0 and V1 networks are upgraded first.

    - Data layers take the place of the inputs.
    - A last Softmax goes: it is part of the losses behind.
    - A layer whose response is matched writes into a blob of its own where another works in place behind it.
    - Weights get multipliers of their own where the file states none; those of frozen layers are 0.
    - BatchNorm takes the statistics of each batch in training, and those stored follow; or keeps to these where frozen.

    All else stays as it is written. Raises PlanError.
    """
    document = without_lists(upgrade(model.native.document), _LISTS)
    found = layers(document)
    responses = _responses(found, request)
    splices = [*_data(document, found, request.data)]
    splices += removals(document, [x.field for x in found if request.ends and x.name == request.ends.softmax])
    for one in responses.values():
        splices += one.splices
    splices += _multipliers(model, document, found, request.frozen)
    for layer in found:
        if layer.type == "BatchNorm":
            splices += _batch_norm(document, layer, None if layer.name in request.frozen else request.memory)
        if request.goal.is_local and layer.name in {one.layers[0] for one in request.replaced.values()}:
            # Each cut layer learns from its own original alone: nothing flows back into those before it.
            splices += removals(document, layer.message.named("propagate_down"))
            splices += [appended(document, layer.field, "propagate_down: false") for _ in layer.bottoms]
    losses = list(_losses(request, {key: one.blob for key, one in responses.items()}))
    loose = _loose(model, request.ends, losses)
    return _joined(document, splices, [*losses, blocks.silence(loose, request.names)])


def _joined(document: Document, splices: Sequence[Splice], behind: Sequence[Lines]) -> str:
    end = newline(document)
    text = document.edited(splices).text
    text += "" if text.endswith("\n") else end
    return text + "".join(line + end for block in behind for line in block)


def _loose(model: Model, end: Ends | None, losses: Sequence[Lines]) -> list[str]:
    """Return the outputs of the network that nothing is made of in training."""
    gone = model.node(end.softmax) if end and end.softmax else None
    outputs = [blob for blob in model.format.outputs(model) if gone is None or blob not in gone.outputs]
    outputs += gone.inputs if gone else ()
    behind = layers(parse("\n".join(line for block in losses for line in block))) if losses else ()
    used = {blob for layer in behind if not layer.message.has("include") for blob in layer.bottoms}
    return [blob for blob in outputs if blob not in used]


def _data(document: Document, found: Sequence[Layer], data: Sequence[Lines]) -> Iterator[Splice]:
    """Yield what puts the data layers in the place of the inputs."""
    inputs = [layer.field for layer in found if layer.type == "Input"]
    fields = [field for name in _OLD_INPUTS for field in document.message("NetParameter").named(name)]
    end = newline(document)
    text = end.join(line for block in data for line in block)
    if inputs:
        yield Splice(inputs[0].start, inputs[0].end, text)
    else:
        yield Splice(found[0].field.start, found[0].field.start, text + end)
    yield from removals(document, [*inputs[1:], *fields])


@dataclass(frozen=True)
class _Response:
    """The blob that holds what a layer makes, before anything works in place on it, and what it takes to have one."""

    blob: str
    splices: tuple[Splice, ...] = ()


def _responses(found: Sequence[Layer], request: Request) -> dict[str, _Response]:
    """Return, for each layer whose response is matched, where that is."""
    result = {}
    for key, one in request.replaced.items():
        place = next(i for i, layer in enumerate(found) if layer.name == one.layers[-1])
        blob = found[place].tops[0]
        reader = next((layer for layer in found[place + 1 :] if blob in layer.bottoms), None)
        if reader is None or blob not in reader.tops:
            result[key] = _Response(blob)
            continue
        own = f"{request.names.prefix}{key}_response"
        tops = found[place].message.named("top")[:1]
        bottoms = zip(reader.message.named("bottom"), reader.bottoms, strict=True)
        fields = [*tops, *(field for field, name in bottoms if name == blob)]
        result[key] = _Response(own, tuple(replacement(field, quote(own)) for field in fields))
    return result


def _losses(request: Request, responses: Mapping[str, str]) -> Iterator[Lines]:
    goal, names, end = request.goal, request.names, request.ends
    if end is None and (goal.labels or goal.distil):
        raise PlanError("the network has several outputs; name the blob of the logits")
    if end is not None and goal.labels:
        yield blocks.label_loss(end.logits, names, goal.labels)
    if end is not None and goal.distil:
        yield blocks.distillation(end.logits, end.shape, names, goal)
    for key, blob in responses.items():
        weight = goal.responses * request.scales[key] / len(responses)
        yield blocks.response(key, blob, names, weight)
    if end is not None and request.is_labelled:
        yield blocks.accuracy(end.logits, names)


def _multipliers(model: Model, document: Document, found: Sequence[Layer], frozen: Collection[str]) -> Iterator[Splice]:
    """Yield what states how fast each blob learns, where the file does not, and 0 for those of frozen layers.

    Blobs that layers share are frozen where all of these are.
    """
    counts = {entry.name: len(entry.shapes) for entry in model.native.weights.layers}
    moving = {name for layer in found if layer.name not in frozen for name in layer.param_names if name}
    for layer in found:
        count, params = counts.get(layer.name, 0), layer.message.named("param")
        if layer.name in frozen and not moving.intersection(layer.param_names):
            yield from _still(document, layer, count)
        elif not params:
            for rate, decay in _MULTIPLIERS.get(layer.type, ())[:count]:
                yield appended(document, layer.field, f"param {{ lr_mult: {rate} decay_mult: {decay} }}")


def _still(document: Document, layer: Layer, count: int) -> Iterator[Splice]:
    """Yield what keeps all blobs of a layer as they are."""
    params = layer.message.named("param")
    for field, message in zip(params, layer.message.messages("param"), strict=True):
        for name in ("lr_mult", "decay_mult"):
            stated = message.named(name)
            yield replacement(stated[-1], "0") if stated else appended(document, field, f"{name}: 0")
    for _ in range(len(params), count):
        yield appended(document, layer.field, "param { lr_mult: 0 decay_mult: 0 }")


def _batch_norm(document: Document, layer: Layer, memory: int | None) -> Iterator[Splice]:
    """Yield what makes BatchNorm take each batch's statistics in training, or where `memory` is None those stored.

    Those stored become the moving mean over some `memory` batches.
    """
    blocks_of = layer.message.named("batch_norm_param")
    fields = {"use_global_stats": "true"}
    if memory is not None:
        fields = {"moving_average_fraction": f"{1 - 1 / memory:.4g}"}
    if not blocks_of:
        inner = " ".join(f"{name}: {value}" for name, value in fields.items())
        yield appended(document, layer.field, f"batch_norm_param {{ {inner} }}")
        return
    message = layer.message.message("batch_norm_param")
    for name, value in fields.items():
        stated = message.named(name)
        yield replacement(stated[-1], value) if stated else appended(document, blocks_of[0], f"{name}: {value}")
    if memory is not None:
        yield from removals(document, message.named("use_global_stats"))
