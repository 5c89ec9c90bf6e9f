"""Time models side by side: forward passes only, taking turns, so that all of them meet the same noise.

Each model is loaded once, in a process of its own, before anything is measured. A sample is the mean time of a forward
pass over one turn; a turn is as many passes as take `TURN_S`, one where a pass takes longer, so that waking up the
process and filling the caches anew weighs little. The models' samples of one round are neighbours in time: their
quotient is the ratio of that round, and the spread of the ratios is free of what slowed the whole machine down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgery.errors import ModelError
from surgery.model import Model, Shape
from surgery.runtime import ENGINES, Inputs, Passes, job_of
from surgery.runtime.engine import check_inputs

TURN_S = 0.02


@dataclass(frozen=True, eq=False)
class Entrant:
    """A model to be timed in a runtime."""

    label: str
    model: Model
    files: Sequence[Path]
    runtime: str


@dataclass(frozen=True)
class Spread:
    """How samples are spread: the smallest, the median, and where the middle eight tenths begin and end."""

    smallest: float
    p10: float
    median: float
    p90: float


@dataclass(frozen=True)
class Timing:
    """What was measured of an entrant.

    Attributes:
        label: the entrant's.
        runtime: the engine's name.
        version: the engine's own name and version.
        inputs: the shapes that it ran with, batch included.
        passes: forward passes in a turn.
        milliseconds: of a forward pass; one sample for each round.
        ratio: of its time to the first entrant's, round by round.
    """

    label: str
    runtime: str
    version: str
    inputs: Mapping[str, Shape]
    passes: int
    milliseconds: Spread
    ratio: Spread


def measure(
    entrants: Sequence[Entrant],
    *,
    threads: int,
    rounds: int,
    warmup: int,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda text, share: None,
) -> list[Timing]:
    """Time the entrants on random inputs; each runs `warmup` passes before the first round.

    Raises ModelError for a model whose inputs are not known, EngineError where a runtime is missing or refuses a model.
    """
    shapes = [_input_shapes(entrant) for entrant in entrants]
    with ExitStack() as stack:
        running = []
        for entrant, own in zip(entrants, shapes, strict=True):
            progress(f"loading {entrant.label} in {entrant.runtime}", 0.0)
            job = job_of(entrant.model, entrant.files, [_random(own, seed)])
            running.append(stack.enter_context(ENGINES[entrant.runtime].timed(job, threads=threads)))
        turns = [turn(passes, warmup) for passes in running]
        samples = take_turns(running, turns, rounds, lambda share: progress("timing", share))
    return [
        Timing(
            label=entrant.label,
            runtime=entrant.runtime,
            version=ENGINES[entrant.runtime].version(),
            inputs=own,
            passes=passes,
            milliseconds=spread([1000 * seconds for seconds in times]),
            ratio=spread([b / a for a, b in zip(samples[0], times, strict=True)]),
        )
        for entrant, own, passes, times in zip(entrants, shapes, turns, samples, strict=True)
    ]


def turn(passes: Passes, warmup: int) -> int:
    """Warm up, and return how many forward passes make a turn."""
    fastest = min(passes(1) for _ in range(warmup))  # The first allocates, others may be held up.
    return max(1, round(TURN_S / max(fastest, 1e-9)))


def take_turns(
    running: Sequence[Passes], turns: Sequence[int], rounds: int, progress: Callable[[float], None]
) -> list[list[float]]:
    """Return each one's seconds for a forward pass in each round; in a round each has one turn, in order."""
    samples: list[list[float]] = [[] for _ in running]
    for number in range(rounds):
        progress(number / rounds)
        for own, passes, count in zip(samples, running, turns, strict=True):
            own.append(passes(count) / count)
    return samples


def spread(samples: Sequence[float]) -> Spread:
    """Return how samples are spread, with linear interpolation between them."""
    p10, median, p90 = (float(value) for value in np.percentile(samples, [10, 50, 90]))
    return Spread(min(samples), p10, median, p90)


def _input_shapes(entrant: Entrant) -> Mapping[str, Shape]:
    run = entrant.model.format.runnable(entrant.model)
    if run.unready:
        raise ModelError(f"{entrant.label}: cannot be run: {run.unready}")
    return run.inputs


def _random(shapes: Mapping[str, Shape], seed: int) -> Inputs:
    check_inputs(shapes)
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}
