"""The learning rate is chosen by what training itself sees."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace

from surgery.tune.rates import CANDIDATES
from tests.tune.extra import require_torch

require_torch()

from surgery.tune import training  # noqa: E402


def test_a_trial_is_judged_by_its_last_batches_alone_and_leaves_nothing_behind() -> None:
    learner = _Learner()
    samples = SimpleNamespace(epoch=lambda turn, number, again=0: iter([None] * 7))
    assert training._found(learner, samples, 0) == CANDIDATES[2]  # type: ignore[arg-type]
    assert learner.steps == 0


class _Learner:
    """Its loss jumps at the first step, the higher the larger the rate, and falls the faster for it."""

    def __init__(self) -> None:
        self.steps = 0

    def state(self) -> int:
        return self.steps

    def restore(self, state: int) -> None:
        self.steps = state

    def step(self, batch: None, rate: float) -> float:
        self.steps += 1
        return inf if rate > CANDIDATES[2] * 1.01 else 1 + 1000 * rate * (0.8**self.steps) - rate
