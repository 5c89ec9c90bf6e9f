"""How far each step goes: the course of the learning rate over a training, and the choice of its height by trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, inf, isfinite, pi

from surgery.errors import PlanError

CANDIDATES = tuple(10 ** (-power / 2) for power in range(1, 13))  # 0.3 to 1e-6, each a third of the one before
TRIAL_STEPS, JUDGED = 60, 20  # of each candidate, a whole cosine; and the last of them, which count
SLACK = 1.02  # Short trials favour small rates: of those nearly as good as the best, the largest is taken.
WORSE = 2  # candidates behind the best one after which smaller ones only move less
DROPS = (0.5, 0.75)  # Shares of the training after which a rate in steps falls to a tenth.

COURSES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda share: (1 + cos(pi * share)) / 2,
    "step": lambda share: 0.1 ** sum(share >= drop for drop in DROPS),
    "constant": lambda share: 1.0,
}


def rate_at(step: int, steps: int, height: float, *, course: str, warm_up: int) -> float:
    """Return the learning rate of step number `step` of `steps`, counted from 0.

    It climbs evenly to `height` within the first `warm_up` steps; of those behind it falls as COURSES[course] says.
    """
    if step < warm_up:
        return height * (step + 1) / (warm_up + 1)
    return height * COURSES[course]((step - warm_up) / max(1, steps - warm_up))


def found_rate(trial: Callable[[float], float]) -> float:
    """Return the candidate that training goes best with; `trial` returns the loss late in a short one.

    They are tried from the largest down, until two after the best were worse. Of candidates within 2 % of the least
    loss the largest counts. Raises PlanError where no loss is a number.
    """
    losses: dict[float, float] = {}
    for rate in CANDIDATES:
        loss = trial(rate)
        losses[rate] = loss if isfinite(loss) else inf
        best = min(losses, key=losses.__getitem__)
        if losses[best] < inf and len(losses) - 1 - list(losses).index(best) == WORSE:
            break
    least = min(losses.values())
    if least == inf:
        raise PlanError(f"the loss is not finite at any learning rate from {CANDIDATES[0]:.2g} down; look at the data")
    return max(rate for rate, loss in losses.items() if loss <= SLACK * least)
