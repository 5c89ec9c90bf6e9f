"""What a plan may be measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.choose.latency import LatencyTable
from surgery.running import Runner


@dataclass(frozen=True, eq=False)
class Means:
    """What a plan may be measured with.

    Attributes:
        data: samples for the sensitivities and the fits, None without.
        reading: how they are read: `preprocess`, `images`, `positions` and `scratch`, as `calibration` takes them.
        symmetric: whether the fits are to the original network's inputs.
        refit: whether factors are refitted.
        labels: a file of labels of the samples that the accuracy is measured on, None without.
        tests: other samples to measure the accuracy on, None for those of `data` that no fit sees.
        table: milliseconds of layers on another machine, None where times are measured on this one.
        runtime: the engine that times are measured in.
        runner: measures the sensitivities of parts of the network, None where this process measures them all.
    """

    data: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    symmetric: bool = False
    refit: bool = True
    labels: Path | None = None
    tests: Path | None = None
    table: LatencyTable | None = None
    runtime: str = "onnxruntime"
    runner: Runner | None = None


NONE = Means()
