"""What a network only scales and shifts, per channel, behind a linear layer, and which layers can take that in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from surgery.formats.wiring import Value, Wiring
from surgery.model import Fold, Model, PerChannel, Refusal
from surgery.ops.scale import Scale


@dataclass(frozen=True, eq=False)
class Folding:
    """The edits that fold a network's scales, and the scales that stay, with the reasons."""

    folds: tuple[Fold, ...]
    left: tuple[Refusal, ...]


def folding(model: Model) -> Folding:
    """Find every run of scales behind a convolution or fully connected layer that nothing else reads within.

    BatchNorm with stored statistics, Scale and Bias with constants count as scales; each is either in one of the folds
    or in `left`.
    """
    network = _Network(model)
    folds = tuple(network.folds())
    done = {key for fold in folds for key in fold.absorbed}
    left = tuple(network.refusal(i) for i in network.scales if model.nodes[i].key not in done)
    return Folding(folds, left)


class _Network:
    """A model's wires and what its nodes mean."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.wiring = Wiring(model.nodes)
        self.outputs = {self.wiring.final[name] for name in model.format.outputs(model) if name in self.wiring.final}
        found = ((i, model.format.scale(model, node)) for i, node in enumerate(model.nodes))
        self.scales = {i: meaning for i, meaning in found if meaning is not None}
        self.stopped: dict[int, str] = {}  # Why a scale is not taken in by the run before it.

    def folds(self) -> Iterator[Fold]:
        """Yield a fold for each run of scales that has one."""
        made = {value.node for i in self.scales for value in [self._read(i)] if value is not None}
        for i in sorted(made - set(self.scales)):
            rows = self.model.format.absorber(self.model, self.model.nodes[i])
            run = [] if isinstance(rows, Refusal) else list(self._run(i, rows))
            if run:
                scale = run[0][1]
                for _, after in run[1:]:
                    scale = scale.then(after)
                keys = tuple(self.model.nodes[j].key for j, _ in run)
                yield Fold(self.model.nodes[i].key, keys, scale)

    def _run(self, start: int, rows: int) -> Iterator[tuple[int, Scale]]:
        """Yield the scales behind a node, each read by nothing but the next."""
        value = Value(start, 0)
        while value not in self.outputs:
            readers = self.wiring.readers.get(value, ())
            if len(readers) != 1:
                self._stop(readers, value)
                return
            meaning = self.scales.get(readers[0])
            if not isinstance(meaning, PerChannel) or self._read(readers[0]) != value:
                return
            if meaning.scale.channels not in (1, rows):
                self.stopped[readers[0]] = f"has {meaning.scale.channels} channels where its input has {rows}"
                return
            yield readers[0], meaning.scale
            value = Value(readers[0], 0)
        self._stop(self.wiring.readers.get(value, ()), value)

    def _stop(self, readers: Sequence[int], value: Value) -> None:
        """Note why the scales that read a value cannot be taken in."""
        name = self.model.nodes[value.node].outputs[value.slot]
        for i in readers:
            others = [self.model.nodes[j].key for j in readers if j != i]
            by = f"'{others[0]}' reads it too" if others else "the network gives it as an output"
            self.stopped[i] = f"its input '{name}' is needed as it is: {by}"

    def refusal(self, i: int) -> Refusal:
        """Return why a scale stays."""
        node, meaning = self.model.nodes[i], self.scales[i]
        if isinstance(meaning, Refusal):
            return meaning
        return Refusal(node.key, node.type, self.stopped.get(i) or self._unfit(i))

    def _unfit(self, i: int) -> str:
        """Return why what makes a scale's input cannot take it in."""
        value = self._read(i)
        if value is None:
            return "its input is the network's: no layer before it takes it in"
        maker = self.model.nodes[value.node]
        if value.node in self.scales:
            return f"'{maker.key}' before it stays"
        result = self.model.format.absorber(self.model, maker)
        reason = result.reason if isinstance(result, Refusal) else f"is not linear up to its output {value.slot}"
        return f"'{maker.key}' ({maker.type}) before it cannot take it in: {reason}"

    def _read(self, i: int) -> Value | None:
        """Return the value that a scale scales."""
        meaning = self.scales[i]
        slot = meaning.input if isinstance(meaning, PerChannel) else 0
        sources = self.wiring.sources[i]
        return sources[slot] if slot < len(sources) else None
