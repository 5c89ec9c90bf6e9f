"""What each layer, and the network behind it, loses by a cut of that layer alone: measured, kept and found again.

What a layer's responses lose by a method at a rank follows from the moments of what it reads in the original network
(`surgery.factor.losses`), or, for methods of which it does not, from a fit. Of these cuts two run in the network, so
that what the layer loses can be told in terms of what the output loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.calibrate import Calibration, Preprocess, calibration
from surgery.calibrate.gathering import POSITIONS
from surgery.choose.tables import Loss, Sensitivity
from surgery.errors import DataError, PlanError
from surgery.factor import Method, Rank
from surgery.factor.losses import energy_lost, energy_missed
from surgery.factor.metric import Metric
from surgery.factor.response import needs_data
from surgery.factor.statistics import centred
from surgery.factor.threads import blas_threads
from surgery.measure.kept import Ask, Layer, Name, Notes, name_of
from surgery.measure.labels import chosen
from surgery.measure.outputs import Labels, probe
from surgery.measure.suffix import Suffix
from surgery.model import Model, Refusal
from surgery.ops import Chain, Op

PROBE_IMAGES = 32
RIDGE = 1e-2  # of the moments, relative to their mean eigenvalue: what the samples say nothing of counts a little

Asks = Mapping[str, Sequence[Ask]]
Progress = Callable[[str, float], None]
# Measures elsewhere what is missing of layers, given in running order, and yields each of them as it comes. The mapping
# holds arguments of `sensitivity` of which the calibration knows nothing.
Apart = Callable[[Calibration, Sequence[Layer], Mapping[str, Any], "Steps"], Iterable[Layer]]


def sensitivity(
    model: Model,
    data: Path,
    asks: Asks,
    *,
    preprocess: Path | Preprocess | None = None,
    images: int | None = None,
    positions: int = POSITIONS,
    seed: int = 0,
    scratch: Path | None = None,
    labels: Labels | None = None,
    probe_images: int = PROBE_IMAGES,
    threads: int = 1,
    progress: Progress = lambda text, share: None,
    known: Sensitivity | None = None,
    apart: Apart | None = None,
) -> Sensitivity:
    """Return what the layers of a model, by key, lose when they are cut as asked, and what the network loses by a few.

    Layers of which no cut is asked for are only run up to.

    Data are read as by `calibration`; the network is run on at most `probe_images` of the images. Where accuracy is to
    be told, `labels` are those of all images at `data`. What is `known`, or in the user's cache, is not measured again;
    each layer is kept when it is done, so that a run that was stopped goes on there.

    Raises what `calibration` and the methods do, DataError for labels that are not of the data or too few images,
    PlanError that names the layer where outputs cannot be compared.
    """
    settings: dict[str, Any] = {"preprocess": preprocess, "images": images, "positions": positions, "scratch": scratch}
    steps = Steps(progress)
    settings |= {"seed": seed, "threads": threads, "progress": steps.within}
    with calibration(model, data, tuple(asks), symmetric=True, **settings) as found, blas_threads(threads):
        _check(found, probe_images)
        truth = None if labels is None else chosen(labels, found.data)
        notes = Notes.of(found, truth, probe_images)
        layers = {key: notes.read(key, asks[key], known) for key in found.keys}
        todo = [layer for layer in layers.values() if not layer.is_done]
        if todo and apart is not None:
            own = {"threads": threads, "labels": labels, "probe_images": probe_images}
            layers |= {layer.key: notes.kept(layer) for layer in apart(found, todo, own, steps)}
        elif todo:
            steps.expect(sum(len(layer.missing) + 1 for layer in todo))
            folder = found.folder / "suffix"
            folder.mkdir()
            suffix = Suffix(found.twin, found.data, probe_images, folder, truth, threads, steps.within)
            layers |= {layer.key: _measured(found, suffix, layer, notes, steps, seed) for layer in todo}
        asked = {key: layer for key, layer in layers.items() if layer.asks}
        losses = {key: layer.asked for key, layer in asked.items()}
        return Sensitivity(losses, {key: layer.probed for key, layer in asked.items()})


class Steps:
    """Tells the share of all fits and probes that is behind; what runs within one is told by its text alone."""

    def __init__(self, tell: Progress) -> None:
        self._tell, self._done, self._all = tell, -1, 1

    def expect(self, steps: int) -> None:
        """Take the number of all steps."""
        self._all = max(steps, 1)

    def within(self, text: str, share: float) -> None:
        """Tell what is being done within a step."""
        self._tell(text, max(self._done, 0) / self._all)

    def begin(self, text: str, steps: int = 1) -> None:
        """Tell what the next step, or some steps in one, do."""
        self._done += steps
        self.within(text, 0.0)


def _check(found: Calibration, probe_images: int) -> None:
    if found.data.count < 2:
        raise DataError(found.data.path, "holds 1 image; what a cut loses is measured on images that no fit has seen")
    if probe_images < 1:
        raise PlanError(f"the network is to be run on {probe_images} images; expected at least 1")


def _measured(found: Calibration, suffix: Suffix, layer: Layer, notes: Notes, steps: Steps, seed: int) -> Layer:
    """Return a layer of which nothing is missing any more, and keep what was measured of it."""
    layer, chains = _fitted(found, layer, steps, seed)
    notes.keep_losses(layer)
    if not layer.unprobed:
        return layer
    steps.begin(f"running the network with {layer.key} cut")
    tallies = suffix.tallies(layer.key, [chains[name_of(ask)] for ask in layer.unprobed])
    probes = [probe(layer.loss(ask).response, own) for ask, own in zip(layer.unprobed, tallies, strict=True)]
    layer = layer.with_probes(probes)
    notes.keep_probes(layer)
    return layer


def _fitted(found: Calibration, layer: Layer, steps: Steps, seed: int) -> tuple[Layer, dict[Name, Chain]]:
    """Return a layer with all its losses, and the chains that the network is to be run with."""
    op = found.model.format.lift(found.model, found.model.node(layer.key))
    if isinstance(op, Refusal):
        raise PlanError(f"cannot be cut: {op.reason}", layer.key)
    statistics = found.statistics_for((layer.key,), {})
    metric = statistics.moments.metric(RIDGE)
    by_method: dict[Method, list[Rank]] = {}
    for method, rank in layer.missing:
        by_method.setdefault(method, []).append(rank)
    for method, ranks in by_method.items():
        steps.begin(f"{layer.key}: {method.name}", len(ranks))
        lost = energy_lost(method, op, statistics, RIDGE, ranks)
        if lost is None:
            lost = [energy_missed(_cut(op, (method, rank), metric, layer.key, seed), op, statistics) for rank in ranks]
        names = [name_of((method, rank)) for rank in ranks]
        layer = layer.with_losses([Loss(*name, each) for name, each in zip(names, lost, strict=True)])
    probed = {name_of(ask): _cut(op, ask, metric, layer.key, seed) for ask in layer.unprobed}
    return layer, {name: centred(chain, statistics.moments) for name, chain in probed.items()}


def _cut(op: Op, ask: Ask, metric: Metric, key: str, seed: int) -> Chain:
    method, rank = ask
    try:
        if needs_data(method):
            return method.blind(op, rank)
        return method.factor(op, rank, metric=metric if method.uses_metric else None, seed=seed).chain
    except PlanError as error:
        raise PlanError(error.message, key) from error
