"""Time single layers in a runtime, as they run inside a network, and whole networks.

A layer alone cannot be timed by running it alone: calling a runtime takes as long as a thin layer, and so does bringing
a map into the order of numbers that the runtime likes and back. So a net of several copies of the layer is timed, and
what a net without any takes is taken off.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path

import numpy as np

from surgery.choose.latency import SCALE, LatencyTable, Shape
from surgery.formats import ONNX_SUFFIX, Source
from surgery.measure import cache
from surgery.measure.tiny_nets import INPUT, input_shape, write_onnx, write_prototxt
from surgery.runtime import ENGINES, Job
from surgery.timing import Entrant, Spread, measure, turn

ROUNDS, WARMUP = 10, 2
SHORTER = 10  # times, than a turn of models that are compared: see `_fastest`

# One pass of a net is to have so many multiply-accumulates, ten milliseconds of a core, with as many copies as that
# takes: what an empty net takes, and is known less well, is divided by them, and no copy finds its weights in the
# fastest memory, as no layer of a network does.
PASS_MACS = 4 * 10**8
MOST_COPIES = 8
MOST_PARAMS = 1.6e7  # of all copies together

# Nets that take turns, each in a process of its own.
MOST_NETS = 16
MOST_PARAMS_TOGETHER = 4e7

Progress = Callable[[str, float], None]
_CACHE, _CACHE_FORMAT = "latency", 2


def measure_table(
    shapes: Sequence[Shape],
    runtime: str,
    *,
    threads: int,
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    progress: Progress = lambda text, share: None,
    known: bool = True,
) -> LatencyTable:
    """Return the milliseconds of every shape: of `rounds` turns the fastest, the one that nothing held up.

    What was measured on this machine before is read from the cache, unless `known` is False; what is measured is kept
    there, shape by shape. Raises EngineMissingError, EngineError.
    """
    wanted = list(dict.fromkeys(shapes))
    here = [_CACHE_FORMAT, ENGINES[runtime].version(), threads, machine()]
    keys = {shape: json.dumps([*here, astuple(shape)]) for shape in wanted}  # All that a time depends on.
    rows: dict[Shape, float] = {}
    for shape in wanted if known else ():
        found = cache.load(_CACHE, keys[shape])
        if isinstance(found, float):
            rows[shape] = found
    missing = sorted((shape for shape in wanted if shape not in rows), key=_numbers_in)
    for batch in _batches(missing):
        progress(f"timing layers in {runtime}", missing.index(batch[0]) / len(missing))
        for shape, time in zip(batch, _measured(batch, runtime, threads, rounds, warmup), strict=True):
            rows[shape] = time
            cache.store(_CACHE, keys[shape], time)
    return LatencyTable(runtime, threads, machine(), {shape: rows[shape] for shape in wanted})


def network_ms(source: Source, runtime: str, threads: int) -> Spread:
    """Return the milliseconds of a forward pass of a whole model.

    Raises ModelError where its inputs have no shapes, EngineMissingError, EngineError.
    """
    entrant = Entrant(source.files[0].name, source.load(), source.files, runtime)
    (timing,) = measure([entrant], threads=threads, rounds=ROUNDS, warmup=WARMUP)
    return timing.milliseconds


def machine() -> str:
    """Return the processor and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # No Linux.
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _numbers_in(shape: Shape) -> int:
    """Return the count of numbers in the input."""
    return math.prod(input_shape(shape))


def _batches(shapes: Sequence[Shape]) -> Iterator[list[Shape]]:
    """Yield the shapes in order, as many at once as processes and memory allow."""
    batch: list[Shape] = []
    for shape in shapes:
        params = sum(each.params * _copies(each) for each in [*batch, shape])
        if batch and (len(batch) == MOST_NETS or params > MOST_PARAMS_TOGETHER):
            yield batch
            batch = []
        batch.append(shape)
    if batch:
        yield batch


def _copies(shape: Shape) -> int:
    """Return of how many copies of the layer a net is made."""
    return max(1, min(MOST_COPIES, round(PASS_MACS / max(shape.macs, 1)), int(MOST_PARAMS / shape.params)))


def _measured(shapes: Sequence[Shape], runtime: str, threads: int, rounds: int, warmup: int) -> list[float]:
    """Return the milliseconds of shapes that take turns, and with two empty nets: of one number and the largest input.

    What an empty net takes rises with its input, in a straight line between the two.
    """
    largest = max(shapes, key=_numbers_in)
    channels = largest.in_channels
    empty = Shape(SCALE, 1, 1, 1), Shape(SCALE, largest.batch, channels, channels, input=largest.input)
    nets = [(shape, 0) for shape in empty] + [(shape, _copies(shape)) for shape in shapes]
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        jobs = [_job(shape, copies, runtime, Path(scratch) / str(i)) for i, (shape, copies) in enumerate(nets)]
        call, reading, *times = _fastest(jobs, runtime, threads, rounds, warmup)
    slope = max(reading - call, 0) / max(_numbers_in(largest) - 1, 1)
    overheads = [min(call + slope * (_numbers_in(shape) - 1), time) for shape, time in zip(shapes, times, strict=True)]
    return [(time - own) / _copies(shape) for shape, time, own in zip(shapes, times, overheads, strict=True)]


def _job(shape: Shape, copies: int, runtime: str, stem: Path) -> Job:
    write, ending = (write_prototxt, ".prototxt") if runtime == "caffe" else (write_onnx, ONNX_SUFFIX)
    numbers = np.random.default_rng(0).random(input_shape(shape), dtype=np.float32)
    return Job((write(shape, copies, stem.with_suffix(ending)),), [{INPUT: numbers}])


def _fastest(jobs: Sequence[Job], runtime: str, threads: int, rounds: int, warmup: int) -> list[float]:
    """Return the milliseconds of a forward pass of each net in the fastest of its turns.

    In all a net runs for `rounds` turns of `surgery.timing`, but in ever so short ones: of those some are held up by
    nothing even on a machine that does other things too.
    """
    with ExitStack() as stack:
        running = [stack.enter_context(ENGINES[runtime].timed(job, threads=threads)) for job in jobs]
        whole = [turn(passes, warmup) for passes in running]
        short = [max(1, passes // SHORTER) for passes in whole]
        turns = [rounds * passes // own for passes, own in zip(whole, short, strict=True)]
        fastest = [float("inf")] * len(jobs)
        for number in range(max(turns)):
            for i, passes in enumerate(running):
                if number < turns[i]:
                    fastest[i] = min(fastest[i], 1000 * passes(short[i]) / short[i])
    return fastest
