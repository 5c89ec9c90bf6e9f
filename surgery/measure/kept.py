"""What is known of one layer's sensitivity, what is still asked for, and where both are kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any

from surgery.calibrate import Calibration
from surgery.choose.tables import Loss, Options, Probe, Sensitivity
from surgery.factor import Method, Rank, options_of
from surgery.measure.cache import load, store
from surgery.measure.outputs import Labels

FORMAT = 4  # of what is kept, and of how it is measured: another one makes all that is kept unknown
# Squared errors of a layer's response; the cuts next to these run in the network. What the output loses is close to a
# power of what the layer does, which two points give; each costs as much as half a run of the whole network.
PROBED_AT = (0.02, 0.15)
_LEAST = 1e-12  # of a response whose logarithm is taken: full ranks lose next to nothing

_CHEAPEST = ("svd", "svd-channel")

Ask = tuple[Method, Rank]
Name = tuple[str, Options, Rank]


@dataclass(frozen=True)
class Layer:
    """The cuts that are asked for of a layer, and the losses and probes that are known.

    What it gives depends on what is asked for alone, not on what else is known from before.
    """

    key: str
    asks: tuple[Ask, ...]
    losses: Mapping[Name, Loss]
    probes: Mapping[float, Probe]  # by response

    @property
    def missing(self) -> tuple[Ask, ...]:
        """The cuts that are still to be fitted."""
        return tuple(ask for ask in self.asks if name_of(ask) not in self.losses)

    @property
    def asked(self) -> tuple[Loss, ...]:
        """The losses of all cuts that are asked for, as far as they are known."""
        return tuple(self.losses[name_of(ask)] for ask in self.asks if name_of(ask) in self.losses)

    @property
    def chosen(self) -> tuple[Ask, ...]:
        """The cuts, of those whose loss is known, that the network is to be run with."""
        known = [ask for ask in self.asks if name_of(ask) in self.losses]
        # What an error of the response does to the output hangs on the method little: the cheapest serves.
        known = [ask for ask in known if ask[0].name in _CHEAPEST] or known
        if not known:
            return ()
        logs = [log(max(self.loss(ask).response, _LEAST)) for ask in known]
        nearest = (min(range(len(known)), key=lambda i: abs(logs[i] - log(at))) for at in PROBED_AT)
        by_response = {self.loss(known[i]).response: known[i] for i in nearest}
        return tuple(by_response.values())

    @property
    def probed(self) -> tuple[Probe, ...]:
        """The probes of those, as far as they are known."""
        responses = [self.loss(ask).response for ask in self.chosen]
        return tuple(self.probes[response] for response in responses if response in self.probes)

    @property
    def unprobed(self) -> tuple[Ask, ...]:
        """The cuts that the network is still to be run with."""
        return tuple(ask for ask in self.chosen if self.loss(ask).response not in self.probes)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be measured."""
        return not self.missing and not self.unprobed

    def loss(self, ask: Ask) -> Loss:
        """Return what is known of a cut; raises KeyError."""
        return self.losses[name_of(ask)]

    def with_losses(self, losses: Sequence[Loss]) -> Layer:
        """Return the layer with more that is known."""
        return replace(self, losses={**self.losses, **{_name(loss): loss for loss in losses}})

    def with_probes(self, probes: Sequence[Probe]) -> Layer:
        """Return the layer with more that is known."""
        return replace(self, probes={**self.probes, **{each.response: each for each in probes}})


@dataclass(frozen=True)
class Notes:
    """Where in the cache the layers of one model on the same data are: what their losses and probes depend on."""

    losses: str
    probes: str

    @classmethod
    def of(cls, found: Calibration, labels: Labels | None, images: int) -> Notes:
        """Return the place for a calibration, and for probes on at most so many images with these labels."""
        record = {name: found.record[name] for name in ("images", "digest", "positions", "seed")}
        digest = found.model.format.digest(found.model)
        losses = json.dumps([FORMAT, digest, sorted(found.twin.inputs.items()), record], sort_keys=True)
        truth = None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()
        return cls(losses, json.dumps([losses, images, truth]))

    def read(self, key: str, asks: Sequence[Ask], known: Sensitivity | None) -> Layer:
        """Return a layer with all that is known or kept of it."""
        losses = [loss_of(row) for row in load("losses", self.losses + key) or []]
        probes = [Probe(**row) for row in load("probes", self.probes + key) or []]
        if known is not None:
            losses += known.losses.get(key, ())
            probes += known.probes.get(key, ())
        return Layer(key, tuple(asks), {}, {}).with_losses(losses).with_probes(probes)

    def kept(self, layer: Layer) -> Layer:
        """Return a layer after all that is known of it was kept."""
        self.keep_losses(layer)
        self.keep_probes(layer)
        return layer

    def keep_losses(self, layer: Layer) -> None:
        """Keep all that is known of what a layer loses."""
        store("losses", self.losses + layer.key, [asdict(loss) for loss in layer.losses.values()])

    def keep_probes(self, layer: Layer) -> None:
        """Keep all that is known of what the network loses by it."""
        store("probes", self.probes + layer.key, [asdict(each) for each in layer.probes.values()])


def name_of(ask: Ask) -> Name:
    """Return what tells a cut from others: the method, its options that are not the default, and the rank."""
    method, rank = ask
    return method.name, tuple(sorted(options_of(method).items())), rank


def _name(loss: Loss) -> Name:
    return loss.method, loss.options, loss.rank


def loss_of(row: dict[str, Any]) -> Loss:
    """Return the loss of which `row` holds the fields, as JSON has them."""
    return Loss(**row | {"options": tuple(map(tuple, row["options"])), "rank": tuple(row["rank"])})
