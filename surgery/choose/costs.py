"""What a layer, or a chain in its place, takes of each measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from surgery.errors import PlanError
from surgery.ops import Chain, Op
from surgery.survey import Site, Survey

Milliseconds = Callable[[Site, Op | Chain], float | None]  # what a layer, or a chain in its place, takes

FLOAT_BYTES = 4
# How the command line names the budget that bounds a measure.
OPTIONS = {"macs": "--macs", "params": "--params", "bytes": "--size", "activations": "--activations", "ms": "--latency"}


def costs(site: Site, layer: Op | Chain) -> dict[str, float]:
    """Return what `layer` takes in the site's place, by measure; what hangs on an unknown shape is missing.

    Weights are float32. The milliseconds are not among them: they are measured.
    """
    found: dict[str, float] = {"params": layer.params, "bytes": FLOAT_BYTES * layer.params}
    if site.facts.macs is not None:
        found["macs"] = site.macs(layer)
        found["activations"] = FLOAT_BYTES * _numbers(site, layer)
    return found


def priced(site: Site, layer: Op | Chain, timed: Milliseconds | None) -> dict[str, float] | None:
    """Return the costs with the milliseconds, None where these are asked for and not known."""
    found = costs(site, layer)
    if timed is None:
        return found
    ms = timed(site, layer)
    return None if ms is None else {**found, "ms": ms}


def price(site: Site, chain: Chain, timed: Milliseconds | None) -> tuple[tuple[str, float, float], ...]:
    """Return each measure, and what the site takes as it is and as a chain; a time that is not known is left out."""
    before, after = (priced(site, each, timed) for each in (site.op, chain))
    if before is None or after is None:
        before, after = costs(site, site.op), costs(site, chain)
    return tuple((name, before[name], after[name]) for name in before)


def totals(survey: Survey) -> dict[str, float]:
    """Return what the network takes, by measure; what hangs on an unknown shape is missing."""
    shapes = [shape for facts in survey.facts.values() for shape in facts.shapes]
    activations = None if None in shapes else FLOAT_BYTES * sum(math.prod(shape) for shape in shapes if shape)
    params, macs = survey.params, survey.macs
    size = None if params is None else FLOAT_BYTES * params
    found = {"params": params, "bytes": size, "macs": macs, "activations": activations}
    return {name: value for name, value in found.items() if value is not None}


def check_known(survey: Survey, limits: Mapping[str, float]) -> None:
    """Raise PlanError for a limited measure that the network's missing shapes leave unknown."""
    known = totals(survey)
    missing = next((name for name in limits if name not in known and name != "ms"), None)
    if missing is not None:
        raise PlanError(f"{OPTIONS[missing]} needs every layer's shape: {survey.missing_shape()}")


def _numbers(site: Site, layer: Op | Chain) -> int:
    """Return how many numbers a layer and its inner stages put out in a forward pass."""
    size = site.facts.input_size or (1, 1)
    own = site.op.macs(size)
    count, numbers = ((site.facts.macs or 0) // own if own else 0), 0
    for stage in layer.ops if isinstance(layer, Chain) else (layer,):
        size = stage.output_size(size)
        numbers += stage.out_channels * size[0] * size[1]
    return count * numbers
