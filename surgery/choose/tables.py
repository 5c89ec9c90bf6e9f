"""What a choice of ranks is made from: what each way to treat a layer costs, and what it does to the network.

Values only; `surgery.measure` makes them by running, the policies read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery.factor import Rank

# What a layer takes: multiply-accumulates of a forward pass, numbers in its weights, bytes of them in the file, bytes
# of what it and its inner stages put out, and milliseconds of a forward pass as measured.
MEASURES = ("macs", "params", "bytes", "activations", "ms")

Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """One way to treat a layer: cut by a method at a rank, or, where `method` is "", kept as it is.

    Attributes:
        method: its name.
        rank: () where the layer is kept.
        options: the method's own, as a plan holds them.
        costs: what the layer then takes, by measure; those that are not known are missing.
        error: what a choice keeps the sum of small over all layers, 0 where the layer is kept: what it adds to the
            error of the network's output, or what is left of that when later fits make up for it.
    """

    method: str
    rank: Rank
    options: Options
    costs: Mapping[str, float]
    error: float


@dataclass(frozen=True, eq=False, slots=True)
class Menu:
    """The candidates for one layer, or for several that are cut as one; the first keeps it as it is."""

    keys: tuple[str, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """A method tried on one layer with its original inputs: what the layer's own output loses.

    `response` is the share of the energy, about the mean, of the layer's responses that is lost.
    """

    method: str
    options: Options
    rank: Rank
    response: float


@dataclass(frozen=True, slots=True)
class Probe:
    """The network run with one layer cut: what its output loses when the layer's response loses `response`.

    Attributes:
        response: as in `Loss`.
        output: squared error of the network's output (before a last Softmax) over its own squares.
        divergence: mean KL divergence of the class probabilities from the original's, None where the output is not
            one row of scores for each image.
        agreement: share of images whose best class is the original's, None likewise.
        accuracy: share of images whose best class is the label, None without labels.
        original: the original's accuracy on the same images, None without labels.
    """

    response: float
    output: float
    divergence: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    original: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Sensitivity:
    """What was measured of each layer, by key."""

    losses: Mapping[str, tuple[Loss, ...]]
    probes: Mapping[str, tuple[Probe, ...]]
