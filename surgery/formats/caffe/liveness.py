"""Which layers of a training network a deployed one needs: what leads from the images to the predictions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from surgery.formats.caffe.layers import LAYERS
from surgery.formats.caffe.network import Layer

# Losses that a deployed network keeps without their loss.
HEADS = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}

# How many of a loss's or metric's first bottoms are the network's own; the others are what they are compared to.
_PREDICTIONS = {
    "ContrastiveLoss": 2,
    "HingeLoss": 1,
    "InfogainLoss": 1,
    "MultiBoxLoss": 3,
    "MultinomialLogisticLoss": 1,
    "SigmoidCrossEntropyLoss": 1,
    "Silence": 0,
}
_FIRST_IS_PREDICTION = ("Accuracy", "WithLoss", "L1Loss", "CenterLoss", "Eval")
_JUDGES = ("Loss", "Accuracy", "Eval")  # Parts of the names of types that end in a number, not a prediction.
_SINKS = {"HDF5Output", "MatWrite", "Silence"}
_CONSTANTS = {"Parameter", "ContinuationIndicator"}
_WEIGHTED = {"BatchNorm", "Bias", "Embed", "LSTM", "PReLU", "Parameter", "RNN", "Scale"}


class Top(NamedTuple):
    """A blob at one stage, top number `slot` of layer number `layer`: in-place layers make blobs of their own."""

    layer: int
    slot: int


@dataclass(frozen=True)
class Needs:
    """What stays of a network; numbers count the layers given.

    Attributes:
        live: Layers that stay as they are.
        tops: For every data layer that is needed the blobs needed of it.
        heads: Losses that become Softmax or Sigmoid.
        silenced: Silence layers that stay, each with the bottoms that are still made.
        unmade: Layers that stay although no active layer before them makes these bottoms.
    """

    live: frozenset[int]
    tops: Mapping[int, tuple[int, ...]]
    heads: tuple[int, ...]
    silenced: Mapping[int, tuple[int, ...]]
    unmade: Mapping[int, tuple[str, ...]]


def is_loss(layer: Layer) -> bool:
    """Return whether the layer only serves training or measuring; layers without tops do too."""
    if layer.generation and any(float(weight) for weight in layer.message.all("loss_weight")):
        return True
    return any(part in layer.type for part in _JUDGES) or layer.type in _SINKS or not layer.tops


def is_source(layer: Layer, others: Iterable[Layer]) -> bool:
    """Return whether the layer feeds the network: no bottoms, where its type needs none, and no constant.

    DummyData feeds it where nothing else does, as in benchmarks; beside a real source it is a constant.
    """
    known = LAYERS.get(layer.type)
    if layer.bottoms or not layer.tops or layer.type in _CONSTANTS or (known and known.bottoms[0]):
        return False
    if layer.type != "DummyData":
        return True
    return not any(is_source(other, ()) for other in others if other.type != "DummyData")


def needs(layers: Sequence[Layer], active: set[int], sources: set[int]) -> Needs:
    """Return what of a network stays when its losses and metrics go.

    `layers` are all of the file, `active` the numbers of those that run, `sources` those of them that feed the network.
    A loss of `HEADS` that does not run counts where its first bottom does: many networks have it for training only.
    """
    return _Network(layers, active, sources).needs()


class _Network:
    """The active layers wired up, with what is derived from that."""

    def __init__(self, layers: Sequence[Layer], active: set[int], sources: set[int]) -> None:
        self.layers, self.active, self.sources = layers, active, sources
        self.bottoms = _wired(layers, active)
        self.losses = {i for i in active if i not in sources and is_loss(layers[i])}
        self.used = {top for i in active for top in self.bottoms[i] if top is not None}
        self.learned: set[int] = set()
        for i in sorted(active):
            if _has_weights(layers[i]) or any(top and top.layer in self.learned for top in self.bottoms[i]):
                self.learned.add(i)

    def needs(self) -> Needs:
        heads, auxiliary = self._heads()
        derived = self._derived_from_losses(heads)
        roots = {self.bottoms[i][0] for i in heads} | self._predicted(auxiliary)
        body = self.active - self.sources - self.losses - derived
        ends = {Top(i, k) for i in body for k in range(len(self.layers[i].tops))} - self.used - auxiliary
        ends -= self._derived_from_labels(roots, heads) if roots else set()
        roots |= {top for top in ends if top.layer in self.learned} or (set() if roots else ends)
        silences = {i for i in self.active if self.layers[i].type == "Silence"}
        if not roots:  # A network that only shows or saves its result hides it; deployed, it is the output.
            roots = {top for i in silences for top in self.bottoms[i] if top and top.layer in self.learned}
            silences = set()
        reached = self._reached([top for top in roots if top is not None], heads)
        live = {top.layer for top in reached} - self.losses - self.sources
        tops = {i: tuple(sorted(top.slot for top in reached if top.layer == i)) for i in self.sources}
        unmade = {i: self._unmade(i) for i in live if None in self.bottoms[i]}
        silenced = self._silenced(silences, live, reached)
        return Needs(frozenset(live), {i: t for i, t in tops.items() if t}, tuple(heads), silenced, unmade)

    def _heads(self) -> tuple[list[int], set[Top]]:
        """Return the losses to keep without their loss, and the blobs that only auxiliary heads predict.

        Of heads with one target those with a smaller stated weight are auxiliary: they help deep networks to train.
        """
        found = [i for i, x in enumerate(self.layers) if x.type in HEADS and self.bottoms[i] and self.bottoms[i][0]]
        heaviest: dict[tuple[str, ...], float] = {}
        for i in found:
            targets = self.layers[i].bottoms[1:]
            heaviest[targets] = max(_weight(self.layers[i]), heaviest.get(targets, 0.0))
        main = [i for i in found if not self._is_lighter(i, heaviest)]
        seen = {
            (self.layers[i].type, *self.bottoms[i][:1]) for i in self.active if self.layers[i].type in HEADS.values()
        }
        heads = []
        for i in sorted(main, key=lambda i: i not in self.active):
            place = HEADS[self.layers[i].type], self.bottoms[i][0]
            if place not in seen:
                heads.append(i)
                seen.add(place)
        predicted = {self.bottoms[i][0] for i in main}
        auxiliary = {top for i in found if (top := self.bottoms[i][0]) and top not in predicted}
        return sorted(heads), self._derived(auxiliary)

    def _is_lighter(self, head: int, heaviest: Mapping[tuple[str, ...], float]) -> bool:
        layer = self.layers[head]
        return layer.message.has("loss_weight") and _weight(layer) < heaviest[layer.bottoms[1:]]

    def _derived(self, tops: set[Top]) -> set[Top]:
        """Return the blobs and what is computed from nothing else."""
        result = set(tops)
        for i in sorted(self.active):
            if self.bottoms[i] and all(top in result for top in self.bottoms[i]):
                result |= {Top(i, k) for k in range(len(self.layers[i].tops))}
        return result

    def _derived_from_losses(self, heads: Sequence[int]) -> set[int]:
        """Return the layers that compute with a loss; the second top of a head is the prediction itself."""
        losses = {Top(i, k) for i in self.losses for k in range(len(self.layers[i].tops)) if not (i in heads and k)}
        return self._users(losses)

    def _derived_from_labels(self, roots: Collection[Top | None], heads: Sequence[int]) -> set[Top]:
        """Return the blobs computed with a label: what a loss compares to and no prediction is made from."""
        compared = {top for i in self.losses for top in self.bottoms[i] if top and top.layer in self.sources}
        labels = compared - self._reached([top for top in roots if top is not None], heads)
        return {Top(i, k) for i in self._users(labels) for k in range(len(self.layers[i].tops))}

    def _users(self, tops: Collection[Top]) -> set[int]:
        """Return the layers without a loss that use one of the blobs, or what is made from them."""
        found: set[int] = set()
        for i in sorted(self.active - self.losses):
            if any(top is not None and (top in tops or top.layer in found) for top in self.bottoms[i]):
                found.add(i)
        return found

    def _predicted(self, auxiliary: set[Top]) -> set[Top | None]:
        return {top for i in self.losses for top in self._predictions(i)} - auxiliary

    def _predictions(self, loss: int) -> Sequence[Top | None]:
        """Return those bottoms of a loss that are the network's own."""
        layer, bottoms = self.layers[loss], self.bottoms[loss]
        count = _PREDICTIONS.get(layer.type)
        if count is None and any(name in layer.type for name in _FIRST_IS_PREDICTION):
            count = 1
        if count is not None:
            return bottoms[:count]
        return [top for top in bottoms if top is not None and top.layer in self.learned] or bottoms[:1]

    def _reached(self, roots: Sequence[Top], heads: Sequence[int]) -> set[Top]:
        """Return the blobs from which the roots are computed, with these; of a head only its prediction counts."""
        pending, reached = list(roots), set[Top]()
        while pending:
            top = pending.pop()
            if top not in reached:
                reached.add(top)
                bottoms = self.bottoms[top.layer][: 1 if top.layer in heads else None]
                pending += [bottom for bottom in bottoms if bottom is not None]
        return reached

    def _silenced(
        self, silences: Collection[int], live: Collection[int], reached: Collection[Top]
    ) -> dict[int, tuple[int, ...]]:
        """Return each Silence with those of its bottoms that are still made: without it they would be outputs."""
        result = {}
        for i in silences:
            tops = enumerate(self.bottoms[i])
            made = tuple(k for k, top in tops if top is not None and (top.layer in live or top in reached))
            result.update({i: made} if made else {})
        return result

    def _unmade(self, i: int) -> tuple[str, ...]:
        pairs = zip(self.layers[i].bottoms, self.bottoms[i], strict=True)
        return tuple(name for name, top in pairs if top is None)


def _wired(layers: Sequence[Layer], active: set[int]) -> list[list[Top | None]]:
    """Return for every bottom of every layer which active layer before it made it last."""
    makers: dict[str, Top] = {}
    wires: list[list[Top | None]] = []
    for i, layer in enumerate(layers):
        wires.append([makers.get(name) for name in layer.bottoms])
        if i in active:
            makers.update({name: Top(i, k) for k, name in enumerate(layer.tops)})
    return wires


def _weight(layer: Layer) -> float:
    weights = layer.message.all("loss_weight")
    return float(weights[0]) if weights else 1.0


def _has_weights(layer: Layer) -> bool:
    named = "Conv" in layer.type or "InnerProduct" in layer.type or layer.type in _WEIGHTED
    return named or layer.message.has("param")
