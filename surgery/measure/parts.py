"""Sensitivities measured in parts, each a task that another process or another machine can do.

What the network runs before the first layer of a part runs again for each part, which is therefore of layers in a row.
Every task names the layers of all parts, those of others without a cut: so the network is run in the same pieces as in
one process, and rounds the same, bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from surgery.calibrate import Calibration
from surgery.calibrate.data import ARRAYS, pictures_of
from surgery.choose.tables import Probe, Sensitivity
from surgery.errors import EngineError
from surgery.formats import Source, named
from surgery.measure.kept import Layer, loss_of
from surgery.measure.labels import chosen
from surgery.measure.sensitivity import Asks, Steps, sensitivity
from surgery.running import Failure, File, Runner, Task

PARTS = 2  # for each worker: with more the network runs up to them more often, with fewer a slow worker is waited for


def measured_apart(
    source: Source,
    runner: Runner,
    found: Calibration,
    layers: Sequence[Layer],
    settings: Mapping[str, Any],
    steps: Steps,
) -> Iterator[Layer]:
    """Yield the layers, part by part as workers have measured what is missing of them; see `sensitivity`.

    Raises EngineError, which names the layers, where a part cannot be measured.
    """
    parts = _in_a_row(layers, PARTS * runner.workers)
    tasks = _tasks(source, found, parts, settings)
    folder = found.folder / "parts"
    folder.mkdir()
    steps.expect(len(parts))
    steps.begin(f"measuring {len(layers)} layers in {len(parts)} parts")
    with closing(runner.map(tasks, folder)) as outcomes:
        for index, outcome in outcomes:
            part = parts[index]
            if isinstance(outcome, Failure):
                raise EngineError(f"measuring {part[0].key} to {part[-1].key}", outcome.reason)
            steps.begin(f"measured {part[0].key} to {part[-1].key}")
            for layer, (losses, probes) in zip(part, outcome.value, strict=True):
                yield layer.with_losses([loss_of(row) for row in losses]).with_probes([Probe(**row) for row in probes])


def measure_part(
    files: Mapping[str, Path],
    folder: Path,
    *,
    reading: Source,
    model: Sequence[str],
    data: Sequence[str],
    asks: Asks,
    known: Sensitivity,
    **settings: Any,
) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Return the losses and the probes, as JSON values, of each layer that is asked for; a `Function` of tasks.

    `model` and `data` are names of files: those that load the model, and the pictures in order or one file of arrays.
    """
    source = replace(reading, files=tuple(files[name] for name in model))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = _data([files[name] for name in data], Path(scratch))
        made = sensitivity(source.load(), path, asks, known=known, scratch=Path(scratch), **settings)
    return [(list(map(asdict, losses)), list(map(asdict, made.probes[key]))) for key, losses in made.losses.items()]


def _in_a_row(layers: Sequence[Layer], most: int) -> list[Sequence[Layer]]:
    """Return layers in at most so many parts of nearly as many."""
    count = min(most, len(layers))
    ends = [len(layers) * i // count for i in range(count + 1)]
    return [layers[start:end] for start, end in pairwise(ends)]


def _tasks(
    source: Source, found: Calibration, parts: Sequence[Sequence[Layer]], settings: Mapping[str, Any]
) -> list[Task]:
    model = {f"model/{name}": File.of(path.absolute()) for name, path in named(source.files).items()}
    every, numbers, labels = pictures_of(found.data.path), found.data.numbers, settings["labels"]
    read = [found.data.path]
    if every is not None:  # A worker gets those alone that are read, and their labels.
        read = every if numbers is None else [every[i] for i in numbers]
        labels = None if labels is None else chosen(labels, found.data)
    data = {f"data/{i:08}/{path.name}": File.of(path.absolute()) for i, path in enumerate(read)}
    shared = {
        **settings,
        "labels": labels,
        "reading": replace(source, files=()),
        "model": tuple(f"model/{path.name}" for path in source.files),
        "data": tuple(data),
        "preprocess": found.data.preprocess,
        **{name: found.record[name] for name in ("images", "positions", "seed")},
    }
    return [Task(measure_part, shared | _asked(found, part), {**model, **data}) for part in parts]


def _asked(found: Calibration, part: Sequence[Layer]) -> dict[str, Any]:
    own = {layer.key: layer for layer in part}
    asks = {key: own[key].asks if key in own else () for key in found.keys}
    losses = {key: tuple(layer.losses.values()) for key, layer in own.items()}
    probes = {key: tuple(layer.probes.values()) for key, layer in own.items()}
    return {"asks": asks, "known": Sensitivity(losses, probes)}


def _data(files: Sequence[Path], folder: Path) -> Path:
    """Return where data are read from: a file of arrays itself, else a list of the pictures, written into `folder`."""
    if files[0].suffix.lower() in ARRAYS:
        return files[0]
    listed = folder / "pictures.txt"
    listed.write_text("".join(f"{path} 0\n" for path in files), encoding="utf-8")
    return listed
