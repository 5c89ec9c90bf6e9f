"""A training network turned into the one that runs: data layers become inputs, losses and metrics go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import ModelError, PlanError
from surgery.formats.caffe.edit import appended, flat, margin, newline, removals, unit, without_lists
from surgery.formats.caffe.input_fields import with_shapes
from surgery.formats.caffe.liveness import HEADS, Needs, is_loss, is_source, needs
from surgery.formats.caffe.netstate import NetState, active
from surgery.formats.caffe.network import Layer, Shape, inputs, layers
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.sources import is_reshaped, shape_of
from surgery.formats.caffe.text import Document, Field, Splice, replacement
from surgery.formats.caffe.upgrade import upgrade

_RULES = ("include", "exclude")
_LOSS_FIELDS = ("loss_weight", "loss_param", "propagate_down")
_EDITED = {"layer", "bottom", "top", *_RULES, *_LOSS_FIELDS}


def deploy(document: Document, state: NetState, shapes: Mapping[str, Shape]) -> Document:
    """Return the network that runs in `state`, made from one that trains.

    - Layers that do not run go, and the rules of the others. Only where a data layer or a loss of the next points is
      stated for another phase alone, that one counts.
    - A data layer becomes one Input layer for each blob that leads to a prediction. Its shape is the one given under
      the blob's name, else the one the file states, with a batch of 1. Its transform_param becomes a comment, since who
      feeds the blob must now do that. An Input layer changes only where another shape is given, or a label was fed.
    - Losses and metrics go, and what only they needed: labels, and heads that predict what a heavier loss predicts
      too. SoftmaxWithLoss becomes Softmax, SigmoidCrossEntropyLoss Sigmoid, unless that is there already; the blob is
      "prob", or `<layer>_prob` for each where there are several.
    - `input` fields get the shapes given for them.
    - All else stays as it is written. A network without data layers, losses, metrics and layers that do not run comes
      back unchanged; of others V0 and V1 are upgraded first, and V2 where a label is among its `input` fields.

    Raises PlanError where a blob's shape is missing, or given for a blob that is none of the data layers'; ModelError
    for a layer that needs a blob no running layer makes.
    """
    _check_shapes(document, shapes)
    document = with_shapes(document, shapes)
    found = layers(document)
    if _is_deployed(document, state) and not any(
        layer.type == "Input" and is_reshaped(layer, shapes) for layer in found
    ):
        return document
    is_old = any(layer.generation < 2 for layer in found)
    job = _job(upgrade(document) if is_old else document, state, shapes)
    if job.loses_inputs():
        job = _job(upgrade(document), state, shapes)
    return job.document.edited(job.splices())


def _job(document: Document, state: NetState, shapes: Mapping[str, Shape]) -> _Job:
    document = without_lists(document, _EDITED)
    found, fed = layers(document), inputs(document)
    present = active(found, state)
    ids = {id(layer) for layer in present}
    running = {i for i, layer in enumerate(found) if id(layer) in ids}
    sources = {i for i in running if _is_source(found[i], present, fed)} | _from_other_phases(found, running, fed)
    running |= sources
    return _Job(document, found, sources, fed, needs(found, running, sources), shapes)


def _from_other_phases(found: Sequence[Layer], running: Collection[int], fed: Collection[str]) -> set[int]:
    """Return the data layers that do not run, but alone make their blobs: many networks state one for training only.

    Of several the last counts, which is commonly the one for validation.
    """
    made = {*fed, *(top for i in running for top in found[i].tops)}
    result = set()
    for i, layer in reversed(list(enumerate(found))):
        if i not in running and _is_source(layer, found, fed) and made.isdisjoint(layer.tops):
            result.add(i)
            made.update(layer.tops)
    return result


def _is_source(layer: Layer, present: Sequence[Layer], fed: Collection[str]) -> bool:
    return is_source(layer, present) and not (fed and layer.type == "DummyData")


def _is_deployed(document: Document, state: NetState) -> bool:
    found, fed = layers(document), inputs(document)
    return len(active(found, state)) == len(found) and not any(
        (layer.type != "Silence" and is_loss(layer)) or (layer.type != "Input" and _is_source(layer, found, fed))
        for layer in found
    )


def _check_shapes(document: Document, shapes: Mapping[str, Shape]) -> None:
    """Raise PlanError for a shape given for no blob that is fed."""
    names = [*inputs(document), *(top for layer in layers(document) if not layer.bottoms for top in layer.tops)]
    for name in shapes:
        if name not in names:
            fed = ", ".join(dict.fromkeys(names))
            raise PlanError(f"{document.path}: a shape is given for '{name}'; the blobs fed are {fed}")


@dataclass(frozen=True, eq=False)
class _Job:
    """One network to deploy: its layers, the numbers of those that feed it, the `input` fields, and what stays."""

    document: Document
    layers: Sequence[Layer]
    sources: set[int]
    fed: Mapping[str, Shape | None]
    need: Needs
    shapes: Mapping[str, Shape]

    def loses_inputs(self) -> bool:
        """Return whether an `input` field feeds nothing that stays, but feeds something now."""
        stay = {name for i in self.need.live for name in self.layers[i].bottoms}
        stay.update(self.layers[i].bottoms[0] for i in self.need.heads)
        return any(name in layer.bottoms for layer in self.layers for name in self.fed if name not in stay)

    def splices(self) -> list[Splice]:
        """Return what turns the network into the deployed one."""
        self._check()
        splices, gone = list[Splice](), list[Field]()
        blobs, made = self._head_blobs(), self._inputs()
        for i, layer in enumerate(self.layers):
            if i in blobs:
                splices += _as_prediction(self.document, layer, blobs[i])
            elif i in made:
                splices += made[i]
            elif i in self.need.silenced:
                bottoms = enumerate(layer.message.named("bottom"))
                dead = [field for k, field in bottoms if k not in self.need.silenced[i]]
                splices += removals(self.document, [*dead, *_rules(layer)])
            elif i in self.need.live:
                splices += removals(self.document, _rules(layer))
            else:
                gone.append(layer.field)
        return splices + removals(self.document, gone)

    def _check(self) -> None:
        if not self.need.live and not self.need.heads:
            raise ModelError(f"{self.document.path}: no layer is left without data, losses and metrics")
        for i, names in sorted(self.need.unmade.items()):
            missing = [name for name in names if name not in self.fed]
            if missing:
                raise ModelError(
                    f"{self.document.path}: layer '{self.layers[i].name}' needs blob '{missing[0]}', "
                    "which no layer before it makes in this phase, level and stage"
                )

    def _head_blobs(self) -> dict[int, str]:
        """Return the name of every prediction's blob."""
        taken = {top for i in self.need.live for top in self.layers[i].tops}
        taken.update(self.layers[i].tops[k] for i, tops in self.need.tops.items() for k in tops)
        result: dict[int, str] = {}
        for i in self.need.heads:
            layer = self.layers[i]
            if len(layer.tops) > 1:
                result[i] = layer.tops[1]  # The loss's own name for the prediction, which others may use.
                continue
            own = layer.tops[0] if layer.tops else layer.name
            name = "prob" if len(self.need.heads) == 1 else f"{layer.name or own}_prob"
            if name in taken:
                name = own
            while name in taken:
                name += "_"
            taken.add(name)
            result[i] = name
        return result

    def _inputs(self) -> dict[int, list[Splice]]:
        """Return what puts Input layers in the place of data layers, and of Input layers that feed labels too."""
        taken = {self.layers[i].name for i in self.need.live} | {self.layers[i].name for i in self.need.heads}
        result: dict[int, list[Splice]] = {}
        missing = list[PlanError]()
        for i in sorted(self.sources):
            layer, tops = self.layers[i], self.need.tops.get(i, ())
            if layer.type == "Input" and self._keeps_all(i):
                if not is_reshaped(layer, self.shapes):
                    result[i] = removals(self.document, _rules(layer))
                    continue
                tops = tuple(range(len(layer.tops)))
            try:
                result.update({i: [self._input(layer, tops, taken)]} if tops else {})
            except PlanError as error:
                missing.append(error)
        if missing:
            raise missing[0] if len(missing) == 1 else PlanError("; ".join(map(str, missing)))
        return result

    def _keeps_all(self, source: int) -> bool:
        layer = self.layers[source]
        unused = {k for k, top in enumerate(layer.tops) if not any(top in x.bottoms for x in self.layers)}
        return unused.union(self.need.tops.get(source, ())) == set(range(len(layer.tops)))

    def _input(self, layer: Layer, tops: Sequence[int], taken: set[str]) -> Splice:
        indent, step, end = margin(self.document, layer.field.start) or "", unit(self.document), newline(self.document)
        lines = [f"# was: {flat(self.document, f)}" for f in layer.message.named("transform_param") if f.children]
        for top in tops:
            name = layer.name if len(tops) == 1 else layer.tops[top]
            while name in taken:
                name += "_input"
            taken.add(name)
            dims = " ".join(f"dim: {size}" for size in shape_of(layer, top, self.shapes))
            lines += [
                "layer {",
                f"{step}name: {quote(name)}",
                f'{step}type: "Input"',
                f"{step}top: {quote(layer.tops[top])}",
                f"{step}input_param {{ shape {{ {dims} }} }}",
                "}",
            ]
        break_before = end if margin(self.document, layer.field.start) is None and lines[0][0] == "#" else ""
        return Splice(layer.field.start, layer.field.end, break_before + (end + indent).join(lines))


def _as_prediction(document: Document, layer: Layer, blob: str) -> Iterator[Splice]:
    """Yield what makes a loss the function whose result it judges."""
    message = layer.message
    yield from (replacement(field, quote(HEADS[layer.type])) for field in message.named("type"))
    tops = message.named("top")
    if tops:
        yield replacement(tops[0], quote(blob))
    else:
        yield appended(document, layer.field, f"top: {quote(blob)}")
    losses = [field for name in _LOSS_FIELDS for field in message.named(name)]
    yield from removals(document, [*message.named("bottom")[1:], *tops[1:], *losses, *_rules(layer)])


def _rules(layer: Layer) -> list[Field]:
    return [field for rule in _RULES for field in layer.message.named(rule)]
