"""Entrants take turns, and what is said of their times follows from the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery import formats
from surgery.errors import ModelError
from surgery.timing import TURN_S, Entrant, measure, spread, take_turns, turn
from tests.engines import require_opencv
from tests.nets import conv_blobs, write_net

PROTOTXT = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
"""


class Fake:
    """Runs nothing and says that each pass took so long; notes who was called in `calls`."""

    def __init__(self, name: str, seconds: float, calls: list[tuple[str, int]]) -> None:
        self.name, self.seconds, self.calls = name, seconds, calls

    def __call__(self, number: int) -> float:
        self.calls.append((self.name, number))
        return number * self.seconds


def test_turns_are_round_robin_and_samples_are_times_of_one_pass() -> None:
    calls: list[tuple[str, int]] = []
    running = [Fake("a", 0.5, calls), Fake("b", 0.25, calls), Fake("c", 1.0, calls)]
    samples = take_turns(running, [1, 4, 2], 3, lambda share: None)
    assert calls == [("a", 1), ("b", 4), ("c", 2)] * 3
    assert samples == [[0.5] * 3, [0.25] * 3, [1.0] * 3]


@pytest.mark.parametrize(("seconds", "count"), [(TURN_S / 10, 10), (TURN_S, 1), (5 * TURN_S, 1), (TURN_S / 3, 3)])
def test_a_turn_takes_its_time_or_one_pass(seconds: float, count: int) -> None:
    calls: list[tuple[str, int]] = []
    assert turn(Fake("a", seconds, calls), 4) == count
    assert sum(number for _, number in calls) == 4


def test_the_fastest_pass_decides_how_long_a_turn_is() -> None:
    held_up = iter([100.0, TURN_S / 2, 3.0])
    assert turn(lambda number: next(held_up), 3) == 2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # A busy machine is no failure.
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=50))
def test_a_spread_is_in_order_and_does_not_depend_on_it(samples: list[float]) -> None:
    found = spread(samples)
    assert found.smallest == min(samples)
    slack = 1e-9 * max(samples)  # Interpolation rounds.
    assert found.smallest <= found.p10 + slack
    assert found.p10 <= found.median + slack
    assert found.median <= found.p90 + slack
    assert found == spread(samples[::-1])
    assert found.median == pytest.approx(np.median(samples))


def test_ratios_are_between_neighbours_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine gets slower all the time: both medians suffer, the ratio does not."""
    from contextlib import contextmanager

    from surgery.runtime import OpenCV

    clock = iter(np.linspace(1, 2, 1000))

    @contextmanager
    def timed(self: OpenCV, job: object, *, threads: int) -> object:  # type: ignore[misc]
        factor = 3.0 if Path(job.files[0]).parent.name == "slow" else 1.0  # type: ignore[attr-defined]
        yield lambda number: number * factor * next(clock)

    require_opencv()
    monkeypatch.setattr(OpenCV, "timed", timed)
    entrants = []
    for name in ("fast", "slow"):
        folder = tmp_path / name
        folder.mkdir()
        files = write_net(folder, PROTOTXT, {"conv": conv_blobs(4, 2, 3, 3)})
        entrants.append(Entrant(name, formats.load(files), files, "opencv"))
    fast, slow = measure(entrants, threads=1, rounds=200, warmup=1)
    assert fast.ratio.p10 == fast.ratio.p90 == 1
    assert slow.ratio.p10 == pytest.approx(3, rel=1e-2)
    assert slow.ratio.p90 == pytest.approx(3, rel=1e-2)
    assert slow.milliseconds.p90 / slow.milliseconds.p10 > 1.1


def test_a_model_without_shapes_is_named(tmp_path: Path) -> None:
    text = PROTOTXT.replace('type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } }', "XX")
    text = 'input: "data"\n' + text.split("\n", 1)[1]
    files = write_net(tmp_path, text, {"conv": conv_blobs(4, 2, 3, 3)})
    with pytest.raises(ModelError, match="mine: cannot be run: input 'data' has no shape"):
        measure([Entrant("mine", formats.load(files), files, "opencv")], threads=1, rounds=1, warmup=1)
